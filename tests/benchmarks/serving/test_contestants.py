"""The peers: their files are there and parse, their requirements are pinned, and what they are asked is what they
read."""

import ast
import json
import re
from pathlib import Path

import pytest

from benchmarks.serving.contest import best_score, rotated
from benchmarks.serving.contestants import CLASSIFIER, HERE, PEERS, Peer, chosen
from serving.errors import BadRequest

NAMES = {"mlserver", "pytriton", "infinity", "litserve", "bentoml", "mlflow", "fastapi"}


def test_every_folder_has_its_peer_and_every_peer_its_folder() -> None:
    folders = {path.name for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {peer.name for peer in PEERS} == folders == NAMES


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_requirements_are_pinned_and_name_no_index(peer: Peer) -> None:
    lines = peer.requirements.read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+", line)] == []


def test_everybody_runs_the_same_onnxruntime_and_where_it_is_named_the_same_tokenizer() -> None:
    texts = [peer.requirements.read_text() for peer in PEERS]
    assert {re.search(r"^onnxruntime==(.*)$", text, re.MULTILINE)[1] for text in texts} == {"1.31.1"}  # type: ignore[index]
    assert {found[1] for text in texts if (found := re.search(r"^tokenizers==(.*)$", text, re.MULTILINE))} == {"0.23.3"}


@pytest.mark.parametrize(
    "path", [CLASSIFIER, *sorted(HERE.rglob("*/*.py"))], ids=lambda path: str(path.relative_to(HERE))
)
def test_a_peer_s_file_parses_and_imports_nothing_of_ours(path: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.split(".")[0] for node in imports for name in imported(node)}
    assert names.isdisjoint({"pipeline", "serving", "benchmarks"})


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_body_is_json_that_holds_the_text(peer: Peer) -> None:
    (body,) = peer.bodies(['a "fine" day'])
    assert 'a "fine" day' in leaves(json.loads(body))


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    return [leaf for each in value for leaf in leaves(each)] if isinstance(value, list) else [value]


def test_a_command_is_filled_in() -> None:
    (peer,) = chosen(["bentoml"])
    command = peer.argv(bin_folder=Path("/venv/bin"), port=7)
    assert (command[0], command[-1]) == ("/venv/bin/bentoml", "7")


def test_peers_are_chosen_by_name() -> None:
    assert [peer.name for peer in chosen(["mlserver", "fastapi"])] == ["mlserver", "fastapi"]
    assert chosen([]) == PEERS
    with pytest.raises(BadRequest) as caught:
        chosen(["fastapi", "tensorflow-serving"])
    assert str(caught.value) == (
        "--peers tensorflow-serving: nobody here is called so; there are fastapi, mlserver, litserve, bentoml, "
        "pytriton, mlflow, infinity"
    )


def test_another_one_begins_in_every_round() -> None:
    names = ("a", "b", "c")
    assert [rotated(names, number) for number in range(4)] == [
        ("a", "b", "c"),
        ("c", "b", "a"),
        ("b", "c", "a"),
        ("a", "c", "b"),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [{"label": "a", "score": 0.75, "scores": {"a": 0.75, "b": 0.25}}]},
        {"outputs": [{"shape": [1, 2], "data": [0.25, 0.75]}]},
        {"data": [[{"score": 0.75, "label": "a"}], 7.5], "usage": {"total": 12.5}},
    ],
)
def test_the_best_score_is_found_in_answers_of_any_shape(answer: object) -> None:
    assert best_score(answer) == 0.75

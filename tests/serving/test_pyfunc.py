"""A version behind MLflow's own face: in a process that knows nothing of Retort, over HTTP, and with all that MLflow
hands over."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from fakes import LABELS, tiny_bundle

from pipeline.locks import locked_versions
from pipeline.tracking.flavour import write_flavour
from serving.bundle import Bundle
from serving.errors import BadArtifact, BadRequest
from serving.models import Models, load
from serving.pyfunc import Predictor, _load_pyfunc, items_of
from serving.registry import Resolved

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),  # of MLflow's own classes
]
CASES: dict[str, dict[str, Any]] = {**{task: {"task": task} for task in LABELS}, "pairs": {"texts_per_item": 2}}
TEXTS = ["good fine day", "😀 dull bright, it is", ""]
PAIRS = [["good", "bad day"], ["awful", "fine"], ["", "bright"]]
SINGLE = "a list of texts, or a frame with the column 'text'"
PAIRED = "a list of pairs of texts, or a frame with the columns 'text' and 'text_pair'"
START_S = 60
# Runs where neither the checkout nor its editable install can be imported, as anybody's process would.
ISOLATED = """
import importlib.util, json, sys
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in repr(each)]
sys.path[:] = [each for each in sys.path if "editable" not in each]
assert importlib.util.find_spec("pipeline") is None, "the checkout can be imported"
assert importlib.util.find_spec("serving") is None, "the checkout can be imported"
import mlflow.pyfunc
told = {}
for folder in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(folder)
    example = model.predict(model.input_example)
    asked = json.loads(sys.argv[1])[folder]
    told[folder] = {"example": example, "answers": model.predict(asked), "from": sys.modules["serving"].__file__}
    del sys.modules["serving"]
    for name in [name for name in sys.modules if name.startswith("serving.")]:
        del sys.modules[name]
print(json.dumps(told))
"""


def version(path: Path, **options: Any) -> Bundle:
    """A tiny bundle as a version's folder that MLflow loads."""
    bundle = tiny_bundle(path / "bundle", **options)
    told = {"made_at": "2026-01-01T00:00:00+00:00", "python": "3.11.9"}
    write_flavour(path, bundle, locked=locked_versions(), **told)
    return bundle


def answers(bundle: Bundle, items: list[Any]) -> list[dict[str, object]]:
    """What the server says."""
    live = load(Resolved(bundle.path, "m", "1", bundle.digest), threads=1)
    return Models(live).answer([(item,) if isinstance(item, str) else tuple(item) for item in items]).results


def environment() -> dict[str, str]:
    """Of a child process: one that finds the programs of this Python, and asks nobody anything."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "PYTHON"))}
    return {**kept, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}


# -- where Retort is not installed -------------------------------------------------------------------------------------


def test_a_process_without_retort_loads_every_task_and_answers_as_the_server_does(tmp_path: Path) -> None:
    bundles = {str(tmp_path / name): version(tmp_path / name, **options) for name, options in CASES.items()}
    asked = {folder: PAIRS if bundle.spec.texts_per_item == 2 else TEXTS for folder, bundle in bundles.items()}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}

    done = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED, json.dumps(asked), *bundles],
        cwd=elsewhere,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    for folder, bundle in bundles.items():
        assert told[folder]["from"] == f"{folder}/code/serving/__init__.py"
        assert told[folder]["answers"] == json.loads(json.dumps(answers(bundle, asked[folder])))
        assert told[folder]["example"] == json.loads(json.dumps(answers(bundle, bundle.golden.items[:2])))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before, "something was left in a version"


# -- mlflow models serve -----------------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path) -> Iterator[httpx.Client]:
    """`mlflow models serve` on a free port, ended with all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = ["models", "serve", "-m", str(folder), "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = folder.parent / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *asked],
            cwd=folder.parent,
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _wait(client, server, log)
            yield client
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _wait(client: httpx.Client, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            client.get("/ping").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def test_mlflow_models_serve_answers_as_the_server_does_and_says_what_is_wrong(tmp_path: Path) -> None:
    bundle = version(tmp_path / "version")
    with served(tmp_path / "version") as client:
        wanted = {"predictions": answers(bundle, TEXTS)}
        for body in (
            {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
            {"dataframe_records": [{"text": text} for text in TEXTS]},
            {"inputs": TEXTS},
            {"instances": TEXTS},
        ):
            response = client.post("/invocations", json=body)
            assert (response.status_code, response.json()) == (200, wanted), body
        example = (tmp_path / "version" / "serving_input_example.json").read_text()
        response = client.post("/invocations", content=example, headers={"content-type": "application/json"})
        assert response.json() == {"predictions": answers(bundle, bundle.golden.items[:2])}

        refused = client.post(
            "/invocations", json={"dataframe_split": {"columns": ["id", "text"], "data": [["a", "b"]]}}
        )
        assert refused.status_code == 400
        assert refused.json()["message"].endswith(f"\nError: the columns are 'id'; send {SINGLE}")
        broken = client.post("/invocations", json={"inputs": ["poison"]})
        assert broken.status_code == 500
        assert broken.json()["message"].endswith("gave NaN or infinity for this input; its weights are unfit")


# -- all that MLflow hands over ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return version(tmp_path_factory.mktemp("single"), max_characters=50)


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return version(tmp_path_factory.mktemp("paired"), texts_per_item=2)


@pytest.fixture(scope="module")
def models(single: Bundle, paired: Bundle) -> dict[int, Any]:
    """MLflow's models, by texts per item."""
    import mlflow.pyfunc

    before = list(sys.path)  # MLflow puts each version's code first
    found = {n: mlflow.pyfunc.load_model(str(each.path.parent)) for n, each in ((1, single), (2, paired))}
    sys.path[:] = before
    return found


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS),
        pd.Series(TEXTS, name="text", index=[7, 8, 9]),
        pd.DataFrame({"text": TEXTS}),
        pd.DataFrame({"text": TEXTS, "label": [1, 2, 3]}),
        pd.DataFrame([[text] for text in TEXTS]),
        [{"text": text} for text in TEXTS],
        {"text": TEXTS},
    ],
)
def test_texts_come_in_many_forms(single: Bundle, models: dict[int, Any], given: Any) -> None:
    assert models[1].predict(given) == answers(single, TEXTS)


@pytest.mark.parametrize(
    "given",
    [
        PAIRS,
        [tuple(pair) for pair in PAIRS],
        np.array(PAIRS),
        pd.DataFrame(PAIRS),
        pd.DataFrame(PAIRS, columns=["text", "text_pair"]),
        pd.DataFrame(PAIRS, columns=["text", "text_pair"])[["text_pair", "text"]],
        [dict(zip(("text", "text_pair"), pair, strict=True)) for pair in PAIRS],
        {"text": [pair[0] for pair in PAIRS], "text_pair": [pair[1] for pair in PAIRS]},
    ],
)
def test_pairs_come_in_many_forms(paired: Bundle, models: dict[int, Any], given: Any) -> None:
    assert models[2].predict(given) == answers(paired, PAIRS)


def test_one_text_is_one_answer_and_none_is_none(single: Bundle, models: dict[int, Any]) -> None:
    assert models[1].predict("good") == answers(single, ["good"])
    assert models[1].predict(pd.DataFrame({"text": pd.Series([], dtype=str)})) == []


def test_many_more_texts_than_one_request_may_hold_are_answered(single: Bundle, models: dict[int, Any]) -> None:
    texts = ["good", "bad"] * 200
    assert models[1].predict(texts) == answers(single, ["good", "bad"]) * 200


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (pd.DataFrame({"id": ["a"], "text": ["b"]}), f"the columns are 'id'; send {SINGLE}"),
        (pd.Series(["a"], name="review"), f"the columns are 'review'; send {SINGLE}"),
        (["good", None], f"item 1 holds nan, which is no text; send {SINGLE}"),
        (pd.DataFrame({"text": ["good", 3]}), f"item 1 holds 3, which is no text; send {SINGLE}"),
        ([b"good"], f"item 0 holds b'good', which is no text; send {SINGLE}"),
        (["good", "x" * 51], "item 1 has 51 characters, more than the 50 allowed"),
    ],
)
def test_wrong_texts_are_told_in_one_message(models: dict[int, Any], given: Any, told: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as refused:
        models[1].predict(given)
    assert (str(refused.value), refused.value.error_code) == (told, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (pd.DataFrame([["a", "b"]], columns=["x", "text"]), f"the columns are 'x', 'text'; send {PAIRED}"),
        ([["a", "b"], ["c", None]], f"item 1 holds nan, which is no text; send {PAIRED}"),
        ({"text": ["a", "b"], "text_pair": ["c"]}, f"'text' and 'text_pair' differ in length; send {PAIRED}"),
    ],
)
def test_wrong_pairs_are_told_in_one_message(models: dict[int, Any], given: Any, told: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as refused:
        models[2].predict(given)
    assert str(refused.value) == told


@pytest.mark.parametrize("given", [3, None, [1, 2], []])
def test_what_is_no_text_at_all_mlflow_refuses_by_the_signature(models: dict[int, Any], given: Any) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="Failed to enforce schema of data"):
        models[1].predict(given)


def test_an_unfit_model_is_no_fault_of_the_request(models: dict[int, Any]) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as failed:
        models[1].predict(["poison"])
    assert failed.value.error_code == "INTERNAL_ERROR"
    assert str(failed.value) == "model tiny gave NaN or infinity for this input; its weights are unfit"


# -- without MLflow between --------------------------------------------------------------------------------------------


def test_the_predictor_answers_lists_too(single: Bundle) -> None:
    predictor: Predictor = _load_pyfunc(str(single.path))
    assert predictor.predict(tuple(TEXTS)) == answers(single, TEXTS)
    assert predictor.predict([]) == []
    assert predictor.predict("good") == answers(single, ["good"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, f"the input is int; send {SINGLE}"),
        ([["a", "b"]], "item 0 has 2 text(s); this model takes 1 per item"),
        (["a", 3.5], f"item 1 holds 3.5, which is no text; send {SINGLE}"),
        (pd.DataFrame(), f"the columns are none; send {SINGLE}"),
    ],
)
def test_wrong_items_are_told_apart(single: Bundle, given: Any, told: str) -> None:
    with pytest.raises(BadRequest) as refused:
        items_of(given, spec=single.spec)
    assert str(refused.value) == told


def test_a_long_value_that_is_no_text_is_not_told_whole(single: Bundle) -> None:
    with pytest.raises(BadRequest) as refused:
        items_of([{"text": "x" * 1000}], spec=single.spec)
    assert len(str(refused.value)) < 200


def test_too_few_texts_for_a_pair_are_told(paired: Bundle) -> None:
    with pytest.raises(BadRequest) as refused:
        items_of(["a"], spec=paired.spec)
    assert str(refused.value) == "item 0 has 1 text(s); this model takes 2 per item"


def test_an_altered_bundle_does_not_load(tmp_path: Path) -> None:
    bundle = version(tmp_path)
    (bundle.path / "config.json").write_text("{}")
    with pytest.raises(BadArtifact, match=r"config.json was altered after it was sealed"):
        _load_pyfunc(str(bundle.path))


def test_a_bundle_that_computes_otherwise_than_measured_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="this CPU or runtime computes another model than the one measured"):
        _load_pyfunc(str(version(tmp_path, golden_error=1.0).path))

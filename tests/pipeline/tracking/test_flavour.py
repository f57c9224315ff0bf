"""MLflow's description of a version: true to what it takes and gives, and the same for the same bundle."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from earned import earned_version
from fakes import LABELS, tiny_bundle

from pipeline.card import card_head
from pipeline.errors import BadRequest
from pipeline.locks import locked_versions
from pipeline.tracking.flavour import signature_of, write_flavour
from pipeline.tracking.registering import Offer, register
from serving.bundle import Bundle, Item, read_bundle
from serving.models import Models, load
from serving.registry import DIGEST_TAG, Resolved
from serving.signatures import FILES, FILES_TAG, MLFLOW_NOTE, verify_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
LOCKED = locked_versions()
CASES: dict[str, dict[str, Any]] = {
    **{task: {"task": task} for task in LABELS},
    "pairs": {"texts_per_item": 2},
    "refusing": {"refuse_below": 0.75},
}
MADE_AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture(params=CASES)
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    """Of every task, of pairs, and one that refuses."""
    return tiny_bundle(tmp_path / "version" / "bundle", **CASES[request.param])


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "version" / "bundle")


def written(bundle: Bundle, **changes: Any) -> Path:
    """The version's folder with its flavour."""
    told = {"made_at": MADE_AT, "python": "3.11.9", "locked": LOCKED, **changes}
    write_flavour(bundle.path.parent, bundle, **told)
    return bundle.path.parent


def answers(bundle: Bundle, items: list[Item]) -> list[dict[str, object]]:
    """What the server says."""
    live = load(Resolved(bundle.path, "m", "1", bundle.digest), threads=1)
    return Models(live).answer(items).results


def test_mlflow_reads_it_as_a_python_function(plain: Bundle) -> None:
    from mlflow.models import Model

    found = Model.load(str(written(plain)))
    assert found.flavors == {
        "python_function": {
            "loader_module": "serving.pyfunc",
            "code": "code",
            "data": "bundle",
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "python_version": "3.11.9",
        }
    }
    assert found.metadata == {"retort.digest": plain.digest}
    assert (found.utc_time_created, found.mlflow_version) == (MADE_AT, LOCKED["mlflow"])
    assert (found.run_id, found.artifact_path, found.model_id) == (None, None, None)


def test_the_same_bundle_gives_the_same_description(tmp_path: Path) -> None:
    found = []
    for place in ("a", "b/c"):
        folder = written(tiny_bundle(tmp_path / place / "bundle"))
        found.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert found[0] == found[1]
    other = written(tiny_bundle(tmp_path / "d" / "bundle", bias=0.5))
    assert (other / "MLmodel").read_bytes() != found[0]["MLmodel"]


def test_the_signature_has_a_column_of_text_for_each_text_of_an_item(bundle: Bundle) -> None:
    from mlflow.models import Model

    signature = Model.load(str(written(bundle))).signature
    assert signature == signature_of(bundle.spec)
    assert [str(each.type) for each in signature.inputs] == ["DataType.string"] * bundle.spec.texts_per_item


def test_the_signature_tells_what_is_answered(bundle: Bundle) -> None:
    """MLflow's own check of the answers, refused ones among them, against the outputs."""
    import pandas as pd
    from mlflow.models.utils import _enforce_schema

    golden = [tuple(item) for item in bundle.golden.items]
    told = [*answers(bundle, golden), *answers(bundle, [tuple("day" for _ in item) for item in golden[:1]])]
    outputs = signature_of(bundle.spec).outputs
    for answer in told:
        assert set(answer) <= set(outputs.input_names())
        frame = pd.DataFrame([answer]).dropna(axis="columns")
        assert set(_enforce_schema(frame, outputs).columns) == {name for name in answer if answer[name] is not None}


def test_an_answer_that_the_signature_does_not_tell_would_be_seen(plain: Bundle) -> None:
    import pandas as pd
    from mlflow.exceptions import MlflowException
    from mlflow.models.utils import _enforce_schema

    with pytest.raises(MlflowException, match="Model is missing inputs \\['scores'\\]"):
        _enforce_schema(pd.DataFrame([{"label": "a", "score": 0.5}]), signature_of(plain.spec).outputs)


def test_the_example_is_golden_inputs_and_the_signature_lets_it_through(bundle: Bundle) -> None:
    from mlflow.models import Model
    from mlflow.models.utils import _enforce_schema

    folder = written(bundle)
    example = Model.load(str(folder)).load_input_example(str(folder))
    assert example.values.tolist() == bundle.golden.items[:2]
    assert list(example.columns) == ["text", "text_pair"][: bundle.spec.texts_per_item]
    assert _enforce_schema(example, signature_of(bundle.spec).inputs).equals(example)
    served = json.loads((folder / "serving_input_example.json").read_text())
    assert served == {"dataframe_split": json.loads((folder / "input_example.json").read_text())}


def test_the_libraries_are_those_of_the_locks_and_stand_alike_in_every_form(plain: Bundle) -> None:
    folder = written(plain)
    wanted = ("mlflow", "msgspec", "numpy", "onnxruntime", "pandas", "pyyaml", "tokenizers")
    needed = [f"{name}=={LOCKED[name]}" for name in wanted]
    assert (folder / "requirements.txt").read_text().splitlines() == needed
    assert yaml.safe_load((folder / "conda.yaml").read_text()) == {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": ["python=3.11.9", "pip", {"pip": needed}],
    }
    assert yaml.safe_load((folder / "python_env.yaml").read_text()) == {
        "python": "3.11.9",
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }


def test_a_bundle_for_another_runtime_needs_that_one(plain: Bundle) -> None:
    import msgspec

    spec = msgspec.structs.replace(plain.spec, runtime="openvino")
    folder = written(Bundle(plain.path, spec, plain.golden, plain.digest))
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert f"openvino=={LOCKED['openvino']}" in lines
    assert not any(line.startswith("onnxruntime") for line in lines)


def test_a_library_that_is_not_locked_is_told(plain: Bundle) -> None:
    with pytest.raises(BadRequest) as refused:
        written(plain, locked={"mlflow": "3.17.2", "msgspec": "0.22.0"})
    assert str(refused.value) == "requirements/*.txt lock no numpy, which a version of tiny needs; lock it there"


def test_the_code_is_a_plain_copy_of_the_serving_package(plain: Bundle) -> None:
    import serving

    folder, source = written(plain), Path(str(serving.__file__)).parent
    sources = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.py")}
    copied = {
        path.relative_to(folder / "code" / "serving").as_posix(): path.read_bytes()
        for path in (folder / "code").rglob("*.py")
    }
    assert copied == sources
    assert "pyfunc.py" in copied


def test_where_python_would_keep_bytecode_there_is_a_file(plain: Bundle) -> None:
    folder = written(plain)
    packages = {path.parent for path in (folder / "code").rglob("*.py")}
    assert packages
    for package in packages:
        assert (package / "__pycache__").is_file()


# -- from a registry ---------------------------------------------------------------------------------------------------

BY_ALIAS = """
import importlib.util, json, sys
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in repr(each)]
assert importlib.util.find_spec("serving") is None, "the checkout can be imported"
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_registry_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
print(json.dumps(model.predict(["good", "bad day"])))
"""


def test_a_registered_version_is_loaded_by_its_alias_and_stays_as_it_was_registered(
    client: Any, uri: str, root: Path, tmp_path: Path
) -> None:
    """Out of a local store MLflow loads the version's own files, and leaves a note beside them."""
    folder, facts = earned_version(tmp_path)
    files = hashlib.sha256((folder / FILES).read_bytes()).hexdigest()
    tags = {DIGEST_TAG: facts.digest, FILES_TAG: files}
    offer = Offer("loaded", "register-loaded", folder, tags, "loaded", None, card_head("# A card\n"))
    made = register(offer, uri=uri, workspace=root)
    client.set_registered_model_alias("loaded", "champion", made.version)

    asked = [sys.executable, "-I", "-c", BY_ALIAS, uri, "models:/loaded@champion"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stderr
    bundle = read_bundle(folder / "bundle")
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(
        json.dumps(answers(bundle, [("good",), ("bad day",)]))
    )
    (store,) = (path.parent for path in (root / "mlartifacts" / "loaded").rglob("MLmodel"))
    assert (store / MLFLOW_NOTE).is_file()
    verify_folder(store, files_digest=files, key=None)

"""MLflow's own description of a version beside the bundle's bytes: which module loads it (serving/pyfunc.py, of which a
copy lies in code/), what it takes and gives, an example, and the libraries that this needs.

    MLmodel  requirements.txt  conda.yaml  python_env.yaml  input_example.json  serving_input_example.json  code/
"""

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import BadRequest
from serving import pyfunc
from serving.bundle import Bundle, ServingSpec

DATA: Final = "bundle"
CODE: Final = "code"
EXAMPLES: Final = 2
_LIBRARIES: Final = ("mlflow", "msgspec", "numpy", "pandas", "pyyaml", "tokenizers")
_BLOCKER: Final = "No folder, so that Python keeps no bytecode here: a version holds the files that were registered.\n"


def write_flavour(folder: Path, bundle: Bundle, *, made_at: str, python: str, locked: Mapping[str, str]) -> None:
    """Write it all into a version's folder, in which the bundle lies. `made_at` is ISO 8601, `python` the version that
    the bundle was measured with, `locked` versions by package.

    Raises:
        BadRequest: a library that it takes to load the version is not locked.
    """
    example = _example(bundle)
    _write_environment(folder, python=python, needed=_requirements(bundle.spec, locked))
    _copy_code(folder / CODE)
    (folder / "input_example.json").write_text(json.dumps(example, ensure_ascii=False), encoding="utf-8")
    served = json.dumps({"dataframe_split": example}, indent=2, ensure_ascii=False)
    (folder / "serving_input_example.json").write_text(served, encoding="utf-8")
    _model(bundle, made_at=made_at, python=python, mlflow=locked["mlflow"]).save(folder / "MLmodel")


def _model(bundle: Bundle, *, made_at: str, python: str, mlflow: str) -> Any:
    """Of these bytes always the same one: MLflow would draw an id and look at the clock."""
    from mlflow.models import Model

    flavour = {
        "loader_module": "serving.pyfunc",
        "code": CODE,
        "data": DATA,
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "python_version": python,
    }
    example = {"artifact_path": "input_example.json", "serving_input_path": "serving_input_example.json"}
    return Model(
        utc_time_created=made_at,
        flavors={"python_function": flavour},
        signature=signature_of(bundle.spec),
        saved_input_example_info=example | {"type": "dataframe", "pandas_orient": "split"},
        model_uuid=uuid.uuid5(uuid.NAMESPACE_OID, bundle.digest).hex,
        mlflow_version=mlflow,
        metadata={"retort.digest": bundle.digest},
        model_size_bytes=sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file()),
    )


def signature_of(spec: ServingSpec) -> Any:
    """What the version takes and gives, `mlflow.models.ModelSignature`.

    The columns have no names there: to a signature with names MLflow lets no list through. serving/pyfunc.py checks the
    names of a frame that has some.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    return ModelSignature(inputs=Schema([ColSpec("string")] * spec.texts_per_item), outputs=Schema(_outputs(spec)))


def _outputs(spec: ServingSpec) -> list[Any]:
    """The columns of what answers.py shows at its top."""
    from mlflow.types.schema import Array, ColSpec, DataType, Map, Object, Property

    double, string = DataType.double, DataType.string
    scores = ColSpec(Map(double), "scores")
    if spec.task == "embedding":
        return [ColSpec(Array(double), "embedding")]
    if spec.task == "regression":
        return [ColSpec(double, "score")]
    if spec.task == "multi-label":
        return [ColSpec(Array(string), "labels"), scores]
    if spec.task == "token-classification":
        types = {"label": string, "start": DataType.long, "end": DataType.long, "text": string, "score": double}
        return [ColSpec(Array(Object([Property(name, of) for name, of in types.items()])), "entities")]
    may_refuse = spec.refuse_below is not None
    refused = [ColSpec(DataType.boolean, "refused", required=False)] if may_refuse else []
    return [ColSpec(string, "label", required=not may_refuse), ColSpec(double, "score"), scores, *refused]


def _example(bundle: Bundle) -> dict[str, Any]:
    """Golden inputs, which the bundle carries already, as a frame that MLflow writes by `split`."""
    return {
        "columns": list(pyfunc.COLUMNS[: bundle.spec.texts_per_item]),
        "data": [list(item) for item in bundle.golden.items[:EXAMPLES]],
    }


def _requirements(spec: ServingSpec, locked: Mapping[str, str]) -> list[str]:
    needed = sorted((*_LIBRARIES, spec.runtime))
    if absent := [name for name in needed if name not in locked]:
        raise BadRequest(f"requirements/*.txt lock no {absent[0]}, which a version of {spec.name} needs; lock it there")
    return [f"{name}=={locked[name]}" for name in needed]


def _write_environment(folder: Path, *, python: str, needed: list[str]) -> None:
    """In the forms that MLflow's tools read, all saying the same."""
    import yaml

    (folder / "requirements.txt").write_text("".join(f"{each}\n" for each in needed), encoding="utf-8")
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": needed}],
    }
    virtual = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    for name, told in (("conda.yaml", conda), ("python_env.yaml", virtual)):
        (folder / name).write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")


def _copy_code(folder: Path) -> None:
    """The serving package's sources. Where Python would keep bytecode beside them there is a file already: MLflow loads
    a version out of a local store itself, and what it left there would be no part of the version, and would be run."""
    source = Path(str(pyfunc.__file__)).parent
    for path in sorted(source.rglob("*.py")):
        copy = folder / "serving" / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        (copy.parent / "__pycache__").write_text(_BLOCKER, encoding="utf-8")

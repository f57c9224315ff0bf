"""What events become in MLflow: parameters, metrics, tags and data sets within its limits. Pure but for the types.

What MLflow would refuse is made fit, and says so: a name with other characters, or too long, ends with a hash of what
it was; a value too long ends with how long it was.
"""

import hashlib
import posixpath
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipeline.events import Data, Metrics

MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # characters; mlflow/utils/validation.py
MAX_DIGEST, MAX_DATA_NAME, MAX_SOURCE, MAX_INPUT_TAG = 36, 500, 65_535, 500
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_./ -]")


def name_of(text: str) -> str:
    """A parameter's, metric's or tag's name as MLflow takes it: it may become a path."""
    fit = posixpath.normpath(_UNFIT.sub("_", text)).lstrip("/")
    fit = "_" if fit in (".", "") or fit.startswith("..") else fit
    if fit == text and len(text) <= MAX_NAME:
        return text
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{fit[: MAX_NAME - 1 - len(mark)].rstrip('/')}-{mark}"


def cut(text: str, limit: int) -> str:
    """The text, or its beginning and how long it was."""
    if len(text) <= limit:
        return text
    mark = f"... ({len(text)} characters)"
    return text[: limit - len(mark)] + mark


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def params_of(values: Mapping[str, Any]) -> list[Any]:
    """Settings, one parameter each; a list is JSON."""
    from mlflow.entities import Param

    return [Param(name_of(name), cut(_text(value), MAX_PARAM)) for name, value in flattened(values).items()]


def metrics_of(event: Metrics) -> list[Any]:
    """A metric for each number, also for one that is not finite."""
    from mlflow.entities import Metric

    return [Metric(name_of(name), float(value), event.at, event.step) for name, value in event.values.items()]


def tags_of(values: Mapping[str, str]) -> list[Any]:
    """Tags; MLflow's own names (`mlflow.`) mean to it what they say."""
    from mlflow.entities import RunTag

    return [RunTag(name_of(name), cut(value, MAX_TAG)) for name, value in values.items()]


def input_of(data: Data) -> Any:
    """A data set as an input of a run. MLflow knows one by name and digest, of which it takes 36 characters; the whole
    one is in the source."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = msgspec.json.encode({"digest": data.digest, **data.source}).decode()
    dataset = Dataset(
        name=cut(data.name, MAX_DATA_NAME),
        digest=data.digest[:MAX_DIGEST],
        source_type=data.kind,
        source=source if len(source) <= MAX_SOURCE else msgspec.json.encode({"digest": data.digest}).decode(),
        profile=msgspec.json.encode(data.splits).decode(),
    )
    tags = {"mlflow.data.context": data.context, **{f"texts.{split}": str(n) for split, n in data.splits.items()}}
    return DatasetInput(
        dataset=dataset, tags=[InputTag(name, cut(value, MAX_INPUT_TAG)) for name, value in tags.items()]
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

"""The models of this server by name and version, and what the Open Inference Protocol is told of each."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from serving.bundle import ServingSpec
from serving.faults import NotThere
from serving.lanes import CANARY, MAIN
from serving.models import Live, Models
from serving.protocols.model_tensors import OUTPUTS, TEXTS, labels_of

VERSION: Final = "0.1.0"  # pyproject's; the image has no metadata of a package
SERVER: Final = {"name": "retort", "version": VERSION, "extensions": ["binary_tensor_data"]}
_PLATFORMS: Final = {"onnxruntime": "onnxruntime_onnx", "openvino": "openvino"}


class Found(NamedTuple):
    """The model that a request names, and the lane that has it; None: whichever the router says."""

    live: Live
    lane: str | None


def find_model(models: Models, *, name: str, version: str = "") -> Found:
    """Raises NotThere where a request is for another model, or another version of it, than those that answer."""
    main = models.current
    if name != main.name:
        raise NotThere(f"there is no model {name[:100]!r} here; this server has {main.name!r}")
    if not version:
        return Found(main, None)
    for lane in (MAIN, CANARY):
        live = models.at(lane)
        if live is not None and (live.name, live.version) == (name, version):
            return Found(live, lane)
    versions = " and ".join(map(repr, versions_of(models)))
    raise NotThere(f"{name} has no version {version[:100]!r} here; in service: {versions}")


def versions_of(models: Models) -> list[str]:
    """Those that a request may name."""
    lanes = [models.current, models.at(CANARY)]
    return [live.version for live in lanes if live is not None and live.name == models.current.name]


def require_same(live: Live, *, version: str, spec: ServingSpec) -> None:
    """Raise NotThere where the model that answered is none that the request was for: it was read for a model as `spec`
    says, and another one may have come while it waited."""
    if version and version != live.version:
        raise NotThere(f"{live.name} has no version {version[:100]!r} here any more; ask without a version")
    if live.spec.task != spec.task:
        raise NotThere(f"{live.name} does {live.spec.task} since this request was read; look at its metadata again")


def metadata(live: Live, *, versions: Sequence[str]) -> dict[str, Any]:
    """The model, its inputs and its outputs; -1 is a size that may vary. Send the texts or the ids, not both."""
    spec = live.spec
    texts = ("text", "text_pair")[: spec.texts_per_item]
    ids = ("input_ids", "attention_mask", "token_type_ids")
    return {
        "name": live.name,
        "versions": [*versions],
        "platform": _PLATFORMS[spec.runtime],
        "inputs": [
            *({"name": name, "datatype": "BYTES", "shape": [-1]} for name in texts),
            *({"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ids),
        ],
        "outputs": [_output(name, spec=spec) for name in OUTPUTS[spec.task]],
        "parameters": {"version": live.version, "digest": live.digest, "task": spec.task, **labels_of(spec)},
    }


def _output(name: str, *, spec: ServingSpec) -> dict[str, Any]:
    if name in TEXTS:
        return {"name": name, "datatype": "BYTES", "shape": [-1]}
    return {"name": name, "datatype": "FP32", "shape": [-1] * (2 if spec.per_token else 1) + [spec.outputs]}

"""The shapes of requests and answers as JSON schemas, for /openapi.json, with the limits of the model in service."""

from typing import Annotated, Any, Final

import msgspec

from serving.bundle import ServingSpec, TaskKind
from serving.protocols.frames import Body
from serving.protocols.open_inference import Request

Schema = dict[str, Any]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Model(msgspec.Struct):
    """What answered."""

    name: str
    version: str
    digest: str


class Label(msgspec.Struct, omit_defaults=True):
    """Of a classification; without a label where the model refuses to say."""

    label: str | None
    score: Probability
    scores: dict[str, Probability]
    refused: bool = False


class Labels(msgspec.Struct):
    """Of several labels: those that are given, the surest first."""

    labels: list[str]
    scores: dict[str, Probability]


class Number(msgspec.Struct):
    """Of a regression."""

    score: float


class Entity(msgspec.Struct):
    """Characters [start, end) of the text."""

    label: str
    start: int
    end: int
    text: str
    score: Probability


class Entities(msgspec.Struct):
    """Of a text whose tokens have labels."""

    entities: list[Entity]


class Vector(msgspec.Struct):
    """Of an embedding."""

    embedding: list[float]


class Failed(msgspec.Struct):
    """Why there is no answer, in one line."""

    error: str


class MlflowFailed(msgspec.Struct):
    """The same as MLflow's clients read it."""

    error_code: str
    message: str


class Server(msgspec.Struct):
    """This server, and what it adds to the protocol."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct):
    """A tensor; -1 is a size that may vary."""

    name: str
    datatype: str
    shape: list[int]


class Metadata(msgspec.Struct):
    """A model, its inputs and its outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class Tensor(msgspec.Struct):
    """An output; its data is behind the JSON where a parameter tells its size in bytes."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Answer(msgspec.Struct):
    """An inference response."""

    model_name: str
    model_version: str
    outputs: list[Tensor]
    parameters: dict[str, str]
    id: str | msgspec.UnsetType = msgspec.UNSET


class Ready(msgspec.Struct):
    """A real inference came back."""

    ready: bool
    model: Model


class ModelReady(msgspec.Struct):
    """The same of a model."""

    name: str
    ready: bool


class Live(msgspec.Struct):
    """The process turns."""

    live: bool


class Up(msgspec.Struct):
    """Ready, as SageMaker asks."""

    ready: bool


_RESULTS: Final[dict[TaskKind, type[msgspec.Struct]]] = {
    "classification": Label,
    "multi-label": Labels,
    "regression": Number,
    "token-classification": Entities,
    "embedding": Vector,
}
_ALWAYS: Final = (*(Failed, MlflowFailed, Server, Metadata, Answer, Ready, ModelReady, Live, Up), Model, Request, Body)


def schemas(spec: ServingSpec) -> dict[str, Schema]:
    """Every schema by its name; `Texts`, `Results` and `Predictions` are the model's own."""
    result = _RESULTS[spec.task]
    _, found = msgspec.json.schema_components((*_ALWAYS, result), ref_template="#/components/schemas/{name}")
    several = {"type": "array", "items": ref(result.__name__)}
    return {
        **found,
        "Texts": _object(texts=_texts(spec)),
        "Results": _object(model=ref("Model"), results=several),
        "Predictions": _object(predictions=several),
    }


def ref(name: str) -> Schema:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _texts(spec: ServingSpec) -> Schema:
    text: Schema = {"type": "string", "maxLength": spec.max_characters}
    pair = {"type": "array", "items": text, "minItems": 2, "maxItems": 2}
    item = pair if spec.texts_per_item == 2 else text
    return {"type": "array", "items": item, "minItems": 1, "maxItems": spec.max_items}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}

"""The Open Inference Protocol v2 over REST; model_tensors.py says what its tensors are here.

GET  /v2                                        the server and what it adds to the protocol
GET  /v2/models/NAME[/versions/V]               inputs, outputs, labels, version and digest
GET  /v2/models/NAME[/versions/V]/ready         as /v2/health/ready, of that version; needs no key
POST /v2/models/NAME[/versions/V]/infer         answers; in JSON, or with tensors behind it as raw bytes (the binary
                                                tensor data extension), as the request asks
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import orjson

from serving.bundle import ServingSpec
from serving.desk import Desk
from serving.errors import BadRequest
from serving.faults import NotThere, WrongMethod
from serving.http import JSON, Asked, Reply, Route, told
from serving.models import Live
from serving.protocols.amounts import require_few_values, shown
from serving.protocols.health import why_not_ready
from serving.protocols.model_tensors import (
    givens,
    input_datatype,
    most_values,
    output_names,
    outputs,
    require_few,
    require_plain,
)
from serving.protocols.naming import SERVER, find_model, metadata, require_same, versions_of
from serving.protocols.reading import body_of
from serving.protocols.telling import Headers, headers
from serving.protocols.tensors import Tensor, from_json, from_raw, to_raw
from serving.schema import UNREADABLE

MODELS: Final = "/v2/models/"
READY: Final = "/ready"
_HEADER_LENGTH: Final = b"inference-header-content-length"
_SIZE: Final = "binary_data_size"
_ACTIONS: Final = {"": "GET", "ready": "GET", "infer": "POST"}

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Parameters = dict[str, Any] | None


class Input(msgspec.Struct):
    """A tensor that is sent; `data` is elsewhere where a parameter tells its size in bytes."""

    name: str
    shape: list[Size]
    datatype: str
    parameters: Parameters = None
    data: Any = msgspec.UNSET


class Output(msgspec.Struct):
    """A tensor that is wanted."""

    name: str
    parameters: Parameters = None


class Request(msgspec.Struct):
    """An inference request; what else it says is not read."""

    inputs: list[Input]
    id: str | None = None
    parameters: Parameters = None
    outputs: list[Output] | None = None


_DECODER: Final = msgspec.json.Decoder(Request)


class _Place(NamedTuple):
    """What a path under /v2/models/ names."""

    name: str
    version: str
    action: str


def routes(desk: Desk) -> list[Route]:
    """Those of this module."""
    return [
        Route("/v2", _server),
        Route(MODELS, partial(_look, desk), below=True),
        Route(MODELS, partial(_ready, desk), below=True, ends=READY, open=True),
        Route(MODELS, partial(_infer, desk), method="POST", infers=True, below=True),
    ]


async def _server(_: Asked) -> Reply:
    """The server's name, version and extensions."""
    return told(SERVER)


async def _look(desk: Desk, asked: Asked) -> Reply:
    """A model's metadata."""
    models = desk.models
    place = _place(asked.path, method="GET", known=models.current.name)
    live, _ = find_model(models, name=place.name, version=place.version)
    return told(metadata(live, versions=versions_of(models)))


async def _ready(desk: Desk, asked: Asked) -> Reply:
    """Whether a model answers."""
    place = _place(asked.path, method="GET", known=desk.models.current.name)
    if not place.action:  # the metadata of a model whose name ends so: that takes a key
        raise NotThere(f"there is no {asked.path[:100]} here; /openapi.json lists what there is")
    live, lane = find_model(desk.models, name=place.name, version=place.version)
    why = await why_not_ready(desk, lane or "")
    if why is not None:
        return told({"error": why}, status=503)
    return told({"name": live.name, "ready": True})


async def _infer(desk: Desk, asked: Asked) -> Reply:
    """A model's answer."""
    expires_s = desk.deadline(asked.header(b"x-request-timeout-ms"), passed_s=asked.passed_s)
    place = _place(asked.path, method="POST", known=desk.models.current.name)
    live, lane = find_model(desk.models, name=place.name, version=place.version)
    spec = live.spec
    body = await body_of(asked, desk=desk, expires_s=expires_s)
    request, binary = _read(body, header_length=asked.header(_HEADER_LENGTH), spec=spec)
    require_plain(request.parameters)
    items = givens(_tensors(request.inputs, binary, spec=spec), spec=spec)
    names = output_names(items, [one.name for one in request.outputs or ()], spec=spec)
    raw = _raw_ones(request, names)
    check = partial(require_same, version=place.version, spec=spec)
    done = await desk.ask(items, expires_s=expires_s, check=check, lane=lane)
    tensors, live = outputs(done.result, names), done.result.live
    body, media, more = _written(tensors, raw=raw, request_id=request.id, live=live)
    return Reply(200, body, media, (*headers(desk.metrics, asked.started_s, done, scope=asked.scope), *more))


def _place(path: str, *, method: str, known: str) -> _Place:
    """NAME, NAME/ACTION, NAME/versions/V or NAME/versions/V/ACTION; the name that is `known` here may hold slashes."""
    below = path.removeprefix(MODELS)
    name = known if below == known or below.startswith(f"{known}/") else below.partition("/")[0]
    parts = [name, *below[len(name) :].split("/")[1:]]
    version = ""
    if parts[1:2] == ["versions"] and len(parts) > 2:
        version = parts[2]
        del parts[1:3]
    action = parts[1] if len(parts) == 2 else ""
    if len(parts) > 2 or action not in _ACTIONS or (len(parts) == 2 and not action):
        raise NotThere(f"there is no {path[:100]} here; /openapi.json lists what there is")
    if _ACTIONS[action] != method:
        raise WrongMethod(f"{path[:100]} takes {_ACTIONS[action]}, not {method}")
    return _Place(name, version, action)


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(body: bytes, *, header_length: str | None, spec: ServingSpec) -> tuple[Request, bytes]:
    """The request, and the raw bytes behind it. Of values it may have as many as three inputs of ids."""
    length = len(body)
    if header_length is not None:
        count = header_length if header_length.isascii() and header_length.isdigit() else ""
        length = int(count) if 0 < len(count) < 10 else length + 1
        if length > len(body):
            says = f"says {header_length[:20]!r}; the body has {len(body)} bytes"
            raise BadRequest(f"Inference-Header-Content-Length {says}, of which it counts those of the JSON")
    require_few_values(body[:length], most=(4 + 3 * spec.max_length) * spec.max_items)
    try:
        return _DECODER.decode(body[:length]), body[length:]
    except UNREADABLE as error:
        raise BadRequest(f"the body cannot be read: {error}; send an inference request as UTF-8 JSON") from error


def _tensors(inputs: Sequence[Input], binary: bytes, *, spec: ServingSpec) -> list[Tensor]:
    tensors, place = [], 0
    require_few(len(inputs))
    for one in inputs:
        datatype = input_datatype(one.name, one.datatype)
        parameters = one.parameters or {}
        size = parameters.get(_SIZE)
        if (size is None) == (one.data is msgspec.UNSET):
            raise BadRequest(f"input {one.name!r} needs either 'data' or the parameter {_SIZE!r}")
        most = most_values(one.name, spec=spec)
        if size is None:
            tensor = from_json(one.data, name=one.name, datatype=datatype, shape=one.shape, most=most)
        else:
            raw = _cut(binary, place, size=size, name=one.name)
            place += len(raw)
            tensor = from_raw(raw, name=one.name, datatype=datatype, shape=one.shape, most=most)
        tensors.append(tensor._replace(parameters=parameters))
    if place != len(binary):
        raise BadRequest(f"{len(binary) - place} of the bytes behind the JSON are no input's; tell the sizes of all")
    return tensors


def _cut(binary: bytes, place: int, *, size: object, name: str) -> bytes:
    if type(size) is not int or not 0 <= size <= len(binary) - place:
        left = f"{len(binary) - place} bytes are left behind the JSON"
        raise BadRequest(f"input {name!r} has the {_SIZE} {shown(size)}, and {left}")
    return binary[place : place + size]


# -- writing -----------------------------------------------------------------------------------------------------------


def _raw_ones(request: Request, names: Sequence[str]) -> set[str]:
    """The outputs that are wanted as raw bytes."""
    by_default = _flag(request.parameters, "binary_data_output", default=False)
    asked = {one.name: _flag(one.parameters, "binary_data", default=by_default) for one in request.outputs or ()}
    return {name for name in names if asked.get(name, by_default)}


def _written(
    tensors: Sequence[Tensor], *, raw: set[str], request_id: str | None, live: Live
) -> tuple[bytes, bytes, Headers]:
    """The body, its media type, and a header where raw bytes stand behind the JSON."""
    shown, behind = [], []
    for tensor in tensors:
        one: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        parameters = dict(tensor.parameters)
        if tensor.name in raw:
            behind.append(to_raw(tensor))
            parameters[_SIZE] = len(behind[-1])
        else:
            one["data"] = tensor.values
        shown.append({**one, "parameters": parameters} if parameters else one)
    answer: dict[str, Any] = {"model_name": live.name, "model_version": live.version}
    if request_id is not None:
        answer["id"] = request_id
    answer |= {"parameters": {"version": live.version, "digest": live.digest}, "outputs": shown}
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not behind:
        return body, JSON, ()
    length = (_HEADER_LENGTH, str(len(body)).encode())
    return b"".join((body, *behind)), b"application/octet-stream", (length,)


def _flag(parameters: Mapping[str, Any] | None, name: str, *, default: bool) -> bool:
    value = default if parameters is None else parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"the parameter {name!r} is {shown(value)}; send true or false")
    return value

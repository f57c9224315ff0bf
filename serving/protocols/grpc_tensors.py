"""Tensors between gRPC's messages and this server, typed or raw as the client has them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving.bundle import ServingSpec
from serving.errors import BadRequest
from serving.models import Live
from serving.protocols.grpc_messages import message
from serving.protocols.model_tensors import input_datatype, most_values, require_few
from serving.protocols.tensors import Tensor, from_json, from_raw, text_of, to_raw

_LOOKED_AT: Final = ("content_type",)


def wanted(request: Any, *, spec: ServingSpec) -> list[Tensor]:
    """The inputs of a ModelInferRequest.

    Raises:
        BadRequest: they are not what their datatypes and shapes say.
    """
    raw = request.raw_input_contents
    require_few(len(request.inputs))
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(
            f"there are {len(raw)} raw_input_contents for {len(request.inputs)} input(s); send one for each"
        )
    return [_read(one, raw[index] if raw else None, spec=spec) for index, one in enumerate(request.inputs)]


def parameters(request: Any) -> dict[str, object]:
    """Those of a whole message, or of an input, that are looked at; making objects of others would take long."""
    return {name: _value(request.parameters[name]) for name in _LOOKED_AT if name in request.parameters}


def told(request: Any, tensors: Sequence[Tensor], *, live: Live) -> Any:
    """A ModelInferResponse."""
    answer = message("ModelInferResponse")(model_name=live.name, model_version=live.version, id=request.id)
    _set(answer.parameters, {"version": live.version, "digest": live.digest})
    for tensor in tensors:
        one = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _set(one.parameters, tensor.parameters)
        if request.raw_input_contents:
            answer.raw_output_contents.append(to_raw(tensor))
        elif tensor.datatype == "BYTES":
            one.contents.bytes_contents.extend(text.encode() for text in tensor.values)
        else:
            one.contents.fp32_contents.extend(tensor.values.tolist())
    return answer


def _read(one: Any, raw: bytes | None, *, spec: ServingSpec) -> Tensor:
    name, contents = one.name, one.contents
    datatype = input_datatype(name, one.datatype)
    told: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [*one.shape[:9]]}
    most = told["most"] = most_values(name, spec=spec)
    if raw is not None:
        if one.HasField("contents"):
            raise BadRequest(f"input {name!r} has contents and raw_input_contents; send one or the other")
        tensor = from_raw(raw, **told)
    elif datatype == "BYTES":
        tensor = from_json([text_of(value, name=name) for value in contents.bytes_contents[: most + 1]], **told)
    else:
        tensor = from_json([*contents.int64_contents[: most + 1]], **told)
    return tensor._replace(parameters=parameters(one))


def _value(parameter: Any) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _set(parameters: Any, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        parameters[key].string_param = str(value)

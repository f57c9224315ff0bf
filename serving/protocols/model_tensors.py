"""What the Open Inference Protocol says of a model here, over whichever transport: its inputs, outputs and names.

Inputs (N items, L tokens, padded behind):
    text, text_pair                            BYTES [N] or [N, 1]; text_pair where the model reads pairs, which may
                                               come as one `text` [N, 2], too
    input_ids, attention_mask, token_type_ids  INT64 [N, L]: a client's own tokens, special ones included; without a
                                               mask all are read, and without type ids all are 0
Outputs (C labels, D dimensions):
    classification         scores FP32 [N, C], label BYTES [N]; "" where the model refuses to say
    multi-label            scores FP32 [N, C], labels BYTES [N]: a JSON list of those that are given
    regression             score FP32 [N, 1]
    embedding              embedding FP32 [N, D]
    token-classification   of texts: entities BYTES [N], a JSON list as /tag gives; of ids: token_scores FP32 [N, L, C],
                           L tokens of the longest item, 0 behind the others
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from serving.bundle import ServingSpec, TaskKind
from serving.engine import Given, Tokens
from serving.errors import BadRequest
from serving.models import Served
from serving.protocols.amounts import shown
from serving.protocols.tensors import Tensor
from serving.schema import require_count, require_limits

INPUTS: Final = {
    "text": "BYTES",
    "text_pair": "BYTES",
    "input_ids": "INT64",
    "attention_mask": "INT64",
    "token_type_ids": "INT64",
}
OUTPUTS: Final[dict[TaskKind, tuple[str, ...]]] = {
    "classification": ("scores", "label"),
    "multi-label": ("scores", "labels"),
    "regression": ("score",),
    "embedding": ("embedding",),
    "token-classification": ("entities", "token_scores"),
}
TEXTS: Final = ("entities", "label", "labels")
_WHOLE: Final = ("str", "np", "pd")
"""What MLServer's clients call a request of texts, of arrays and of a frame: each input says itself what it holds."""


def input_datatype(name: str, datatype: str) -> str:
    """The datatype of an input.

    Raises:
        BadRequest: there is no such input, or it has another type.
    """
    if name not in INPUTS:
        raise BadRequest(f"there is no input {name[:50]!r}; send {' or '.join(INPUTS)}")
    if datatype != INPUTS[name]:
        raise BadRequest(f"input {name!r} is {INPUTS[name]}, not {datatype[:20]!r}")
    return datatype


def require_few(inputs: int, *, different: int | None = None) -> None:
    """Raise BadRequest where there are more inputs than there can be different ones."""
    if inputs > (len(INPUTS) if different is None else different):
        raise BadRequest("an input is there twice; send each once")


def require_plain(parameters: Mapping[str, object] | None) -> None:
    """Raise BadRequest where those of a whole request say that its texts are something else than text."""
    content = None if parameters is None else parameters.get("content_type")
    if content is not None and content not in _WHOLE:
        raise BadRequest(f"the request has the content_type {shown(content)}; send plain text, which is 'str'")


def most_values(name: str, *, spec: ServingSpec) -> int:
    """How many values of an input are read: twice what the model's limits allow, so that it can be said which."""
    return 2 * spec.max_items * (spec.max_length if INPUTS[name] == "INT64" else 1)


def givens(tensors: Sequence[Tensor], *, spec: ServingSpec) -> list[Given]:
    """The items that these inputs are.

    Raises:
        BadRequest: inputs that are missing, twice there, of other shapes than each other, or over a limit.
    """
    named = {tensor.name: tensor for tensor in tensors}
    require_few(len(tensors), different=len(named))
    if ids := named.pop("input_ids", None):
        if "text" in named or "text_pair" in named:
            raise BadRequest("the request has texts and token ids; send one or the other")
        return _of_ids(ids, named, spec=spec)
    if "text" not in named:
        raise BadRequest("the input 'text' is missing; send it, or 'input_ids'")
    if numbers := sorted(name for name in named if INPUTS[name] == "INT64"):
        raise BadRequest(f"input {numbers[0]!r} needs 'input_ids' beside it")
    return _of_texts(named, spec=spec)


def output_names(items: Sequence[Given], wanted: Sequence[str], *, spec: ServingSpec) -> tuple[str, ...]:
    """Which outputs are given: those that are wanted, in that order; all that there are where none is named.

    Raises:
        BadRequest: one that is wanted is not there.
    """
    names = OUTPUTS[spec.task]
    if spec.per_token:
        names = names[1:] if isinstance(items[0], Tokens) else names[:1]
    for name in wanted:
        if name not in names:
            raise BadRequest(f"there is no output {name[:50]!r} for this input; this model gives {' and '.join(names)}")
    return tuple(dict.fromkeys(wanted)) or names


def outputs(served: Served, names: Sequence[str]) -> list[Tensor]:
    """These outputs of an answer."""
    return [_output(name, served) for name in names]


def _output(name: str, served: Served) -> Tensor:
    scores, records, spec = served.answer.scores, served.results, served.live.spec
    if name in TEXTS:
        told = [_WORDED[name](record[name]) for record in records]
        return Tensor(name, "BYTES", (len(told),), told)
    if name == "token_scores":
        values_NLC = np.zeros((len(scores), max(map(len, scores)), spec.outputs), np.float32)
        for row, one in zip(values_NLC, scores, strict=True):
            row[: len(one)] = one
    else:
        values_NLC = np.stack(scores).astype(np.float32, copy=False)
    parameters = {key: orjson.dumps(value).decode() for key, value in labels_of(spec).items()}
    return Tensor(name, "FP32", values_NLC.shape, values_NLC.ravel(), parameters)


_WORDED: Final[dict[str, Callable[[Any], str]]] = {
    "label": lambda label: label or "",
    "labels": lambda labels: orjson.dumps(labels).decode(),
    "entities": lambda entities: orjson.dumps(entities).decode(),
}


def _of_texts(named: dict[str, Tensor], *, spec: ServingSpec) -> list[Given]:
    text, pair = named["text"], named.get("text_pair")
    for one in named.values():
        content = one.parameters.get("content_type")
        if content is not None and content != "str":
            told = f"input {one.name!r} has the content_type {shown(content)}"
            raise BadRequest(f"{told}; send plain text, which is 'str'")
    if pair is None and len(text.shape) == 2 and text.shape[1] == 2:
        columns = [text.values[::2], text.values[1::2]]
    else:
        columns = [_column(one) for one in (text, pair) if one is not None]
    if len(columns) != spec.texts_per_item:
        wanted = "'text' and 'text_pair'" if spec.texts_per_item == 2 else "'text' alone"
        raise BadRequest(f"the request has {len(columns)} text(s) per item; this model takes {wanted}")
    if len({len(column) for column in columns}) > 1:
        raise BadRequest("'text' and 'text_pair' differ in length; send one of each per item")
    items = list(zip(*columns, strict=True))
    require_limits(items, spec=spec, name="text")
    return [*items]


def _column(tensor: Tensor) -> list[str]:
    if len(tensor.shape) > 2 or tensor.shape[1:] not in ((), (1,)):
        raise BadRequest(f"input {tensor.name!r} has the shape {list(tensor.shape)[:8]}; send [N] or [N, 1]")
    values: list[str] = tensor.values
    return values


def _of_ids(ids: Tensor, others: dict[str, Tensor], *, spec: ServingSpec) -> list[Given]:
    if len(ids.shape) != 2:
        raise BadRequest(f"input 'input_ids' has the shape {list(ids.shape)[:8]}; send [N, L]")
    for name, tensor in others.items():
        if tensor.shape != ids.shape:
            raise BadRequest(f"input {name!r} has the shape {list(tensor.shape)[:8]}, not {list(ids.shape)} as the ids")
    if spec.texts_per_item == 2 and "token_type_ids" in spec.graph_inputs and "token_type_ids" not in others:
        raise BadRequest("this model tells the texts of a pair apart by their type ids; send 'token_type_ids', too")
    require_count(ids.shape[0], spec=spec, name="input_ids")
    if ids.shape[1] == 0:
        raise BadRequest(f"input 'input_ids' has the shape {list(ids.shape)}; send a token or more per item")
    lengths = _lengths(others.get("attention_mask"), ids.shape)
    rows = ids.values.reshape(ids.shape)
    types = others["token_type_ids"].values.reshape(ids.shape) if "token_type_ids" in others else np.zeros_like(rows)
    return [
        Tokens(row[:own].tolist(), kind[:own].tolist()) for row, kind, own in zip(rows, types, lengths, strict=True)
    ]


def _lengths(mask: Tensor | None, shape: tuple[int, ...]) -> list[int]:
    if mask is None:
        return [shape[1]] * shape[0]
    rows = mask.values.reshape(shape)
    if ((rows != 0) & (rows != 1)).any() or (np.diff(rows, axis=1) > 0).any():
        raise BadRequest("input 'attention_mask' holds other than ones before zeros in a row; pad behind the tokens")
    lengths: list[int] = rows.sum(axis=1).tolist()
    return lengths


def labels_of(spec: ServingSpec) -> dict[str, object]:
    return {"labels": list(spec.labels)} if spec.labels else {}

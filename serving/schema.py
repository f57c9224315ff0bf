"""What a request may say and where it is sent; everything is checked here, once, before any work.

{"texts": ["a", "b"]}                 where the model reads one text per item
{"texts": [["a", "b"], ["c", "d"]]}   where it reads pairs
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from serving.bundle import Item, ServingSpec, TaskKind
from serving.errors import BadRequest
from serving.faults import NotThere

ROUTES: dict[TaskKind, str] = {
    "classification": "/classify",
    "multi-label": "/classify",
    "regression": "/classify",
    "token-classification": "/tag",
    "embedding": "/embed",
}
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of a body; the last one where its JSON is nested too deeply."""
_SHAPES = {1: '{"texts": ["a", ...]}', 2: '{"texts": [["a", "b"], ...]}'}


class Singles(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[str]


class Pairs(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[tuple[str, str]]


_SINGLES = msgspec.json.Decoder(Singles)
_PAIRS = msgspec.json.Decoder(Pairs)


def parse_items(body: bytes, *, spec: ServingSpec) -> list[Item]:
    """Raises BadRequest when the body is not exactly what `spec` describes or exceeds its limits."""
    items = _decode(body, texts_per_item=spec.texts_per_item)
    require_limits(items, spec=spec)
    return items


def require_count(count: int, *, spec: ServingSpec, name: str = "texts") -> None:
    """Raises BadRequest where there is no item, or more of them than `spec` allows."""
    if not count:
        raise BadRequest(f"{name} is empty; send at least one")
    if count > spec.max_items:
        raise BadRequest(f"{name} holds {count} items, more than the {spec.max_items} allowed; split the request")


def require_limits(items: Sequence[Item], *, spec: ServingSpec, name: str = "texts") -> None:
    """Raises BadRequest where there are no items, or more or longer ones than `spec` allows; `name` is what the client
    called them."""
    require_count(len(items), spec=spec, name=name)
    for index, item in enumerate(items):
        for text in item:
            if len(text) > spec.max_characters:
                told = f"{len(text)} characters, more than the {spec.max_characters} allowed"
                raise BadRequest(f"{name}[{index}] has {told}")


def check_route(route: str, *, task: TaskKind) -> None:
    """Raises NotThere where requests for `task` are sent to another."""
    if ROUTES[task] != route:
        raise NotThere(f"this model does {task}: POST {ROUTES[task]}")


def _decode(body: bytes, *, texts_per_item: int) -> list[Item]:
    try:
        if texts_per_item == 2:
            return [*_PAIRS.decode(body).texts]
        return [(text,) for text in _SINGLES.decode(body).texts]
    except UNREADABLE as error:
        raise BadRequest(f"the body cannot be read: {error}; send {_SHAPES[texts_per_item]} as UTF-8 JSON") from error

"""What a request may say and where it is sent; everything is checked here, once, before any work.

{"texts": ["a", "b"]}                 where the model reads one text per item
{"texts": [["a", "b"], ["c", "d"]]}   where it reads pairs
"""

import msgspec

from serving.bundle import Item, ServingSpec, TaskKind
from serving.errors import BadRequest

ROUTES: dict[TaskKind, str] = {
    "classification": "/classify",
    "multi-label": "/classify",
    "regression": "/classify",
    "token-classification": "/tag",
    "embedding": "/embed",
}
MAX_BODY_BYTES = 4 * 2**20
_MAX_TIMEOUT_MS = 3_600_000
_SHAPES = {1: '{"texts": ["a", ...]}', 2: '{"texts": [["a", "b"], ...]}'}


class TooLarge(BadRequest):
    """The body is larger than this server reads."""


class WrongRoute(BadRequest):
    """The model does another task than the one this route is for."""


class Singles(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[str]


class Pairs(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[tuple[str, str]]


_SINGLES = msgspec.json.Decoder(Singles)
_PAIRS = msgspec.json.Decoder(Pairs)


def parse_items(body: bytes, *, spec: ServingSpec) -> list[Item]:
    """Raises BadRequest when the body is not exactly what `spec` describes or exceeds its limits."""
    items = _decode(body, texts_per_item=spec.texts_per_item)
    if not items:
        raise BadRequest("texts is empty; send at least one")
    if len(items) > spec.max_items:
        raise BadRequest(f"texts holds {len(items)} items, more than the {spec.max_items} allowed; split the request")
    for index, item in enumerate(items):
        longest = max(len(text) for text in item)
        if longest > spec.max_characters:
            raise BadRequest(f"texts[{index}] has {longest} characters, more than the {spec.max_characters} allowed")
    return items


def parse_timeout_s(header: str | None) -> float:
    """Seconds the client will wait by X-Request-Timeout-Ms; infinity where it does not say."""
    if header is None:
        return float("inf")
    timeout_ms = int(header) if header.isascii() and header.isdigit() and len(header) < 9 else 0
    if not 0 < timeout_ms <= _MAX_TIMEOUT_MS:
        raise BadRequest(f"X-Request-Timeout-Ms is {header[:20]!r}; send whole numbers from 1 to {_MAX_TIMEOUT_MS}")
    return timeout_ms / 1e3


def check_route(route: str, *, task: TaskKind) -> None:
    """Raises WrongRoute where requests for `task` are sent to another."""
    if ROUTES[task] != route:
        raise WrongRoute(f"this model does {task}: POST {ROUTES[task]}")


def check_size(size_bytes: int) -> None:
    if size_bytes > MAX_BODY_BYTES:
        raise TooLarge(f"the body exceeds the {MAX_BODY_BYTES} bytes allowed; split the request")


def _decode(body: bytes, *, texts_per_item: int) -> list[Item]:
    try:
        if texts_per_item == 2:
            return [*_PAIRS.decode(body).texts]
        return [(text,) for text in _SINGLES.decode(body).texts]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body cannot be read: {error}; send {_SHAPES[texts_per_item]} as UTF-8 JSON") from error

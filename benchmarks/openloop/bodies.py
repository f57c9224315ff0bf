"""Requests of one item each, as the protocols word them, or as a template does."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec

from benchmarks.openloop.messages import body_of
from serving.bundle import Item
from serving.errors import BadRequest

Protocol = Literal["retort", "v2", "invocations"]

PLACES: Final = ("text", "text_pair")  # of a template, between double braces
_PLACE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def protocol_bodies(items: Sequence[Item], protocol: Protocol) -> tuple[str, ...]:
    """retort: POST /classify, /tag, /embed. v2: the Open Inference Protocol. invocations: MLflow's and SageMaker's."""
    return tuple(_WORDINGS[protocol](item) for item in items)


def template_bodies(items: Sequence[Item], template: str) -> tuple[str, ...]:
    """The template with each item's texts, as JSON strings, in their places; one body where it has no places.

    Raises:
        BadRequest: a place that nothing fits, or what comes of it is not JSON.
    """
    places = [found[1] for found in _PLACE.finditer(template)]
    if strange := [name for name in places if name not in PLACES]:
        raise BadRequest(
            f"the body template has {{{{{strange[0]}}}}}; texts go to {{{{text}}}}, and of pairs the second ones to "
            "{{text_pair}}"
        )
    if not places:
        return (_json(template),)
    if not items:
        raise BadRequest("the body template has a place for texts, and there are none: give them with --data FILE")
    if "text_pair" in places and any(len(item) < 2 for item in items):
        raise BadRequest("the body template has a place for a second text, and the data has one an item: name two")
    return tuple(_json(_filled(template, item)) for item in items)


def _filled(template: str, item: Item) -> str:
    return _PLACE.sub(lambda found: _text(item, found[1]), template)


def _text(item: Item, place: str) -> str:
    return msgspec.json.encode(item[PLACES.index(place)]).decode("utf-8")


def _json(body: str) -> str:
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise BadRequest(
            f"the body template makes no JSON ({error}): {body[:80]}; texts come with their quotes, so write "
            '{"text": {{text}}}'
        ) from error
    return body


def _open_inference(item: Item) -> str:
    shape = [1] if len(item) == 1 else [1, len(item)]
    return _encoded({"inputs": [{"name": "text", "shape": shape, "datatype": "BYTES", "data": list(item)}]})


def _invocation(item: Item) -> str:
    return _encoded({"dataframe_split": {"columns": PLACES[: len(item)], "data": [item]}})


def _encoded(body: Any) -> str:
    return msgspec.json.encode(body).decode("utf-8")


_WORDINGS: Final[dict[Protocol, Callable[[Item], str]]] = {
    "retort": lambda item: body_of([item]),
    "v2": _open_inference,
    "invocations": _invocation,
}

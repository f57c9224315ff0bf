"""One item as a graph reads it, whoever made it: a tokenizer here, or a client that has one of its own."""

from collections.abc import Sequence
from typing import NamedTuple

from serving.bundle import Item
from serving.spans import Span


class Tokens(NamedTuple):
    """One item as the graph reads it: ids and segment numbers, both of length L, special tokens included; and, where
    tokens have outputs of their own, the characters each came from (special ones: none; () where nobody knows, since a
    client sent ids). An item longer than the model reads is computed by its `windows` instead."""

    ids: list[int]
    type_ids: list[int]
    offsets: Sequence[Span] = ()
    windows: "Sequence[Window]" = ()


class Window(NamedTuple):
    """A part of an item, special tokens included. Its tokens [first, last) are the item's here and in no other window;
    `weight` of them are of the text that was cut."""

    tokens: Tokens
    first: int
    last: int
    weight: int


Given = Item | Tokens
"""What is asked about: texts, or the token ids of a client's own tokenizer."""

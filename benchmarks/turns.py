"""Whose turn it is: the processes of one repeat are all there at once, and time a few requests each in turn.

What slows a machine for a tenth of a second or for minutes then meets every variant in equal parts and cancels in a
ratio: two processes that take turns of five requests differ by a fifth of what they differ one after the other
(docs/log.md). One process works at a time; the others and the parent sleep.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

REQUESTS: Final = 5  # a turn: few, for what slows a shared core may last for a hundredth of a second
SETTLE: Final = 2  # requests before them that are not timed: they find the other variants' data in the caches
REAL: Final = 0  # the "length" of texts as they come

Turn = Callable[[], None]  # returns when this process is to go on


class Part(NamedTuple):
    """What is timed in one turn: the requests from `start` to `stop` at a length in tokens, or of the REAL ones."""

    length: int
    start: int
    stop: int


def parts(n: int, lengths: Sequence[int], *, real: int) -> tuple[Part, ...]:
    """The turns of one process: `n` requests at each length and `real` ones as they come, all of them in as many parts,
    one after the other, so that each is spread over the whole repeat."""
    rounds = -(-n // REQUESTS)
    counts = {**dict.fromkeys(lengths, n), REAL: real}
    ends = {length: [count * i // rounds for i in range(rounds + 1)] for length, count in counts.items()}
    cuts = {length: list(pairwise(found)) for length, found in ends.items()}
    return tuple(
        Part(length, *cuts[length][i])
        for i in range(rounds)
        for length in counts
        if cuts[length][i][0] < cuts[length][i][1]
    )


def rounds(of: Sequence[Part]) -> tuple[int, ...]:
    """How many turns at the same length came before each."""
    return tuple(sum(other.length == part.length for other in of[:i]) for i, part in enumerate(of))


def in_order(turns: Sequence[Turn], number: int) -> list[Turn]:
    """Who goes first changes with every round, and who follows whom: A B C, C B A, B C A, A C B, ..."""
    start = number // 2 % len(turns)
    rotated = [*turns[start:], *turns[:start]]
    return rotated if number % 2 == 0 else rotated[::-1]


def take_turns(turns: Sequence[Turn], numbers: Sequence[int]) -> None:
    """One turn for each in every round, in the order of its number."""
    for number in numbers:
        for turn in in_order(turns, number):
            turn()

"""Which items share a call."""

import random

import pytest

from serving.costs import Costs
from serving.packing import ALONE, Fixed, Packing, packed


def groups(lengths: list[int], packing: Packing) -> list[list[int]]:
    """The lengths that share a call."""
    return [[lengths[place] for place in group] for group in packed(lengths, packing=packing)]


def test_items_of_like_lengths_are_beside_each_other() -> None:
    assert groups([7, 3, 4, 3, 4], Fixed(2)) == [[3, 3], [4, 4], [7]]
    assert groups([7, 3, 4], ALONE) == [[3], [4], [7]]
    assert groups([], Fixed(8)) == []


def test_a_group_ends_where_padding_costs_more_than_a_call() -> None:
    costs = Costs(call_s=0.010, token_s=0.001, most=16)
    assert groups([40, 5, 6, 7, 41], costs) == [[5, 6, 7], [40, 41]]


def test_a_group_ends_where_a_call_is_full() -> None:
    assert groups([5] * 5, Costs(call_s=1.0, token_s=0.001, most=2)) == [[5, 5], [5, 5], [5]]


@pytest.mark.parametrize("seed", range(20))
def test_all_calls_cost_no_more_than_each_item_alone(seed: int) -> None:
    draw = random.Random(seed)
    costs = Costs(call_s=draw.uniform(0, 0.01), token_s=1e-4, pair_s=draw.choice([0.0, 1e-6]), most=16)
    lengths = [draw.randint(3, 128) for _ in range(64)]
    found = groups(lengths, costs)
    assert sorted(length for group in found for length in group) == sorted(lengths)
    assert sum(costs.of(len(group), max(group)) for group in found) <= sum(costs.of(1, length) for length in lengths)

"""Whether batch mates and padding change an answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import LABELS, tiny_bundle

from benchmarks.invariance import SETTINGS, measure
from serving.bundle import TaskKind
from serving.engine import Engine, Tokens

TEXTS = ["good", "bad bad fine", "dull dull bright good", "awful", "fine fine", "good bad"] * 8


@pytest.mark.parametrize("task", LABELS)
def test_a_graph_that_reads_each_item_by_itself_is_invariant(task: TaskKind, tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, task=task, max_length=128), threads=1)
    tokens = engine.encode([(text,) for text in TEXTS])

    found = measure(lambda batch, length: engine.run(batch, length=length), tokens, spec=engine.bundle.spec)

    assert [(each.batch, each.length, each.items) for each in found] == [(*setting, 48) for setting in SETTINGS]
    assert all(each.max_difference < 1e-5 and each.flips == 0 for each in found)


def spec_of(folder: Path, task: TaskKind, **settings: Any) -> Any:
    return tiny_bundle(folder, task=task, max_length=64, **settings).spec


def items(*lengths: int) -> list[Tokens]:
    return [Tokens([1] * length, [0] * length) for length in lengths]


def pulled(batch: Sequence[Tokens], length: int) -> Any:
    """Outputs (0.1, 0), the second raised by 0.01 for every token of padding."""
    return np.array([[0.1, 0.01 * (length - len(one.ids))] for one in batch], np.float32)


def test_what_neighbours_and_padding_change_is_counted(tmp_path: Path) -> None:
    """Beside an item of 20 tokens one of 8 gets 12 more, enough to turn; padded to 64 all turn but none at 128."""
    found = measure(pulled, items(8, 12, 20), spec=spec_of(tmp_path, "classification"))
    told = {(each.batch, each.length): (round(each.max_difference, 6), each.flips) for each in found}
    assert told == {(8, 0): (0.12, 1), (32, 0): (0.12, 1), (1, 64): (0.56, 3)}


def test_labels_of_several_turn_at_their_thresholds_and_numbers_never(tmp_path: Path) -> None:
    """A half reaches 0.509 from a logit of 0.04 on: four tokens of padding."""
    spec = spec_of(tmp_path / "many", "multi-label", thresholds=[0.9, 0.509])
    found = measure(pulled, items(10, 16, 18, 20), spec=spec)
    assert [each.flips for each in found] == [2, 2, 4]
    regression = spec_of(tmp_path / "one", "regression")
    assert [each.flips for each in measure(pulled, items(10, 20), spec=regression)] == [0, 0, 0]


def test_a_batch_is_what_is_computed_together(tmp_path: Path) -> None:
    """In eights the long ninth item is no neighbour of the first."""
    found = measure(pulled, items(*[8] * 8, 60), spec=spec_of(tmp_path, "classification"))
    assert [(each.batch, each.length, each.flips) for each in found] == [(8, 0, 0), (32, 0, 8), (1, 64, 8)]

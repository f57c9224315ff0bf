"""Raw outputs of every kind of task survive their files; damaged ones are refused."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.outputs import read_outputs, write_outputs
from serving.errors import BadArtifact

RNG = np.random.default_rng(0)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [RNG.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("shapes", [[(3,), (3,)], [(1,)], [(5, 3), (2, 3), (9, 3)], [(4, 3)]])
def test_outputs_come_back_item_by_item(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    outputs = arrays(*shapes)
    write_outputs(tmp_path / "student-0.5.npy", outputs)
    found = read_outputs(tmp_path / "student-0.5.npy")
    assert [each.shape for each in found] == shapes
    for mine, theirs in zip(outputs, found, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_all_rows_lie_in_one_file_and_the_rows_of_each_item_in_another(tmp_path: Path) -> None:
    write_outputs(tmp_path / "a.npy", arrays((5, 3), (2, 3)))
    rows, counts = np.load(tmp_path / "a.npy"), np.load(tmp_path / "a.rows.npy")
    assert (rows.shape, rows.dtype, counts.tolist(), counts.dtype) == ((7, 3), np.float32, [5, 2], np.int64)


def test_the_counts_of_an_earlier_task_do_not_stay(tmp_path: Path) -> None:
    write_outputs(tmp_path / "a.npy", arrays((5, 3), (2, 3)))
    write_outputs(tmp_path / "a.npy", arrays((3,), (3,)))
    assert [each.shape for each in read_outputs(tmp_path / "a.npy")] == [(3,), (3,)]


def refused(path: Path) -> str:
    with pytest.raises(BadArtifact) as caught:
        read_outputs(path)
    return str(caught.value)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    assert refused(path).startswith(f"{path} does not hold logits: ")
    path.write_bytes(b"")
    assert refused(path).endswith("; run the benchmark again")
    path.write_bytes(b"text")
    assert refused(path).startswith(f"{path} does not hold logits: ")
    np.save(path, np.zeros(3))
    assert refused(path) == f"{path} does not hold logits: its shape is (3,); run the benchmark again"


def test_counts_that_belong_to_other_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_outputs(path, arrays((5, 3), (2, 3)))
    np.save(path, np.zeros((6, 3), np.float32))
    assert refused(path) == (
        f"{path} does not hold logits: it has 6 rows, and a.rows.npy counts 7; run the benchmark again"
    )

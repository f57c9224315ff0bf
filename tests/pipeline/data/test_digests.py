import os
from pathlib import Path

import pytest

from pipeline.data.digests import file_digests, unit_hash, write_atomically


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path, cache: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    a.write_text("same")
    b.write_text("same")
    c.write_text("other")

    digests = file_digests([a, b, c], cache=cache)

    assert digests[0] == digests[1] != digests[2]


def test_a_file_with_the_same_size_and_mtime_is_not_read_again(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "data"
    path.write_text("first")
    os.utime(path, ns=(1, 1))
    before = file_digests([path], cache=cache)
    path.write_text("other")
    os.utime(path, ns=(1, 1))

    assert file_digests([path], cache=cache) == before


@pytest.mark.parametrize("change", ["size", "mtime"])
def test_a_changed_file_is_read_again(tmp_path: Path, cache: Path, change: str) -> None:
    path = tmp_path / "data"
    path.write_text("first")
    os.utime(path, ns=(1, 1))
    before = file_digests([path], cache=cache)
    path.write_text("longer than first" if change == "size" else "other")
    os.utime(path, ns=(1, 1) if change == "size" else (2, 2))

    assert file_digests([path], cache=cache) != before


def test_a_broken_memory_of_digests_is_written_anew(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "data"
    path.write_text("x")
    expected = file_digests([path], cache=cache)
    (cache / "digests.json").write_text("{half")

    assert file_digests([path], cache=cache) == expected


def test_an_interrupted_write_leaves_the_old_content_and_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_atomically(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")

    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert path.read_text() == "old"


def test_unit_hashes_spread_evenly_and_depend_on_the_salt() -> None:
    values = [unit_hash(str(n)) for n in range(2000)]

    assert all(0 <= value < 1 for value in values)
    assert sum(value < 0.1 for value in values) == pytest.approx(200, abs=50)
    assert unit_hash("x") != unit_hash("x", salt="dev")

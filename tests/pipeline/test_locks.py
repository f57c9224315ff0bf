"""The locked requirements as the checkout holds them."""

from pathlib import Path

import pytest

from pipeline import locks
from pipeline.errors import BadRequest
from pipeline.locks import PIPELINE, SERVING, Locked, locked_versions, read_lock


def test_a_lock_is_read_with_the_digests_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements").mkdir()
    text = f"# a comment==1\nA-B==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\nc==2.0+cpu\n"
    (tmp_path / "requirements" / "x.txt").write_text(text)
    monkeypatch.setattr(locks, "ROOT", tmp_path)
    assert read_lock("x.txt") == (Locked("a-b", "1.0", ("0" * 64, "1" * 64)), Locked("c", "2.0+cpu", ()))


def test_what_ships_has_digests_and_both_locks_together_have_what_mlflow_needs() -> None:
    assert all(each.sha256 for each in read_lock(SERVING))
    assert len(read_lock(PIPELINE)) > len(read_lock(SERVING)) > 50
    assert {"mlflow", "pandas", "onnxruntime", "openvino", "msgspec"} <= locked_versions().keys()


def test_a_checkout_without_its_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "ROOT", tmp_path)
    with pytest.raises(BadRequest) as refused:
        read_lock(SERVING)
    path = tmp_path / "requirements" / "serving.txt"
    assert str(refused.value) == (f"{path} cannot be read (No such file or directory); register from a whole checkout")

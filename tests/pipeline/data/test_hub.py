from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from pipeline.data.hub import resolve_commit, stream_hub
from pipeline.errors import BadArtifact, BadRequest, Transient

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def answer(monkeypatch: pytest.MonkeyPatch, outcome: object) -> list[dict[str, object]]:
    """Puts a fake in place of the hub's API: it returns a commit, or raises."""
    asked: list[dict[str, object]] = []

    def dataset_info(self: object, repository: str, **options: object) -> SimpleNamespace:
        asked.append({"repository": repository, **options})
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(sha=outcome)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    resolve_commit.cache_clear()
    return asked


def test_a_commit_is_taken_as_it_is_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, ConnectionError("no network in tests"))

    assert resolve_commit("owner/data", COMMIT) == COMMIT
    assert asked == []


def test_a_branch_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, COMMIT)

    assert [resolve_commit("owner/data", "main") for _ in range(2)] == [COMMIT, COMMIT]
    assert asked == [{"repository": "owner/data", "revision": "main", "timeout": 10.0}]


@pytest.mark.parametrize("error", [httpx2.ConnectError("refused"), ConnectionError("refused")])
def test_a_hub_out_of_reach_is_transient_and_says_the_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    answer(monkeypatch, error)

    with pytest.raises(Transient) as caught:
        resolve_commit("owner/data", None)

    assert str(caught.value) == (
        f"data set owner/data at revision main cannot be resolved on the hub ({type(error).__name__}): "
        "give `revision` as a 40-hex commit, or local files (kind: files)"
    )


def test_an_id_that_is_none_is_a_bad_request() -> None:
    resolve_commit.cache_clear()

    with pytest.raises(BadRequest) as caught:
        resolve_commit("not a//valid id", "v1")

    assert str(caught.value) == (
        "the hub has no data set not a//valid id at revision v1: check the id and the revision, or log in"
    )


def streamed(repository: str) -> Iterator[object]:
    return stream_hub(repository, config=None, revision=COMMIT, split="train", column="text", where="text (of a test)")


def test_a_column_is_streamed_file_by_file_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "data" / "train-1.jsonl").write_text("not json")
    rows = streamed(str(tmp_path / "data"))

    assert [next(rows), next(rows)] == ["one", "two"]
    with pytest.raises(BadArtifact, match=r"^text \(of a test\) cannot be read \(.*\): choose another revision$"):
        next(rows)


def test_a_hub_that_goes_away_while_text_is_read_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*_: object, **__: object) -> Iterator[dict[str, str]]:
        yield {"text": "one"}
        raise httpx2.ReadTimeout("no answer")

    monkeypatch.setattr("datasets.load_dataset", rows)
    values = streamed("owner/text")

    assert next(values) == "one"
    with pytest.raises(Transient) as caught:
        next(values)
    assert str(caught.value) == (
        "text (of a test) cannot be downloaded (ReadTimeout): try again later, or give local files (kind: files)"
    )

"""Sentence vectors: pairs as items, what a student learns from, and cosines that rank pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from taskdata import load, refused, task_over, write

from pipeline import quality
from pipeline.errors import BadArtifact
from pipeline.tasking.base import ALL, Split, TaskData
from pipeline.tasking.fitted import Fitted
from serving.answers import probabilities

SCIPY = {"spearman": spearmanr, "pearson": pearsonr}


def pairs(folder: Path, name: str, pairs: list[tuple[str, str]], scores: list[float]) -> str:
    return write(folder, name, sentence1=[a for a, _ in pairs], sentence2=[b for _, b in pairs], score=scores)


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    return {
        "train": pairs(tmp_path, "train", [("One.", "Two."), ("Two.", "Three."), ("One.", "Four.")], [1, 2, 3]),
        "dev": pairs(tmp_path, "dev", [("Five.", "Six."), ("Five.", "Five.")], [1, 5]),
        "test": pairs(tmp_path, "test", [("one.", "TWO."), ("Two.", "One.")], [0, 4]),
    }


def test_a_pair_is_two_items_and_one_score(tmp_path: Path, paths: dict[str, str]) -> None:
    task = task_over("embedding", paths)

    data = load(task, tmp_path, ALL)

    assert task.texts_per_item == 1
    assert data.label_names == ()
    assert data.dev.items == (("Five.",), ("Six.",), ("Five.",), ("Five.",))
    assert data.dev.labels == (1.0, 5.0)
    assert data.test.items == data.reported == (("one.",), ("TWO.",), ("Two.",), ("One.",))
    assert data.overlap == 1, "pairs that train has too"


def test_a_student_learns_every_sentence_of_train_once_and_no_score(tmp_path: Path, paths: dict[str, str]) -> None:
    task = task_over("embedding", paths)

    data = load(task, tmp_path)

    assert data.train.items == (("One.",), ("Two.",), ("Three.",), ("Four.",))
    assert set(data.train.labels) == {0.0}
    assert task.targets(data.train, range(4), None, 0).tolist() == [0.0] * 4
    assert task.learns_labels is False


def test_more_texts_are_learned_sentence_by_sentence(tmp_path: Path, paths: dict[str, str]) -> None:
    (tmp_path / "more.txt").write_text("A fifth one. And a sixth!\nOne.\n")
    more = {"kind": "files", "files": str(tmp_path / "more.txt")}

    data = load(task_over("embedding", paths, texts=more), tmp_path)

    assert [text for (text,) in data.train.items] == ["One.", "Two.", "Three.", "Four.", "A fifth one.", "And a sixth!"]
    assert len(data.train.labels) == 6


def test_the_texts_are_part_of_the_identity_where_they_are_read(tmp_path: Path, paths: dict[str, str]) -> None:
    (tmp_path / "more.txt").write_text("More.\n")
    more = {"kind": "files", "files": str(tmp_path / "more.txt")}

    def identities(**settings: Any) -> tuple[str, str]:
        task = task_over("embedding", paths, **settings)
        return task.identity(tmp_path / "cache"), task.identity(tmp_path / "cache", ("test",))

    without, before = identities(), identities(texts=more)
    (tmp_path / "more.txt").write_text("More of it.\n")
    after = identities(texts=more)

    assert len({without[0], before[0], after[0]}) == 3
    assert len({without[1], before[1], after[1]}) == 1


def test_pairs_that_are_all_alike_are_a_bad_artifact(tmp_path: Path, paths: dict[str, str]) -> None:
    dev = pairs(tmp_path, "dev", [("Five.", "Six."), ("Five.", "Five.")], [3, 3])

    message = refused(BadArtifact, lambda: load(task_over("embedding", paths), tmp_path))

    assert message == f"dev data ({dev}) has the score 3 in every row: there is nothing to rank"


@pytest.mark.parametrize("metric", SCIPY)
def test_pairs_are_ranked_by_the_cosine_of_their_vectors(metric: str) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(0, 3, (40, 5)).astype(np.float32)
    labels = tuple(generator.integers(0, 5, 20).astype(float).tolist())
    task, data = task_over("embedding", metric=metric), TaskData((), {"test": Split((("a",),) * 40, labels)}, 0)

    fitted = task.fit(list(vectors), data, None)
    judged = task.judged(list(vectors), data, fitted, None)

    a, b = vectors[0::2].astype(float), vectors[1::2].astype(float)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    wanted = SCIPY[metric](cosines, labels).statistic
    assert fitted == Fitted("embedding", dimensions=5)
    assert judged[metric].answers == pytest.approx(cosines, abs=1e-12)
    assert tuple(judged) == task.metrics == (metric, *({*SCIPY} - {metric}))
    assert task.score(metric, judged[metric].answers, labels) == pytest.approx(wanted, abs=1e-9)
    found = quality.score(judged[metric].metric, judged[metric].answers, judged[metric].labels, resamples=10)
    assert found.value == pytest.approx(wanted, abs=1e-9)


def test_the_cosines_are_of_the_vectors_that_a_client_is_told() -> None:
    """Their length, which need not be 1, changes no answer."""
    vectors = np.random.default_rng(0).normal(0, 1, (4, 3)).astype(np.float32)
    told = probabilities(vectors, task="embedding") * np.array([[1], [3], [0.5], [1]], np.float32)
    task, fitted = task_over("embedding"), Fitted("embedding", dimensions=3)
    assert task.answers(list(vectors), fitted, None) == pytest.approx(task.answers(list(told), fitted, None), abs=1e-6)


def test_a_vector_of_nothing_is_like_no_other() -> None:
    vectors = [np.zeros(3, np.float32), np.ones(3, np.float32)]
    assert task_over("embedding").answers(vectors, Fitted("embedding", dimensions=3), None).tolist() == [0.0]


def test_an_embedding_has_no_head_and_no_loss_of_its_own() -> None:
    task, data = task_over("embedding"), TaskData((), {"train": Split((("a",),) * 2, (0.0,) * 2)}, None)
    head = task.head(())
    assert (head.num_outputs, head.problem_type, head.optimum_task) == (0, None, "feature-extraction")
    assert not task.learns_labels
    with pytest.raises(NotImplementedError, match="learns its teacher's vectors and no labels"):
        task.criterion(data)

"""A number for a text or a pair: what is wrong with scores, and the correlations."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from taskdata import load, refused, task_over, write

from pipeline import quality
from pipeline.errors import BadArtifact
from pipeline.tasking.base import Split, TaskData
from pipeline.tasking.fitted import Fitted
from pipeline.tasking.regression import correlation

SCIPY = {"spearman": spearmanr, "pearson": pearsonr}


def over(path: str, **settings: Any) -> Any:
    return task_over("regression", {"train": path, "dev": path}, **settings)


def test_pairs_are_items_of_two_texts(tmp_path: Path) -> None:
    rows = [{"a": f"left {n}", "b": f"right {n}", "score": n / 2} for n in range(50)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = over(str(tmp_path / "pairs.jsonl"), text=["a", "b"], label="score")

    data = load(task, tmp_path)

    assert task.texts_per_item == 2
    assert data.label_names == ()
    assert data.train.items[1] == ("left 1", "right 1")
    assert data.train.labels[:3] == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("score", ["n/a", None, math.nan, math.inf])
def test_a_score_that_is_not_a_number_is_a_bad_artifact(tmp_path: Path, score: object) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    column = ["1.5", score] if isinstance(score, str) else [1.5, score]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["one", "two"], "label": column}), path)

    message = refused(BadArtifact, lambda: load(over(str(path)), tmp_path))

    assert message == f"train data ({path}), row 2: the score is {score!r}, not a number"


def test_a_constant_score_is_a_bad_artifact(tmp_path: Path) -> None:
    path = write(tmp_path, "train", text=["one", "two"], label=[2.5] * 2)

    message = refused(BadArtifact, lambda: load(over(path), tmp_path))

    assert message == f"train data ({path}) has the score 2.5 in every row: there is nothing to rank"


@pytest.mark.parametrize("metric", SCIPY)
def test_a_metric_is_that_of_scipy_and_the_one_that_is_reported(metric: str) -> None:
    """The answers are the numbers that a client is told: the outputs as they are."""
    generator = np.random.default_rng(0)
    outputs = list(np.round(generator.normal(0, 1, (40, 1)), 1).astype(np.float32))
    labels = tuple(np.round(np.concatenate(outputs) + generator.normal(0, 1, 40)).tolist())
    task = task_over("regression", metric=metric)
    data = TaskData((), {"test": Split((("text",),) * 40, labels)}, 0)

    fitted = task.fit(outputs, data, None)
    judged = task.judged(outputs, data, fitted, None)

    wanted = SCIPY[metric](np.concatenate(outputs).astype(float), labels).statistic
    assert fitted == Fitted("regression")
    assert judged[metric].answers.tolist() == [output.item() for output in outputs]
    assert tuple(judged) == task.metrics == (metric, *({*SCIPY} - {metric}))
    assert task.score(metric, judged[metric].answers, labels) == pytest.approx(wanted, abs=1e-9)
    found = quality.score(judged[metric].metric, judged[metric].answers, judged[metric].labels, resamples=10)
    assert found.value == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("metric", SCIPY)
def test_answers_that_are_all_equal_rank_nothing(metric: str) -> None:
    assert correlation(metric, np.ones(3), (0.1, 0.2, 0.3)) == 0.0
    assert quality.score(metric, np.ones(3), (0.1, 0.2, 0.3), resamples=10).value == 0.0


def test_a_curve_ranks_as_well_as_a_line_and_correlates_less() -> None:
    answers, truths = np.array([1.0, 10.0, 100.0]), (0.1, 0.2, 0.3)
    assert correlation("spearman", answers, truths) == pytest.approx(1.0)
    assert correlation("pearson", answers, truths) == pytest.approx(0.9042, abs=1e-4)


def test_a_head_for_a_number_has_one_output() -> None:
    head = task_over("regression").head(())
    assert (head.num_outputs, head.problem_type, head.optimum_task) == (1, "regression", "text-classification")

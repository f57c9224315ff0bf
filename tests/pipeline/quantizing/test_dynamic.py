"""Dynamic int8 over plain and fused graphs: what runs, and that its answers depend on the batch."""

from pathlib import Path

import numpy as np
import pytest
from givens import engine_over, furthest_in_a_batch, given_of
from models import Exported, exported_case, sentences

from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.quantizing.graphs import optimized_operators

TEXTS = sentences(8, seed=5, longest=20)


@pytest.mark.parametrize("fused", [False, True])
def test_what_runs_has_integers_and_no_slow_normalisation(exported: Exported, tmp_path: Path, fused: bool) -> None:
    given, target = given_of(exported, tmp_path), tmp_path / "model.onnx"

    facts = DynamicRecipe(fused=fused).apply(exported.bundle / "model.onnx", target, given)

    assert facts["operators"].get("QAttention", 0) == (2 if fused else 0)
    assert "SkipLayerNormalization" not in optimized_operators(target, tmp_path)
    before, found = (
        np.concatenate([np.atleast_2d(row) for row in given.dev_logits(graph)])
        for graph in (exported.bundle / "model.onnx", target)
    )
    assert np.corrcoef(before.ravel(), found.ravel())[0, 1] > 0.95


def test_an_answer_depends_on_its_batch(tmp_path: Path, base: Path) -> None:
    """Beyond what static answers may differ by in the same test: scales are the batch's own."""
    case = exported_case("bert", base)
    given = given_of(case, tmp_path)
    DynamicRecipe().apply(case.bundle / "model.onnx", tmp_path / "model.onnx", given)

    assert furthest_in_a_batch(engine_over(tmp_path / "model.onnx", given, tmp_path / "e"), TEXTS, length=64) > 0.02

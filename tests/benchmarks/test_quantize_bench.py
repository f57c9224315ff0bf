"""What the benchmark of searches asks for and concludes; searching and racing are tested where they are."""

import argparse
from pathlib import Path

import pytest
from givens import given_of
from models import Exported, exported_case

from benchmarks import quantize_bench
from benchmarks.quantize_bench import SHAPES, measured, reached, search_over
from pipeline.config import load_config
from pipeline.errors import BadRequest
from pipeline.workspace import Workspace


@pytest.fixture
def case(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Of its own: tests of torch as a target, which come next, change the threads that golden answers are of."""
    return exported_case("bert", tmp_path_factory.mktemp("bench"))


def arguments(case: Exported, root: Path) -> argparse.Namespace:
    return argparse.Namespace(bundle=case.bundle, model=case.folder, workspace=root, n=10, processes=1, title="")


def test_every_recipe_of_the_comparison_is_a_candidate_and_none_a_fallback(case: Exported, tmp_path: Path) -> None:
    config, place = load_config(Path("configs/smoke.yaml")), Workspace.open(tmp_path / "ws")
    search = search_over(config, arguments(case, tmp_path), place, tmp_path)
    assert len(search.recipes) == len(quantize_bench.RECIPES) >= 8
    assert not search.fallbacks


def test_a_model_that_reads_too_little_is_refused_before_anything_is_searched(case: Exported, tmp_path: Path) -> None:
    config, place = load_config(Path("configs/smoke.yaml")), Workspace.open(tmp_path / "ws")
    with pytest.raises(BadRequest) as refused:
        measured(config, arguments(case, tmp_path), place, tmp_path)
    length = given_of(case, tmp_path).spec.max_length
    assert str(refused.value) == f"{case.bundle} reads {length} tokens, and 128 are timed: export a longer one"


def test_a_pick_is_held_against_the_fastest_of_those_that_lose_no_more_than_is_allowed() -> None:
    names = [f"{items}x{tokens}" for items, tokens in SHAPES]
    ratios = {
        name: dict.fromkeys(names, each) for name, each in (("exported", 1.0), ("a", 2.0), ("b", 2.5), ("c", 9.0))
    }
    told = reached(
        ratios,
        {"pick": "a", "invariant pick": ""},
        {"a": {"drop": {"estimate": 0.001}}},
        {"exported": 0.0, "a": 0.001, "b": 0.005, "c": 0.1},
    )
    assert told["of_the_fastest"] == dict.fromkeys(names, 0.8)
    assert set(told["fastest"].values()) == {"b"}
    assert told["test_drop"] == {"pick": 0.001}
    assert told["pick"]["1x128"] == {"times_fp32": 2.0, "asked": 2.1}

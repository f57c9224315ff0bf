"""A bundle of a given size that answers as it says."""

from pathlib import Path

import pytest

from benchmarks.made_bundle import facts_without_a_run, made_bundle, size_of
from serving.bundle import read_bundle
from serving.engine import Engine, check_golden


def test_it_is_as_large_as_asked_and_a_server_can_answer_with_it(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "made", size_bytes=2_000_000)
    assert size_of(bundle.path) == pytest.approx(2_000_000, rel=0.05)
    assert read_bundle(bundle.path) == bundle
    check_golden(Engine(bundle, threads=1))


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    made = [made_bundle(tmp_path / str(i), size_bytes=50_000, seed=seed).digest for i, seed in enumerate((1, 1, 2))]
    assert made[0] == made[1] != made[2]


def test_its_facts_name_it_and_claim_nothing(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "made", size_bytes=50_000)
    facts = facts_without_a_run(bundle, "mine")
    assert (facts["name"], facts["digest"], facts["metrics"]) == ("mine", bundle.digest, [])

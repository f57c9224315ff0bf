"""The planted slowdown slows what it says, and changes nothing else."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import tiny_bundle

from benchmarks.receipt import Load, read_logits
from benchmarks.session import Variant, run_session
from benchmarks.slowed_worker import SHARE, SLOWED, Slowed
from benchmarks.targets import OrtCpu


class FakeClock:
    """Time passes when it is looked at, or when a request works."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def test_a_slowed_request_lasts_its_share_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(time, "perf_counter_ns", clock)

    class Working:
        facts = "facts"

        def encode(self, item: Any) -> Any:
            clock.now_ns += 200_000
            return item

        def infer(self, tokens: Any) -> Any:
            clock.now_ns += 800_000
            return tokens

    runner: Any = Working()
    slowed = Slowed(runner)
    assert slowed.infer(slowed.encode("text")) == "text"
    assert clock.now_ns == pytest.approx((1 + SHARE) * 1_000_000, rel=1e-4)
    assert slowed.facts == "facts"


def test_a_session_slows_the_variant_of_that_name_alone_and_its_answers_stay(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    variants = [Variant(name, OrtCpu(threads=1), tmp_path / "bundle") for name in ("one", SLOWED)]
    run_session(
        variants,
        items=[(text,) for text in ("good bad fine dull", "bright", "awful fine good bad bad good")] * 4,
        out=tmp_path / "out",
        load=Load(lengths=(5,), n=10, processes=1, real=0, again_s=0.0),
        worker="benchmarks.slowed_worker",
    )
    one, slowed = (np.concatenate(read_logits(tmp_path / "out", name)) for name in ("one", SLOWED))
    np.testing.assert_array_equal(one, slowed)

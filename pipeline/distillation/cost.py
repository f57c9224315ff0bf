"""What a distillation will cost: a few of its own steps, measured, and what they say of the whole."""

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from pipeline.checkpoints import Checkpoints
from pipeline.data.feed import Feed
from pipeline.distillation import session
from pipeline.distillation.relation_kl import implementation
from pipeline.distillation.train import How, distill
from pipeline.encoders.students import parameters_of
from pipeline.precision import precision_used

if TYPE_CHECKING:
    from pipeline.graph import Tools
    from pipeline.stages.distill import DistillConfig

WARM_STEPS = 2  # the first allocate, compile kernels and wait for the first window of text


@dataclass(frozen=True)
class Cost:
    """Of one pass of the teacher; `seconds` lies between `seconds_low` and `seconds_high` by the spread of the measured
    steps, if the machine stays as it is."""

    students: tuple[str, ...]
    steps: int
    tokens: int
    measured_steps: int
    first_step_s: float
    tokens_per_s: float
    padding_share: float
    seconds: float
    seconds_low: float
    seconds_high: float
    memory_gb: float
    gpu_memory_gb: float | None
    checkpoint_mb: float
    device: str
    threads: int
    precision: str
    relation_kl: str


def measure_cost(
    configs: "Mapping[str, DistillConfig]", folder: Path, source: Any, tools: "Tools", *, steps: int
) -> Cost | None:
    """Run `steps` steps (after two to warm up) of the pass that trains these students; None where none learns.

    Nothing is kept. Memory is the peak of this process so far. Students that end before the longest of their pass make
    its last part cheaper than is said here.
    """
    ready = session.make_ready(configs, folder, source, tools)
    pupils = session.pupils_of(configs, ready)
    if not pupils:
        return None
    shared = configs[next(iter(pupils))]
    with session.feed_of(shared, ready, source, tools) as feed, TemporaryDirectory() as scratch:
        clock = _Clock(feed, steps=steps + WARM_STEPS)
        distill(
            ready.teacher,
            pupils,
            feed,
            how=How(shared.precision, shared.compiled),
            checkpoints=Checkpoints(Path(scratch), every_s=float("inf")),
            reporter=tools.reporter,
            team=tools.team,
            after_step=clock.after_step,
        )
    tokens = max(pupil.tokens for pupil in pupils.values())
    trained = sum(parameters_of(pupil.encoder) for pupil in pupils.values())
    return Cost(
        students=tuple(pupils),
        tokens=tokens,
        checkpoint_mb=trained * 12 / 1e6,  # weights and two moments, fp32
        device=session.device_name(),
        threads=torch.get_num_threads(),
        precision=precision_used(shared.precision, session.device_type()),
        relation_kl=implementation(session.device_type()),
        memory_gb=_peak_bytes() / 1e9,
        gpu_memory_gb=_gpu_peak_gb(),
        **clock.extrapolated(tokens),
    )


class _Clock:
    """Notes when each step ends and what it read, and stops training."""

    def __init__(self, feed: Feed, *, steps: int) -> None:
        self._steps = steps
        self._ends = [time.monotonic()]
        self._tokens: list[float] = []
        self._positions: list[float] = []
        step_at = feed.step_at

        def counted(step: int) -> Any:
            seen = step_at(step)
            self._tokens.append(seen.tokens)
            self._positions.append(seen.positions)
            return seen

        feed.step_at = counted  # type: ignore[method-assign,assignment]

    def after_step(self, done: int) -> bool:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._ends.append(time.monotonic())
        return done >= self._steps

    def extrapolated(self, tokens: int) -> dict[str, Any]:
        """The whole from its part. A step's cost goes with its tokens, so the spread is that of seconds a token."""
        seconds = torch.tensor(self._ends, dtype=torch.float64).diff()
        warm = min(WARM_STEPS, len(seconds) - 1)
        per_token = seconds[warm:] / torch.tensor(self._tokens[warm:], dtype=torch.float64)
        rate = float(seconds[warm:].sum()) / sum(self._tokens[warm:])
        error = float(per_token.std(correction=0)) / len(per_token) ** 0.5
        return {
            "steps": round(tokens / (sum(self._tokens) / len(self._tokens))),
            "measured_steps": len(per_token),
            "first_step_s": float(seconds[0]),
            "tokens_per_s": 1 / rate,
            "padding_share": 1 - sum(self._tokens) / sum(self._positions),
            "seconds": rate * tokens,
            "seconds_low": max(0.0, rate - 2 * error) * tokens,
            "seconds_high": (rate + 2 * error) * tokens,
        }


def _gpu_peak_gb() -> float | None:
    """The peak since the last question, or None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return peak


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

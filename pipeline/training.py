"""The one training loop: distillation and fine-tuning call it with their batches and their loss.

What a step sees depends on (seed, step) alone, and a checkpoint holds weights, optimizer, random state, history and
the caller's own state, so an interrupted run that resumes equals one that was never interrupted, bitwise on a CPU.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.errors import BadRequest
from pipeline.progress import Reporter
from pipeline.records import Record
from serving.cpu import cpu_features

if TYPE_CHECKING:
    import torch

LOG_EVERY = 10
KEPT_CHECKPOINTS = 2


class Optimization(Record):
    """AdamW with warm-up and linear decay to zero (the published settings of MiniLMv2 but for the rate)."""

    learning_rate: float = Field(default=6e-4, gt=0)
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    adam_eps: float = Field(default=1e-6, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a 0-based step of `steps`."""
        warmup = max(1, round(self.warmup_share * steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * (steps - step) / max(1, steps - warmup)


@dataclass
class Checkpoints:
    """A folder that keeps the last two states of a training run, each written whole or not at all."""

    folder: Path
    every_s: float = 60.0

    def save(self, state: Mapping[str, Any], *, step: int) -> None:
        """Write the state after `step` steps."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial.pt"  # torch.save refuses a name that begins with a dot
        torch.save(dict(state), partial)
        partial.replace(self.folder / f"step-{step:08d}.pt")
        for old in sorted(self.folder.glob("step-*.pt"))[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The newest state that can be read, or None: a power cut may take what a file held, so two are kept."""
        import torch

        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            with suppress(RuntimeError, EOFError, UnpicklingError):
                state: dict[str, Any] = torch.load(path, weights_only=True)
                return state
        return None


@dataclass
class Work:
    """What one training run consists of; `state` is the caller's own part of a checkpoint."""

    title: str
    module: "torch.nn.Module"
    steps: int
    loss_at: "Callable[[int], tuple[dict[str, torch.Tensor], int]]"
    """step -> (loss terms, whose sum is minimised; real tokens seen)"""
    after_step: Callable[[int], bool] = lambda _step: False
    """called with the number of steps done; True ends training (early stopping)"""
    state: dict[str, Any] = field(default_factory=dict)


def fit(
    work: Work, optimization: Optimization, *, checkpoints: Checkpoints, reporter: Reporter
) -> list[dict[str, float]]:
    """Train `work.module` and return the logged rows (step, tokens, each term, loss, rate, grad_norm, tokens_per_s).

    Raises BadRequest at a loss that is not finite, naming the step and what to try.
    """
    import torch

    optimizer = torch.optim.AdamW(
        _parameter_groups(work.module, optimization.weight_decay),
        lr=optimization.learning_rate,
        betas=(0.9, optimization.adam_beta2),
        eps=optimization.adam_eps,
        fused=True,  # eight times faster on the embedding matrix of a small encoder
    )
    history: list[dict[str, float]] = []
    start = _resume(work, optimizer, history, checkpoints)
    if start:
        reporter.line(f"  {work.title}: resumed after step {start} of {work.steps}")
    tokens = tokens_then = work.state.get("tokens", 0.0)
    saved = logged = time.monotonic()
    with reporter.bar(work.title, total=work.steps, unit="steps", start=start) as bar:
        for step in range(start, work.steps):
            terms, seen = work.loss_at(step)
            rate = optimization.rate_at(step, work.steps)
            norm = _update(work.module, optimizer, sum(terms.values()), rate=rate, clip_norm=optimization.clip_norm)
            tokens += seen
            if step == 0 or (step + 1) % LOG_EVERY == 0 or step + 1 == work.steps:
                now = time.monotonic()
                speed = (tokens - tokens_then) / max(now - logged, 1e-9)
                row = _row(work.title, step + 1, terms, tokens=tokens, rate=rate, norm=norm, speed=speed)
                history.append(row)
                logged, tokens_then = now, tokens
                bar.advance(0, note=f"loss {row['loss']:.4f}, {speed:,.0f} tokens/s")
            work.state["tokens"] = tokens
            stop = work.after_step(step + 1)
            bar.advance()
            if stop:
                break
            if time.monotonic() - saved >= checkpoints.every_s:
                checkpoints.save(_state(work, optimizer, history, step + 1), step=step + 1)
                saved = time.monotonic()
    return history


def bf16_on(device: str) -> bool:
    """Whether this device multiplies bf16 in hardware: AMX or AVX512-BF16 on a CPU, or a CUDA device that has it."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool({"avx512_bf16", "amx_bf16"} & cpu_features())


def autocast(device: str) -> Any:
    """bf16 autocast where the hardware has it, otherwise nothing."""
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=bf16_on(device))


def _parameter_groups(module: "torch.nn.Module", weight_decay: float) -> list[dict[str, Any]]:
    """Biases and normalisation weights are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _update(module: "torch.nn.Module", optimizer: Any, loss: Any, *, rate: float, clip_norm: float) -> "torch.Tensor":
    import torch

    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
    optimizer.step()
    return norm


def _row(
    title: str, step: int, terms: "Mapping[str, torch.Tensor]", *, tokens: float, rate: float, norm: Any, speed: float
) -> dict[str, float]:
    values = {name: float(term.detach()) for name, term in terms.items()}
    loss = sum(values.values())
    if not math.isfinite(loss):
        raise BadRequest(
            f"{title}: the loss is {loss} at step {step} ({values}); try a lower optimization.learning_rate or a "
            "longer optimization.warmup_share, and look for odd texts in the data"
        )
    return {
        "step": step,
        "tokens": tokens,
        **values,
        "loss": loss,
        "learning_rate": rate,
        "grad_norm": float(norm),
        "tokens_per_s": speed,
    }


def _state(work: Work, optimizer: Any, history: list[dict[str, float]], step: int) -> dict[str, Any]:
    import torch

    return {
        "step": step,
        "module": work.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "history": history,
        "own": work.state,
    }


def _resume(work: Work, optimizer: Any, history: list[dict[str, float]], checkpoints: Checkpoints) -> int:
    import torch

    state = checkpoints.latest()
    if state is None:
        return 0
    work.module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    history.extend(state["history"])
    work.state.update(state["own"])
    return int(state["step"])

"""The one training loop: distillation, pretraining and fine-tuning call it with their batches and their loss.

One pass may train several models (`parts`), each with its own optimizer, schedule and length. A step is one or more
pieces (micro-batches), here and in the other processes of the team; losses are sums, divided by the weight of the whole
step, so that how a step is cut into pieces and spread over processes changes nothing. What a step sees depends on the
seed and the position alone, and a checkpoint holds weights, optimizers, random state, history, position and the
caller's own state, so an interrupted run that resumes equals one that was never interrupted, bitwise on a CPU.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline.checkpoints import Checkpoints
from pipeline.losses import Terms, Watch
from pipeline.optimization import Optimization
from pipeline.progress import Reporter
from pipeline.team import Team

if TYPE_CHECKING:
    import torch

LOG_EVERY = 10
Row = dict[str, float]


@dataclass(frozen=True)
class Step:
    """What one step reads, of which this process has `pieces`; the numbers are of these pieces.

    `weight` is what the summed loss is divided by: documents, masked positions, or 1 for a loss that is a mean.
    """

    pieces: Sequence[Any]
    tokens: float
    positions: float
    weight: float = 1.0
    describe: Callable[[], str] = lambda: ""
    """names the documents, for the message when a loss is not finite"""


@dataclass
class Part:
    """One model in training: what is trained, how, and for how much (in the work's unit)."""

    module: "torch.nn.Module"
    optimization: Optimization
    budget: float


@dataclass
class Work:
    """What one training run consists of; `state` is the caller's own part of a checkpoint, `position` and `seek` say
    and set where its data is."""

    title: str
    parts: Mapping[str, Part]
    unit: Literal["steps", "tokens"]
    step_at: Callable[[int], Step]
    loss: Callable[..., Mapping[str, Terms]]
    """(piece, parts, watch) -> the terms of each of these parts; a module where gradients are shared by a team"""
    after_step: Callable[[int], bool] = lambda _step: False
    """called with the number of steps done; True ends training (early stopping)"""
    state: dict[str, Any] = field(default_factory=dict)
    position: Callable[[], dict[str, Any]] = dict
    seek: Callable[[dict[str, Any]], None] = lambda _position: None


def fit(work: Work, *, checkpoints: Checkpoints, reporter: Reporter, team: Team | None = None) -> dict[str, list[Row]]:
    """Train the parts and return the logged rows of each (step, tokens, each term, loss, rate, gradient norm, speed).

    Raises BadRequest at a loss that is not finite, naming the step, its documents and what to try.
    """
    loop = _Loop(work, checkpoints, reporter, team or Team())
    start = loop.resume()
    if start:
        reporter.line(f"  {work.title}: resumed after step {start}")
    with reporter.bar(work.title, total=loop.total, unit=work.unit, start=loop.done(start)) as bar:
        for step in loop.steps(start):
            before = loop.done(step)
            note = loop.take(step)
            stop = work.after_step(step + 1)
            bar.advance(min(loop.done(step + 1), loop.total) - before, note=note)
            if stop:  # no checkpoint: who resumed from it would go on
                break
            loop.save_in_time(step + 1)
    loop.watch.check(loop.team)
    return loop.history


class _Stepped(NamedTuple):
    """What is known of one part after its step, still on the device."""

    terms: "Mapping[str, torch.Tensor]"
    measures: "Mapping[str, torch.Tensor]"
    norm: "torch.Tensor"
    rate: float


class _Loop:
    def __init__(self, work: Work, checkpoints: Checkpoints, reporter: Reporter, team: Team) -> None:
        self.work, self.checkpoints, self.reporter, self.team = work, checkpoints, reporter, team
        self.total = max(part.budget for part in work.parts.values())
        self.optimizers = {name: part.optimization.optimizer(part.module) for name, part in work.parts.items()}
        self.history: dict[str, list[Row]] = {name: [] for name in work.parts}
        self.watch = Watch(work.title)
        self._loss: Any = None
        self._saved = self._logged = time.monotonic()
        self._tokens_then = 0.0
        for name in ("tokens", "positions", "seconds"):
            work.state.setdefault(name, 0.0)

    def done(self, step: int) -> float:
        """How much of `total` there is after `step` steps (of tokens: so far)."""
        return float(self.work.state["tokens"] if self.work.unit == "tokens" else step)

    def steps(self, start: int) -> Iterator[int]:
        """The steps that are left."""
        step = start
        while self.done(step) < self.total:
            yield step
            step += 1

    def take(self, step: int) -> str:
        """One step: forward, backward, update; a row of the history where one is due. Returns a note for the bar."""
        work, state = self.work, self.work.state
        seen = work.step_at(step)
        tokens, positions, weight = self.team.total((seen.tokens, seen.positions, seen.weight))
        before = self.done(step)
        active = [name for name, part in work.parts.items() if before < part.budget]
        state["tokens"] += tokens
        state["positions"] += positions
        after = self.done(step + 1)
        due = step == 0 or (step + 1) % LOG_EVERY == 0 or after >= self.total
        due = due or any(before < work.parts[name].budget <= after for name in active)
        found = self._backward(seen, active, weight=weight, watch=due)
        stepped = {name: self._update(name, *found[name], before=before, after=after) for name in active}
        losses = {name: one.terms for name, one in stepped.items()}
        self.watch.add(step + 1, losses, [one.norm for one in stepped.values()], seen.describe)
        return self._log(step + 1, stepped) if due else ""

    def _backward(self, seen: Step, active: Sequence[str], *, weight: float, watch: bool) -> dict[str, Any]:
        """Gradients of every active part, and its summed terms and measures over all pieces."""
        parts, scale = self.work.parts, 1.0 / weight
        self._loss = self._loss or self._shared(seen)
        # A team's gradients are exchanged for all parameters: a part that is done goes along with a factor of 0.
        computed = list(parts) if self.team.size > 1 else active
        sums: dict[str, tuple[Row, Row]] = {name: ({}, {}) for name in computed}
        for number, piece in enumerate(seen.pieces, start=1):
            last = number == len(seen.pieces)
            with nullcontext() if last or self.team.size == 1 else self._loss.no_sync():
                terms = self._loss(piece, computed, watch)
                total: Any = sum(sum(terms[name].losses.values()) * float(name in active) for name in computed)
                (total * (scale * self.team.size)).backward()  # a team's gradients are averaged
            for name in computed:
                for kept, new in zip(sums[name], terms[name], strict=True):
                    for key, value in new.items():
                        kept[key] = kept.get(key, 0.0) + value.detach() * scale
        return sums

    def _shared(self, seen: Step) -> Any:
        """The loss with its gradients shared by the team. What no gradient reaches is frozen first: then none is
        waited for, and no search for unused parameters is needed."""
        if self.team.size == 1:
            return self.work.loss
        module: Any = self.work.loss
        terms = module(seen.pieces[0], list(self.work.parts), False)
        total: Any = sum(sum(each.losses.values()) for each in terms.values())
        total.backward()
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        return self.team.parallel(module)

    def _update(self, name: str, terms: Any, measures: Any, *, before: float, after: float) -> _Stepped:
        import torch

        part, optimizer = self.work.parts[name], self.optimizers[name]
        rate = part.optimization.rate_at(before / part.budget, after / part.budget)
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(part.module.parameters(), part.optimization.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return _Stepped(terms, measures, norm, rate)

    def _log(self, step: int, stepped: Mapping[str, _Stepped]) -> str:
        self.watch.check(self.team)
        state, now = self.work.state, time.monotonic()
        speed = (state["tokens"] - self._tokens_then) / max(now - self._logged, 1e-9)
        state["seconds"] += now - self._logged
        self._logged, self._tokens_then = now, state["tokens"]
        notes = []
        for name, one in stepped.items():
            terms, measures = (self._of_team(values) for values in (one.terms, one.measures))
            row = {"step": step, "tokens": state["tokens"], **terms, "loss": sum(terms.values())}
            row |= {"learning_rate": one.rate, "grad_norm": float(one.norm), "tokens_per_s": speed}
            row |= {"padding_share": 1.0 - state["tokens"] / state["positions"], "seconds": state["seconds"]}
            row |= {f"agreement/{key}": value for key, value in measures.items()}
            self.history[name].append(row)
            self.reporter.metrics(name, step=step, values=row)
            notes.append(f"loss {row['loss']:.4f}" if len(self.work.parts) == 1 else f"{name} {row['loss']:.4f}")
        return f"{', '.join(notes)}, {speed:,.0f} tokens/s"

    def _of_team(self, values: "Mapping[str, torch.Tensor]") -> Row:
        return dict(zip(values, self.team.total([float(value) for value in values.values()]), strict=True))

    def save_in_time(self, step: int) -> None:
        """Write a checkpoint where the last is old enough; the leader's clock decides."""
        due = self.team.leaders(lambda: time.monotonic() - self._saved >= self.checkpoints.every_s)
        if not due:
            return
        self.watch.check(self.team)  # a state that is not finite must not take the place of a good one
        position = {key: value for one in self.team.gather(self.work.position()) for key, value in one.items()}
        if self.team.leads:
            self.checkpoints.save(self._state(step, position), step=step)
        self._saved = time.monotonic()

    def _state(self, step: int, position: dict[str, Any]) -> dict[str, Any]:
        import torch

        parts = {
            name: {"module": part.module.state_dict(), "optimizer": self.optimizers[name].state_dict()}
            for name, part in self.work.parts.items()
        }
        told = {"step": step, "parts": parts, "rng": torch.get_rng_state(), "history": self.history}
        return {**told, "position": position, "own": self.work.state}

    def resume(self) -> int:
        """Take up the newest checkpoint of these very parts; returns the steps done."""
        import torch

        state = self.team.leaders(self.checkpoints.latest)
        if state is None:
            return 0
        if not self.work.parts.keys() <= state["parts"].keys():
            self.reporter.line(f"  {self.work.title}: the checkpoint is of other models; beginning anew")
            return 0
        for name, part in self.work.parts.items():
            part.module.load_state_dict(state["parts"][name]["module"])
            self.optimizers[name].load_state_dict(state["parts"][name]["optimizer"])
            self.history[name].extend(state["history"][name])
        torch.set_rng_state(state["rng"])
        self.work.state.update(state["own"])
        self.work.seek(state["position"])
        self._tokens_then = self.work.state["tokens"]
        return int(state["step"])

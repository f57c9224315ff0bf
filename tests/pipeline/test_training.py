"""The training loop: what is minimised, what is kept, and that an interrupted run equals one that was not."""

import math
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline import training
from pipeline.checkpoints import Checkpoints
from pipeline.errors import BadRequest
from pipeline.losses import Terms
from pipeline.optimization import Optimization
from pipeline.progress import Silent
from pipeline.training import Part, Row, Step, Work, fit

STEPS = 25
TIMED = {"tokens_per_s", "seconds"}


class Killed(BaseException):
    """What a kill looks like from inside."""


class Said(Silent):
    """Keeps the lines and the metrics."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.told: list[tuple[str, int, Row]] = []

    def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None:
        self.told.append((part, step, dict(values)))

    def line(self, text: str) -> None:
        self.lines.append(text)


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.LayerNorm(8), nn.Linear(8, 1))


def data_at(step: int) -> tuple[Tensor, Tensor]:
    """A batch that depends on the step alone."""
    x_ND = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
    return x_ND, x_ND[:, :1] - 0.5 * x_ND[:, 1:2]


def work_on(
    module: nn.Module,
    *,
    steps: int = STEPS,
    killed_at: int | None = None,
    after_step: Callable[[int], bool] = lambda _: False,
    state: dict[str, Any] | None = None,
    optimization: Optimization | None = None,
) -> Work:
    def step_at(step: int) -> Step:
        if step == killed_at:
            raise Killed
        return Step([data_at(step)], tokens=16, positions=20)

    def loss(piece: tuple[Tensor, Tensor], _parts: Sequence[str], _watch: bool) -> dict[str, Terms]:
        x_ND, y_N1 = piece
        error_N1 = module(x_ND) - y_N1
        return {"model": Terms({"square": error_N1.square().mean(), "absolute": 0.1 * error_N1.abs().mean()})}

    parts = {"model": Part(module, optimization or Optimization(learning_rate=0.05), budget=steps)}
    return Work("train", parts, "steps", step_at, loss, after_step, {} if state is None else state)


def fitted(work: Work, folder: Path, *, every_s: float = 1e9) -> list[dict[str, float]]:
    """The history of a work of one part."""
    return fit(work, checkpoints=Checkpoints(folder, every_s=every_s), reporter=Silent())["model"]


def trained(folder: Path, *, dropout: float = 0.0, every_s: float = 1e9, **changes: Any) -> tuple[nn.Module, list[Row]]:
    module = network(dropout=dropout)
    return module, fitted(work_on(module, **changes), folder, every_s=every_s)


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name not in TIMED} for row in history]


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    assert all(name == its and torch.equal(weight, weight_of_it) for (name, weight), (its, weight_of_it) in pairs)


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# -- learning ----------------------------------------------------------------------------------------------------------


def test_the_loss_falls(tmp_path: Path) -> None:
    _, history = trained(tmp_path, steps=60)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_what_is_minimised_is_the_sum_of_the_terms_by_adamw(tmp_path: Path) -> None:
    """Against the same five steps written out with torch alone."""
    optimization = Optimization(learning_rate=0.05, weight_decay=0.1, clip_norm=0.3)
    module, _ = trained(tmp_path, steps=5, optimization=optimization)

    plain = network()
    matrices = [weight for weight in plain.parameters() if weight.ndim == 2]
    vectors = [weight for weight in plain.parameters() if weight.ndim == 1]
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.999),
        eps=1e-6,
    )
    for step, rate in enumerate([0.05, 0.4 / 9, 0.3 / 9, 0.2 / 9, 0.1 / 9]):
        x_ND, y_N1 = data_at(step)
        error_N1 = plain(x_ND) - y_N1
        adam.zero_grad()
        (error_N1.square().mean() + 0.1 * error_N1.abs().mean()).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()

    for weight, wanted in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, atol=1e-6, rtol=1e-5)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    module = network()
    module[0].requires_grad_(requires_grad=False)

    fitted(work_on(module), tmp_path)

    assert torch.equal(module[0].weight, network()[0].weight)
    assert not torch.equal(module[4].weight, network()[4].weight)


def test_the_first_every_tenth_and_the_last_step_are_rows_of_the_history(tmp_path: Path) -> None:
    _, history = trained(tmp_path)

    assert [row["step"] for row in history] == [1, 10, 20, 25]
    assert [row["tokens"] for row in history] == [16, 160, 320, 400]
    names = ["step", "tokens", "square", "absolute", "loss", "learning_rate", "grad_norm", "tokens_per_s"]
    names += ["padding_share", "seconds"]
    assert [list(row) for row in history] == [names] * 4
    assert history[0]["loss"] == pytest.approx(history[0]["square"] + history[0]["absolute"])
    assert all(type(value) in (int, float) for row in history for value in row.values())


def test_every_row_is_told_when_it_happens(tmp_path: Path) -> None:
    said = Said()
    heard: list[int] = []

    def after(done: int) -> bool:
        heard.append(len(said.told))
        return False

    history = fit(work_on(network(), after_step=after), checkpoints=Checkpoints(tmp_path, every_s=1e9), reporter=said)
    assert said.told == [("model", row["step"], row) for row in history["model"]]
    assert [heard[step - 1] for step in (1, 9, 10, 20, 25)] == [1, 1, 2, 3, 4]


def test_training_ends_where_after_step_says_so(tmp_path: Path) -> None:
    seen: list[int] = []

    def stop_at_twelve(done: int) -> bool:
        seen.append(done)
        return done == 12

    module, history = trained(tmp_path, after_step=stop_at_twelve)
    twelve, _ = trained(tmp_path / "plain", after_step=lambda done: done == 12)

    assert seen == list(range(1, 13))
    assert [row["step"] for row in history] == [1, 10]
    assert_equal(module, twelve)


# -- the learning rate -------------------------------------------------------------------------------------------------


def rates(optimization: Optimization, steps: int) -> list[float]:
    """The rate of each of `steps` equal steps."""
    return [optimization.rate_at(step / steps, (step + 1) / steps) for step in range(steps)]


def test_the_rate_climbs_to_its_peak_and_falls_to_zero_in_straight_lines() -> None:
    optimization = Optimization(learning_rate=1.0, warmup_share=0.2)
    wanted = [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert rates(optimization, 10) == pytest.approx(wanted)
    assert optimization.rate_at(1, 1.1) == 0


@pytest.mark.parametrize("warmup_share", [0.0, 0.1, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_no_step_is_taken_at_a_rate_of_zero_or_above_the_peak(warmup_share: float, steps: int) -> None:
    found = rates(Optimization(learning_rate=0.3, warmup_share=warmup_share), steps)
    assert all(0 < rate <= 0.3 for rate in found)
    assert max(found) == pytest.approx(0.3)


def test_the_rate_in_the_history_is_the_one_used(tmp_path: Path) -> None:
    _, history = trained(tmp_path)
    wanted = rates(Optimization(learning_rate=0.05), STEPS)
    assert [row["learning_rate"] for row in history] == [wanted[step] for step in (0, 9, 19, 24)]


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 0}, {"warmup_share": 1}, {"weight_decay": -1}, {"adam_beta2": 1}, {"clip_norm": 0}, {"lr": 1}],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Optimization.model_validate(settings)


# -- losses that are not finite ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("poison", "said"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_loss_that_is_not_finite_ends_training_with_its_documents_and_the_way_out(
    poison: float, said: str, tmp_path: Path
) -> None:
    """At step 7, though losses are read back every tenth step."""
    module = network()

    def step_at(step: int) -> Step:
        return Step([(step, data_at(step)[0])], tokens=16, positions=16, describe=lambda: f"documents {step}")

    def loss(piece: tuple[int, Tensor], _parts: Sequence[str], _watch: bool) -> dict[str, Terms]:
        step, x_ND = piece
        value = module(x_ND).square().mean() * 0 + 0.25
        return {"model": Terms({"fine": value, "sick": value * 0 + (poison if step == 6 else 0.0)})}

    work = Work("distill", {"model": Part(module, Optimization(), STEPS)}, "steps", step_at, loss)
    with pytest.raises(BadRequest) as refused:
        fitted(work, tmp_path)

    assert str(refused.value) == (
        f"distill: the loss is {said} at step 7 ({{'fine': 0.25, 'sick': {said}}}); "
        "try a lower optimization.learning_rate or a longer optimization.warmup_share, "
        "and look for odd texts in the data; the step read documents 6"
    )
    assert refused.value.exit_code == 64


def test_no_state_that_is_not_finite_takes_the_place_of_a_good_checkpoint(tmp_path: Path) -> None:
    module = network()

    def loss(piece: tuple[Tensor, Tensor], _parts: Sequence[str], _watch: bool) -> dict[str, Terms]:
        value = module(piece[0]).square().mean()
        return {"model": Terms({"square": value * (math.nan if piece[1] is None else 1.0)})}

    def step_at(step: int) -> Step:
        return Step([(data_at(step)[0], None if step == 3 else step)], tokens=1, positions=1)

    work = Work("train", {"model": Part(module, Optimization(), STEPS)}, "steps", step_at, loss)
    with pytest.raises(BadRequest, match="at step 4"):
        fitted(work, tmp_path, every_s=0)

    assert files(tmp_path) == ["step-00000002.pt", "step-00000003.pt"]


def test_a_gradient_that_is_not_finite_ends_training_though_the_loss_is(tmp_path: Path) -> None:
    """At the last step too, after which nothing would show it."""
    module = network()

    def loss(piece: tuple[Tensor, Tensor], _parts: Sequence[str], _watch: bool) -> dict[str, Terms]:
        return {"model": Terms({"root": module(piece[0]).mul(0).square().sum().sqrt()})}

    parts = {"model": Part(module, Optimization(), 1)}
    work = Work("train", parts, "steps", lambda step: Step([data_at(step)], tokens=1, positions=1), loss)
    with pytest.raises(BadRequest) as refused:
        fitted(work, tmp_path)

    assert str(refused.value).startswith("train: the gradient's norm is nan at step 1; try a lower ")


# -- pieces, parts and budgets -----------------------------------------------------------------------------------------


def summed_work(module: nn.Module, *, pieces: int, budget: float = 400, state: dict[str, Any] | None = None) -> Work:
    """A loss that is a sum over rows, each step's 16 rows cut into pieces of unequal size; counted in tokens."""

    def step_at(step: int) -> Step:
        rows = torch.cat(data_at(step), dim=1)
        ends = [0, *(16 * (i + 1) ** 2 // pieces**2 for i in range(pieces))]
        return Step([rows[a:b] for a, b in pairwise(ends)], tokens=16, positions=16, weight=16)

    taken = {"step": 0}

    def next_step(_step: int) -> Step:
        taken["step"] += 1
        return step_at(taken["step"] - 1)

    def loss(rows: Tensor, _parts: Sequence[str], watch: bool) -> dict[str, Terms]:
        square = (module(rows[:, :6]) - rows[:, 6:]).square().sum()
        return {"model": Terms({"square": square}, {"rows": square * 0 + len(rows)} if watch else {})}

    parts = {"model": Part(module, Optimization(learning_rate=0.05), budget)}
    return Work(
        "train",
        parts,
        "tokens",
        next_step,
        loss,
        state=state if state is not None else {},
        position=lambda: dict(taken),
        seek=taken.update,
    )


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_step_cut_into_unequal_pieces_is_the_same_step(pieces: int, tmp_path: Path) -> None:
    whole, cut = network(), network()

    wanted = fitted(summed_work(whole, pieces=1), tmp_path / "whole")
    found = fitted(summed_work(cut, pieces=pieces), tmp_path / "cut")

    for weight, same in zip(cut.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(weight, same, atol=1e-6, rtol=1e-5)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in wanted], rel=1e-5)
    assert [row["agreement/rows"] for row in found] == [1.0] * 4  # sums over pieces, divided by the weight


def test_a_work_counted_in_tokens_ends_with_its_budget_and_its_rate_follows_the_tokens(tmp_path: Path) -> None:
    history = fitted(summed_work(network(), pieces=1, budget=100), tmp_path)

    assert [row["step"] for row in history] == [1, 7]
    assert history[-1]["tokens"] == 112
    assert history[-1]["learning_rate"] == pytest.approx(Optimization(learning_rate=0.05).rate_at(0.96, 1.12))


def test_the_datas_position_comes_back(tmp_path: Path) -> None:
    wanted, cut = network(), network()
    history = fitted(summed_work(wanted, pieces=2), tmp_path / "whole")

    halfway = summed_work(cut, pieces=2)
    halfway.after_step = lambda done: done == 13
    fitted(halfway, tmp_path / "cut", every_s=0)
    resumed = network()
    found = fitted(summed_work(resumed, pieces=2), tmp_path / "cut")

    assert_equal(resumed, wanted)
    assert untimed(found) == untimed(history)


def two_parts(modules: dict[str, nn.Module], budgets: dict[str, float], **rates: float) -> Work:
    """Several networks on the same data, each with a rate and a budget of its own."""

    def loss(piece: tuple[Tensor, Tensor], names: Sequence[str], _watch: bool) -> dict[str, Terms]:
        return {name: Terms({"square": (modules[name](piece[0]) - piece[1]).square().mean()}) for name in names}

    parts = {
        name: Part(module, Optimization(learning_rate=rates[name]), budgets[name]) for name, module in modules.items()
    }
    return Work("train", parts, "steps", lambda step: Step([data_at(step)], tokens=16, positions=16), loss)


def test_parts_of_one_pass_equal_separate_runs_each_with_its_own_rate_and_length(tmp_path: Path) -> None:
    together = {"fast": network(), "slow": network()}
    rates, budgets = {"fast": 0.05, "slow": 0.01}, {"fast": 12.0, "slow": 25.0}

    histories = fit(
        two_parts(together, budgets, **rates), checkpoints=Checkpoints(tmp_path / "both"), reporter=Silent()
    )

    for name, module in together.items():
        alone = {name: network()}
        history = fit(two_parts(alone, budgets, **rates), checkpoints=Checkpoints(tmp_path / name), reporter=Silent())
        assert_equal(module, alone[name])
        mine, theirs = untimed(histories[name]), untimed(history[name])
        assert [row for row in mine if row["step"] != 12 or name == "fast"] == theirs
    assert histories["fast"][-1]["step"] == 12


def test_what_is_left_of_a_pass_goes_on_from_the_checkpoint_of_all(tmp_path: Path) -> None:
    """As when a process was killed after it had sealed the first of two."""
    both = {"a": network(), "b": network()}
    budgets, rates = dict.fromkeys("ab", 8.0), {"a": 0.05, "b": 0.01}
    fit(two_parts(both, budgets, **rates), checkpoints=Checkpoints(tmp_path, every_s=0), reporter=Silent())

    left = {"b": network()}
    work = two_parts(left, budgets, **rates)
    fit(work, checkpoints=Checkpoints(tmp_path), reporter=Silent())

    assert_equal(left["b"], both["b"])


def test_a_checkpoint_of_other_parts_is_not_taken_up(tmp_path: Path) -> None:
    def run(*names: str) -> dict[str, nn.Module]:
        modules = {name: network() for name in names}
        budgets, rates = dict.fromkeys(names, 5.0), dict.fromkeys(names, 0.05)
        fit(two_parts(modules, budgets, **rates), checkpoints=Checkpoints(tmp_path, every_s=0), reporter=Silent())
        return modules

    one = run("a")
    both = run("a", "b")

    assert_equal(both["a"], one["a"])
    assert_equal(both["b"], one["a"])


# -- checkpoints and resume --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("killed_at", [1, 10, 13, 24])
def test_a_run_that_was_killed_goes_on_to_the_very_same_end(killed_at: int, dropout: float, tmp_path: Path) -> None:
    wanted, history = trained(tmp_path / "whole", dropout=dropout)

    with pytest.raises(Killed):
        trained(tmp_path / "cut", dropout=dropout, every_s=0, killed_at=killed_at)
    torch.rand(5)  # another process has another random state
    resumed, found = trained(tmp_path / "cut", dropout=dropout)

    assert_equal(resumed, wanted)
    assert untimed(found) == untimed(history)


def test_dropout_would_show_a_random_state_that_was_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail."""
    wanted, _ = trained(tmp_path / "whole", dropout=0.5)
    with pytest.raises(Killed):
        trained(tmp_path / "cut", dropout=0.5, every_s=0, killed_at=13)
    monkeypatch.setattr(torch, "set_rng_state", lambda _: None)

    resumed, _ = trained(tmp_path / "cut", dropout=0.5)

    assert not torch.equal(resumed[0].weight, wanted[0].weight)


def test_a_run_killed_twice_goes_on_from_where_it_was(tmp_path: Path) -> None:
    wanted, history = trained(tmp_path / "whole", dropout=0.5)

    for killed_at in (7, 19):
        with pytest.raises(Killed):
            trained(tmp_path / "cut", dropout=0.5, every_s=0, killed_at=killed_at)
    resumed, found = trained(tmp_path / "cut", dropout=0.5)

    assert_equal(resumed, wanted)
    assert untimed(found) == untimed(history)


def test_the_callers_own_state_comes_back(tmp_path: Path) -> None:
    """As early stopping keeps it: scores so far and the best weights."""

    def run(folder: Path, killed_at: int | None) -> dict[str, Any]:
        module = network()
        state: dict[str, Any] = {"scores": [], "best": {}}

        def after_step(done: int) -> bool:
            if done % 5 == 0:
                state["best"] = {name: weight.clone() for name, weight in module.state_dict().items()}
                state["scores"].append(float(module[0].weight.sum().detach()))
            return len(state["scores"]) == 4

        fitted(work_on(module, killed_at=killed_at, after_step=after_step, state=state), folder, every_s=0)
        return state

    wanted = run(tmp_path / "whole", None)
    with pytest.raises(Killed):
        run(tmp_path / "cut", 12)
    found = run(tmp_path / "cut", None)

    assert found["scores"] == wanted["scores"]
    assert len(found["scores"]) == 4
    assert all(torch.equal(weight, wanted["best"][name]) for name, weight in found["best"].items())
    assert found["tokens"] == wanted["tokens"] == 20 * 16


def test_a_run_that_was_done_but_not_sealed_is_not_trained_again(tmp_path: Path) -> None:
    wanted, history = trained(tmp_path, every_s=0)
    again, found = trained(tmp_path, every_s=0, killed_at=0)
    assert_equal(again, wanted)
    assert untimed(found) == untimed(history)


def test_a_resumed_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trained(tmp_path, every_s=0, killed_at=13)
    said = Said()

    fit(work_on(network()), checkpoints=Checkpoints(tmp_path, every_s=1e9), reporter=said)

    assert said.lines == ["  train: resumed after step 13"]


def test_the_last_two_checkpoints_are_kept_and_nothing_else(tmp_path: Path) -> None:
    trained(tmp_path, every_s=0)
    assert files(tmp_path) == ["step-00000024.pt", "step-00000025.pt"]


def test_no_checkpoint_is_written_before_its_time(tmp_path: Path) -> None:
    trained(tmp_path / "none", every_s=1e9)
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_that_was_being_written_is_ignored(tmp_path: Path) -> None:
    wanted, _ = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "cut", every_s=0, killed_at=13)
    half = (tmp_path / "cut" / "step-00000013.pt").read_bytes()[:1000]
    (tmp_path / "cut" / "partial.pt").write_bytes(half)

    resumed, _ = trained(tmp_path / "cut", every_s=0)

    assert_equal(resumed, wanted)
    assert files(tmp_path / "cut") == ["step-00000024.pt", "step-00000025.pt"]


@pytest.mark.parametrize("kept_bytes", [0, 10, 1000, 4000])
def test_a_newest_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(kept_bytes: int, tmp_path: Path) -> None:
    wanted, _ = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "cut", every_s=0, killed_at=13)
    newest = tmp_path / "cut" / "step-00000013.pt"
    newest.write_bytes(newest.read_bytes()[:kept_bytes])

    state = Checkpoints(tmp_path / "cut").latest()
    resumed, _ = trained(tmp_path / "cut")

    assert state is not None
    assert state["step"] == 12
    assert_equal(resumed, wanted)


def test_a_run_that_begins_anew_keeps_its_own_checkpoints_and_not_those_it_could_not_use(tmp_path: Path) -> None:
    """The steps of what it found are higher than its own for long."""
    for step in (10_000, 10_500):
        (tmp_path / f"step-{step:08d}.pt").write_bytes(b"of another time")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None

    for step in (100, 200, 300):
        checkpoints.save({"step": step}, step=step)

    assert files(tmp_path) == ["step-00000200.pt", "step-00000300.pt"]
    assert checkpoints.latest() == {"step": 300}


def test_no_folder_and_no_readable_file_mean_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere").latest() is None
    (tmp_path / "step-00000001.pt").write_bytes(b"")
    assert Checkpoints(tmp_path).latest() is None


def test_a_checkpoint_is_never_half_there_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_half(_: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path).save({"step": 1}, step=1)

    assert list(tmp_path.glob("step-*")) == []


def test_a_process_killed_by_the_system_goes_on_where_it_was(tmp_path: Path) -> None:
    wanted, history = trained(tmp_path / "whole", dropout=0.5, steps=1500)
    script = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {[str(Path(training.__file__).parents[1]), str(Path(__file__).parent)]!r}
        from pathlib import Path
        from test_training import trained
        trained(Path({str(tmp_path / "cut")!r}), dropout=0.5, steps=1500, every_s=0)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut").exists() or not list((tmp_path / "cut").glob("step-*.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state = Checkpoints(tmp_path / "cut").latest()

    resumed, found = trained(tmp_path / "cut", dropout=0.5, steps=1500)

    assert state is not None
    assert 0 < state["step"] < 1500
    assert_equal(resumed, wanted)
    assert untimed(found) == untimed(history)


# -- precision ---------------------------------------------------------------------------------------------------------

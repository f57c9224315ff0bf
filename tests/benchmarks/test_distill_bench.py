"""The benchmark of the distillation engine runs from end to end, on sizes that say nothing about speed."""

import json
from pathlib import Path

import pytest
import torch
from models import encoder_folder, sentences

from benchmarks import distill_bench
from benchmarks.distill_bench import Sizes, Trial, ours
from benchmarks.relation_race import Batch, Shape, require_equal, stored
from serving.errors import Failure

TINY = Sizes(documents=4, steps=2, blocks=2)
RATIOS = [
    *("relation_8", "relation_16", "memory_16"),
    *("step_32", "share_relation_32", "share_rest_32"),
    *("step_16", "share_relation_16", "share_rest_16"),
    *("gpu_relation_eager", "gpu_relation_compiled", "gpu_step"),
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(encoder_folder(tmp_path_factory.mktemp("teacher"), layers=6, width=48))


@pytest.fixture
def trial(teacher: str) -> Trial:
    return Trial(teacher, sentences(40, shortest=3), max_length=16, sizes=TINY)


def test_the_script_shows_a_table_writes_everything_and_ends_with_the_ratios(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(["...", *sentences(40, shortest=3)]))
    out = tmp_path / "out.json"
    argv = ["distill_bench", "--quick", "--teacher", teacher, "--corpus", str(tmp_path / "text.txt"), "--out", str(out)]
    monkeypatch.setattr("sys.argv", argv)

    distill_bench.main()

    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert list(found) == RATIOS
    measured = {name: value for name, value in found.items() if not name.startswith("gpu")}
    assert all(value is not None for value in measured.values())
    assert any("relation loss, extra peak memory, B=2, L=16" in line and ">= 40x" in line for line in table)

    written = json.loads(out.read_text())
    rows = {row["key"]: row for row in written["figures"]}
    ours, baseline = written["raw"]["step_32"]["result"].values()
    assert sum(turn["tokens"] for turn in ours) == sum(turn["tokens"] for turn in baseline)
    assert len(baseline) == 2
    assert set(ours[0]["phases_s"]) == {"data", "teacher", "student", "relation loss", "backward", "optimizer"}
    assert found["relation_8"] == round(rows["relation_8"]["baseline"] / rows["relation_8"]["ours"], 4)
    assert found["step_32"] == round(rows["step_32"]["ours"] / rows["step_32"]["baseline"], 4)
    assert [len(samples) for samples in written["raw"]["relation_8"]["samples_ns"].values()] == [2, 2]
    assert {"git", "corpus", "threads", "machine", "relation_kl"} <= written.keys()


def test_our_loss_and_the_stored_one_are_the_same() -> None:
    shape = Shape(3, 7, 96, 12)
    assert require_equal({"stored": stored(shape), "ours": ours(shape)}, Batch(shape))["ours"] < 1e-5


def test_the_engines_step_and_the_naive_one_are_the_same(trial: Trial) -> None:
    assert trial.difference() < 1e-4


def test_an_engine_with_another_loss_is_not_raced(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    real = distill_bench.relation_package.relation_kl
    monkeypatch.setattr(distill_bench.relation_package, "relation_kl", lambda *a, **k: 2 * real(*a, **k))
    with pytest.raises(Failure, match=r"^the engine's step and the naive one do not compute the same: .* differ by 1"):
        trial.difference()


def test_both_sides_train_from_the_same_student_on_all_documents(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    real = distill_bench.NaiveDistillation.step
    monkeypatch.setattr(
        distill_bench.NaiveDistillation,
        "step",
        lambda self, documents: (trained.append(len(documents)), real(self, documents))[1],
    )
    ready = trial.ready()
    before = [p.clone() for p in ready.students["student"].parameters()]
    monkeypatch.setattr(trial, "ready", lambda: ready)

    result = trial.run(how=distill_bench.How("fp32"), raced=True, notes=distill_bench.Notes())

    assert trained == [4, 4] * 3
    assert [turn.tokens for turn in result.baseline] == [block.tokens for block in trial.blocks[1:]]
    assert sum(turn.tokens for turn in result.ours) == sum(block.tokens for block in trial.blocks[1:])
    assert not all(torch.equal(a, b) for a, b in zip(before, ready.students["student"].parameters(), strict=True))


def test_the_phases_are_no_longer_timed_afterwards(trial: Trial) -> None:
    backward, relation_kl = torch.Tensor.backward, distill_bench.relation_package.relation_kl
    reading = vars(distill_bench.engine)["reading"]
    trial.run(how=distill_bench.How("fp32"), raced=False, notes=distill_bench.Notes())
    assert torch.Tensor.backward is backward
    assert distill_bench.relation_package.relation_kl is relation_kl
    assert vars(distill_bench.engine)["reading"] is reading


def test_options_are_our_own_steps_one_after_the_other(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill_bench, "PRECISIONS", (("fp32", False), ("bf16", False)))
    notes = distill_bench.Notes()
    figures = list(distill_bench.option_figures(trial, notes=notes))
    assert [figure.key for figure in figures] == ["option_fp32", "option_bf16"]
    assert [figure.ours for figure in figures] == [notes.raw[figure.key].tokens_per_s for figure in figures]
    assert [notes.raw[figure.key].baseline for figure in figures] == [(), ()]

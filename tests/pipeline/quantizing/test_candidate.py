"""The child of one candidate: what it finds, done in this process; and how it ends, in one of its own."""

import errno
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from models import LABELS, Exported, sentences

from benchmarks.outputs import read_outputs
from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.quality import Difference
from pipeline.quantizing import candidate, trials
from pipeline.quantizing.candidate import Job, Receipt, trial
from serving.bundle import read_bundle
from serving.engine import Engine


def write_data(folder: Path, texts: list[str]) -> dict[str, Any]:
    """A task whose splits are these texts, named relative to the folder."""
    rows = [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(texts)]
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "classification", "data": {"kind": "files", "train": "train.jsonl", "dev": "dev.jsonl"}}


@pytest.fixture
def job(bert: Exported, tmp_path: Path) -> Job:
    """What makes dynamic int8 of the tiny classifier."""
    return Job(
        name="dynamic",
        called="tiny-onnx-best",
        recipe={"kind": "dynamic"},
        bundle=str(bert.bundle),
        target=str(tmp_path / "made"),
        task=write_data(tmp_path, sentences(40, longest=12)),
        folder=str(tmp_path),
        cache=str(tmp_path / "cache"),
        scratch=str(tmp_path),
        checkpoints=str(tmp_path / "checkpoints"),
        outputs=str(tmp_path / "dynamic.npy"),
        threads=1,
    )


def exported(job: Job, folder: Path) -> Job:
    """The job of the bundle that all are compared with."""
    of = {"name": "exported", "recipe": None, "target": job.bundle, "outputs": str(folder / "exported.npy")}
    return msgspec.structs.replace(job, **of)


def find(job: Job, monkeypatch: pytest.MonkeyPatch) -> Receipt:
    monkeypatch.chdir(job.folder)
    return candidate.run(job)


# -- what it finds -----------------------------------------------------------------------------------------------------


def test_a_candidate_is_a_sealed_bundle_and_what_it_is_beside_fp32(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32 = find(exported(job, tmp_path), monkeypatch)
    receipt = find(msgspec.structs.replace(job, reference=str(tmp_path / "exported.npy")), monkeypatch)

    made = read_bundle(tmp_path / "made")
    assert made.spec.name == "tiny-onnx-best"
    assert receipt.digest == receipt.facts["bundle_digest"] == made.digest
    assert receipt.size_mb == (made.path / "model.onnx").stat().st_size / 1e6 < fp32.size_mb
    assert receipt.facts["operators"]["MatMulInteger"] == 14
    assert (receipt.metric, receipt.items, receipt.threads) == ("accuracy", 40, 1)
    assert receipt.difference.estimate == pytest.approx(receipt.value - fp32.value)
    assert receipt.difference.low <= receipt.difference.estimate <= receipt.difference.high
    assert receipt.cpu_features == made.spec.cpu_features
    assert [(each.batch, each.length, each.items) for each in receipt.invariance] == [(8, 0, 40), (32, 0, 40)]
    assert max(each.max_difference for each in receipt.invariance) > 1e-3  # one scale for all of a batch


def test_its_answers_are_the_engine_s_own(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find(job, monkeypatch)
    items = [(row["text"],) for row in map(json.loads, (tmp_path / "dev.jsonl").read_text().splitlines())]
    wanted = Engine(read_bundle(tmp_path / "made"), threads=1).logits(items)
    np.testing.assert_array_equal(np.stack(read_outputs(Path(job.outputs))), np.stack(wanted))


def test_a_metric_that_is_undefined_is_one_message(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    undefined = Difference("spearman", float("nan"), 0.0, 0.0, 40)
    monkeypatch.setattr(candidate, "paired_difference", lambda *_: undefined)
    with pytest.raises(BadArtifact, match="its answers, or fp32's, are all the same: accuracy is undefined for them"):
        find(job, monkeypatch)


def test_flips_are_items_answered_otherwise(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = find(exported(job, tmp_path), monkeypatch)
    assert (fp32.flips, fp32.difference.estimate, fp32.difference.low, fp32.difference.high) == (0, 0.0, 0.0, 0.0)
    assert fp32.digest == read_bundle(Path(job.bundle)).digest

    turned = [row[::-1] for row in read_outputs(tmp_path / "exported.npy")]
    np.save(tmp_path / "turned.npy", np.stack(turned))
    again = msgspec.structs.replace(exported(job, tmp_path), reference=str(tmp_path / "turned.npy"))
    receipt = find(again, monkeypatch)
    assert receipt.flips == 40
    assert receipt.difference.estimate == pytest.approx(2 * receipt.value - 1)


def test_what_is_made_is_the_same_each_time(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find(job, monkeypatch)
    second = find(msgspec.structs.replace(job, target=str(tmp_path / "again")), monkeypatch)
    assert first.digest == second.digest


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_a_process_of_its_own_finds_the_same(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = trial(job)
    here = find(msgspec.structs.replace(job, target=str(tmp_path / "again")), monkeypatch)
    assert msgspec.structs.replace(receipt, seconds=0.0) == msgspec.structs.replace(here, seconds=0.0)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]  # job and result are gone


def test_a_graph_with_custom_operators_is_one_message(bert: Exported, job: Job, tmp_path: Path) -> None:
    import onnx

    from serving.bundle import seal_core

    folder = bert.copy(tmp_path / "custom")
    model = onnx.load(folder / "model.onnx")
    name = model.graph.output[0].name
    last = next(node for node in model.graph.node if name in node.output)
    last.output[:] = ["before"]
    model.graph.node.append(onnx.helper.make_node("Calibrate", ["before"], [name], "final", domain="our.company"))
    model.opset_import.append(onnx.helper.make_opsetid("our.company", 1))
    onnx.save(model, folder / "model.onnx")
    source = read_bundle(bert.bundle)
    seal_core(folder, spec=source.spec, golden=source.golden)

    with pytest.raises(BadArtifact, match=r"model\.onnx does not load: .*our\.company.*Calibrate") as refused:
        trial(msgspec.structs.replace(job, bundle=str(folder), target=str(folder), recipe=None))
    assert "Traceback" not in str(refused.value)


def child(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of this name, which a child can run: the real one with something else for `run`."""
    text = f"""
        import errno, os, signal, sys, time
        from pathlib import Path
        from pipeline.errors import *
        from pipeline.quantizing import candidate

        def run(job):
            {body}

        candidate.run = run
        raise SystemExit(candidate.main(sys.argv[1:]))
    """
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return name


def ends(job: Job, module: str, **settings: Any) -> Failure:
    with pytest.raises(Failure) as refused:
        trial(job, module=module, **settings)
    return refused.value


@pytest.mark.parametrize("kind", [BadRequest, BadArtifact, Transient])
def test_an_expected_failure_is_what_it_was_with_its_message_alone(
    kind: type[Failure], job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"sys.stderr.write('a library chats'); raise {kind.__name__}('weights [a] are unfit; use others')"
    failure = ends(job, child(tmp_path, "failing", body, monkeypatch))
    assert (type(failure), str(failure)) == (kind, "weights [a] are unfit; use others")


def test_a_killed_child_is_told_by_its_signal(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "print('made half of it', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    failure = ends(job, child(tmp_path, "killed", body, monkeypatch))
    assert type(failure) is Failure
    assert str(failure) == (
        "the process was ended by SIGKILL (the kernel's out-of-memory killer does this; free memory and run again); "
        "its last lines:\n  made half of it"
    )


def test_a_full_disk_is_transient(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"raise OSError({errno.ENOSPC}, 'No space left on device', 'model.onnx')"
    failure = ends(job, child(tmp_path, "full", body, monkeypatch))
    assert (type(failure), failure.exit_code) == (Transient, 75)
    assert str(failure).startswith(f"no space left on the disk of {job.scratch}")


def test_a_bug_is_told_by_its_last_lines(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = ends(job, child(tmp_path, "broken", "raise KeyError('a bug')", monkeypatch))
    assert type(failure) is Failure
    first, *_, last = str(failure).splitlines()
    assert first == "the process ended with exit code 1; its last lines:"
    assert last == "  KeyError: 'a bug'"


def test_a_child_that_takes_longer_than_is_left_is_ended(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    failure = ends(job, child(tmp_path, "slow", body, monkeypatch), seconds=5)
    assert str(failure) == "not done within the 5 s that were left of the search; give it more"
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_ends_with_its_parent_however_that_ends(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    module = child(tmp_path, "orphan", f"Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)", monkeypatch)
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job))
    asking = (
        "import msgspec, sys\nfrom pathlib import Path\n"
        "from pipeline.quantizing.candidate import Job, trial\n"
        f"trial(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job), module={module!r})\n"
    )
    command = [sys.executable, "-c", asking, str(tmp_path / "job.json")]
    with subprocess.Popen(command, cwd=trials.CHECKOUT) as parent:
        assert within(60, lambda: pid.is_file() and pid.read_text() != "")
        parent.send_signal(signal.SIGKILL)
    assert within(10, lambda: gone(int(pid.read_text())))


def within(seconds: float, true: Any) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.02)
    return bool(true())


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody waits for is still listed, as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True

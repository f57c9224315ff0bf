"""A real session of child processes on tiny bundles, and what it refuses."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fakes import Clock, expected_logits, tiny_bundle
from receipts import READINGS

from benchmarks import plan as plans
from benchmarks.children import child, run_child
from benchmarks.collect import Repeat, require_same
from benchmarks.machine import affinity
from benchmarks.openloop.results import ServerResult, both
from benchmarks.receipt import Load, Receipt, read_logits, read_receipt
from benchmarks.session import SessionPlan, Variant, interleaved, measure_until_quiet, run_session
from benchmarks.targets import Facts, OrtCpu
from benchmarks.worker import LatencyResult, QualityJob, QualityResult
from serving.errors import BadArtifact, BadRequest, Failure

ITEMS = [(text,) for text in ("good bad fine dull", "bright", "awful fine good bad bad good", "fine fine dull bad")] * 6
# Nothing is measured again: whether these machines are quiet is not what is tested.
LOAD = Load(lengths=(5, 12), n=10, processes=2, real=6, again_s=0.0)


def variant(name: str, path: Path, *, threads: int = 1) -> Variant:
    return Variant(name=name, target=OrtCpu(threads=threads), path=path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Receipt, list[tuple[int, str]]]:
    """One session of two variants and two processes each, shared by the tests that look at it."""
    root = tmp_path_factory.mktemp("session")
    tiny_bundle(root / "a")
    tiny_bundle(root / "b", bias=1.0)
    told: list[tuple[int, str]] = []
    receipt = run_session(
        [variant("a", root / "a"), variant("b", root / "b")],
        items=ITEMS,
        out=root / "out",
        load=LOAD,
        progress=lambda done, what: told.append((done, what)),
    )
    return root, receipt, told


def test_a_session_names_what_where_and_how(measured: tuple[Path, Receipt, list[tuple[int, str]]]) -> None:
    _, receipt, _ = measured
    assert [each.name for each in receipt.variants] == ["a", "b"]
    assert receipt.variant("a").facts.digest != receipt.variant("b").facts.digest
    assert receipt.how.order == ("a", "b", "b", "a")
    assert (receipt.how.threads, receipt.how.cores) == (1, affinity()[:1])
    assert receipt.machine.cores >= 1


def test_a_session_keeps_every_sample_by_length_series_and_process(
    measured: tuple[Path, Receipt, list[tuple[int, str]]],
) -> None:
    _, receipt, _ = measured
    samples = receipt.variant("a").samples_ns
    assert set(samples) == {5, 12}
    assert [len(process) for process in samples[12]["end_to_end"]] == [10, 10]
    latency = receipt.variant("a").latency[12]["end_to_end"]
    assert latency.p50_ms == pytest.approx(np.median(np.concatenate(samples[12]["end_to_end"])) / 1e6)
    assert (latency.n, latency.processes, latency.p95_ms) == (20, 2, None)


def test_a_session_keeps_the_samples_of_texts_as_they_come_and_says_how_many_there_are(
    measured: tuple[Path, Receipt, list[tuple[int, str]]],
) -> None:
    _, receipt, _ = measured
    assert [len(process) for process in receipt.variant("b").real_ns["end_to_end"]] == [6, 6]
    assert receipt.variant("b").real["end_to_end"].n == 12
    assert receipt.how.distinct_real == len(set(ITEMS)) == 4


def test_a_session_keeps_the_readings_of_every_process_and_what_the_machine_hides(
    measured: tuple[Path, Receipt, list[tuple[int, str]]],
) -> None:
    _, receipt, _ = measured
    for each in receipt.variants:
        assert len(each.readings) == len(each.rss_mb) == len(each.cold_start_ms) == 2
        assert each.preempted == tuple(readings.preempted for readings in each.readings)
        assert all(0 < rss <= peak for rss, peak in zip(each.rss_mb, each.peak_mb, strict=True))
    assert ("the governor" in " ".join(receipt.unknown)) is (receipt.machine.governor == "unknown")
    assert (receipt.attempts, receipt.set_aside, receipt.target) == (1, (), "here")


def test_the_logits_of_each_variant_lie_beside_the_receipt(
    measured: tuple[Path, Receipt, list[tuple[int, str]]],
) -> None:
    root, _, _ = measured
    bundle = tiny_bundle(root / "again", bias=1.0)
    expected = [expected_logits(item, spec=bundle.spec, bias=1.0) for item in ITEMS]
    np.testing.assert_allclose(read_logits(root / "out", "b"), expected, rtol=1e-5)


def test_a_session_of_taggers_leaves_a_row_per_token(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "a", task="token-classification")
    load = Load(lengths=(5,), n=10, processes=1, real=0, again_s=0.0)
    items = ITEMS[:4]
    run_session(
        [variant("a", tmp_path / "a")], items=items, out=tmp_path / "out", load=load, task="token-classification"
    )
    found = read_logits(tmp_path / "out", "a")
    assert [output.shape for output in found] == [(6, 3), (3, 3), (8, 3), (6, 3)]
    for output, item in zip(found, items, strict=True):
        np.testing.assert_allclose(output.ravel(), expected_logits(item, spec=bundle.spec), rtol=1e-5)


def test_a_session_of_another_task_than_the_variant_s_is_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a")
    with pytest.raises(BadArtifact, match="a does classification, this session measures embedding: name the same task"):
        run_session([variant("a", tmp_path / "a")], items=ITEMS, out=tmp_path / "out", load=LOAD, task="embedding")


def test_progress_adds_up_to_the_announced_total(measured: tuple[Path, Receipt, list[tuple[int, str]]]) -> None:
    _, _, told = measured
    assert sum(done for done, _ in told) == LOAD.requests(variants=2, items=len(ITEMS))
    assert list(dict.fromkeys(what for _, what in told)) == [
        "quality of a",
        "quality of b",
        "latency of a, process 1 of 2",
        "latency of b, process 1 of 2",
        "latency of b, process 2 of 2",
        "latency of a, process 2 of 2",
    ]


def test_the_receipt_lies_in_the_folder(measured: tuple[Path, Receipt, list[tuple[int, str]]]) -> None:
    root, receipt, _ = measured
    assert read_receipt(root / "out") == receipt


def test_an_unknown_variant_is_answered_with_the_measured_ones(
    measured: tuple[Path, Receipt, list[tuple[int, str]]],
) -> None:
    with pytest.raises(BadArtifact, match=r"^the receipt has no variant 'c': it has a, b$"):
        measured[1].variant("c")


def test_the_order_turns_around_with_every_repeat(tmp_path: Path) -> None:
    variants = [variant(name, tmp_path) for name in "abc"]
    assert "".join(each.name for _, each in interleaved(variants, processes=3)) == "abccbaabc"


def test_an_altered_bundle_is_told_with_the_variant_and_the_reason(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a")
    (tmp_path / "a/config.json").write_text("{}")
    with pytest.raises(BadArtifact) as caught:
        run_session([variant("a", tmp_path / "a")], items=ITEMS, out=tmp_path / "out", load=LOAD)
    assert str(caught.value) == (
        f"measuring a: the process ended with exit code 65; its last lines:\n"
        f"  {tmp_path}/a: config.json was altered after it was sealed; fetch or export the bundle again"
    )


def test_a_model_that_answers_nan_is_told_with_the_variant_and_the_reason(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a")
    with pytest.raises(BadArtifact) as caught:
        run_session([variant("a", tmp_path / "a")], items=[*ITEMS, ("poison",)], out=tmp_path / "out", load=LOAD)
    assert str(caught.value) == (
        "measuring a: the process ended with exit code 65; its last lines:\n"
        "  model tiny gave NaN or infinity for this input; its weights are unfit"
    )


def test_each_variant_is_loaded_after_its_times_were_taken(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a")
    found = ServerResult("engine", bound_ms=10.0, percent=99, best_rps=100.0, points=())
    asked: list[tuple[str, int]] = []

    def serve(plan: SessionPlan, each: Variant) -> ServerResult | None:
        asked.append((each.name, len(plan.real)))
        return found if each.name == "a" else None

    variants = [variant("a", tmp_path / "a"), variant("b", tmp_path / "a")]
    receipt = run_session(variants, items=ITEMS, out=tmp_path / "out", load=LOAD, serve=serve)
    assert asked == [("a", 4), ("b", 4), ("b", 4), ("a", 4)]
    assert [each.server for each in read_receipt(tmp_path / "out").variants] == [both(found, found), None]
    assert receipt == read_receipt(tmp_path / "out")


def test_a_session_beside_a_busy_neighbour_says_so(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "a")
    variants = [variant(name, tmp_path / "a") for name in "ab"]
    load = Load(lengths=(5, 12), n=100, processes=1, real=500, again_s=0.0)
    core = affinity()[0]  # where a session of one thread is pinned
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as neighbour:
        try:
            assert neighbour.stdout is not None
            neighbour.stdout.readline()
            receipt = run_session(variants, items=ITEMS, out=tmp_path / "out", load=load)
        finally:
            neighbour.kill()
    assert "others" in {finding.kind for finding in receipt.findings}
    assert receipt.disturbed.startswith("noise in ")


def repeat_of(*, noisy: bool) -> Repeat:
    readings = msgspec.structs.replace(READINGS, others_busy=0.5 if noisy else 0.0)
    return {"a": LatencyResult("a", FACTS, 1.0, 1.0, 1.0, readings, {}, {"end_to_end": []}, [[0.0]])}


def until_quiet(noisy: str, *, repeat_s: float = 1.0, **changes: float) -> tuple[list[int], int, int, int]:
    """The repeats measured where those marked "x" meet noise; how many are told, findings among them, attempts."""
    clock, measured = Clock(), list[int]()
    load = msgspec.structs.replace(Load(processes=3), **changes)

    def measure(number: int) -> Repeat:
        measured.append(number)
        clock.advance(repeat_s)
        return repeat_of(noisy=noisy[number] == "x")

    kept, attempts = measure_until_quiet(measure, load=load, clock=clock)
    return measured, len(kept.repeats), len(kept.findings), attempts


def test_a_quiet_session_is_measured_once() -> None:
    assert until_quiet("---") == ([0, 1, 2], 3, 0, 1)


def test_as_many_repeats_as_noise_met_are_measured_again() -> None:
    assert until_quiet("x-x--") == ([0, 1, 2, 3, 4], 3, 0, 2)
    assert until_quiet("x-xx--") == ([0, 1, 2, 3, 4, 5], 3, 0, 3)


def test_what_stays_disturbed_is_told_as_it_is_after_the_last_attempt() -> None:
    assert until_quiet("x" * 99) == (list(range(18)), 18, 18, 6)
    assert until_quiet("x" * 99, attempts=2) == (list(range(6)), 6, 6, 2)


def test_an_attempt_that_would_not_end_in_time_is_not_begun() -> None:
    assert until_quiet("x" * 99, repeat_s=10.0, again_s=29.0) == ([0, 1, 2], 3, 3, 1)
    assert until_quiet("x" * 99, repeat_s=10.0, again_s=30.0) == ([0, 1, 2, 3, 4, 5], 6, 6, 2)
    assert until_quiet("x--" + "-" * 9, repeat_s=10.0, again_s=10.0) == ([0, 1, 2, 3], 3, 0, 2)


def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """Run a child whose program is `code`; return the failure's message."""
    (tmp_path / "dying_child.py").write_text(code)
    monkeypatch.setattr("benchmarks.children.CHECKOUT", tmp_path)
    job = QualityJob("int8", {"kind": "ort-cpu"}, "", "classification", (), (), "")
    with pytest.raises(Failure) as caught:
        run_child(job, result_type=QualityResult, threads=1, tell=lambda _done: None, module="dying_child")
    assert type(caught.value) is Failure
    return str(caught.value)


def test_a_child_that_dies_of_a_bug_is_told_with_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = dying(
        tmp_path, monkeypatch, "import sys\nfor i in range(9): print('line', i, file=sys.stderr)\nsys.exit(3)"
    )
    lines = "\n".join(f"  line {i}" for i in range(3, 9))
    assert message == f"measuring int8: the process ended with exit code 3; its last lines:\n{lines}"


def test_a_child_killed_by_the_kernel_is_told_with_the_signal_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = dying(tmp_path, monkeypatch, "import os\nos.kill(os.getpid(), 9)")
    assert message == (
        "measuring int8: the process was ended by SIGKILL (the kernel's out-of-memory killer does this; free memory, "
        "or measure fewer variants: those of a repeat are all loaded at once); its last lines:\n"
        "  (it wrote nothing to stderr)"
    )


def test_a_child_gets_its_settings_before_any_library_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "ORT_DISABLE_TELEMETRY")
    code = f"import os, sys\nsys.exit(' '.join(os.environ[k] for k in {names}))"
    assert dying(tmp_path, monkeypatch, code).endswith("its last lines:\n  1 false 1")


def test_a_child_is_ended_when_its_parent_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "pathlib.Path('pid').write_text(str(os.getpid()))\n"
        'print(\'{"done": 1, "total": 2}\', flush=True)\n'
        "time.sleep(60)\n"
    )
    (tmp_path / "slow_child.py").write_text(code)
    monkeypatch.setattr("benchmarks.children.CHECKOUT", tmp_path)

    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    job = QualityJob("int8", {"kind": "ort-cpu"}, "", "classification", (), (), "")
    with pytest.raises(KeyboardInterrupt):
        run_child(job, result_type=QualityResult, threads=1, tell=interrupt, module="slow_child")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("when", ["in its turn", "before its turn"])
def test_a_child_that_dies_while_others_take_turns_is_told_with_its_last_lines(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 'import sys\nprint(\'{"done": 0, "total": 2}\', flush=True)\n'
    code += "sys.stdin.readline()\n" if when == "in its turn" else ""
    (tmp_path / "dying_child.py").write_text(code + "print('it hurts', file=sys.stderr)\nsys.exit(3)\n")
    monkeypatch.setattr("benchmarks.children.CHECKOUT", tmp_path)
    job = QualityJob("int8", {"kind": "ort-cpu"}, "", "classification", (), (), "")
    with child(job, result_type=QualityResult, threads=1, module="dying_child", turns=True) as one:
        assert one.ready() == 0
        with pytest.raises(Failure) as caught:
            one.step()
    assert str(caught.value) == ("measuring int8: the process ended with exit code 3; its last lines:\n  it hurts")


def test_a_variant_that_crashes_while_it_is_timed_ends_the_session_and_every_process_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing_worker.py").write_text(
        "import os, sys\n"
        "from functools import partial\n"
        "from benchmarks import child, worker\n"
        "def measure(job):\n"
        "    open(f'{os.environ[\"HOME\"]}/{os.getpid()}', 'w').close()\n"
        "    if isinstance(job, worker.LatencyJob) and job.variant == 'b':\n"
        "        turns = iter(range(3))\n"
        "        turn = lambda: (child.await_turn(), next(turns))\n"
        "        return worker.measure_latency(job, tell=child.tell, turn=turn)\n"
        "    return worker._measure(job)\n"
        "sys.exit(child.child_main(sys.argv[1:], worker.Job, measure))\n"
    )
    tiny_bundle(tmp_path / "a")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{plans.__file__.removesuffix('/benchmarks/plan.py')}")
    monkeypatch.setenv("HOME", str(tmp_path))
    variants = [variant(name, tmp_path / "a") for name in "ab"]
    with pytest.raises(Failure, match=r"(?s)^measuring b: the process ended with exit code 1; .*StopIteration$"):
        run_session(variants, items=ITEMS, out=tmp_path / "out", load=LOAD, worker="crashing_worker")
    assert not (tmp_path / "out" / "receipt.json").exists()
    pids = [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]
    assert len(pids) == 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


FACTS = Facts(digest="d" * 64, size_mb=1.0, parameters=1, providers=())
TIMED = LatencyResult("int8", FACTS, 1.0, 1.0, 1.0, READINGS, {}, {}, [[0.0, 1.0]])
GATED = QualityResult("int8", FACTS, n=1, seconds=1.0)


def test_a_timed_process_that_answers_otherwise_is_refused() -> None:
    require_same(TIMED, GATED, gated=[np.array([0.0, 1.0])], tolerance=1e-3)
    with pytest.raises(BadArtifact) as caught:
        require_same(TIMED, GATED, gated=[np.array([0.0, 1.5])], tolerance=1e-3)
    assert str(caught.value) == (
        "int8 answers differently when timed: a probe's logit is off by 0.5, more than 0.001; "
        "what was timed is not what was gated"
    )


def test_a_timed_process_that_reads_other_tokens_is_refused() -> None:
    tagged = msgspec.structs.replace(TIMED, probe_logits=[[0.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
    require_same(tagged, GATED, gated=[np.array([[0.0, 1.0]]), np.arange(4.0).reshape(2, 2)], tolerance=1e-3)
    with pytest.raises(BadArtifact) as caught:
        require_same(tagged, GATED, gated=[np.array([[0.0, 1.0]]), np.arange(6.0).reshape(3, 2)], tolerance=1e-3)
    assert str(caught.value) == (
        "int8 answers differently when timed: its probes have [2, 4] logits, [2, 6] when gated; "
        "what was timed is not what was gated"
    )


def test_logits_that_are_no_numbers_are_never_the_same() -> None:
    timed = msgspec.structs.replace(TIMED, probe_logits=[[0.0, 0.0]] * 3)
    with pytest.raises(BadArtifact, match="off by nan"):
        require_same(
            timed, GATED, gated=[np.array([0.0, 0.0]), np.array([0.0, np.nan]), np.array([0.0, 0.0])], tolerance=1e-3
        )


def test_a_file_that_changed_between_scoring_and_timing_is_refused() -> None:
    changed = msgspec.structs.replace(GATED, facts=msgspec.structs.replace(FACTS, digest="e" * 64))
    with pytest.raises(BadArtifact) as caught:
        require_same(TIMED, changed, gated=[np.array([0.0, 1.0])], tolerance=1e-3)
    assert str(caught.value) == (
        "int8 changed during the session: its quality is of eeeeeeeeeeee, its latency of dddddddddddd; "
        "leave the files alone and run the benchmark again"
    )


def refused(variants: list[Variant], out: Path, **changes: object) -> str:
    arguments = {"items": ITEMS, "out": out, "load": LOAD, **changes}
    with pytest.raises(BadRequest) as caught:
        run_session(variants, **arguments)
    return str(caught.value)


def test_variants_with_different_threads_are_not_compared(tmp_path: Path) -> None:
    one = variant("a", tmp_path)
    other = replace(variant("b", tmp_path), target=OrtCpu(threads=2))
    assert refused([one, other], tmp_path) == (
        "variants are compared with the same number of threads, got {'a': 1, 'b': 2}: give all targets the same"
    )


def test_more_threads_than_cores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "affinity", lambda: (0, 1))
    message = refused([variant("a", tmp_path, threads=3)], tmp_path)
    assert message == "3 threads on 2 cores would time each other: choose at most 2"


def test_a_session_without_items_or_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    twice = [variant("a", tmp_path), variant("a", tmp_path)]
    expected = "a session needs items and differently named variants: got {} items, {}"
    assert refused(twice, tmp_path) == expected.format(24, "['a', 'a']")
    assert refused(twice[:1], tmp_path, items=[]) == expected.format(0, "['a']")


def test_a_session_whose_processes_may_not_be_pinned_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_pid: int, _cores: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden, raising=False)
    monkeypatch.setattr(plans, "affinity", lambda: (0, 1))
    assert refused([variant("a", tmp_path)], tmp_path / "out") == (
        "cannot pin to core 0, 1 (sched_setaffinity: Operation not permitted), and times of a process that wanders "
        "between cores are not reported: allow that system call (in a container: its seccomp profile), or measure "
        "where it is allowed"
    )
    assert not (tmp_path / "out").exists()

"""Receipts of sessions that nobody held: samples drawn by a seed, on a machine that is nobody's."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from benchmarks.figures import timed_figures
from benchmarks.invariance import Invariance
from benchmarks.machine import Disturbance, Machine
from benchmarks.measure import TOTAL, WarmUp, summarize
from benchmarks.noise import Finding
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.readings import Readings
from benchmarks.receipt import How, Load, Measured, Receipt, sealed
from benchmarks.targets import Facts

TEACHER, SMALL, INT8 = "teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8"
MS = {TEACHER: 10.0, SMALL: 5.0, INT8: 2.5}
ACCURACY = {TEACHER: (0.9, 0.89, 0.91), SMALL: (0.88, 0.87, 0.89), INT8: (0.878, 0.868, 0.888)}
MACHINE = Machine(
    cpu_model="Testor 9000",
    features=("avx2", "avx512_vnni"),
    cores=2,
    affinity=(0, 1),
    quota_cores=None,
    governor="unknown",
    turbo="unknown",
    smt="off",
    memory_mb=8192,
    memory_limit_mb=4096,
    kernel="6.1.0",
    python="3.11.9",
    libraries={"onnxruntime": "1.31.0"},
)
READINGS = Readings(
    calibration_ns=((1000, 1010, 1005), (1010, 1000, 1010)),
    preempted=3,
    seconds=2.0,
    span_seconds=6.0,
    cpu_seconds=2.0,
    steal_ms=10,
    throttled_periods=None,
    others_busy=0.004,
)
NOISE = Finding("others", SMALL, 1, value=0.31, bound=0.04, told="student-onnx-fp32, process 2: a neighbour took 31.0%")


def samples_ns(ms: float, *, n: int = 100, processes: int = 5, seed: int = 0) -> tuple[list[int], ...]:
    """A list a process around `ms`: processes differ by half a percent, their samples by two."""
    rng = np.random.default_rng(seed)
    middles = ms * 1e6 * rng.normal(1.0, 0.005, processes)
    return tuple((middle * rng.lognormal(0.0, 0.02, n)).astype(int).tolist() for middle in middles)


def measured(
    name: str, *, ms: float | None = None, digest: str = "", n: int = 100, seed: int = 0, **changes: Any
) -> Measured:
    """One variant at 16 and 64 tokens (`ms` is at 64) and on texts as they come."""
    ms = MS[name] if ms is None else ms
    by_length = {length: {TOTAL: samples_ns(ms * length / 64, n=n, seed=seed + length)} for length in (16, 64)}
    real_ns = {TOTAL: samples_ns(ms / 2, n=2 * n, seed=seed)}
    found = Measured(
        name=name,
        kind="ort-cpu",
        facts=Facts(digest=digest or f"digest of {name}", size_mb=9 * ms, parameters=22_700_000, providers=()),
        logits_file=f"logits/{name}.npy",
        cold_start_ms=(100.0, 300.0, 200.0, 200.0, 200.0),
        peak_mb=(95.0,) * 5,
        preempted=(3,) * 5,
        warm_ups={length: (WarmUp(20, True),) * 5 for length in by_length},
        latency={length: {TOTAL: summarize(each[TOTAL])} for length, each in by_length.items()},
        samples_ns=by_length,
        invariance=(Invariance(8, 0, 200, 0.25, 1),),
        rss_mb=(90.0,) * 5,
        real={TOTAL: summarize(real_ns[TOTAL])},
        real_ns=real_ns,
        readings=(READINGS,) * 5,
    )
    return msgspec.structs.replace(found, **changes)


def receipt(variants: Sequence[Measured] = (), *, machine: Mapping[str, Any] = {}, **changes: Any) -> Receipt:
    """A sealed one, of the teacher and its student's two variants unless said otherwise."""
    variants = variants or [measured(name, seed=number) for number, name in enumerate(MS)]
    found = Receipt(
        started="2026-01-01T00:00:00+00:00",
        seconds=95.0,
        machine=msgspec.structs.replace(MACHINE, **machine),
        disturbance=Disturbance(10, None),
        how=How(
            Load(n=100, processes=5),
            threads=1,
            cores=(0,),
            order=(),
            items=3000,
            distinct={16: 500, 64: 500},
            distinct_real=1000,
        ),
        variants=tuple(variants),
        unknown=("the governor of the cores",),
    )
    return sealed(msgspec.structs.replace(found, **changes))


def figures_of(
    found: Receipt, accuracy: Mapping[str, tuple[float, float, float]] = ACCURACY
) -> dict[str, dict[str, float]]:
    """The gate's figures of a receipt, with this accuracy (value, low, high) where it says one."""
    figures = timed_figures(found)
    for each in found.variants:
        figures[each.name] |= {"size_mb": each.facts.size_mb, "params": float(each.facts.parameters)}
        if each.name in accuracy:
            figures[each.name] |= dict(
                zip(("accuracy", "accuracy_low", "accuracy_high"), accuracy[each.name], strict=True)
            )
    return figures


def server(
    *rates: tuple[float, float | None], best_rps: float | None, broken_rps: float | None = None, void: str = ""
) -> ServerResult:
    """Points of (requests a second, p99 in ms); the last one is `void` where it says why."""
    points = [
        Rate(rps, 10.0, int(10 * rps), int(10 * rps), 0, 0, 1.0, 2.0, p99_ms, late_p50_ms=0.01, late_p99_ms=0.1)
        for rps, p99_ms in rates
    ]
    points[-1] = msgspec.structs.replace(points[-1], void=void)
    return ServerResult(
        "engine", bound_ms=20.0, percent=99, best_rps=best_rps, points=tuple(points), broken_rps=broken_rps
    )

"""Our server beside those that people use, on one core each, with the same model, tokenizer and onnxruntime options.

    python -m benchmarks.serving_bench --bundle FOLDER [--texts FILE.jsonl] [--slow-bundle FOLDER]
        [--only peak,half,overhead,idle,overload,start,soak] [--peers fastapi,mlserver] [--rounds 3] [--seconds 5]
        [--out FILE.json]

peak        the highest rate of requests that arrive at random (a Poisson schedule, fixed before the first is sent)
            whose p99 stays within --bound-ms, counted from when each was due; a request without a good answer counts
            as slower than any. Also of our engine and batcher in process, without HTTP, by the same schedules
half        p99 of ours and of the best peer's at half of the best peer's peak (or at --half-rps), for --half-s
overhead    at half of our own peak (or at --half-rps): our server's own time less its queue, tokenize and infer
            phases, request by request, as Server-Timing tells them; and the client's view of the same
idle        share of a core that our server takes for --idle-s while nobody asks
overload    a slow model (--slow-bundle) with texts of 128 tokens: goodput at twice its peak, and ten times for
            --flood-s: p99 of what is accepted, how fast the rest is rejected, how long until all is well again
start       seconds until a server says it is ready, and its first answer beside the steady p50; everybody
soak        resident memory at half of our peak for --soak-s, asked for by --only soak (`python -m
            benchmarks.serving.soak` for that alone)
In overhead, overload and soak no request may be lost: left without an answer, or given one that is neither good nor a
refusal (503, 429).

Servers have one core, the generator another, and everything else sleeps; no peer runs while another does. Each peer has
an environment of its own below --cache, made once from its pinned requirements (minutes). Rounds go through everybody
in changing order, with a fresh server each time; figures are medians of the rounds, with the lowest and the highest. A
peer that cannot be installed is told with its error; whoever fails in a round is tried once more and then lacks that
round. A peak is "at least" where no higher rate was seen to break the bound: a figure that would need it from above is
not known. What is known is in --out after every search and part. The last line is JSON; it ends with 1 where a figure
is missed or not known, or a part that was asked for was not measured. Random weights are as fast as good ones: bundles
of both shapes (L = 3, and 6 for overload) are made in a minute by `retort run configs/smoke.yaml --until quantize --set
'distill.student={layers: L, init: teacher-layers}' --set distill.max_length=128 --set finetune.max_length=128`, the one
whose path it prints last.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console as Screen

from benchmarks.machine import Disturbance, affinity, disturbance, read
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.scenarios import split_cores
from benchmarks.serving import overload as over
from benchmarks.serving.arguments import PARTS, parsed
from benchmarks.serving.contest import Contest, installed, said
from benchmarks.serving.contestants import OURS, chosen
from benchmarks.serving.figures import Figure, told
from benchmarks.serving.overhead import measure_idle, measure_overhead
from benchmarks.serving.peak import HEADINGS as PEAK
from benchmarks.serving.peak import IN_PROCESS, Peaks, find_peaks, measure_half
from benchmarks.serving.shown import build_table, figures_table
from benchmarks.serving.soak import HELD_MS, soak
from benchmarks.serving.starts import Start, measure_starts
from benchmarks.serving.texts import of_length, texts_of
from pipeline.artifact import write_json
from pipeline.build import git_state
from pipeline.errors import BadRequest, Failure
from serving.bundle import read_bundle

SLOW_TOKENS: Final = 128
INTERRUPTED: Final = 130  # the exit code


@dataclass
class Bench:
    """What was asked, who takes part, and what has been found so far: by part the raw findings or why
    there are none, and the figures."""

    asked: argparse.Namespace
    contest: Contest
    screen: Screen
    found: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unwritten: str = ""
    before: Disturbance = field(default_factory=disturbance)

    @property
    def plan(self) -> Plan:
        return Plan(bound_ms=self.asked.bound_ms, start_rps=100.0, steps=6, seconds=self.asked.seconds)

    def peak(self) -> None:
        peaks = find_peaks(self.contest, plan=self.plan, rounds=self.asked.rounds, keep=self._keep_so_far)
        self._keep("peak", peaks, peaks.figures(), PEAK, peaks.rows())
        for name in (OURS, IN_PROCESS):
            self.contest.require_round(name, peaks.searches, part="peak")

    def half(self) -> None:
        peaks: Peaks | None = self.found.get("peak")
        best = (peaks.best_peer() if peaks else None) or next(iter(self.contest.peers), None)
        best_rps = peaks.rps(best) if peaks and best else None
        rps = self.asked.half_rps or (best_rps / 2 if best_rps else None)
        if best is None or rps is None:
            raise BadRequest("half needs the best peer's peak: measure peak too, or give --half-rps and one of --peers")
        seconds, rounds = self.asked.half_s, self.asked.rounds
        half = measure_half(
            self.contest, rps=rps, best_peer=best, seconds=seconds, rounds=rounds, bound_ms=self.asked.bound_ms
        )
        headings = (f"at {rps:.0f}/s", "p50 ms", "p90 ms", "p99 ms")
        self._keep("half", half, half.figures(), headings, half.rows())
        for name in (OURS, best):
            self.contest.require_round(name, half.points, part="half")

    def overhead(self) -> None:
        asked = self.asked
        found = measure_overhead(self.contest, rps=self._our_half(), seconds=asked.half_s, bound_ms=asked.bound_ms)
        named = {"server, p50": found.p50_ms, "server, p99": found.p99_ms}
        named |= {"client's view, p50": found.client_p50_ms, "client's view, p99": found.client_p99_ms}
        rows = [(name, "-" if ms is None else f"{ms:.3f}") for name, ms in (named | found.phases_p50_ms).items()]
        self._keep("overhead", found, found.figures(), (f"beside the phases, at {found.rps:.0f}/s", "ms"), rows)

    def idle(self) -> None:
        found = measure_idle(self.contest, seconds=self.asked.idle_s)
        self._keep("idle", found, found.figures(), ("idle", "of a core"), [(OURS, f"{found.share:.4f}")])

    def overload(self) -> None:
        if self.asked.slow_bundle is None:
            raise BadRequest("overload needs --slow-bundle, a model that a core answers about 150 times a second")
        bundle = read_bundle(self.asked.slow_bundle)
        texts = of_length(self.contest.texts, bundle, tokens=min(SLOW_TOKENS, bundle.spec.max_length))
        contest = replace(self.contest, bundle=bundle, texts=texts, peers={})
        plan = msgspec.structs.replace(self.plan, bound_ms=self.asked.overload_bound_ms, start_rps=40.0)
        found = over.measure_overload(contest, plan=plan, flood_s=self.asked.flood_s)
        self._keep("overload", found, found.figures(), over.HEADINGS, over.rows(found))

    def start(self) -> None:
        starts = measure_starts(self.contest, rounds=self.asked.rounds)
        self._keep("start", starts, starts.figures(), ("start", *Start.__struct_fields__), starts.rows())
        self.contest.require_round(OURS, starts.found)

    def soak(self) -> None:
        asked = self.asked
        found = soak(self.contest, rps=self._our_half(), seconds=asked.soak_s, bound_ms=HELD_MS)
        self._keep("soak", found, found.figures(), ("soak",), [(found.told(),)])

    def _our_half(self) -> float:
        peaks: Peaks | None = self.found.get("peak")
        rps = peaks.rps(OURS) if peaks else None
        if rps is None and self.asked.half_rps is None:
            raise BadRequest("half of our peak is not known: measure peak too, or give --half-rps")
        return self.asked.half_rps or (rps or 0.0) / 2

    def _keep_so_far(self, peaks: Peaks) -> None:
        self.found["peak"] = peaks
        written(self)

    def _keep(self, part: str, found: Any, figures: Sequence[Figure], headings: Sequence[str], rows: Any) -> None:
        self.found[part] = found
        self.figures += figures
        self.screen.print(build_table(headings, rows))


def measured(bench: Bench, parts: Sequence[str]) -> None:
    """Part after part, in the order in which one needs the other; one that fails does not end the rest. What is known
    is written after each.

    Raises:
        KeyboardInterrupt: in the middle of one; what was found before is kept.
    """
    for part in (part for part in PARTS if part in parts):
        try:
            getattr(bench, part)()
        except KeyboardInterrupt:
            bench.failed[part] = "interrupted"
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are measured
            bench.failed[part] = said(error)
            sys.stderr.write(f"{part} was not measured: {said(error)}\n")
            if not isinstance(error, Failure):
                traceback.print_exc()
        written(bench)


def written(bench: Bench) -> dict[str, Any]:
    """All that is known by now, also in --out. A file that cannot be written ends nothing: it is tried again, and what
    is found is told on the last line too."""
    found = facts(bench)
    if bench.asked.out:
        try:
            write_json(bench.asked.out, found)
            bench.unwritten = ""
        except (OSError, Failure) as error:
            bench.unwritten = f"--out {bench.asked.out} cannot be written: {said(error)}"
            sys.stderr.write(f"{bench.unwritten}\n")
    return found


def facts(bench: Bench) -> dict[str, Any]:
    """For machines: circumstances first, then the figures, then all that was found."""
    contest, spec = bench.contest, bench.contest.bundle.spec
    of_bundle = {"name": spec.name, "digest": contest.bundle.digest, "parameters": spec.parameters}
    asked = {name: _shareable(value) if isinstance(value, Path) else value for name, value in vars(bench.asked).items()}
    return {
        "figures": told(bench.figures),
        "bundle": of_bundle,
        "texts": len(contest.texts),
        "peers": {name: one.peer.requirements.read_text().split() for name, one in contest.peers.items()},
        "not_measured": contest.failed | bench.failed,
        "asked": asked,
        "cores": {"server": contest.cores, "generator": contest.generator},
        "machine": read(),
        "found": bench.found,
        "git": git_state(),
        "disturbance": disturbance().since(bench.before),
    }


def _shareable(path: Path) -> str:
    """As it was given; of a place on this machine the name alone, for results are shown to others."""
    return path.name if path.is_absolute() else str(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, and end with a line of JSON; also when it is interrupted."""
    asked, interrupted = parsed(arguments, description=__doc__), False
    try:
        peers = chosen([name for name in (asked.peers or "").split(",") if name]) if asked.peers != "" else ()
        there, failed = installed(peers, asked.cache.expanduser())
        bundle, (generator, others) = read_bundle(asked.bundle), split_cores(affinity())
        texts = texts_of(bundle, asked.texts)
        bench = Bench(asked, Contest(bundle, texts, there, others[:1], generator, failed=failed), Screen(width=150))
    except Failure as failure:
        sys.stderr.write(f"error: {failure}\n")
        return failure.exit_code
    try:
        measured(bench, asked.only)
    except KeyboardInterrupt:
        interrupted = True
    found = written(bench)
    bench.screen.print(figures_table(bench.figures))
    for name, why in found["not_measured"].items():
        bench.screen.print(f"{name} was not measured: {why}", markup=False, soft_wrap=True)
    print(msgspec.json.encode(found).decode())
    if interrupted:
        return INTERRUPTED
    return int(bool(bench.failed or bench.unwritten) or any(each.kept != "yes" for each in bench.figures))


if __name__ == "__main__":
    sys.exit(main())

"""How a server runs a bundle on one machine, and the file that says which way earned the most requests.

    tuning@TARGET.json   beside a bundle's core and no part of it: writing one leaves the bundle's digest as it is

`benchmarks.sweep` writes it; `choose_setting` (choosing.py) asks `find_tuning`. A file counts where it is whole (its
own sha256), of this bundle (digest), of this machine (identity), fits the cores there are, and names the setting that
earned most by its own figures. The sha256 finds accidents and edits by hand; a forger could write another, so what a
file can ask for is bounded too: the worst it can do is to be slow.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from serving.errors import BadArtifact, BadRequest

SCHEMA: Final = 1
TARGET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
EXECUTORS_PER_SESSION: Final = 2  # one is tokenized while another is computed; a third would only wait
NEAR: Final = 0.03  # of the most earned: closer than two measurements of one setting are to each other
LARGEST_BYTES: Final = 2**20

_Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class Alone(msgspec.Struct, frozen=True, tag_field="kind", tag="alone", forbid_unknown_fields=True):
    """Batch policy: every item is computed by itself, so no answer depends on another item."""

    def told(self) -> str:
        return "each item alone"


class Together(msgspec.Struct, frozen=True, tag_field="kind", tag="together", forbid_unknown_fields=True):
    """Batch policy: up to `items` items of one request in one call, those of like lengths beside each other, padded to
    the longest. Only for bundles whose answers do not depend on it; the server proves that before it serves."""

    items: Annotated[int, msgspec.Meta(ge=2, le=64)]

    def told(self) -> str:
        return f"up to {self.items} items of a request together"


class WherePays(msgspec.Struct, frozen=True, tag_field="kind", tag="where-pays", forbid_unknown_fields=True):
    """Batch policy: items share a call where what calls cost, timed at the start, says so, and the server has proven
    that no answer depends on it."""

    def told(self) -> str:
        return "items together where it pays"


BatchPolicy = Alone | Together | WherePays


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`sessions` of the runtime with `threads` compute threads each, and `executors` threads that take requests from
    the queue and share the sessions."""

    sessions: _Count = 1
    threads: _Count = 1
    executors: _Count = 1
    batch: BatchPolicy = Alone()

    def __post_init__(self) -> None:
        if not self.sessions <= self.executors <= EXECUTORS_PER_SESSION * self.sessions:
            raise ValueError(
                f"executors is {self.executors}; {self.sessions} sessions keep {self.sessions} to "
                f"{EXECUTORS_PER_SESSION * self.sessions} of them busy"
            )

    def told(self) -> str:
        return (
            f"{_many(self.sessions, 'session')} of {_many(self.threads, 'thread')}, "
            f"{_many(self.executors, 'executor')}, {self.batch.told()}"
        )


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One offered rate that was held: requests answered and not, and the latency from the time each was scheduled for
    (None where n is too small). `void` says why the point counts for nothing; "" where it counts."""

    offered_rps: float
    answered: int
    unanswered: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    void: str = ""


class Earned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one setting earned: per measurement the highest rate within the bound (None: no rate kept it), and every
    point that was measured on the way."""

    setting: Setting
    best_rps: tuple[float | None, ...]
    points: tuple[Point, ...]

    @property
    def rps(self) -> float:
        """The least that it earned; 0 where it once kept the bound at no rate."""
        return min((best or 0.0 for best in self.best_rps), default=0.0)


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sweep's result. `bundle` is a digest, `machine` what `machine_identity` says there, `target` what that machine
    is called, `started` ISO 8601; `percent` of the requests had to be answered within `bound_ms`."""

    bundle: str
    machine: str
    target: str
    started: str
    bound_ms: float
    percent: int
    libraries: dict[str, str]
    setting: Setting
    earned: tuple[Earned, ...]
    schema: int = SCHEMA

    def told(self) -> str:
        """What the setting earned, in a few words."""
        rps = next((each.rps for each in self.earned if each.setting == self.setting), 0.0)
        return f"{rps:.4g} requests/s within p{self.percent} <= {self.bound_ms:g} ms, {self.started}"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    tuning: Tuning


class Found(NamedTuple):
    """The tuning that counts and its file's name, or None; and why each other file beside the bundle does not."""

    tuning: Tuning | None
    name: str
    ignored: tuple[str, ...]


def plain(threads: int) -> Setting:
    """One session on all threads; two executors where there are two threads: one request is tokenized while another is
    computed."""
    return Setting(sessions=1, threads=threads, executors=min(EXECUTORS_PER_SESSION, threads))


def most_earned(measured: Sequence[Earned]) -> Earned | None:
    """Of the settings that were measured most often (the finalists: one measurement alone may be luck) the one that
    earned most; of those within NEAR of it the one with the fewest sessions, then threads, then executors, which costs
    least memory and leaves most to others. None where none kept the bound."""
    often = max((len(each.best_rps) for each in measured), default=0)
    finalists = [each for each in measured if len(each.best_rps) == often]
    most = max((each.rps for each in finalists), default=0.0)
    near = [each for each in finalists if most and each.rps >= (1 - NEAR) * most]
    return min(near, key=lambda each: _cost(each.setting), default=None)


def write_tuning(tuning: Tuning, folder: Path) -> Path:
    """Write `tuning@TARGET.json` into `folder`, in one step: who starts meanwhile reads the old one or the new one.

    Raises:
        BadRequest: the target's name makes no file name.
        BadArtifact: the folder cannot be written.
    """
    path = folder / tuning_file(tuning.target)
    beside = folder / f".{path.name}.partial"
    try:
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(_File(_digest(tuning), tuning))))
        beside.replace(path)
    except OSError as error:
        raise BadArtifact(f"{path} cannot be written: {error.strerror}; name another folder") from error
    return path


def tuning_file(target: str) -> str:
    """What a target's tuning is called beside a bundle's core; BadRequest where its name makes no file name."""
    if not TARGET_NAME.fullmatch(target):
        raise BadRequest(f"target {target!r} makes no file name; use letters, digits, '.', '_' and '-'")
    return f"tuning@{target}.json"


def find_tuning(folder: Path, *, digest: str, machine: str, threads: int) -> Found:
    """The newest tuning in `folder` of the bundle `digest` that was earned on this `machine` and fits its `threads`."""
    fits: list[tuple[str, str, Tuning]] = []
    ignored: list[str] = []
    for path in sorted(folder.glob("tuning@*.json")):
        try:
            tuning = _read(path)
            _require_fit(tuning, digest=digest, machine=machine, threads=threads)
            fits.append((tuning.started, path.name, tuning))
        except BadArtifact as fault:
            ignored.append(_on_one_line(f"{path.name} is ignored: {fault}"))
    if not fits:
        return Found(None, "", tuple(ignored))
    _, name, newest = max(fits, key=lambda each: each[:2])
    older = [f"{other} is ignored: {name} is newer" for _, other, _ in fits if other != name]
    return Found(newest, name, (*ignored, *older))


def _read(path: Path) -> Tuning:
    """What a sweep wrote; BadArtifact where it is anything else."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
            raise BadArtifact(f"it is no file of at most {LARGEST_BYTES} bytes, as sweeps write them; measure again")
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise BadArtifact(f"it cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadArtifact(f"it is no tuning of schema {SCHEMA}: {error}; measure again") from error
    if file.sha256 != _digest(file.tuning):
        raise BadArtifact("it was altered after it was written; measure again")
    return file.tuning


def _require_fit(tuning: Tuning, *, digest: str, machine: str, threads: int) -> None:
    setting = tuning.setting
    best = most_earned(tuning.earned)
    rules: tuple[tuple[bool, str], ...] = (
        (tuning.schema != SCHEMA, f"it has schema {tuning.schema}, and this version reads {SCHEMA}; measure again"),
        (tuning.bundle != digest, f"it is of bundle {tuning.bundle[:12]}, and this is {digest[:12]}"),
        (tuning.machine != machine, f"it was earned on another machine ({tuning.machine}; this is {machine})"),
        (
            setting.sessions * setting.threads > threads,
            f"it asks for {setting.sessions} x {setting.threads} threads, and this process may use {threads}",
        ),
        (best is None or best.setting != setting, "it names another setting than the one that earned most there"),
    )
    for broken, fault in rules:
        if broken:
            raise BadArtifact(fault)


def _cost(setting: Setting) -> tuple[int, int, int]:
    return setting.sessions, setting.threads, setting.executors


def _digest(tuning: Tuning) -> str:
    return hashlib.sha256(msgspec.json.encode(tuning)).hexdigest()


def _on_one_line(told: str) -> str:
    """What a stranger's file says goes into a log: no line breaks, nothing that moves a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in told)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

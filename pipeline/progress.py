"""What people and machines see while a run works: bars with rates on a terminal, a line now and then elsewhere, JSON
events."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

T = TypeVar("T")
LINE_EVERY_S = 10.0
WIDTH = 150  # where there is no terminal to fit into
MEASURE_START: Final = "measure_start"
MEASURE_END: Final = "measure_end"


def summary_console() -> Any:
    """Where what a command ends with is printed: stdout, as wide as its terminal."""
    from rich.console import Console as Terminal

    console = Terminal(highlight=False)
    return console if console.is_terminal else Terminal(highlight=False, width=WIDTH)


class Bar(Protocol):
    """One long piece of work under way."""

    def advance(self, n: float = 1, *, note: str = "") -> None: ...


class Reporter(Protocol):
    """Where a stage says what it does. Bars are for people, events for machines, lines for both; metrics are numbers of
    a step of training, of a part (training.py) of what is trained."""

    def bar(self, title: str, *, total: float | None, unit: str, start: float = 0) -> Any: ...
    def line(self, text: str) -> None: ...
    def show(self, table: Any) -> None: ...
    def event(self, kind: str, **fields: Any) -> None: ...
    def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None: ...


class Console:
    """Rich bars on a terminal, plain lines every ten seconds elsewhere; events appended to a file, one JSON line
    each."""

    def __init__(self, events: Path | None = None) -> None:
        from rich.console import Console as Terminal

        self._terminal = Terminal(stderr=True)
        self._events = events

    @contextmanager
    def bar(self, title: str, *, total: float | None, unit: str, start: float = 0) -> Iterator[Bar]:
        """A bar with rate and remaining time, for work that takes longer than two seconds."""
        if self._terminal.is_terminal:
            with _rich(self._terminal) as progress:
                yield _RichBar(progress, title=title, total=total, unit=unit, start=start)
        else:
            bar = _LineBar(title=title, total=total, unit=unit, start=start)
            yield bar
            bar.close()

    def line(self, text: str) -> None:
        """One line for people."""
        self._terminal.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, table: Any) -> None:
        """A rich table for people."""
        self._terminal.print(table)

    def event(self, kind: str, **fields: Any) -> None:
        """One JSON line for machines; appends of one short line do not mix."""
        if self._events is None:
            return
        self._events.parent.mkdir(parents=True, exist_ok=True)
        with self._events.open("ab") as file:
            file.write(msgspec.json.encode({"at": time.time(), "event": kind, **fields}) + b"\n")

    def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None:
        """Nothing: people see the bar's note, and the curve when it is done."""


class Silent:
    """A reporter that says nothing: for tests and for use as a library."""

    @contextmanager
    def bar(self, title: str, *, total: float | None, unit: str, start: float = 0) -> Iterator[Bar]:  # noqa: ARG002
        """A bar nobody sees."""
        yield _NoBar()

    def line(self, text: str) -> None:
        """Nothing."""

    def show(self, table: Any) -> None:
        """Nothing."""

    def event(self, kind: str, **fields: Any) -> None:
        """Nothing."""

    def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""


@contextmanager
def measured(reporter: Reporter, **fields: Any) -> Iterator[None]:
    """Around what measures times: who works beside the run rests meanwhile (recording.py)."""
    reporter.event(MEASURE_START, **fields)
    try:
        yield
    finally:
        reporter.event(MEASURE_END, **fields)


def track(reporter: Reporter, items: Iterable[T], title: str, total: int | None, unit: str) -> Iterator[T]:
    """`items`, with a bar that follows them."""
    with reporter.bar(title, total=total, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance()


def track_items(reporter: Reporter, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    """`items`, with a bar: in the form that data loading takes once the reporter is given."""
    return track(reporter, items, what, total, "items")


class _NoBar:
    def advance(self, n: float = 1, *, note: str = "") -> None:
        pass


class _LineBar:
    def __init__(self, *, title: str, total: float | None, unit: str, start: float = 0) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._start, self._done, self._note, self._started = start, start, "", time.monotonic()
        self._said = self._started

    def advance(self, n: float = 1, *, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            self._say()

    def close(self) -> None:
        if time.monotonic() - self._started >= LINE_EVERY_S:
            self._say()

    def _say(self) -> None:
        elapsed = time.monotonic() - self._started
        rate = (self._done - self._start) / elapsed if elapsed else 0.0
        of = f"/{self._total:,.0f}" if self._total else ""
        left = (
            f", {(self._total - self._done) / rate:.0f} s left"
            if self._total and rate and self._done < self._total
            else ""
        )
        done = f"{self._done:,.0f}{of} {self._unit}, {rate:,.1f} {self._unit}/s{left}"
        print(
            f"  {self._title}: {done} {self._note}".rstrip(),
            file=sys.stderr,
            flush=True,
        )


def _rich(terminal: Any) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}, {task.fields[rate]}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=terminal,
        transient=True,
    )


class _RichBar:
    def __init__(self, progress: Any, *, title: str, total: float | None, unit: str, start: float = 0) -> None:
        self._progress, self._started, self._note = progress, time.monotonic(), ""
        self._start, self._done = start, start
        whole = int(total) if total is not None else None
        self._task = progress.add_task(title, total=whole, completed=int(start), unit=unit, rate="", note="")

    def advance(self, n: float = 1, *, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        rate = (self._done - self._start) / max(time.monotonic() - self._started, 1e-9)
        self._progress.update(self._task, completed=int(self._done), rate=f"{rate:,.1f}", note=self._note)

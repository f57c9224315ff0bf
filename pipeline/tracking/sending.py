"""Sending an outbox to its tracking server: in order, each event once, however often it is begun again.

What was sent is noted after the server said so. A crash in between sends it again, which doubles nothing: MLflow takes
the same metric (value, step, time), parameter, tag, file and data set twice for once, and a run is looked for before it
is made. What the server refuses for itself is set aside, and the rest goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import BadArtifact, Failure
from pipeline.events import PARENT, Closed, Event, Files, Metrics, Opened, Params, Read, Tags, event_of, line_of
from pipeline.outbox_reading import Target, lines_after, outboxes_of, read_target, writer_is_alive
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.sent import Refusal, State, alone, read_state, set_aside, waiting, write_state
from serving.registry_failures import failure_of, raised_by_registries, shown

METRICS_A_BATCH: Final = 1000
PARAMS_A_BATCH: Final = 100
Line = tuple[bytes, Event | None]


class _Forgotten(Exception):  # noqa: N818
    """The server does not know the run that it was told of."""


@dataclass(frozen=True)
class Sent:
    """MLflow's run, how many events were sent now, and how many things the server ever refused of this outbox."""

    run_id: str | None
    events: int
    refused: int


def uri_of(folder: Path) -> str:
    """The address of an outbox's tracking server."""
    return read_target(folder).uri or default_uri(folder.parent.parent)


def send(folder: Path, *, rest: Callable[[], None] = lambda: None, wait_s: float | None = None) -> Sent:
    """Send what an outbox has; `rest` is called between requests, and may take its time. A run that nobody works on any
    more and that was not closed is closed as KILLED.

    Raises:
        Transient: the server is away or not well; what is left waits.
        Busy: another process has been sending it for `wait_s` seconds.
        BadRequest: the server refuses everything (credentials, a deleted experiment); what is left waits.
    """
    with alone(folder, wait_s):
        events = 0
        if waiting(folder) or (read_state(folder).opened and not writer_is_alive(folder)):
            try:
                events = _send(folder, rest)
            except Failure as failure:
                with suppress(OSError):  # a full disk: the failure itself says more
                    _note(folder, str(failure))
                raise
        state = read_state(folder)
        return Sent(state.runs.get(PARENT), events=events, refused=state.refused)


def _send(folder: Path, rest: Callable[[], None]) -> int:
    uri = uri_of(folder)
    rest()
    with talking_to(uri) as client:
        rest()
        return _Delivery(folder, client, uri=uri, rest=rest).send()


def _note(folder: Path, why: str) -> None:
    state = read_state(folder)
    state.why = why
    write_state(folder, state)


class _Delivery:
    def __init__(self, folder: Path, client: Any, *, uri: str, rest: Callable[[], None]) -> None:
        self._folder, self._client, self._uri, self._rest = folder, client, uri, rest
        self._target: Target = read_target(folder)
        self._begin(read_state(folder))
        self._events = 0

    def _begin(self, state: State) -> None:
        from pipeline.tracking.run_requests import RunRequests

        self._state = state
        self._requests = RunRequests(self._client, self._folder, self._target, state.runs)

    def send(self) -> int:
        """Everything there is; how many events that were."""
        try:
            self._send()
        except _Forgotten:  # another server, or one that lost its database: it is told all of it
            self._begin(State(refused=self._state.refused))
            self._send()
        return self._events

    def _send(self) -> None:
        for batch, end in _batches(self._folder, self._state.offset):
            self._deliver(batch)
            self._state.offset, self._events = end, self._events + len(batch)
            self._state.why = ""
            self._state.last_at = max(self._state.last_at, *(event.at for _, event in batch if event), 0)
            write_state(self._folder, self._state)
            self._rest()
        if not writer_is_alive(self._folder):
            self._close_what_was_killed()

    def _close_what_was_killed(self) -> None:
        for label in reversed(self._state.opened.copy()):
            if label == PARENT and self._is_joined_now():
                continue
            event = Closed(of=label, at=self._state.last_at, status="KILLED")
            self._take([line_of(event)], lambda event=event: self._requests.close(event))  # type: ignore[misc]
            self._state.opened.remove(label)
            write_state(self._folder, self._state)

    def _is_joined_now(self) -> bool:
        """Whether another process, which joined the run, is still at work on it: that one ends it."""
        return any(map(writer_is_alive, outboxes_of(self._folder.parent, self._target.run)))

    def _deliver(self, batch: Sequence[Line]) -> None:
        """One event, or several of metrics."""
        line, event = batch[0]
        match event:
            case None:
                self._set_aside([line], "no event that this Retort knows", what="all of it")
            case Metrics():
                self._metrics(batch)
            case Params() | Tags():
                self._params_or_tags(line, event)
            case Opened():
                self._requests.open(event)
                self._note_opened(event.of)
            case Closed():
                self._take([line], lambda: self._requests.close(event))
                self._state.opened = [label for label in self._state.opened if label != event.of]
            case Files():
                self._take([line], lambda: self._requests.upload(event))
            case Read():
                self._take([line], lambda: self._requests.inputs(event))

    def _note_opened(self, label: str) -> None:
        """Who opens a run closes it, also where it was killed; but for one that joins another's."""
        if label not in self._state.opened and not (self._target.joins and label == PARENT):
            self._state.opened.append(label)

    def _metrics(self, batch: Sequence[Line]) -> None:
        from pipeline.tracking.entities import metrics_of

        by_label: dict[str, list[tuple[bytes, Any]]] = {}
        for line, event in batch:
            assert isinstance(event, Metrics), "batches are of metrics"
            by_label.setdefault(event.of, []).extend((line, metric) for metric in metrics_of(event))
        for label, metrics in by_label.items():
            self._log(metrics, label, "metrics", METRICS_A_BATCH)

    def _params_or_tags(self, line: bytes, event: Params | Tags) -> None:
        from pipeline.tracking.entities import params_of, tags_of

        kind = "params" if isinstance(event, Params) else "tags"
        found = params_of(event.values) if isinstance(event, Params) else tags_of(event.values)
        self._log([(line, each) for each in found], event.of, kind, PARAMS_A_BATCH)

    def _log(self, items: Sequence[tuple[bytes, Any]], label: str, kind: str, at_most: int) -> None:
        """As many at once as the server takes; of what it refuses each half, down to the one that is at fault."""
        for start in range(0, len(items), at_most):
            part = items[start : start + at_most]
            lines, told = [line for line, _ in part], {kind: [item for _, item in part]}
            why = self._refused(lambda told=told: self._requests.log(label, **told))  # type: ignore[misc]
            if why is None:
                continue
            if len(part) > 1 and label in self._state.runs and self._requests.is_active(label):
                self._log(part, label, kind, (len(part) + 1) // 2)
            else:
                self._set_aside(lines, why, what=", ".join(dict.fromkeys(item.key for _, item in part)))

    def _take(self, lines: Sequence[bytes], request: Callable[[], None]) -> None:
        why = self._refused(request)
        if why is not None:
            self._set_aside(lines, why, what="all of it")

    def _refused(self, request: Callable[[], None]) -> str | None:
        """Why the server refused this very request; None where it took it. Other failures are raised."""
        try:
            request()
        except BadArtifact as error:
            return str(error)
        except raised_by_registries() as error:
            told = str(failure_of(error, uri=self._uri))
            refused = f"the registry {shown(self._uri)} refused: "
            if not told.startswith(refused):
                raise
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST" and not self._requests.is_known():
                raise _Forgotten from error
            return told.removeprefix(refused)
        return None

    def _set_aside(self, lines: Sequence[bytes], why: str, *, what: str) -> None:
        for line in dict.fromkeys(lines):
            set_aside(self._folder, Refusal(why=why, what=what, line=line.decode(errors="replace").rstrip("\n")))
            self._state.refused += 1


def _batches(folder: Path, offset: int) -> Iterator[tuple[list[Line], int]]:
    """Events one by one, but as many metrics together as go into a request; and where each batch ends."""
    batch: list[Line] = []
    size, end = 0, offset
    for line, after in lines_after(folder, offset):
        event = event_of(line)
        values = len(event.values) if isinstance(event, Metrics) else METRICS_A_BATCH + 1
        if batch and size + values > METRICS_A_BATCH:
            yield batch, end
            batch, size = [], 0
        batch.append((line, event))
        size, end = size + values, after
    if batch:
        yield batch, end

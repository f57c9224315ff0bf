"""The log: lines to stderr, as text or JSON, written by a thread of their own.

Whoever reads stderr may be slow or gone: a request never waits for that. What does not fit into the queue is counted,
and the count is told when there is room again; so are lines that one part of the program repeats too often.
"""

import contextlib
import logging
import logging.handlers
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec
import orjson

LogFormat = Literal["text", "json"]
MOST_WAITING: Final = 4096
MOST_A_SECOND: Final = 50
FLUSH_S: Final = 2.0
REQUESTS: Final = "serving.requests"


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request, as the log has it. Never a key, and no text unless it is `given`."""

    id: str
    method: str
    path: str
    status: int
    ms: float
    outcome: str = ""
    client: str = ""
    key: str = ""
    given: str | None = None


class AsJson(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(told := getattr(record, "told", None), Told):
            line |= msgspec.to_builtins(told)
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(_encodable(line)).decode()


class AsText(logging.Formatter):
    """One line for people; what a client sent is quoted, so that it cannot make lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if isinstance(told := getattr(record, "told", None), Told):
            fields = msgspec.to_builtins(told)
            line += "".join(f" {name}={value!a}" for name, value in fields.items())
        return line


class _Allowance:
    """MOST_A_SECOND lines of a name in each second."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = self._left_out = 0
        self._counts: dict[str, int] = {}

    def admits(self, name: str) -> bool:
        """Whether there is room for one more line."""
        now = int(self._clock())
        if now != self._second:
            self._left_out += sum(max(0, count - MOST_A_SECOND) for count in self._counts.values())
            self._second, self._counts = now, {}
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return count <= MOST_A_SECOND

    def told(self) -> str:
        """What the next line is to say of those of earlier seconds that had no room; told once."""
        left_out, self._left_out = self._left_out, 0
        return f" ({left_out} lines before this were left out)" if left_out else ""


class _Sparing(logging.Filter):
    """Lets as many lines of a logger through as are allowed, and tells how many more there were."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._allowance = _Allowance(clock=clock)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        if not self._allowance.admits(record.name):
            return False
        if left_out := self._allowance.told():
            record.msg, record.args = record.getMessage() + left_out, ()
        return True


class _Queued(logging.handlers.QueueHandler):
    """Hands a record over as it is, or drops it."""

    def __init__(self, waiting: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(waiting)
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # it stays in this process

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                record.msg, record.args = f"{record.getMessage()} ({self._dropped} lines did not fit before this)", ()
            self.queue.put_nowait(record)
            self._dropped = 0
        except queue.Full:
            self._dropped += 1


class _Written(logging.Handler):
    """Writes to a descriptor, past sys.stderr, whose lock a reader that is stuck would hold for ever."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        try:
            left = memoryview(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            return  # nobody reads the log any more, and there is nobody else to tell
        except Exception:  # noqa: BLE001 - a line that cannot be worded must not end the thread that writes the others
            self.handleError(record)


@contextlib.contextmanager
def logging_to(descriptor: int, *, form: LogFormat) -> Iterator[None]:
    """Within it, whatever this process logs is written there; at the end what waits is written, if somebody reads."""
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MOST_WAITING)
    written = _Written(descriptor)
    written.setFormatter(AsJson() if form == "json" else AsText())
    handler = _Queued(waiting)
    handler.addFilter(_Sparing())
    thread = threading.Thread(target=_write, args=(waiting, written), name="log", daemon=True)
    thread.start()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with contextlib.suppress(queue.Full):
            waiting.put(None, timeout=FLUSH_S)
        thread.join(FLUSH_S)


def _write(waiting: "queue.Queue[logging.LogRecord | None]", written: _Written) -> None:
    while (record := waiting.get()) is not None:
        written.handle(record)


class Requests:
    """Writes a line for each request where that is wanted (`every`), and for those that end in 5xx as long as they are
    not too many. Asked in the event loop alone."""

    def __init__(self, *, every: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.every = every
        self._log = logging.getLogger(REQUESTS)
        self._allowance = _Allowance(clock=clock)

    def wants(self, status: int) -> bool:
        """Whether a request that ended with this has a line: to be asked once, before there is any work for one. Under
        overload most requests are refused, and refusing must cost next to nothing."""
        return self.every if status < 500 else self._allowance.admits(REQUESTS)

    def note(self, told: Told) -> None:
        failed = told.status >= 500
        self._log.log(
            logging.WARNING if failed else logging.INFO,
            "answered %d in %.1f ms%s",
            told.status,
            told.ms,
            self._allowance.told() if failed else "",
            extra={"told": told},
        )


def _time_of(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _encodable(line: dict[str, Any]) -> dict[str, Any]:
    """Lone surrogates, which a path may have, are no UTF-8."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }

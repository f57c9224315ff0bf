"""One gRPC call as the service sees it, and who is asked about it: the guard that HTTP has, by its other face."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from serving.protocols.telling import TRACE

if TYPE_CHECKING:
    from serving.tracing import Tracer

Header = Callable[[bytes], str | None]


class Guard(Protocol):
    """Who is let in, and what is written down of each call; security/ has one."""

    def named(self, header: Header, /) -> str: ...
    def require(self, header: Header, /) -> object: ...
    def write(
        self,
        header: Header,
        /,
        *,
        id: str,  # noqa: A002 - the field's name in the log
        method: str,
        path: str,
        status: int,
        outcome: str,
        seconds: float,
        client: str,
    ) -> None: ...


class Everybody:
    """Everybody is let in, and nothing is written down."""

    def named(self, _: Header) -> str:
        """No name of the call's own."""
        return ""

    def require(self, _: Header) -> None:
        """Nothing."""

    def write(self, _: Header, **told: Any) -> None:
        """Nothing."""


class Called:
    """One call: its metadata, and what goes back with its answer."""

    def __init__(self, path: str, context: Any, guard: Guard) -> None:
        self.path, self.context = path, context
        self.started_s = time.perf_counter()
        self.scope: dict[str, Any] = {}
        self._metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.id = guard.named(self.header)
        self.trailing = [("x-request-id", self.id)] if self.id else []
        self._late: bool | None = None

    @property
    def passed_s(self) -> float:
        """How long ago its head was read."""
        return time.perf_counter() - self.started_s

    def header(self, name: bytes) -> str | None:
        """A value of its metadata, by its name in lower case."""
        return self._metadata.get(name.decode())

    def late(self) -> bool:
        """Whether its client's time was up when this was asked first: count, log and trace say the same."""
        if self._late is None:
            left_s = self.context.time_remaining()
            self._late = left_s is not None and left_s <= 0
        return self._late

    def note(self, guard: Guard, *, status: int, outcome: str) -> None:
        """Have the call written down."""
        guard.write(
            self.header,
            id=self.id,
            method="gRPC",
            path=self.path,
            status=status,
            outcome=outcome,
            seconds=self.passed_s,
            client=self.context.peer(),
        )

    def begin(self) -> None:
        """The call is traced."""
        from serving.tracing import Trace

        self.scope[TRACE] = Trace()

    def end(self, tracer: "Tracer", *, code: Any) -> None:
        """Make the span of a call that is traced; `code` is None where it was answered."""
        if TRACE not in self.scope:
            return
        number = 0 if code is None else code.value[0]
        service, method = self.path.strip("/").split("/")
        tracer.end(
            self.scope[TRACE],
            name=self.path.strip("/"),
            carrier=self._metadata,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "rpc.grpc.status_code": number,
            },
            failed=number in (2, 4, 12, 13, 14, 15),  # the server's own, as OpenTelemetry has them
        )

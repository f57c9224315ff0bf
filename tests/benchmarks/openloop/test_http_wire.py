"""The wire on real sockets, against a server that follows a script: pieces, lies, broken connections."""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.openloop.connection import address_of
from benchmarks.openloop.generator import Event
from benchmarks.openloop.http_wire import HttpWire
from benchmarks.openloop.messages import parse_url
from benchmarks.openloop.trace import NO_ANSWER
from serving.errors import BadRequest, Transient

WAIT_S = 20
PIECE_S = 0.01
CLOSE = b""  # in a script: the server closes the connection here
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def status(code: int, *, body: bytes = b"", extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d Told\r\n%sContent-Length: %d\r\n\r\n%s" % (code, extra, len(body), body)


class Scripted:
    """Answers the i-th request it reads with the pieces `script[i]`, a little apart; after the script, with OK."""

    def __init__(self, script: Sequence[Sequence[bytes]], *, greeting: bytes | None = None) -> None:
        self.bodies: list[bytes] = []
        self.connections = 0
        self._script = list(script)
        self._greeting = greeting
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as received, contextlib.suppress(OSError):
            if self._greeting is not None:
                connection.sendall(self._greeting)
                return
            while head := self._head(received):
                length = next(int(line[16:]) for line in head if line.lower().startswith(b"content-length: "))
                body = received.read(length)
                with self._lock:
                    self.bodies.append(body)
                    pieces = self._script.pop(0) if self._script else [OK]
                for piece in pieces:
                    if piece == CLOSE:
                        return
                    connection.sendall(piece)
                    time.sleep(PIECE_S)

    def _head(self, received) -> list[bytes]:  # type: ignore[no-untyped-def]
        lines = []
        while (line := received.readline()) not in (b"\r\n", b""):
            lines.append(line.rstrip())
        return lines


@contextlib.contextmanager
def wired(
    *script: Sequence[bytes], connections: int = 1, bodies: Sequence[bytes] = (b"0", b"1", b"2")
) -> Iterator[tuple[HttpWire, Scripted]]:
    server = Scripted(script)
    wire = wire_to(server.port, bodies)
    try:
        wire.open(connections)
        yield wire, server
    finally:
        wire.close()
        server.stop()


def wire_to(port: int, bodies: Sequence[bytes] = (b"0",)) -> HttpWire:
    url = parse_url(f"http://127.0.0.1:{port}/classify")
    return HttpWire(address_of(url.host, url.port), [url.post(body) for body in bodies], clock=time.perf_counter_ns)


def ended(wire: HttpWire, *, count: int = 1) -> list[Event]:
    found: list[Event] = []
    until_s = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < until_s, found
        found += wire.poll()
    return found


def asked(wire: HttpWire, number: int) -> int:
    """The status of one request, sent and awaited."""
    wire.send(number)
    (event,) = ended(wire)
    assert event.number == number
    return event.status


def settle(wire: HttpWire, until: Callable[[], bool]) -> list[Event]:
    """Poll until that is so, and a little longer."""
    found, most_s = [], time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < most_s
        found += wire.poll()
    end_s = time.monotonic() + 3 * PIECE_S
    while time.monotonic() < end_s:
        found += wire.poll()
    return found


def test_bodies_are_sent_in_turn_over_one_kept_connection() -> None:
    with wired() as (wire, server):
        assert [asked(wire, number) for number in range(5)] == [200] * 5
        assert server.bodies == [b"0", b"1", b"2", b"0", b"1"]
        assert server.connections == 1


def test_statuses_come_back_as_they_are() -> None:
    with wired([status(503)], [status(500, body=b"x" * 9)], [status(204)]) as (wire, server):
        assert [asked(wire, number) for number in range(4)] == [503, 500, 204, 200]
        assert server.connections == 1


def test_an_answer_in_pieces_is_complete_with_its_last_one() -> None:
    pieces = [bytes([each]) for each in status(201, body=b"ab")]
    with wired(pieces) as (wire, _):
        sent_ns = time.perf_counter_ns()
        wire.send(0)
        (event,) = ended(wire)
        assert event.status == 201
        assert event.at_ns - sent_ns >= (len(pieces) - 1) * PIECE_S * 1e9


def test_a_chunked_answer_is_understood() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with wired([chunked, b"2\r\nab\r\n", b"0\r\n\r\n"]) as (wire, server):
        assert [asked(wire, number) for number in range(2)] == [200, 200]
        assert server.connections == 1


def test_what_is_said_before_an_answer_is_no_answer() -> None:
    with wired([b"HTTP/1.1 102 Processing\r\n\r\n", status(202)]) as (wire, _):
        assert asked(wire, 0) == 202


def test_a_connection_that_breaks_fails_its_request_and_is_opened_again() -> None:
    with wired([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc", CLOSE], [CLOSE]) as (wire, server):
        statuses = []
        for number in range(3):
            statuses.append(asked(wire, number))
            settle(wire, lambda: server.connections == min(3, len(statuses) + 1))
        assert statuses == [NO_ANSWER, NO_ANSWER, 200]


def test_a_connection_that_the_server_wants_closed_is_replaced() -> None:
    with wired([status(200, extra=b"Connection: close\r\n"), CLOSE]) as (wire, server):
        assert asked(wire, 0) == 200
        assert settle(wire, lambda: server.connections == 2) == []
        assert asked(wire, 1) == 200
        assert server.connections == 2


def test_what_is_no_http_fails_the_request() -> None:
    with wired([b"SSH-2.0-hello\r\n"]) as (wire, _):
        assert asked(wire, 0) == NO_ANSWER


def test_a_request_for_which_no_connection_is_free_has_failed_at_once() -> None:
    unended = [b"HTTP/1.1 200 OK\r\n"] * 2
    with wired(unended, unended, connections=2) as (wire, _):
        for number in range(3):
            wire.send(number)
        assert [(event.number, event.status) for event in ended(wire)] == [(2, NO_ANSWER)]


def test_requests_are_under_way_side_by_side_and_end_in_any_order() -> None:
    late = [b"HTTP/1.1 200 OK\r\n", *[b"X-Wait: 1\r\n"] * 10, b"Content-Length: 0\r\n\r\n"]
    with wired(late, connections=2) as (wire, server):
        wire.send(0)
        while not server.bodies:
            time.sleep(PIECE_S)
        wire.send(1)
        assert [event.number for event in ended(wire, count=2)] == [1, 0]


def test_an_idle_connection_that_the_server_closes_is_replaced_and_is_no_failure() -> None:
    with wired([OK, CLOSE], connections=1) as (wire, server):
        assert asked(wire, 0) == 200
        assert settle(wire, lambda: server.connections == 2) == []
        assert asked(wire, 1) == 200
        assert server.connections == 2


def test_an_answer_that_nobody_asked_for_is_not_counted() -> None:
    with wired([OK, status(408)], connections=1) as (wire, server):
        assert asked(wire, 0) == 200
        assert settle(wire, lambda: server.connections == 2) == []
        assert asked(wire, 1) == 200
        assert server.connections == 2


@pytest.mark.parametrize("more", [status(408), status(200)])
def test_of_two_answers_that_come_at_once_the_first_is_meant(more: bytes) -> None:
    with wired([status(201) + more]) as (wire, server):
        assert asked(wire, 0) == 201
        assert settle(wire, lambda: server.connections == 2) == []


def test_a_message_larger_than_the_kernel_takes_at_once_arrives_whole() -> None:
    body = bytes(range(256)) * 2**15
    with wired(bodies=[body]) as (wire, server):
        assert [asked(wire, number) for number in range(2)] == [200, 200]
        assert server.bodies == [body, body]


def test_an_answer_before_the_whole_request_was_read_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = wire_to(listener.getsockname()[1], [b"x" * 2**24])
        try:
            wire.open(1)
            connection, _ = listener.accept()
            with connection:
                wire.send(0)
                connection.sendall(status(413))
                assert [event.status for event in ended(wire)] == [413]
                again, _ = listener.accept()
                again.close()
        finally:
            wire.close()


def test_a_server_that_goes_away_leaves_failures_and_no_connections() -> None:
    with wired(connections=3) as (wire, server):
        assert asked(wire, 0) == 200
        server.stop()
        settle(wire, lambda: wire.connections == 0)
        assert [asked(wire, number) for number in range(4)] == [NO_ANSWER] * 4


def test_a_server_that_is_not_there_is_told_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    wire = wire_to(port)
    with contextlib.closing(wire), pytest.raises(Transient) as caught:
        wire.open(4)
    assert str(caught.value) == f"127.0.0.1:{port} took 0 of 4 connections; start the server, or ask for fewer"


def test_a_host_without_an_address_is_told() -> None:
    with pytest.raises(
        Transient, match=r"^no\.such\.host\.invalid:80 has no address: .*; check the url, or try again$"
    ):
        address_of("no.such.host.invalid", 80)


def test_more_connections_than_this_process_may_have_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = wire_to(listener.getsockname()[1])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(list(Path("/dev/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        try:
            with contextlib.closing(wire), pytest.raises(BadRequest) as caught:
                wire.open(500)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = "500 connections cannot be opened: [Errno 24] Too many open files; ask for fewer"
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (
            [status(503, body=b'{"error": "full"}')],
            Transient,
            'the server refused the first request with 503: {"error": "full"}; try again when it is ready',
        ),
        (
            [status(422, body=b"no texts")],
            BadRequest,
            "the server answered the first request with 422: no texts; correct the url or the texts",
        ),
        (
            [CLOSE],
            BadRequest,
            "the server closed the connection instead of answering; is it an HTTP/1.1 server?",
        ),
        (
            [b"HTTP/1.1 200 OK\r\n", *[b"X-Wait: 1\r\n"] * 100],
            Transient,
            "the server gave no answer to the first request within 0.3 s; is it well?",
        ),
    ],
)
def test_what_the_first_answer_tells_is_told_before_the_load(
    answer: list[bytes], kind: type[Exception], told: str
) -> None:
    with wired(answer) as (wire, _), pytest.raises(kind) as caught:
        wire.first_answer(patience_s=0.3)
    assert str(caught.value) == told


def test_a_good_first_answer_is_the_beginning() -> None:
    with wired() as (wire, server):
        wire.first_answer()
        assert asked(wire, 1) == 200
        assert server.bodies == [b"0", b"1"]


def test_what_answers_say_of_their_times_is_kept_by_request_where_it_is_asked_for() -> None:
    server = Scripted([[status(200, extra=b"Server-Timing: infer;dur=1.5\r\n")], [OK]])
    url = parse_url(f"http://127.0.0.1:{server.port}/classify")
    wire = HttpWire(address_of(url.host, url.port), [url.post(b"0")], clock=time.perf_counter_ns, timed=True)
    try:
        wire.open(1)
        assert [asked(wire, number) for number in (0, 1)] == [200, 200]
        assert wire.timings == {0: "infer;dur=1.5", 1: ""}
    finally:
        wire.close()
        server.stop()

"""Real sockets against the HTTP front, in this process, with an application that echoes and limits that are short."""

import asyncio
import contextlib
import gc
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.connections import Connections
from serving.exchange import STARTED
from serving.front import Front
from serving.heads import Limits
from serving.listening import bind, keep_out, listen

WAIT_S = 10
PLACES = (str(Path(Connections.__init__.__code__.co_filename).parent), __file__)
BIG = 32 * 2**20
GET = b"GET /a HTTP/1.1\r\nHost: here\r\n\r\n"
QUICK = Limits(connections=8, head_s=0.4, idle_s=0.4, read_s=0.4, linger_s=0.4, ahead=4, head_bytes=4096, headers=20)


class Echo:
    """Tells what it was asked; /hold waits, /slow takes 0.2 s, /big answers BIG bytes, /unread reads no body,
    /bug fails, /split has a header that makes two lines, /reset calls `reset` first."""

    def __init__(self) -> None:
        self.held, self.left = threading.Event(), threading.Event()
        self.reset: Callable[[], object] = lambda: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, body, asked_s = scope["path"], b"", time.perf_counter()
        while path != "/unread":
            message = await receive()
            if message["type"] == "http.disconnect":
                return self.left.set()
            body += message["body"]
            if not message["more_body"]:
                break
        if path == "/bug":
            raise ZeroDivisionError
        if path == "/reset":
            self.reset()
        if path == "/slow":
            await asyncio.sleep(0.2)
        if path == "/hold" and await self._gone(receive):
            return self.left.set()
        told = {name: scope[name] for name in ("method", "path", "http_version")} | {"body": body.decode("latin-1")}
        told |= {"started_s": scope[STARTED], "asked_s": asked_s}
        answer = b"x" * BIG if path == "/big" else json.dumps(told | {"query": scope["query_string"].decode()}).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        headers += [(b"x", b"a\r\nset-cookie: b")] if path == "/split" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        return await send({"type": "http.response.body", "body": answer})

    async def _gone(self, receive: Any) -> bool:
        """Whether the client left before the hold was lifted."""
        watch = asyncio.ensure_future(receive())
        while not self.held.is_set() and not watch.done():
            await asyncio.sleep(0.005)
        if watch.done():
            return True
        watch.cancel()
        return False


class Open:
    """A front that serves."""

    def __init__(self, limits: Limits) -> None:
        self.echo, self.refused = Echo(), []  # type: ignore[var-annotated]
        self.listener = bind("127.0.0.1", 0)
        listen(self.listener)
        self.address = self.listener.getsockname()
        self.connections = Connections(self.echo, limits=limits, refused=self.refused.append)
        ready = threading.Event()
        self.front = Front(self.connections, listener=self.listener, others=None, ready=ready.set, ended=lambda: None)
        self.front.start()
        assert ready.wait(WAIT_S)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=WAIT_S)

    def say(self, *parts: bytes, pause_s: float = 0.0) -> bytes:
        """Send, then read until the server closes."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
                time.sleep(pause_s)
            return read_all(client)

    def close(self) -> None:
        self.front.stop()
        self.front.join(WAIT_S)
        self.listener.close()


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(2**20), b""))


def until(true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def request(path: str = "/a", body: bytes = b"", *, method: str = "POST", headers: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"%s %s HTTP/1.1\r\nHost: here\r\n%s%s\r\n%s" % (method.encode(), path.encode(), headers, length, body)


LAST = b"Connection: close\r\n"


@contextlib.contextmanager
def opened(**changed: Any) -> Iterator[Open]:
    front = Open(msgspec.structs.replace(QUICK, **changed))
    try:
        yield front
    finally:
        front.echo.held.set()
        front.close()


@pytest.fixture(scope="module")
def front() -> Iterator[Open]:
    with opened() as front:
        yield front


def bodies(answer: bytes) -> list[Any]:
    """Of answers one after another, each by its content-length."""
    found = []
    while answer:
        head, _, answer = answer.partition(b"\r\n\r\n")
        lengths = [
            line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        ]
        size = int(lengths[0])
        found.append(json.loads(answer[:size]))
        answer = answer[size:]
    return found


def test_requests_of_one_connection_are_answered_in_order_and_the_last_one_closes(front: Open) -> None:
    answer = front.say(request("/1") + request("/2", b"two") + request("/3", headers=LAST) + b"never read")
    assert [(one["path"], one["body"]) for one in bodies(answer)] == [("/1", ""), ("/2", "two"), ("/3", "")]
    assert answer.count(b"connection: close") == 1


def test_an_answer_has_a_date_and_is_one_piece(front: Open) -> None:
    with front.connect() as client:
        client.sendall(GET)
        head = client.recv(65536)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert b" GMT\r\ncontent-length: " in head
    assert bodies(head)[0]["path"] == "/a"


def test_a_body_in_pieces_and_one_in_chunks_arrive_whole(front: Open) -> None:
    chunked = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [
        request("/p", b"abc")[:-2],
        b"bc",
        chunked,
        b"3\r\nab",
        b"c\r\n2;x=y\r\n",
        b"de\r\n0\r\nTrailer: t\r\n\r\n",
    ]
    answer = front.say(*pieces, request("/e", headers=LAST), pause_s=0.01)
    assert [(one["path"], one["body"]) for one in bodies(answer)] == [("/p", "abc"), ("/c", "abcde"), ("/e", "")]


def test_a_client_that_waits_for_100_is_told_to_go_on(front: Open) -> None:
    with front.connect() as client:
        client.sendall(request("/x", b"12", headers=b"Expect: 100-continue\r\n")[:-2])
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"12")
        assert bodies(client.recv(65536))[0]["body"] == "12"


def test_an_upgrade_is_not_done_and_what_follows_is_read(front: Open) -> None:
    asked = request("/u", b"abc", headers=b"Upgrade: h2c\r\nConnection: Upgrade\r\n")
    answer = front.say(asked + request("/v", headers=LAST))
    assert [(one["path"], one["body"]) for one in bodies(answer)] == [("/u", "abc"), ("/v", "")]


def test_http_1_0_is_answered_and_closed(front: Open) -> None:
    answer = front.say(b"GET /old HTTP/1.0\r\n\r\n")
    assert bodies(answer)[0]["http_version"] == "1.0"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%20b?c=%20d", "/a b", "c=%20d"),
        ("http://other:1/p?q=1", "/p", "q=1"),
        ("http://other", "/", ""),
        ("/a#b?c", "/a", ""),
        ("//x/../y", "//x/../y", ""),
        ("*", "*", ""),
        ("/%ff", "/\ufffd", ""),
    ],
)
def test_a_target_is_a_path_and_a_query(front: Open, target: str, path: str, query: str) -> None:
    (told,) = bodies(front.say(request(target, headers=LAST)))
    assert (told["path"], told["query"]) == (path, query)


def head(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /a HTTP/1.1", *lines, b"", body))


HOST = b"Host: here"


@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (b"\x16\x03\x01\x00\xa5\x01\x00 TLS\r\n\r\n", 400, "malformed"),
        (b"GET /a\r\n\r\n", 505, "malformed"),
        (b"GET /a HTTP/2.0\r\nHost: here\r\n\r\n", 505, "malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
        (b"CONNECT here:1 HTTP/1.1\r\nHost: here\r\n\r\n", 400, "malformed"),
        (b"CONNECT /a HTTP/1.1\r\nHost: here\r\n\r\n", 400, "malformed"),
        (b"GET /\xff HTTP/1.1\r\nHost: here\r\n\r\n", 400, "malformed"),
        (head(), 400, "malformed"),
        (head(HOST, HOST), 400, "malformed"),
        (head(HOST, b"Content-Length: 1", b"Content-Length: 2", body=b"ab"), 400, "malformed"),
        (head(HOST, b"Content-Length: 1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400, "malformed"),
        (head(HOST, b"Transfer-Encoding: chunked", b"Content-Length: 1", body=b"0\r\n\r\n"), 400, "malformed"),
        (head(HOST, b"Transfer-Encoding: gzip"), 400, "malformed"),
        (head(HOST, b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400, "malformed"),
        (head(HOST, b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400, "malformed"),
        (head(HOST, b"Content-Length: +5"), 400, "malformed"),
        (head(HOST, b"Content-Length: -5"), 400, "malformed"),
        (head(HOST, b"Content-Length: 99999999999999999999999"), 400, "malformed"),
        (head(HOST, b"X: a\0b"), 400, "malformed"),
        (head(HOST, b"X: a", b" folded"), 400, "malformed"),
        (head(HOST, b"X: a\nY: b"), 400, "malformed"),
        (head(HOST, b"Transfer-Encoding: chunked", body=b"5\r\nabc\r\n0\r\n\r\n"), 400, "malformed"),
        (head(HOST, b"Transfer-Encoding: chunked", body=b"ffffffffffffffffff\r\nabc"), 400, "malformed"),
        (head(HOST, *(b"X-%d: y" % number for number in range(20))), 431, "head"),
        (head(HOST, b"X: " + b"y" * 5000), 431, "head"),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: here\r\n\r\n", 431, "head"),
    ],
)
def test_what_may_be_read_in_two_ways_or_is_too_much_is_refused(
    front: Open, sent: bytes, status: int, why: str
) -> None:
    front.refused.clear()
    answer = front.say(sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert list(bodies(answer)[0]) == ["error"]
    assert b"connection: close" in answer
    assert front.refused == [why]


def test_a_head_that_never_ends_is_refused_before_it_is_large(front: Open) -> None:
    with front.connect() as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: here\r\nX: ")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 * 2**20:
                sent += client.send(b"y" * 4096)
                time.sleep(0.001)
        assert sent < 2**20 or client.recv(100).startswith(b"HTTP/1.1 431 ")


def test_what_was_asked_before_something_malformed_is_answered_first(front: Open) -> None:
    answers = bodies(front.say(request("/good") + b"\0garbage\r\n\r\n"))
    assert answers[0]["path"] == "/good"
    assert answers[1]["error"].startswith("this is not HTTP/1.1 as it is read here: ")


def test_a_body_that_is_broken_in_the_read_that_brought_its_head_is_refused_and_the_application_told(
    front: Open,
) -> None:
    front.echo.left.clear()
    sent = b"POST /a HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    answers = bodies(front.say(sent))
    assert [answer["error"].partition(": ")[0] for answer in answers] == ["this is not HTTP/1.1 as it is read here"]
    assert front.echo.left.wait(WAIT_S)


def test_a_head_that_comes_too_slowly_is_told_and_closed(front: Open) -> None:
    answer = front.say(b"GET /a HTTP/1.1\r\nHo")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert bodies(answer) == [{"error": "the request's head did not arrive within 0.4 s"}]


@pytest.mark.parametrize("sent", [b"", GET, b"\r\n\r\n"])
def test_a_connection_on_which_nothing_comes_is_closed(front: Open, sent: bytes) -> None:
    started_s = time.monotonic()
    front.say(sent)
    assert 0.3 < time.monotonic() - started_s < 5


def test_a_client_that_does_not_read_is_cut_off(front: Open) -> None:
    with front.connect() as client:
        client.sendall(request("/big"))
        until(lambda: len(front.connections) > 0)
        until(lambda: len(front.connections) == 0)
    assert "reader" in front.refused


def test_a_slow_but_reading_client_gets_all_of_a_large_answer() -> None:
    with opened(read_s=WAIT_S) as front, front.connect() as client:
        client.sendall(request("/big", headers=LAST))
        time.sleep(0.7)  # longer than the time to linger
        assert len(read_all(client)) > BIG


def test_a_client_that_reads_slowly_gets_all_although_it_takes_long() -> None:
    with opened(read_s=1.0) as front, front.connect() as client:
        client.sendall(request("/big", headers=LAST))
        size_bytes, started_s = 0, time.monotonic()
        while chunk := client.recv(2**19):
            size_bytes += len(chunk)
            time.sleep(0.05)
    assert size_bytes > BIG
    assert time.monotonic() - started_s > 2


def test_requests_sent_ahead_are_bounded_and_the_last_that_was_read_closes() -> None:
    with opened() as front, front.connect() as client:
        client.sendall(b"".join(request(f"/{number}") for number in range(50)))
        answer = read_all(client)
    assert [one["path"] for one in bodies(answer)] == [f"/{number}" for number in range(5)]
    assert answer.count(b"connection: close") == 1


def test_an_answer_before_the_end_of_the_body_closes_and_arrives(front: Open) -> None:
    with front.connect() as client:
        client.sendall(b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n")
        client.sendall(b"x" * 4_000_000)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer


def test_one_client_too_many_is_told_and_closed_at_once() -> None:
    with opened(connections=2, head_s=WAIT_S) as front, front.connect(), front.connect():
        until(lambda: len(front.connections) == 2)
        answer = front.say()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        assert bodies(answer) == [{"error": "the server has 2 connections, its most"}]
        assert front.refused == ["full"]


def test_clients_too_many_are_counted_also_where_they_are_too_many_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.connections.MOST_REFUSED", 1)
    with opened(connections=1, read_s=WAIT_S, linger_s=WAIT_S) as front, front.connect() as busy:
        busy.sendall(request("/hold"))
        until(lambda: front.connections.idle == {})
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(front.connect())
            until(lambda: len(front.refused) == 5)
    assert front.refused == ["full"] * 5


def test_when_all_places_are_taken_the_connection_that_is_idle_longest_makes_room() -> None:
    with opened(connections=2, idle_s=WAIT_S, read_s=WAIT_S) as front:
        with front.connect() as first, front.connect() as second:
            for client in (second, first):
                client.sendall(GET)
                assert client.recv(65536)
            assert bodies(front.say(request("/new", headers=LAST)))[0]["path"] == "/new"
            assert second.recv(100) == b""
            first.sendall(request("/first", headers=LAST))
            assert bodies(read_all(first))[0]["path"] == "/first"
        assert front.refused == ["idle"]


def test_a_client_that_leaves_is_noticed(front: Open) -> None:
    front.echo.left.clear()
    front.echo.held.clear()
    with front.connect() as client:
        client.sendall(request("/hold"))
        time.sleep(0.05)
    assert front.echo.left.wait(WAIT_S)


def test_a_client_that_leaves_while_it_is_answered_is_noticed_by_what_it_asked_next(
    front: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """It is gone between the answer and the turn of the loop in which the next request would be begun."""
    front.echo.left.clear()
    front.echo.reset = lambda: [one._transport.abort() for one in list(front.connections.all)]
    with front.connect() as client:
        client.sendall(request("/reset") + request("/next"))
        assert front.echo.left.wait(WAIT_S)
    until(lambda: len(front.connections) == 0)
    assert caplog.text == ""


def test_a_bug_in_the_application_is_a_500_and_the_connection_goes_on(
    front: Open, caplog: pytest.LogCaptureFixture
) -> None:
    answer = front.say(request("/bug") + request("/next", headers=LAST))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b'"/next"' in answer
    assert "ZeroDivisionError" in caplog.text


def test_a_header_that_would_make_a_line_of_its_own_is_not_sent() -> None:
    from serving.exchange import answer_head

    with pytest.raises(ValueError, match="a header of this answer holds a line break or NUL"):
        answer_head(200, [(b"x", b"a\r\nset-cookie: b")], date=b"now", close=False)


def test_an_answer_that_cannot_be_sent_is_a_500_and_the_connection_goes_on(
    front: Open, caplog: pytest.LogCaptureFixture
) -> None:
    answer = front.say(request("/split") + request("/next", headers=LAST))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in answer
    assert b'"/next"' in answer
    assert "a header of this answer holds a line break or NUL" in caplog.text


def test_a_request_knows_when_its_head_was_read_though_others_are_before_it(front: Open) -> None:
    with front.connect() as client:
        sent_s = time.perf_counter()
        client.sendall(request("/slow") + request("/after", headers=LAST))
        slow, after = bodies(read_all(client))
    assert sent_s < slow["started_s"] <= after["started_s"] < sent_s + 0.15
    assert after["asked_s"] - after["started_s"] > 0.15


def of_the_front(thing: Any) -> bool:
    """Whether the server made it or it runs the server's code: threads of tests before leave garbage of their own."""
    codes = [getattr(thing, name, None) for name in ("f_code", "cr_code", "gi_code", "__code__")]
    files = [code.co_filename for code in codes if code is not None]
    return type(thing).__module__.startswith("serving.") or any(name.startswith(PLACES) for name in files)


def test_a_connection_that_holds_itself_would_be_seen_as_garbage(front: Open) -> None:
    assert [of_the_front(thing) for thing in (front.connections, Connections.__init__, sys._getframe())] == [True] * 3
    assert not of_the_front(threading.Event().wait)


def test_requests_and_connections_leave_nothing_for_the_garbage_collector(front: Open) -> None:
    until(lambda: len(front.connections) == 0)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(50):
            front.say(request("/1", b"body") + request("/2", headers=LAST))
        until(lambda: len(front.connections) == 0)
        gc.collect()
        assert [thing for thing in gc.garbage if of_the_front(thing)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


# -- the end ---------------------------------------------------------------------------------------------------------


def test_at_the_end_what_is_under_way_and_what_still_comes_is_answered_and_closed() -> None:
    with opened(idle_s=WAIT_S, head_s=WAIT_S) as front:
        with front.connect() as busy, front.connect() as kept, front.connect() as new:
            busy.sendall(request("/hold"))
            kept.sendall(GET)
            assert kept.recv(65536)
            until(lambda: len(front.connections) == 3)
            front.front.stop()
            time.sleep(0.3)  # the listener is closed, the connections are not
            with pytest.raises(OSError, match="refused"):
                front.connect()
            kept.sendall(request("/kept"))
            new.sendall(request("/new"))
            answers = [read_all(kept), read_all(new)]
            front.echo.held.set()
            answers.append(read_all(busy))
        assert [bodies(answer)[0]["path"] for answer in answers] == ["/kept", "/new", "/hold"]
        assert all(b"connection: close" in answer for answer in answers)


def test_at_the_end_what_waits_behind_an_answer_that_is_read_late_is_answered() -> None:
    with opened(read_s=WAIT_S) as front, front.connect() as client:
        client.sendall(request("/big") + request("/behind"))
        until(lambda: any(each._stuck and each._ahead for each in front.connections.all))  # type: ignore[attr-defined]
        front.front.stop()
        time.sleep(1.5)  # longer than idle connections are left open
        assert b'"path": "/behind"' in read_all(client)[BIG:]


def test_at_the_end_an_idle_connection_is_closed_after_a_moment() -> None:
    with opened(idle_s=WAIT_S) as front, front.connect() as kept:
        kept.sendall(GET)
        assert kept.recv(65536)
        started_s = time.monotonic()
        front.front.stop()
        assert read_all(kept) == b""
        assert 0.8 < time.monotonic() - started_s < 5


def test_what_is_not_done_in_time_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.front.FINISH_S", 0.3)
    with opened() as front, front.connect() as client:
        client.sendall(request("/hold"))
        until(lambda: len(front.connections) == 1)
        front.front.stop()
        front.front.join(WAIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""


def test_who_is_connected_when_the_port_is_let_go_is_served_and_nobody_new_is_let_in() -> None:
    with bind("127.0.0.1", 0) as listener:
        listen(listener)
        with socket.create_connection(listener.getsockname(), timeout=WAIT_S) as before:
            if not keep_out(listener):
                pytest.skip("this kernel filters no packets for a process")
            with pytest.raises(TimeoutError):
                socket.create_connection(listener.getsockname(), timeout=0.2)
            accepted, _ = listener.accept()
            with accepted:
                before.sendall(b"x")
                assert accepted.recv(1) == b"x"

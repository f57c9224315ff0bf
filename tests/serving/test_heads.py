"""What is read of a client, without a connection: a taker that writes down what it is given."""

import tracemalloc
from typing import Any

import pytest

from serving.heads import Heads, Limits, Refused

LIMITS = Limits(head_bytes=4096, headers=20)
READ_BYTES = 256_000  # what uvloop reads at once
UPGRADE = b"GET / HTTP/1.1\r\nHost:a\r\nConnection:upgrade\r\nUpgrade:a\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Taker:
    """Is deaf after `most` requests."""

    def __init__(self, *, most: int = 1_000_000) -> None:
        self.most, self.deaf = most, False
        self.begun: list[tuple[dict[str, Any], bool]] = []
        self.body, self.ended = b"", 0

    def begin(self, scope: dict[str, Any], *, keep_alive: bool, expects: bool) -> None:
        self.begun.append((scope, keep_alive))

    def more(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self) -> None:
        self.ended += 1
        self.deaf = self.ended >= self.most


def heads_of(taker: Taker, *, limits: Limits = LIMITS) -> Heads:
    return Heads(taker, limits=limits, client=None, server=None)


def feed(heads: Heads, data: bytes, *, in_pieces_of: int) -> None:
    for start in range(0, len(data), in_pieces_of):
        heads.feed(data[start : start + in_pieces_of])


def refused(data: bytes, *, in_pieces_of: int = READ_BYTES) -> tuple[int, str]:
    with pytest.raises(Refused) as raised:
        feed(heads_of(Taker()), data, in_pieces_of=in_pieces_of)
    return raised.value.status, raised.value.message


# -- what is not over ------------------------------------------------------------------------------------------------


def test_a_head_that_is_not_over_is_small_although_it_came_in_one_read() -> None:
    told = (431, "the request's head exceeds the 4096 bytes allowed")
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 13_000) == told
    assert refused(UPGRADE + b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 13_000) == told


def test_trailers_are_bounded_whether_or_not_they_come_to_an_end() -> None:
    told = (431, "the request's trailers exceed the 4096 bytes allowed")
    assert refused(CHUNKED + b"3\r\nabc\r\n0\r\nX: " + b"y" * 13_000) == told
    assert refused(CHUNKED + b"0\r\nX: " + b"y" * 13_000, in_pieces_of=100) == told
    assert refused(CHUNKED + b"0\r\n" + b"X: y\r\n" * 3_000, in_pieces_of=100) == told


def test_what_stands_beside_a_chunk_s_size_is_bounded() -> None:
    assert refused(CHUNKED + b"3;" + b"y" * 13_000)[0] == 431


def test_small_chunks_and_trailers_are_read() -> None:
    taker = Taker()
    heads = heads_of(taker)
    for byte in CHUNKED + b"1;a=b\r\nx\r\n" * 1000 + b"0\r\nX: y\r\n\r\n" + UPGRADE:
        heads.feed(bytes([byte]))
    assert (taker.body, taker.ended, heads.within) == (b"x" * 1000, 2, False)


def test_a_large_body_is_whole_however_it_is_read() -> None:
    taker, body = Taker(), bytes(range(256)) * 400
    heads_of(taker).feed(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert (taker.body, taker.ended) == (body, 1)


# -- offers of another protocol --------------------------------------------------------------------------------------


def test_many_offers_of_another_protocol_in_one_read_are_all_read_in_little_memory() -> None:
    taker = Taker()
    data = UPGRADE * (READ_BYTES // len(UPGRADE))
    heads = heads_of(taker)
    tracemalloc.start()
    heads.feed(data)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taker.ended == READ_BYTES // len(UPGRADE)
    assert peak - kept < READ_BYTES


def test_nothing_is_read_for_a_taker_that_is_deaf() -> None:
    for asked in (UPGRADE, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        taker = Taker(most=3)
        heads_of(taker).feed(asked * 1000 + b"\0 this is not read either")
        assert (len(taker.begun), taker.ended) == (3, 3)


@pytest.mark.parametrize(
    ("line", "connection", "kept"),
    [
        ("HTTP/1.1", "Upgrade", None),
        ("HTTP/1.1", "close, Upgrade", b"close"),
        ("HTTP/1.1", "keep-alive, Upgrade , HTTP2-Settings", b"keep-alive, HTTP2-Settings"),
        ("HTTP/1.0", "upgrade", None),
    ],
)
def test_an_offer_of_another_protocol_is_left_out_and_the_rest_is_as_it_was(
    line: str, connection: str, kept: bytes | None
) -> None:
    taker = Taker()
    told = f"POST /a {line}\r\nHost: a\r\nConnection: {connection}\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    heads_of(taker).feed(told.encode())
    ((scope, keep_alive),) = taker.begun
    headers = dict(scope["headers"])
    assert (taker.body, taker.ended, headers.get(b"connection"), b"upgrade" in headers) == (b"abc", 1, kept, False)
    assert scope["http_version"] == line[-3:]
    assert keep_alive == (line == "HTTP/1.1" and "close" not in connection)


# -- what is no HTTP -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_pieces_of", [1000, 7, 1])
@pytest.mark.parametrize("asked", [b"GET /a RTSP/1.0", b"SOURCE /a ICE/1.0"])
def test_other_protocols_that_look_alike_are_refused(asked: bytes, in_pieces_of: int) -> None:
    told = (400, "the request is not of HTTP")
    assert refused(asked + b"\r\nHost: a\r\nX: y\r\n\r\n", in_pieces_of=in_pieces_of) == told


@pytest.mark.parametrize("in_pieces_of", [1000, 7, 1])
def test_http_1_0_is_read_however_it_comes(in_pieces_of: int) -> None:
    taker, data = Taker(), b"GET /a HTTP/1.0\r\nHost: a\r\nX: y\r\n\r\n"
    feed(heads_of(taker), data, in_pieces_of=in_pieces_of)
    assert taker.ended == 1

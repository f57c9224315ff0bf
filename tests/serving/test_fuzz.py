"""Bytes that no good client sends, against the real process over raw sockets: never a 5xx, never a hang, and afterwards
it answers as before and its counters add up. The same seeds each time; `fuzz(server, count=...)` is the long form.
"""

import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fakes import tiny_bundle
from served import GOOD, WAIT_S, Running, running

COUNT = 1500
FAILED = b"HTTP/1.1 5"
OUTCOMES = ("ok", "client_error", "server_error", "dropped", "expired")
PATHS = [
    *("/classify", "/tag", "/embed", "/invocations"),
    *("/v2/models/tiny/infer", "/v2/models/tiny/versions/local/infer"),
]
OTHER_PATHS = [
    *("/", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//classify", "/classify/", "/classify%00", "/%ff%fe"),
    *("http://elsewhere/classify", "/v2/models/../infer", "/v2/models//infer", "/classify?" + "a=b&" * 500, "/%zz"),
    *("*", "/é", "/v2/models/tiny/versions/%0d%0aX: y/infer", "/v2/models/" + "x" * 3000, "/openapi.json", "/ping"),
]
METHODS = [
    *("POST", "POST", "POST", "POST", "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"),
    *("BREW", "post"),
]
SEEDS = [
    b'{"texts": ["good", "bad"]}',
    b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}',
    b'{"inputs": [{"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [[1, 2, 3]]}]}',
    b'{"instances": [{"text": "good"}]}',
    b'{"dataframe_split": {"columns": ["text"], "data": [["good"]]}}',
    b"text\ngood\n",
]
ODD = [
    *(b"\0", b"\\u0000", b"\\ud800", b"\\udfff\\ud800", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf"),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"1e-999", b"0x1", b"18446744073709551616"),
    *(b"null", b"true", b"[]", b"{}", b'""', b'"', b"[[[[", b"]]]]", b"{", b"}", b",", b":", b'{"a":' * 50, b"1.5"),
    *(b'"' + b"a" * 30_000 + b'"', b'["a"],' * 2000, b'{"__proto__": 1}', b'"texts"', b"//", b"/*", b"'", b"\\x"),
    *(b"[" * 3000, b"\r\n\r\n", b"%s"),
]
HEADERS = [
    *(b"Content-Type: application/json", b"Content-Type: text/csv", b"Content-Type: \xff", b"Content-Encoding: gzip"),
    *(b"Inference-Header-Content-Length: %b" % size for size in (b"20", b"-1", b"9e9", b"\xb2")),
    *(b"X-Request-Timeout-Ms: %b" % time_ms for time_ms in (b"0", b"1e9", b"\xb2", b"5000")),
    *(b"X-Request-Id: \xff", b"X-Request-Id: " + b"a" * 200, b"traceparent: 00-zz-1-1", b"Authorization: Bearer \xff"),
    *(b"Expect: 100-continue", b"Expect: 200-maybe", b"Upgrade: websocket\r\nConnection: Upgrade", b": y"),
    *(b"Host: two", b"X: \0", b"No colon", b" Folded: x", b"X" * 9000 + b": y", b"Transfer-Encoding: gzip, chunked"),
    b"\r\n".join(b"H%d: x" % number for number in range(150)),
]
LENGTHS = [b"-1", b"+1", b"1e3", b"0x10", b"99999999999", b"9" * 25, b"", b"1, 1", b"4194305", b"\xb2"]


def mutated(chance: random.Random) -> bytes:
    """A body that once was good."""
    body = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(0, 4)):
        at, end = sorted((chance.randint(0, len(body)), chance.randint(0, len(body))))
        match chance.randint(0, 4):
            case 0:
                body[at:at] = chance.choice(ODD)
            case 1:
                body[at:end] = chance.choice(ODD)
            case 2:
                del body[at:end]
            case 3:
                body[at:at] = body[at:end] * chance.randint(1, 30)
            case 4 if body:
                body[at - 1] = chance.randrange(256)
    return bytes(body)


def chunked(chance: random.Random, body: bytes) -> bytes:
    """A body in one chunk, which may say that it is longer or shorter than it is, and may have no end."""
    sizes = [len(body), len(body), len(body) + 9, max(0, len(body) - 3), 2**62]
    extension, end = chance.choice([b"", b";x=y", b";" * 500]), chance.choice([b"0\r\n\r\n", b"0\r\n", b""])
    return b"%x%b\r\n%b\r\n%b" % (chance.choice(sizes), extension, body, end)


def asked(chance: random.Random) -> bytes:
    """A request, or what might be taken for one."""
    if chance.random() < 0.03:
        return chance.randbytes(chance.randint(1, 3000))
    method, version = chance.choice(METHODS), chance.choice(["1.1"] * 40 + ["1.0", "0.9", "2.0", "9.9", "x"])
    path = chance.choice(PATHS if chance.random() < 0.7 else OTHER_PATHS)
    body = mutated(chance)
    lines = [f"{method} {path} HTTP/{version}".encode(), *([b"Host: here"] if chance.random() < 0.99 else [])]
    lines += chance.sample(HEADERS, chance.choice([0] * 7 + [1, 1, 2]))
    match chance.randint(0, 19):
        case 0:
            lines.append(b"Content-Length: " + chance.choice(LENGTHS))
        case 1:
            lines.append(b"Transfer-Encoding: chunked")
            body = chunked(chance, body)
        case 2:
            lines += [b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)]
        case 3:
            lines.append(b"Content-Length: %d" % (len(body) + chance.choice([-2, 1, 100])))
        case _:
            lines.append(b"Content-Length: %d" % len(body))
    sent = b"\r\n".join([*lines, b"", body])
    return sent[: chance.randint(1, len(sent))] if chance.random() < 0.05 else sent


def answers(server: Running, sent: bytes) -> bytes:
    """All that comes back when the client says that it sends no more, or leaves."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as client:
        told = b""
        try:
            client.sendall(sent)
            client.settimeout(0.02)
            while chunk := client.recv(65536):
                told += chunk
                if told.startswith(b"HTTP/1.1 100 "):
                    told = told.partition(b"\r\n\r\n")[2]
                if told:
                    break
        except TimeoutError:  # it waits for more, which does not come
            return told
        except ConnectionError:  # it was told while it was still sending
            return told
        return told


def fuzz(server: Running, *, count: int, seed: int = 8) -> Counter[bytes]:
    """Send so many; which statuses came. Raises where one is of the server's own failing."""
    statuses: Counter[bytes] = Counter()
    for number in range(count):
        sent = asked(random.Random(f"{seed} {number}"))
        told = answers(server, sent)
        assert not told.startswith(FAILED) or told.startswith((b"HTTP/1.1 503", b"HTTP/1.1 505")), (number, sent, told)
        assert b"Traceback" not in told, (number, sent, told)
        statuses[told[9:12]] += 1
    return statuses


def check(server: Running) -> None:
    """It answers, nothing is left, and what it counts adds up."""
    assert httpx.post(f"{server.url}/classify", json=GOOD, timeout=WAIT_S).status_code == 200
    until(lambda: server.metric("retort_requests_in_flight") == 0)
    counts = {outcome: server.metric(f'retort_requests_total{{outcome="{outcome}"}}') for outcome in OUTCOMES}
    assert sum(counts.values()) == server.metric("retort_requests_accepted_total")
    assert counts["server_error"] == 0
    assert server.metric("retort_queue_length") == 0
    until(lambda: server.metric("retort_connections") == 1)
    assert "Traceback" not in server.errors.read_text()


def until(true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = tiny_bundle(tmp_path_factory.mktemp("fuzz") / "bundle", max_items=8)
    with running(bundle.path, "--max-wait-ms", "5000") as server:
        yield server


def test_whatever_is_sent_it_never_fails_nor_hangs_and_its_counters_add_up(server: Running) -> None:
    statuses = fuzz(server, count=COUNT)
    assert {b"200", b"400", b"404", b"405", b"413", b"422", b"431", b"505"} <= set(statuses)
    check(server)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"texts": ' + b"[" * 500_000,
        b'{"a":' * 400_000,
        b'{"inputs": ' + b'{"a":' * 400_000,
        b'{"instances": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    ],
    ids=["lists", "texts", "objects", "inputs", "instances"],
)
@pytest.mark.parametrize("path", PATHS)
def test_json_however_deep_is_the_client_s_fault(server: Running, path: str, body: bytes) -> None:
    answer = httpx.post(f"{server.url}{path}", content=body, timeout=WAIT_S)
    assert 400 <= answer.status_code < 500
    assert "error" in answer.text or "message" in answer.text


def test_a_huge_length_is_refused_without_reading(server: Running) -> None:
    started_s = time.monotonic()
    told = answers(server, b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n{")
    assert told.startswith(b"HTTP/1.1 413 ")
    assert time.monotonic() - started_s < 1


def test_a_storm_of_clients_that_say_nothing_or_half_a_request_holds_up_nobody(server: Running) -> None:
    clients = [server.connect() for _ in range(200)]
    for number, client in enumerate(clients):
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n{"[: number % 70])
    assert httpx.post(f"{server.url}/classify", json=GOOD, timeout=2).status_code == 200
    for client in clients:
        client.close()
    check(server)


def test_two_requests_are_never_taken_for_one_nor_one_for_two(server: Running) -> None:
    """The text that hides in a body is never answered as a request."""
    hidden = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
    heads = [
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(hidden),
    ]
    for head in heads:
        told = answers(server, b"POST /classify HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n" + hidden)
        assert told.startswith(b"HTTP/1.1 400 "), head
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]
        assert b'"live"' not in told


def test_the_log_says_nothing_of_what_was_sent(server: Running) -> None:
    assert "good" not in Path(server.errors).read_text()

"""Requests as bytes, and which urls there can be."""

import pytest

from benchmarks.openloop.messages import body_of, parse_url
from serving.errors import BadRequest


def test_a_request_is_one_whole_http_message() -> None:
    message = parse_url("http://10.0.0.7:8080/classify?a=b").post("é".encode())
    assert message == (
        b"POST /classify?a=b HTTP/1.1\r\nHost: 10.0.0.7:8080\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n\xc3\xa9"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://here", "http://here:80/"),
        ("http://here:8080?x=1", "http://here:8080/?x=1"),
        ("http://[::1]:9/tag", "http://[::1]:9/tag"),
    ],
)
def test_what_a_url_leaves_out_is_filled_in(text: str, shown: str) -> None:
    assert str(parse_url(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "localhost:80/a", "https://here/", "http://", "http://here:x/", "http://here/a b", "http://ü/", "http://[/"],
)
def test_what_is_no_plain_http_url_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_url(text)
    assert str(caught.value) == f"url is {text!r}: load goes over plain HTTP; write http://HOST:PORT/PATH"


def test_a_body_holds_texts_or_pairs() -> None:
    assert body_of([('a "b"',), ("ü",)]) == '{"texts":["a \\"b\\"","ü"]}'
    assert body_of([("a", "b")]) == '{"texts":[["a","b"]]}'


def test_further_headers_come_beside_those_of_every_request() -> None:
    message = parse_url("http://h:1/p").post(b"{}", headers=(("Authorization", "Bearer k"), ("X-A", "b: c")))
    head, _, body = message.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[-3:] == [b"Authorization: Bearer k", b"X-A: b: c", b"Content-Length: 2"]
    assert body == b"{}"

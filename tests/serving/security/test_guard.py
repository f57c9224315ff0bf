import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.faults import Unauthorized
from serving.http import Asked
from serving.security.given import given, keeping
from serving.security.guard import Guard
from serving.security.keys import Keys
from serving.security.notes import MOST_A_SECOND, Requests, Told


class Kept(Requests):
    """Keeps what is noted."""

    def __init__(self, *, every: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(every=every, clock=clock)
        self.told: list[Told] = []

    def note(self, told: Told) -> None:
        self.told.append(told)


def asked(**headers: str) -> Asked:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"method": "POST", "path": "/classify", "headers": pairs, "client": ("10.0.0.1", 5)}

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    return Asked(scope, receive)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    (tmp_path / "keys").write_text(f"alice:{hashlib.sha256(b'one').hexdigest()}\n")
    return Keys(tmp_path / "keys")


def test_without_keys_everybody_is_let_in() -> None:
    Guard(keys=None, requests=Kept(every=False)).require_key(asked())


def test_with_keys_only_who_has_one(keys: Keys) -> None:
    guard = Guard(keys=keys, requests=Kept(every=False))
    guard.require_key(asked(authorization="Bearer one"))
    assert guard.require({b"x-api-key": "one"}.get) == "alice"
    with pytest.raises(Unauthorized):
        guard.require_key(asked(authorization="Bearer two"))


def test_a_request_has_the_name_its_client_gave_it_or_one_of_ours() -> None:
    guard = Guard(keys=None, requests=Kept(every=False))
    assert guard.name(asked(x_request_id="mine")) == "mine"
    assert guard.name(asked(x_request_id="not mine")) != guard.name(asked())


def test_a_line_names_the_key_and_never_has_it(keys: Keys) -> None:
    requests = Kept(every=True)
    request = asked(authorization="Bearer one")
    request.id = "r-1"
    Guard(keys=keys, requests=requests).note(request, status=200, outcome="ok", seconds=0.0015)
    assert requests.told == [Told("r-1", "POST", "/classify", 200, 1.5, "ok", "10.0.0.1", "alice")]


@pytest.mark.parametrize(("status", "lines"), [(200, 0), (422, 0), (500, 1), (503, 1)])
def test_without_the_access_log_only_what_ends_in_5xx_has_a_line(status: int, lines: int) -> None:
    requests = Kept(every=False)
    Guard(keys=None, requests=requests).note(asked(), status=status, outcome="", seconds=0.1)
    assert len(requests.told) == lines


def test_beyond_what_the_log_takes_of_failures_no_line_is_made_and_no_key_is_looked_up(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str | None] = []
    monkeypatch.setattr(keys, "name_of", looked.append)
    requests = Kept(every=False, clock=lambda: 7.0)
    guard = Guard(keys=keys, requests=requests)
    for _ in range(1000):
        guard.note(asked(authorization="Bearer one"), status=503, outcome="rejected", seconds=0.001)
        guard.write({}.get, id="", method="gRPC", path="/a", status=503, outcome="rejected", seconds=0.001)
    assert len(requests.told) == len(looked) == MOST_A_SECOND


def test_the_start_of_a_body_is_kept_only_where_that_is_asked_for() -> None:
    scope: dict[str, Any] = {"type": "http"}
    body = "é".encode() * 1000
    messages = iter([{"body": body[:3]}, {"body": body[3:]}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def app(_: Any, receive: Any, __: Any) -> None:
        received = [(await receive()).get("body", b"") for _ in range(3)]
        assert b"".join(received) == body

    assert given(scope) is None
    asyncio.run(keeping(app)(scope, receive, receive))  # type: ignore[arg-type]
    assert given(scope) == "é" * 200

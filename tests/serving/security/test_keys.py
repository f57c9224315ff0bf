import hashlib
import hmac
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.errors import BadRequest
from serving.faults import Unauthorized, fault_of
from serving.security import keys as module
from serving.security.keys import Keys, Known, new_key, read_keys

USAGE = "usage: python -m serving.security.keys new NAME >> KEYS_FILE"


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


def showing(**headers: str) -> "dict[bytes, str]":
    return {name.replace("_", "-").encode(): value for name, value in headers.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("# of the team\n\n" + line("alice", "one") + line("bob", "two") + line("bob", "three"))
    return path


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": "Bearer one"}, "alice"),
        ({"authorization": "bearer  two "}, "bob"),
        ({"x_api_key": "three"}, "bob"),
        ({"authorization": "Bearer one", "x_api_key": "wrong"}, "alice"),
    ],
)
def test_a_key_that_is_known_has_a_name(file: Path, headers: dict[str, str], name: str) -> None:
    assert Keys(file).require(showing(**headers).get) == name


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer four"},
        {"authorization": "Bearer "},
        {"authorization": "Basic one"},
        {"authorization": "one"},
        {"authorization": "Basic x", "x_api_key": "one"},
        {"x_api_key": ""},
        {"x_api_key": "éone\u0394"},
        {"x_api_key": hashlib.sha256(b"one").hexdigest()},
    ],
)
def test_any_other_is_refused_without_a_word_on_what_was_wrong(file: Path, headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized) as refused:
        Keys(file).require(showing(**headers).get)
    told = "send a key that is valid here, as Authorization: Bearer KEY or X-API-Key: KEY"
    assert fault_of(refused.value)[:3] == (401, "client_error", told)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer "}, {"x_api_key": ""}])
def test_no_key_and_an_empty_one_are_nobody_s_whatever_is_known(
    file: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    keys = Keys(file)
    monkeypatch.setattr(keys, "_known", (Known("alice", hashlib.sha256(b"").digest()),))
    with pytest.raises(Unauthorized):
        keys.require(showing(**headers).get)


def test_every_hash_is_compared_whether_or_not_one_has_fit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append(a) or a == b)
    keys = Keys(file)
    assert (keys.name_of("one"), len(compared)) == ("alice", 3)
    assert (keys.name_of("wrong"), len(compared)) == (None, 6)
    assert hmac.compare_digest is not None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("alice", "line 1 of {} is not NAME:SHA256 (64 hex digits, lower case)"),
        ("# x\nretort_secret", "line 2 of {} is not NAME:SHA256 (64 hex digits, lower case)"),
        ("a b:" + "0" * 64, "line 1 of {} is not NAME:SHA256 (64 hex digits, lower case)"),
        ("a:" + "0" * 63, "line 1 of {} is not NAME:SHA256 (64 hex digits, lower case)"),
        (
            "# x\n" + line("b", "one") + line("a", ""),
            "line 3 of {} is of an empty key, the SHA-256 of nothing",
        ),
        ("# nobody\n", "{} has no API key, so nobody could use the server"),
    ],
)
def test_a_file_that_is_malformed_is_refused_and_its_text_not_shown(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(BadRequest) as refused:
        read_keys(path)
    assert str(refused.value) == f"{error.format(path)}; {USAGE}"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"^the API keys in .* cannot be read: .*No such file"):
        Keys(tmp_path / "none")


def test_a_replaced_file_is_read_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(file)
    other = file.with_suffix(".new")
    other.write_text(line("carol", "four"))
    other.replace(file)
    with caplog.at_level("INFO"):
        keys.look()
    assert (keys.name_of("one"), keys.name_of("four")) == (None, "carol")
    assert caplog.messages == ["API keys read again: carol"]


def test_a_link_that_names_another_file_is_read_again(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    keys = Keys(tmp_path / "link")
    (tmp_path / "other").write_text(line("carol", "four"))
    (tmp_path / "next").symlink_to(tmp_path / "other")
    (tmp_path / "next").replace(tmp_path / "link")
    keys.look()
    assert keys.name_of("four") == "carol"


@pytest.mark.parametrize("broken", ["no key here", None])
def test_a_new_file_that_cannot_be_used_leaves_the_old_keys_and_is_told_of_once(
    file: Path, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    keys = Keys(file)
    file.unlink()
    if broken is not None:
        file.write_text(broken)
    keys.look()
    keys.look()
    assert keys.name_of("one") == "alice"
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the API keys stay as they were: ")
    file.write_text(line("carol", "four"))
    keys.look()
    assert keys.name_of("four") == "carol"


def test_the_file_is_looked_at_while_the_server_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    keys = Keys(file)
    keys.start()
    file.write_text(line("carol", "four"))
    os.utime(file, ns=(1, 1))
    give_up_s = time.monotonic() + 10
    while keys.name_of("four") is None and time.monotonic() < give_up_s:
        time.sleep(0.01)
    keys.stop()
    assert keys.name_of("four") == "carol"


def test_a_new_key_is_let_in_by_its_line(tmp_path: Path) -> None:
    key, made = new_key("dave")
    (tmp_path / "keys").write_text(made)
    assert Keys(tmp_path / "keys").name_of(key) == "dave"
    assert len(key) >= 50
    assert new_key("dave")[0] != key


def ask(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serving.security.keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_command_prints_the_line_for_the_file_and_beside_it_the_key() -> None:
    told = ask("new", "erin")
    key = told.stderr.splitlines()[-1]
    assert (told.returncode, told.stdout) == (0, line("erin", key))
    assert told.stderr == f"the key of erin, shown this once:\n{key}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), f"{USAGE}\n"),
        (("old", "erin"), f"{USAGE}\n"),
        (("new", "e:f"), "error: 'e:f' is no name for a key; use 1 to 64 of A-Z a-z 0-9 . _ @ -\n"),
    ],
)
def test_the_command_says_how_it_is_used(arguments: tuple[str, ...], error: str) -> None:
    told = ask(*arguments)
    assert (told.returncode, told.stdout, told.stderr) == (64, "", error)

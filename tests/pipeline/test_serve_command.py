import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import runner

from pipeline.commands.serving import serve
from pipeline.exits import exit_code_of
from serving.__main__ import command
from serving.options import Options


def test_both_ways_of_starting_a_server_take_every_option_and_mean_the_same_without_it() -> None:
    fields = {field.name for field in msgspec.structs.fields(Options)} - {"traces"}  # the environment says that
    ours, its = (dict(inspect.signature(way).parameters) for way in (serve, command))
    assert set(its) == fields
    assert set(ours) == fields | {"settings", "workspace"}
    defaults = Options(source="x", cache=its["cache"].default)
    for name in fields - {"source", "cache"}:
        assert ours[name].default == its[name].default == getattr(defaults, name)


def test_what_is_asked_for_on_the_command_line_reaches_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Options] = []

    def started(source: str, *, code_of: Any, **options: Any) -> None:
        assert code_of is exit_code_of
        calls.append(Options(source=source, **options))

    monkeypatch.setattr("serving.__main__.serve", started)
    monkeypatch.chdir(tmp_path)
    asked = ("--max-wait-ms", "5", "--canary", "@next=5%", "--log-format", "json", "--log-texts", "--grpc-port", "0")
    assert runner(monkeypatch, capsys)("serve", "models:/m@champion", *asked).code == 0
    (told,) = calls
    assert (told.max_wait_ms, told.canary, told.log_format, told.log_texts) == (5.0, "@next=5%", "json", True)
    assert (told.grpc_port, told.access_log) == (0, False)

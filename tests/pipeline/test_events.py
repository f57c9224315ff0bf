"""Events are lines that anyone reads again as they were written."""

from typing import Any

import pytest

from pipeline.events import PARENT, Closed, Data, Files, Metrics, Opened, Params, Read, Tags, event_of, line_of

SST2 = Data(
    name="sst2", digest="d" * 64, kind="hub", context="training", source={"id": "sst2"}, splits={"train": 7, "dev": 2}
)
KINDS: list[Any] = [
    Opened(of=PARENT, name="demo", tags={"retort.lock": "l"}),
    Opened(of="distill", name="distill", key="distill-1", tags={}),
    Params(of="distill", values={"student": {"layers": 2}, "gate": ["a", "b"], "seed": None}),
    Metrics(of="distill", step=10, values={"loss": 0.5, "norm": "nan"}),
    Tags(of=PARENT, values={"retort.verdict": "PASS"}),
    Files(of="distill", folder="files/1", to=""),
    Read(of="distill", data=[SST2]),
    Closed(of=PARENT, status="FINISHED"),
]


@pytest.mark.parametrize("event", KINDS, ids=lambda event: type(event).__name__)
def test_an_event_is_one_line_and_read_again_as_it_was(event: Any) -> None:
    line = line_of(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert event_of(line) == event


def test_every_kind_is_tried_above() -> None:
    from pipeline.events import Event

    assert {type(event) for event in KINDS} == set(Event.__args__)


def test_an_event_knows_when_it_was_and_that_is_told_again_as_it_was() -> None:
    event = Closed(of=PARENT, status="KILLED")
    assert 1_700_000_000_000 < event.at < 5_000_000_000_000
    assert Closed(of=PARENT, status="KILLED", at=7).at == 7


@pytest.mark.parametrize(
    "line", [b"\n", b'{"event":"closed","of":""\n', b'{"event":"closed","of":"","status":"K","more":1}\n', b"\xff\n"]
)
def test_what_a_kill_tore_or_another_retort_wrote_is_no_event(line: bytes) -> None:
    assert event_of(line) is None

"""A run that is told across a line that breaks, at every request: all of it arrives, and nothing twice."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from faults import Cut, Line, When, through
from registries import Registry
from tracked import Known, ending, known, opening, outbox_in, put, rows

from pipeline.errors import Transient
from pipeline.outbox import Outbox
from pipeline.tracking.client import talking_to
from pipeline.tracking.sending import send
from pipeline.tracking.sent import read_state, settled

# Raised inside MLflow's own models of its tables.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"), pytest.mark.timeout(600)]
REQUESTS = 15  # at least
TIMES = ("retort.run", "retort.step", "mlflow.parentRunId")  # other values in another run


@pytest.fixture(params=["served", "postgres_s3"])
def line(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Registry, Line]]:
    """A registry behind a line that can be broken."""
    registry: Registry = request.getfixturevalue(request.param)
    with through(registry) as (seen, broken):
        for name, value in seen.environment.items():
            monkeypatch.setenv(name, value)
        yield seen, broken


def over(uri: str, folder: Path, experiment: str) -> Outbox:
    """A run that has ended well, of which nothing was sent."""
    folder.mkdir()
    found = outbox_in(folder, uri=uri, experiment=experiment)
    put(found, *opening(), *rows(1, 3), *ending(found, folder))
    found.close(whole=True)
    return found


def told(uri: str, experiment: str) -> dict[str, Known]:
    """What the server knows of it, without what differs from run to run."""
    with talking_to(uri) as client:
        found = known(client, experiment=experiment)
    return {
        name: run._replace(tags={tag: value for tag, value in run.tags.items() if tag not in TIMES})
        for name, run in found.items()
    }


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_line_that_breaks_at_any_request_loses_nothing_and_doubles_nothing(
    line: tuple[Registry, Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry, broken = line
    whole = over(registry.uri, tmp_path / "whole", f"whole-{when}")
    send(whole.folder)
    expected = told(registry.uri, f"whole-{when}")
    for number in count(1):
        outbox = over(registry.uri, tmp_path / f"{number}", f"cut-{when}-{number}")
        broken.clear(Cut(number, when))
        with suppress(Transient):
            send(outbox.folder)
        struck = bool(broken.struck)
        broken.clear()
        send(outbox.folder)
        assert told(registry.uri, f"cut-{when}-{number}") == expected, number
        assert (settled(outbox.folder), read_state(outbox.folder).refused) == (True, 0), number
        if not struck:
            break
    assert number > REQUESTS


def test_one_lost_answer_makes_no_second_run(line: tuple[Registry, Line], tmp_path: Path) -> None:
    """MLflow sends again what got no answer, whether or not it was done."""
    registry, broken = line
    send(over(registry.uri, tmp_path / "whole", "whole").folder)
    expected, struck = told(registry.uri, "whole"), []
    for number in count(1):
        outbox = over(registry.uri, tmp_path / f"{number}", f"lost-{number}")
        broken.clear(Cut(number, "after", once=True))
        with suppress(Transient):
            send(outbox.folder)
        if not broken.struck:
            break
        struck += broken.struck
        broken.clear()
        send(outbox.folder)
        assert told(registry.uri, f"lost-{number}") == expected, struck[-1]
    assert sum("runs/create" in each for each in struck) == 2

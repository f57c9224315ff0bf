"""How far an outbox was sent is known without asking anyone."""

from pathlib import Path

import pytest
from tracked import opening, outbox_in, put

from pipeline.outbox import Outbox
from pipeline.outbox_reading import lines_after
from pipeline.tracking.sent import STATE, State, read_state, settled, waiting, write_state


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    found = outbox_in(tmp_path)
    put(found, *opening())
    return found


def test_what_was_not_sent_waits(outbox: Outbox) -> None:
    ends = [end for _, end in lines_after(outbox.folder)]
    assert waiting(outbox.folder) == 4
    write_state(outbox.folder, State(offset=ends[2]))
    assert waiting(outbox.folder) == 1
    outbox.close(whole=True)


@pytest.mark.parametrize("content", [None, b"", b'{"offset": 7', b'{"offset": "x"}'])
def test_without_a_state_that_can_be_read_nothing_was_sent(outbox: Outbox, content: bytes | None) -> None:
    if content is not None:
        (outbox.folder / STATE).write_bytes(content)
    assert read_state(outbox.folder) == State()
    outbox.close(whole=True)


def test_an_outbox_is_settled_when_all_was_sent_every_run_is_closed_and_nobody_writes(outbox: Outbox) -> None:
    end = [end for _, end in lines_after(outbox.folder)][-1]
    write_state(outbox.folder, State(offset=end))
    assert not settled(outbox.folder)  # somebody writes
    outbox.close(whole=True)
    assert settled(outbox.folder)
    write_state(outbox.folder, State(offset=end, opened=["distill"]))
    assert not settled(outbox.folder)
    write_state(outbox.folder, State(offset=0))
    assert not settled(outbox.folder)

import asyncio
from collections.abc import Iterator

import pytest
from speaking import Speaking, speaking, tiny_live

from serving.errors import BadRequest
from serving.protocols.accounts import Refused, account


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("bundle"))) as server:
        yield server


@pytest.mark.parametrize(("late", "outcome"), [(True, "expired"), (False, "dropped")])
def test_a_request_that_is_cancelled_is_dropped_unless_its_time_was_up(
    server: Speaking, late: bool, outcome: str
) -> None:
    with pytest.raises(asyncio.CancelledError), account(server.desk, late=lambda: late):
        raise asyncio.CancelledError
    assert server.counts() == {outcome: 1}


def test_a_failure_is_told_as_a_fault_and_counted(server: Speaking) -> None:
    with pytest.raises(Refused) as refused, account(server.desk):
        raise BadRequest("no")
    assert (refused.value.fault.status, refused.value.fault.message) == (422, "no")
    assert server.counts() == {"client_error": 1}


def test_what_does_no_work_is_not_counted_and_not_refused_by_load(server: Speaking) -> None:
    server.desk.batcher.queue.close()
    with account(server.desk, infers=False):
        assert server.counts() == {}
    with pytest.raises(Refused) as refused, account(server.desk):
        raise AssertionError("it was let in")
    assert refused.value.fault.status == 503
    assert server.counts() == {"rejected": 1}

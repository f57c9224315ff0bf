"""What a failure is answered with, and what the log has of it."""

import pytest

from serving.errors import BadArtifact, BadRequest
from serving.faults import fault_of
from serving.tickets import Overloaded


def test_why_the_server_failed_is_in_the_log_and_with_its_trace_where_nobody_expected_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert fault_of(BadArtifact("the model answers NaN"))[:3] == (500, "server_error", "the model answers NaN")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "a request failed: the model answers NaN")
    ]
    assert fault_of(ZeroDivisionError("x"))[2] == "the server failed on this request; its log says why"
    assert caplog.records[1].exc_info is not None


def test_what_is_a_client_s_fault_or_load_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    for failure, status in ((BadRequest("no text"), 422), (Overloaded("full", retry_after_s=3), 503)):
        assert fault_of(failure).status == status
    assert caplog.records == []

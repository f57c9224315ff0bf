"""The register stage against a server that is cut off at a request: run again, it ends as if nothing had happened.

What a registration alone leaves behind is tested request by request in test_cuts.py; here every STRIDE-th one of the
whole stage is cut, with its two moves.
"""

from pathlib import Path

import pytest
from faults import Cut, When, through
from judged import RegisterRun, only_tiny_versions
from registries import Registry

from pipeline.errors import Failure
from pipeline.kept_ledger import read_chain
from pipeline.tracking.client import talking_to
from pipeline.tracking.versions import aliases_of, versions_of

# Raised inside MLflow's own models of its tables.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"), pytest.mark.timeout(600)]
STRIDE, AT_LEAST = 11, 60


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stage_that_is_cut_off_and_run_again_ends_with_one_version_two_moves_and_both_aliases(
    served: Registry, workspace: Path, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    only_tiny_versions(monkeypatch)
    with through(served) as (seen, line):
        at = STRIDE if when == "after" else STRIDE // 2  # not the same ones
        while True:
            name = f"stage-{when}-{at}"
            run = RegisterRun(workspace, key=name, name=name, tracking_uri=seen.uri)
            line.clear(Cut(at, when))
            if not _fails(run):
                break
            line.clear()
            came = run()
            assert came.promoted, name
            with talking_to(served.uri) as client:
                moves = [(entry.alias, entry.was, entry.to) for _, entry in read_chain(client, name).valid()]
                assert [version.number for version in versions_of(client, name)] == [1], name
                assert aliases_of(client, name) == {"challenger": "1", "champion": "1"}, name
            assert moves == [("challenger", None, "1"), ("champion", None, "1")], name
            at += STRIDE
    assert at > AT_LEAST


def _fails(run: RegisterRun) -> bool:
    """Whether the stage was ended by the cut; it may be behind its last request."""
    try:
        run()
    except Failure:
        return True
    return False

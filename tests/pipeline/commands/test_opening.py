"""A registry that a command opens: what is loaded for it is looked at for cycles neither meanwhile nor later."""

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.opening import kept_for_good, opened_registry
from pipeline.errors import BadRequest
from pipeline.tracking.client import default_uri


@pytest.fixture(autouse=True)
def looked_at_again() -> Iterator[None]:
    """What these tests keep for good is given back."""
    yield
    gc.unfreeze()
    gc.enable()


def test_what_is_made_in_the_block_is_kept_and_later_garbage_is_found_again() -> None:
    before = gc.get_freeze_count()
    with kept_for_good():
        assert not gc.isenabled()
        made: list[Any] = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_who_looks_for_no_garbage_does_not_after_it() -> None:
    gc.disable()
    with kept_for_good():
        pass
    assert not gc.isenabled()


def test_garbage_is_looked_for_again_where_the_block_fails() -> None:
    with pytest.raises(BadRequest), kept_for_good():
        raise BadRequest("no such registry")
    assert gc.isenabled()


def test_a_process_that_has_mlflow_keeps_what_it_had(client: Any, root: Path) -> None:
    before = gc.get_freeze_count()
    with opened_registry(default_uri(root)) as opened:
        assert opened.tracking_uri == client.tracking_uri
    assert gc.get_freeze_count() == before


_COUNTING = """
import gc, json, sys
from pipeline.commands.opening import opened_registry

looks = []
gc.callbacks.append(lambda phase, about: looks.append((phase, about["generation"])))
with opened_registry(sys.argv[1]) as client:
    told = [looks.count(("stop", 2)), gc.get_freeze_count(), gc.isenabled(), "mlflow" in sys.modules]
print(json.dumps(told))
"""


def test_no_look_is_taken_at_what_mlflow_makes_while_it_is_loaded(client: Any, root: Path) -> None:
    asked = [sys.executable, "-c", _COUNTING, client.tracking_uri]
    told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120)
    looks, kept, looking, loaded = json.loads(told.stdout)
    assert (looks, looking, loaded) == (0, True, True)
    assert kept > 100_000

"""What a killed registration leaves: logged models that no version was made of. The next try of the same key removes
them, but not what another process or thread may still be making."""

import logging
import os
import socket
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from pipeline.tracking.versions import KEY_TAG, all_pages, versions_by_key
from serving.reaching import expect_answers
from serving.registry_failures import failure_of, raised_by_registries

BY_TAG: Final = "retort.by"  # of a LoggedModel: the machine, process and try that makes it
LEFT_AFTER_S: Final = 3600.0
_tries_now: set[str] = set()
_log = logging.getLogger(__name__)


@contextmanager
def being_made() -> Iterator[dict[str, str]]:
    """The tag that says who makes a LoggedModel. While the block runs, nobody takes the model for a leftover; a version
    that is made of it must be there before the block ends."""
    this_try = uuid4().hex
    _tries_now.add(this_try)
    try:
        yield {BY_TAG: f"{socket.gethostname()} {os.getpid()} {this_try}"}
    finally:
        _tries_now.discard(this_try)


def remove_leftovers(client: Any, experiment: str, name: str, *, key: str, kept: Container[str | None] = ()) -> None:
    """Remove what a killed try of this key had logged, and what a request made whose answer was lost: all but what
    versions of the model `name` are made of, and what is `kept`. Where that is not allowed it stays, and is told: it is
    in nobody's way.

    The order matters: who has ended makes no more versions, so one that is not there afterwards will never be.
    """
    wanted = f"tags.`{KEY_TAG}` = '{key}'"
    found = [*all_pages(lambda token: client.search_logged_models([experiment], wanted, page_token=token))]
    ended = [model for model in found if model.model_id not in kept and not _is_being_made(model)]
    used = {version.model_id for version in versions_by_key(client, name, key)} if ended else set()
    for model in ended:
        if model.model_id in used:
            continue
        try:
            remove_logged_model(client, model)
        except raised_by_registries() as error:
            reason = failure_of(error, uri=client.tracking_uri)
            _log.warning("the logged model %s, which a killed try left, stays: %s", model.model_id, reason)


def _is_being_made(model: Any) -> bool:
    """Whether somebody may still be at it: a thread of this process, another process of this machine that lives, or one
    elsewhere, for an hour."""
    import psutil

    host, process, this_try = [*model.tags.get(BY_TAG, "").split(" "), "", "", ""][:3]
    if this_try in _tries_now:
        return True
    if time.time() - model.creation_timestamp / 1000 > LEFT_AFTER_S:
        return False
    if host != socket.gethostname() or not process.isdecimal():
        return bool(host)
    return int(process) != os.getpid() and bool(psutil.pid_exists(int(process)))


def remove_logged_model(client: Any, model: Any) -> None:
    """Files first, in the folder that MLflow made for this model: a kill between the two leaves a record that leads the
    next try here again."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = model.artifact_location
    expect_answers(place)
    folder = place.removesuffix("/artifacts") if place.endswith(f"/{model.model_id}/artifacts") else place
    get_artifact_repository(folder, tracking_uri=client.tracking_uri).delete_artifacts()
    client.delete_logged_model(model.model_id)

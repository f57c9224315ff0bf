"""Aliases and tags, which several authors may write at the same moment."""

import re
from collections.abc import Callable
from typing import Any, Final

from serving.registry_failures import raised_by_registries

TRIES: Final = 5
_MADE_MEANWHILE: Final = re.compile(
    r"UniqueViolation|duplicate key value|UNIQUE constraint failed|Duplicate entry", re.IGNORECASE
)


def point_alias(client: Any, name: str, alias: str, version: str) -> None:
    """Let an alias of a model name a version."""
    _beside_others(lambda: client.set_registered_model_alias(name, alias, version))


def tag_model(client: Any, name: str, tag: str, value: str) -> None:
    """Write a tag of a registered model."""
    _beside_others(lambda: client.set_registered_model_tag(name, tag, value))


def tag_version(client: Any, name: str, version: str, tag: str, value: str) -> None:
    """Write a tag of a version."""
    _beside_others(lambda: client.set_model_version_tag(name, version, tag, value))


def _beside_others(write: Callable[[], object]) -> None:
    """MLflow looks whether there is one and else inserts it, so that of two clients at once the database refuses the
    later one. Written again, there is one to be updated."""
    for left in reversed(range(TRIES)):
        try:
            write()
        except raised_by_registries() as error:
            if not (left and _MADE_MEANWHILE.search(str(error))):
                raise
        else:
            return

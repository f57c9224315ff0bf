"""The locked requirements as the checkout holds them: what a version needs, and what it was made with."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline.build import ROOT
from pipeline.errors import BadRequest

SERVING: Final = "serving.txt"
PIPELINE: Final = "pipeline.txt"
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Locked(NamedTuple):
    """A package at a version; `sha256` are the digests of the files that may be installed, where the lock names any."""

    name: str
    version: str
    sha256: tuple[str, ...]


def read_lock(name: str) -> tuple[Locked, ...]:
    """The packages of requirements/NAME in its order.

    Raises:
        BadRequest: this checkout or image has no such file.
    """
    path = ROOT / "requirements" / name
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); register from a whole checkout") from error
    lines = text.replace("\\\n", " ").splitlines()
    pins = ((_PIN.match(line), line) for line in lines)
    return tuple(Locked(pin["name"].lower(), pin["version"], tuple(_HASH.findall(line))) for pin, line in pins if pin)


def locked_versions() -> Mapping[str, str]:
    """Every package of both locks, by name."""
    return {each.name: each.version for each in (*read_lock(PIPELINE), *read_lock(SERVING))}

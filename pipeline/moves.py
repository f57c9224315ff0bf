"""What may be asked of an alias, and who asks. Pure."""

import os
import pwd
import re
from dataclasses import dataclass, replace
from typing import Final

from pipeline.errors import BadRequest, Transient
from pipeline.ledger import Action
from pipeline.naming import CHAMPION

MAX_WHY: Final = 1000  # characters
MAX_ALIAS: Final = 255  # characters: MLflow takes no more
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RESERVED = re.compile(r"v\d+|latest", re.IGNORECASE)


@dataclass(frozen=True)
class Move:
    """What is asked for: `alias` is to name `version`, because of `why`, says `who`."""

    alias: str
    version: str
    why: str
    who: str
    action: Action = "promote"


class Overtaken(Transient):
    """Another author moved the same alias first; this one moved nothing."""


class NamedAlready(BadRequest):
    """The alias names that version, and the ledger says why; nothing was moved."""


@dataclass(frozen=True)
class Moved:
    """A move that was made; `was` is None where the alias named nothing before."""

    name: str
    alias: str
    was: str | None
    to: str
    entry_number: int
    head: str


def require_alias(alias: str) -> str:
    """An alias that MLflow takes; BadRequest otherwise."""
    if _RESERVED.fullmatch(alias):
        raise BadRequest(f"alias {alias!a}: MLflow keeps it for itself; choose another name, like {CHAMPION}")
    if not _ALIAS.fullmatch(alias):
        raise BadRequest(f"alias {alias!a}: write a letter, then letters, digits, _ or -, like {CHAMPION}")
    if len(alias) > MAX_ALIAS:
        raise BadRequest(f"alias {alias[:20]}... has {len(alias)} characters, and MLflow takes {MAX_ALIAS}; shorten it")
    return alias


def checked(move: Move) -> Move:
    """The move with its texts on one line each; BadRequest where alias, reason or author will not do."""
    require_alias(move.alias)
    who, why = (" ".join(text.split()) for text in (move.who, move.why))
    if not why:
        raise BadRequest("--why is blank: say why this is moved; the ledger keeps it")
    if not who:
        raise BadRequest("--who is blank: say who moves this; the ledger keeps it")
    if len(why) > MAX_WHY:
        raise BadRequest(f"--why has {len(why)} characters, and the ledger keeps {MAX_WHY}; be brief, and link to more")
    if not (why.isprintable() and who.isprintable()):
        raise BadRequest("--why and --who must be plain text: one of them holds what cannot be printed")
    return replace(move, who=who, why=why)


def signed(who: str, *, step: str) -> str:
    """Who moves an alias where a run does it, in what the ledger keeps: a name that cannot be printed ends no run."""
    name = "".join(each if each.isprintable() else "?" for each in " ".join(who.split()))
    return f"{name} (retort run, step {step})" if name else f"retort run, step {step}"


def this_user() -> str:
    """Who runs this, where nobody said so."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return f"uid {os.getuid()}"

"""Ledgers that tests share: entries as their authors write them, and small models whose aliases move."""

from typing import Any

import msgspec

from pipeline.ledger import Entry, Kept, entry_hash, entry_text, text_hash
from pipeline.moves import Move, Moved
from pipeline.promotion import move
from pipeline.tracking.ledgers import ensure_model
from pipeline.tracking.versions import create_version
from serving.bundle import Bundle
from serving.registry import DIGEST_TAG


def entry(prev: str = "", **changes: Any) -> Entry:
    """One move; what a test cares about is given, the rest is plain."""
    plain: dict[str, Any] = {
        "at": "2026-11-17T12:00:00+00:00",
        "who": "anna",
        "action": "promote",
        "alias": "champion",
        "was": None,
        "to": "1",
        "why": "it is better",
        "digest": "d" * 64,
        "files": "f" * 64,
        "receipts": {"bundle/receipts/latency@here.json": "a" * 64},
        "run_id": "r1",
    }
    return Entry(prev=prev, **{**plain, **changes})


def kept(number: int, written: Entry) -> Kept:
    """An entry as its author's request left it."""
    return Kept(number, entry_text(written), entry_hash(written))


def ledger(*moves: dict[str, Any]) -> list[Kept]:
    """One valid entry after the other; `was` is what the alias named, where a move does not say."""
    found: list[Kept] = []
    named: dict[str, str] = {}
    for number, changes in enumerate(moves, 1):
        alias = changes.get("alias", "champion")
        written = entry(found[-1].hash if found else "", **{"was": named.get(alias), **changes})
        found.append(kept(number, written))
        named[alias] = written.to
    return found


def promotions(*versions: str, **changes: Any) -> list[Kept]:
    return ledger(*({"to": version, **changes} for version in versions))


def altered(each: Kept, *, hash_too: bool = False, **changes: Any) -> Kept:
    """An entry that somebody wrote over; `hash_too` says that its hash was made to fit."""
    text = entry_text(msgspec.structs.replace(msgspec.json.decode(each.text, type=Entry), **changes))
    return Kept(each.number, text, text_hash(text) if hash_too else each.hash)


def make_versions(client: Any, name: str, count: int, *, first: int = 1) -> None:
    """Versions whose files lie nowhere, with the digests that Retort would have given them: those of `first` and of the
    following models."""
    ensure_model(client, name, tags={}, description="")
    for number in range(first, first + count):
        create_version(client, name, source=f"s3://nowhere/{number}", tags={DIGEST_TAG: f"{number:064d}"})


def moved(client: Any, name: str, version: str, alias: str = "champion", **said: str) -> Moved:
    """Promote as anna does."""
    return move(client, name, Move(alias, version, **{"why": "why not", "who": "anna", **said}))


def named(client: Any, name: str) -> dict[str, str]:
    """What MLflow says that the aliases name."""
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def make_old_versions(client: Any, name: str, bundle: Bundle, count: int) -> None:
    """Versions as an older Retort made them: the bundle alone, without a list of files."""
    ensure_model(client, name, tags={}, description="")
    for _ in range(count):
        create_version(client, name, source=bundle.path.as_uri(), tags={DIGEST_TAG: bundle.digest})

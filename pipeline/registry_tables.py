"""What is in a registry and what became of it, as tables and lines for people, and as JSON for machines."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.alias_history import Span
from pipeline.ledger import Chain, Link
from pipeline.ledger_faults import alias_faults, ledger_faults
from pipeline.model_state import State
from pipeline.model_verification import Findings
from pipeline.moves import Moved
from pipeline.settling import Settled
from pipeline.tracking.versions import Version
from serving.registry import DIGEST_TAG
from serving.registry_failures import shown

NOTHING: Final = "-"
PAST: Final = "past the ledger"
SHORT: Final = 12  # characters of a digest
_SAID: Final = ("retort.variant", "retort.verdict")


def history_table(chain: Chain) -> Any:
    """A row an entry, the last one at the bottom, with whether it counts."""
    return _table(
        ("entry", "when (UTC)", "who", "move", "alias", "from", "to", "why", "counts"),
        [_history_row(link) for link in chain.links],
        right=("entry", "from", "to"),
    )


def spans_table(spans: Sequence[Span]) -> Any:
    """A row a version that an alias named, with from when to when; nobody knows when something moved it past the
    ledger."""
    rows = [
        (
            f"@{span.alias}",
            span.version or "nothing",
            PAST if span.unknown == "since" else "before the ledger" if span.since is None else when(span.since),
            PAST if span.unknown == "until" else "now" if span.until is None else when(span.until),
            NOTHING if span.number is None else str(span.number),
            span.who or NOTHING,
        )
        for span in spans
    ]
    return _table(("alias", "version", "from (UTC)", "to (UTC)", "entry", "who"), rows, right=("version", "entry"))


def models_table(models: Mapping[str, Sequence[Version]]) -> Any:
    """A row a model: how many versions, what its aliases name, and the last one that was registered."""
    rows = [(name, str(len(found)), aliases_told(found), *_newest(found)) for name, found in models.items()]
    return _table(("model", "versions", "aliases", "newest", "registered (UTC)"), rows, right=("versions", "newest"))


def versions_table(versions: Sequence[Version]) -> Any:
    """A row a version, with what the gate said of it."""
    rows = [
        (
            str(each.number),
            " ".join(f"@{alias}" for alias in each.aliases) or NOTHING,
            when(each.created_at),
            *(each.tags.get(tag, NOTHING) for tag in _SAID),
            each.tags.get(DIGEST_TAG, NOTHING)[:SHORT],
        )
        for each in versions
    ]
    headings = ("version", "aliases", "registered (UTC)", *(tag.removeprefix("retort.") for tag in _SAID), "digest")
    return _table(headings, rows, right=("version",))


def history_told(state: State) -> dict[str, Any]:
    """Every entry with its number, whether its text is what its hash says, and which entry it lost to, if it did."""
    entries = [
        {"number": link.number, "hash": link.hash, "sound": link.sound, "lost_to": link.won, "entry": link.entry}
        for link in state.chain.links
    ]
    return {"model": state.name, "head": state.chain.head, "entries": entries, **doubts_told(state)}


def spans_told(state: State, at: str, spans: Sequence[Span]) -> dict[str, Any]:
    """What aliases named at a time, and why that may be wrong."""
    return {"model": state.name, "at": at, "named": spans, **doubts_told(state)}


def doubts_told(state: State) -> dict[str, Any]:
    """What is wrong with a ledger, and what aliases name (None: nothing) that something moved past it."""
    return {"faults": list(ledger_faults(state)), "foreign": state.foreign}


def doubts_lines(state: State) -> list[str]:
    """The same in words."""
    return [f"fault:      {told}" for told in (*ledger_faults(state), *alias_faults(state, state.foreign))]


def model_told(name: str, versions: Sequence[Version]) -> dict[str, Any]:
    """A model without what its versions carry."""
    aliases = {alias: str(each.number) for each in versions for alias in each.aliases}
    newest = max(versions, key=lambda each: each.number, default=None)
    return {
        "name": name,
        "versions": len(versions),
        "aliases": aliases,
        "newest": None if newest is None else str(newest.number),
        "registered_at": None if newest is None else newest.created_at,
    }


def moved_told(moved: Moved) -> dict[str, Any]:
    """A move that was made."""
    return {
        "model": moved.name,
        "alias": moved.alias,
        "was": moved.was,
        "to": moved.to,
        "entry": moved.entry_number,
        "head": moved.head,
        "model_uri": f"models:/{moved.name}/{moved.to}",
    }


def moved_lines(moved: Moved, uri: str) -> list[str]:
    """What a move came to, and how that version is served."""
    return [
        f"moved:      @{moved.alias} of {moved.name} names version {moved.to} now (before: {moved.was or 'nothing'})",
        f"ledger:     entry {moved.entry_number}; `retort history {moved.name}` shows all",
        f"serve:      retort serve models:/{moved.name}@{moved.alias} --tracking-uri {shown(uri)}",
    ]


def settled_told(after: Settled) -> dict[str, Any]:
    """What was finished of interrupted moves, what was not, and what the aliases name then."""
    state = after.state
    told = {"model": state.name, "repaired": after.repaired, "aliases": state.named, "head": state.chain.head}
    return {**told, "faults": after.faults, "foreign": after.foreign}


def settled_lines(after: Settled) -> list[str]:
    """What was finished of interrupted moves, and what was not as nobody can say what is right."""
    nothing = [] if after.refused else ["resumed:    nothing was left unfinished"]
    return [
        *([f"repaired:   {told}" for told in after.repaired] or nothing),
        *(f"fault:      {told}" for told in after.faults),
    ]


def findings_lines(found: Findings) -> list[str]:
    """What was read of a model, what was repaired, and each fault."""
    void = f" ({found.void} void)" if found.void else ""
    read = ", ".join(found.versions) or "none"
    return [
        f"model:      {found.name}; entries of its ledger: {found.entries}{void}; versions read: {read}",
        *(f"repaired:   {told}" for told in found.repaired),
        *(f"fault:      {told}" for told in found.faults),
    ]


def aliases_told(versions: Sequence[Version]) -> str:
    """As in "@challenger 5, @champion 4"."""
    named = {alias: each.number for each in versions for alias in each.aliases}
    return ", ".join(f"@{alias} {number}" for alias, number in sorted(named.items())) or NOTHING


def plain(text: str) -> str:
    """Text of others without what would steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def when(moment: datetime) -> str:
    """A time to the second, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _newest(versions: Sequence[Version]) -> tuple[str, str]:
    newest = max(versions, key=lambda each: each.number, default=None)
    return (NOTHING, NOTHING) if newest is None else (str(newest.number), when(newest.created_at))


def _history_row(link: Link) -> tuple[str, ...]:
    counts = f"void: {link.won} was first" if link.won is not None else "yes" if link.sound else "altered"
    entry = link.entry
    if entry is None:
        return (str(link.number), *[NOTHING] * 7, "unreadable")
    moved = (f"@{entry.alias}", entry.was or NOTHING, entry.to)
    at = when(datetime.fromisoformat(entry.at))
    return (str(link.number), at, entry.who, entry.action, *moved, entry.why, counts)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table

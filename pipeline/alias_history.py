"""What a ledger says of aliases: the way back, what each named when, and where the registry says otherwise. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from itertools import pairwise
from typing import Literal

from pipeline.errors import BadRequest
from pipeline.ledger import Chain, Entry


@dataclass(frozen=True)
class Span:
    """From when to when an alias named a version (None: nothing). `since` is None for what it named before its first
    entry, `until` for what it names now; `number` and `who` are those of the entry that began it. Where something moved
    the alias past the ledger, nobody knows when: `unknown` says which end that is, and the time there is the earliest
    or the latest that it can have been."""

    alias: str
    version: str | None
    since: datetime | None
    until: datetime | None
    number: int | None
    who: str | None
    unknown: Literal["since", "until"] | None = None


def way_back(chain: Chain, alias: str) -> list[tuple[str, Entry]]:
    """The versions that an alias named, one on the other, the present one last, each with the entry that knows it (the
    last that moved the alias there; where none did, the one that moved it away): a promotion comes on top, a rollback
    takes off what is above the version it went to. So two rollbacks go back by two."""
    way: list[tuple[str, Entry]] = []
    for _, entry in chain.valid(alias):
        if entry.was is not None and (not way or way[-1][0] != entry.was):
            way.append((entry.was, entry))  # before the ledger, or moved past it
        if entry.action == "rollback" and entry.to in (version for version, _ in way):
            while way[-1][0] != entry.to:
                way.pop()
        if way and way[-1][0] == entry.to:
            way.pop()
        way.append((entry.to, entry))
    return way


def named_once(chain: Chain, alias: str) -> list[tuple[str, Entry]]:
    """Every version that an alias ever named, as far as the ledger knows, with each entry that moved the alias there;
    where none did, with the last that moved it away."""
    entries = [entry for _, entry in chain.valid(alias)]
    came = [(entry.to, entry) for entry in entries]
    left = {entry.was: entry for entry in entries if entry.was is not None}
    return [*came, *((was, left[was]) for was in left.keys() - {to for to, _ in came})]


def spans(chain: Chain, named: Mapping[str, str] | None = None) -> Iterator[Span]:
    """What each alias named from when to when. What it names now is what its last entry says, or `named` where that is
    known. An entry whose `was` is not what the entry before moved it to shows what was in between."""
    for alias in sorted({entry.alias for _, entry in chain.valid()}):
        moves = chain.valid(alias)
        first = moves[0][1]
        if first.was is not None:
            yield Span(alias, first.was, None, _moment(first), None, None)
        for (number, entry), (_, following) in pairwise([*moves, (0, None)]):
            assert entry is not None
            since, until = _moment(entry), None if following is None else _moment(following)
            left = following.was if following else entry.to if named is None else named.get(alias)
            if left == entry.to:
                yield Span(alias, entry.to, since, until, number, entry.who)
            else:
                yield Span(alias, entry.to, since, until, number, entry.who, unknown="until")
                yield Span(alias, left, since, until, None, None, unknown="since")


def named_at(chain: Chain, at: str, named: Mapping[str, str] | None = None) -> list[Span]:
    """What each alias named at a moment, or one after the other on a day (UTC); `named` is what they name now.

    Raises:
        BadRequest: `at` is neither a date nor a time.
    """
    start, end = _period(at)
    return [
        span
        for span in spans(chain, named)
        if (span.since is None or span.since <= end) and (span.until is None or span.until > start)
    ]


def astray(
    chain: Chain, named: Mapping[str, str], *, head: str, ours: Collection[tuple[str, str]] = ()
) -> dict[str, str]:
    """Alias -> version for those that lag behind the ledger. A move writes the alias before it writes the ledger's end
    on the model (`head`), so an alias can lag only while that is older than its last entry, and names what it named
    before an entry since; or else what this very process wrote (`ours`), too late."""
    return {
        alias: to
        for alias, to in chain.aliases().items()
        if named.get(alias) != to
        and (named.get(alias) in _on_the_way(chain, alias, head) or (alias, named.get(alias)) in ours)
    }


def foreign(chain: Chain, named: Mapping[str, str], *, head: str) -> dict[str, str | None]:
    """Alias -> version, or None, for those that are not what the ledger's last entry of them says, and do not lag
    behind it: something else moved or removed them."""
    behind = astray(chain, named, head=head)
    return {
        alias: named.get(alias)
        for alias, to in chain.aliases().items()
        if named.get(alias) != to and alias not in behind
    }


def unfinished(chain: Chain, head: str) -> frozenset[str]:
    """The aliases whose last move was not completed, as the ledger's end on the model (`head`) is older."""
    return frozenset(alias for alias in chain.aliases() if _on_the_way(chain, alias, head))


def _on_the_way(chain: Chain, alias: str, head: str) -> set[str | None]:
    """What an alias may name while its moves since that end are being made; where there is no end yet, the last one."""
    since = [entry for number, entry in chain.valid(alias) if not chain.covers(head, number)]
    return {named for entry in since[0 if head else -1 :] for named in (entry.was, entry.to)}


def _moment(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry.at)


def _period(at: str) -> tuple[datetime, datetime]:
    try:
        if len(at) == len("2026-11-17"):
            day = date.fromisoformat(at)
            return datetime.combine(day, time.min, UTC), datetime.combine(day, time.max, UTC)
        moment = datetime.fromisoformat(at)
    except ValueError as error:
        raise BadRequest(
            f"--at {at}: expected a date or a time, as in 2026-11-17 or 2026-11-17T14:30; both are UTC unless they say "
            "another zone"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment, moment

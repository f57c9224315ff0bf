"""Two receipts side by side: B against A, in figures with intervals and in plain sentences.

Two sessions are two days of one machine. What both measured of the very same file says how far apart the days were, and
no difference is claimed that is not larger.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from benchmarks.changes import changes_of
from benchmarks.comparison import Change, Compared, Comparison, QualityChange, headline, pair_name
from benchmarks.receipt import SCHEMA, Receipt
from benchmarks.sentences import quality_told, same_file_told, times_told
from serving.errors import BadArtifact, BadRequest

Pairs = Sequence[tuple[str, str]]  # A's variant, B's variant

# What makes a machine another one; the rest of its record are circumstances, which are told.
IDENTITY: Final = ("cpu_model", "features", "cores", "quota_cores")
STATE: Final = ("governor", "turbo", "smt", "kernel", "python")


def compare(
    a: Receipt,
    b: Receipt,
    *,
    across_machines: bool = False,
    pairs: Pairs = (),
    quality: Mapping[str, QualityChange] = {},
) -> Comparison:
    """B against A: the `pairs` given, or all variants of the same name. `quality` holds by B's variant how far its
    metric is from A's (changes.quality_changes).

    Raises:
        BadRequest: they are of different machines and that was not asked for, or have nothing in common.
        BadArtifact: a receipt of another schema, or one without a variant of `pairs`.
    """
    _require_schema(a, b)
    elsewhere = _require_machine(a, b, across_machines=across_machines)
    lengths = _common_lengths(a, b)
    pairs = pairs or pairs_by_name(a, b)
    found = [_side_by_side(a, b, pair, lengths, quality.get(pair[1])) for pair in pairs]
    days = [day for each in found if each.same_file and (day := headline(each.changes))]
    disturbed = [f"{name}'s session was disturbed" for name, each in (("A", a), ("B", b)) if each.disturbed]
    told = tuple(_told(each, days=days, disturbed=disturbed) for each in found)
    days_told = (*_days_notes(found, same_session=a.digest == b.digest), *_notes(a, b, pairs))
    return Comparison(told, (*elsewhere, *days_told, *_quality_notes(quality)))


def _side_by_side(
    a: Receipt, b: Receipt, pair: tuple[str, str], lengths: Sequence[int], quality: QualityChange | None
) -> Compared:
    """The figures of one pair, before anything is said of them."""
    one, other = a.variant(pair[0]), b.variant(pair[1])
    changes = tuple(changes_of(one, other, lengths=lengths, same_session=a.digest == b.digest))
    runs = [(each.facts.digest, each.kind, side.how.threads) for each, side in ((one, a), (other, b))]
    same_file = runs[0] == runs[1]  # and run in one way: else it is another thing to measure
    return Compared(*pair, same_file, times="unknown", sentence="", changes=changes, quality=quality)


def _told(found: Compared, *, days: Sequence[Change], disturbed: Sequence[str]) -> Compared:
    change = headline(found.changes)
    if found.same_file:  # whose answers are the same
        times, told = same_file_told(change, disturbed=disturbed)
    else:
        times, told = times_told(change, days=days, disturbed=disturbed)
        told += f", {quality_told(found.quality)}" if found.quality else ""
    sentence = f"{pair_name(found.a, found.b)}: {told}"
    return msgspec.structs.replace(found, times=times, sentence=sentence)


def pairs_by_name(a: Receipt, b: Receipt) -> Pairs:
    """Variants of the same name; two that are alone in their receipts belong together whatever their names.

    Raises:
        BadRequest: there are none, or the two are one receipt, of which all is the same.
    """
    if a.digest == b.digest:
        raise BadRequest(
            "A and B are the same receipt: name two, or say which of its variants to compare with --pair A_NAME=B_NAME"
        )
    mine, theirs = [each.name for each in a.variants], [each.name for each in b.variants]
    pairs = [(name, name) for name in mine if name in theirs]
    if not pairs and len(mine) == len(theirs) == 1:
        return [(mine[0], theirs[0])]
    if not pairs:
        raise BadRequest(
            f"A has {', '.join(mine)} and B has {', '.join(theirs)}: no variant is in both; say which belong together "
            "with --pair A_NAME=B_NAME"
        )
    return pairs


# -- what may be compared ----------------------------------------------------------------------------------------------


def _require_schema(a: Receipt, b: Receipt) -> None:
    for name, each in (("A", a), ("B", b)):
        if each.schema != SCHEMA:
            raise BadArtifact(
                f"{name} is a receipt of schema {each.schema}, and this version compares {SCHEMA}: run its benchmark "
                "again"
            )


def _require_machine(a: Receipt, b: Receipt, *, across_machines: bool) -> tuple[str, ...]:
    """What a reader must know of the machines."""
    differs = "; ".join(_differences(IDENTITY, a.machine, b.machine))
    if differs and not across_machines:
        raise BadRequest(
            f"A and B were measured on different machines ({differs}), so their times say nothing about the models: "
            "measure both on one machine, or compare all the same with --across-machines"
        )
    return (f"Different machines ({differs}): the ratios are of model and machine together.",) if differs else ()


def _common_lengths(a: Receipt, b: Receipt) -> tuple[int, ...]:
    mine, theirs = a.how.load.lengths, b.how.load.lengths
    common = tuple(length for length in mine if length in theirs)
    if not common:
        raise BadRequest(
            f"A was measured at {_plain(mine)} tokens and B at {_plain(theirs)}: there is nothing to compare; measure "
            "both at the same lengths"
        )
    return common


# -- notes -------------------------------------------------------------------------------------------------------------


def _notes(a: Receipt, b: Receipt, pairs: Pairs) -> tuple[str, ...]:
    """What else differs, and what stands on one side only."""
    differs = [
        *_differences(("target",), a, b),
        *_differences(("threads",), a.how, b.how),
        *_differences(("items",), a.how, b.how, called="texts judged"),
        *_differences(STATE, a.machine, b.machine),
        *(
            _difference(name, a.machine.libraries.get(name, "none"), b.machine.libraries.get(name, "none"))
            for name in {**a.machine.libraries, **b.machine.libraries}
            if a.machine.libraries.get(name) != b.machine.libraries.get(name)
        ),
    ]
    alone = {
        "A": [each.name for each in a.variants if each.name not in {one for one, _ in pairs}],
        "B": [each.name for each in b.variants if each.name not in {other for _, other in pairs}],
    }
    return (
        *(f"Circumstances differ: {each}." for each in differs),
        *(f"Not compared, only in {side}: {', '.join(names)}." for side, names in alone.items() if names),
        *(f"{side}: {each.disturbed}." for side, each in (("A", a), ("B", b)) if each.disturbed),
    )


def _days_notes(found: Sequence[Compared], *, same_session: bool) -> tuple[str, ...]:
    if same_session or any(each.same_file for each in found):
        return ()
    return ("No file was measured in both: nothing says how much of a difference in times the days have made.",)


def _quality_notes(quality: Mapping[str, QualityChange]) -> tuple[str, ...]:
    if not quality:
        return ("Quality is not compared: no figures of it lie beside both receipts.",)
    if all(change.paired for change in quality.values()):
        return ()
    return ("Quality is compared by either side's interval, not item by item; paired, its interval would be narrower.",)


def _differences(fields: Sequence[str], a: Any, b: Any, *, called: str = "") -> list[str]:
    """Of two records, the fields that are not the same."""
    pairs = [(field, getattr(a, field), getattr(b, field)) for field in fields]
    return [_difference(called or field.replace("_", " "), one, other) for field, one, other in pairs if one != other]


def _difference(name: str, a: object, b: object) -> str:
    if isinstance(a, tuple) and isinstance(b, tuple):
        only = [tuple(each for each in side if each not in other) for side, other in ((a, b), (b, a))]
        return f"{name} {_plain(only[0])} only in A, {_plain(only[1])} only in B"
    return f"{name} {_plain(a)} in A, {_plain(b)} in B"


def _plain(value: object) -> str:
    if value is None:
        return "none"
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)

"""What training data looks like before it is learned from: balance, repeats, lengths, and labels that look like
misspellings of each other."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.data.examples import item_key
from serving.bundle import Item

if TYPE_CHECKING:
    import numpy.typing as npt
    from rich.table import Table

ALIKE = 0.85  # difflib's ratio from which two label names are taken for one misspelt
EDGES = (8, 16, 32, 64, 128, 256, 512)
SHOWN = 3


def survey(
    splits: Mapping[str, Sequence[Item]],
    *,
    lengths: "Mapping[str, npt.NDArray[Any]]",
    counts: Mapping[str, Mapping[str, int]],
    unknown: Mapping[str, Sequence[int]],
    cut: Mapping[str, int],
) -> dict[str, Any]:
    """Plain facts: `lengths` are tokens per item as the model reads them, `counts` how often each label occurs in a
    split, `unknown` the items of which the tokenizer knows nothing, `cut` how many items were longer than the limit."""
    names = list(splits)
    keys = {name: Counter(map(item_key, items)) for name, items in splits.items()}
    facts: dict[str, Any] = {
        name: {
            "texts": len(items),
            "labels": dict(counts.get(name, {})),
            "repeated": sum(count - 1 for count in keys[name].values()),
            "lengths": _histogram(lengths[name]),
            "cut_share": cut[name] / max(1, len(items)),
            "unknown_only": len(unknown[name]),
        }
        for name, items in splits.items()
    }
    shared = sum(count for key, count in keys[names[-1]].items() if key in keys[names[0]])
    totals = sum((Counter(each) for each in counts.values()), start=Counter())
    return {"splits": facts, "in_both": shared, "alike": likely_typos(totals)}


def _histogram(lengths: "npt.NDArray[Any]") -> dict[str, int]:
    """Items by length, up to each of EDGES."""
    found, below = {}, 0
    for edge in EDGES:
        count = int(((lengths > below) & (lengths <= edge)).sum())
        if count:
            found[f"{below + 1}-{edge}"] = count
        below = edge
    return found


def likely_typos(counts: Mapping[str, int]) -> list[list[str]]:
    """Pairs of label names that differ in case, blanks or a letter or two, the rarer one first."""
    from difflib import SequenceMatcher

    names = sorted(counts)
    plain = {name: "".join(name.casefold().split()).replace("-", "_") for name in names}
    pairs = []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            matcher = SequenceMatcher(None, plain[one], plain[other])
            near = min(len(one), len(other)) > 3 and matcher.real_quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE
            if plain[one] == plain[other] or (near and _rare(counts, one, other)):
                pairs.append(sorted((one, other), key=lambda name: counts[name]))
    return pairs


def _rare(counts: Mapping[str, int], one: str, other: str) -> bool:
    """A misspelling is rare beside what was meant: `card_lost` and `card_list` may both be classes."""
    fewer, more = sorted((counts[one], counts[other]))
    return fewer * 10 <= more


def table_of(facts: Mapping[str, Any]) -> "Table":
    """The survey for people."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="the data", title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")  # cells are Text: a label may hold what rich takes for markup
    splits = facts["splits"]
    for name in splits:
        table.add_column(Text(name))
    for title, show in _ROWS.items():
        table.add_row(title, *(Text(show(each)) for each in splits.values()))
    table.add_row("also in train", *["-"] * (len(splits) - 1), f"{facts['in_both']:,}")
    if facts["alike"]:
        told = "; ".join(f"{rare!r} and {usual!r}" for rare, usual in facts["alike"][:SHOWN])
        table.caption = Text(f"labels that may be misspelt: {told}")
    return table


def _balance(each: Mapping[str, Any]) -> str:
    """`3: 12 (rare) to 340 (usual)`."""
    counts = each["labels"]
    if not counts:
        return "-"
    rare, usual = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    return f"{len(counts)}: {counts[rare]:,} ({rare}) to {counts[usual]:,} ({usual})"


_ROWS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "texts": lambda each: f"{each['texts']:,}",
    "labels": _balance,
    "repeated": lambda each: f"{each['repeated']:,}",
    "tokens": lambda each: ", ".join(f"{span}: {count:,}" for span, count in each["lengths"].items()),
    "cut at the limit": lambda each: f"{each['cut_share']:.1%}",
    "unknown tokens only": lambda each: f"{each['unknown_only']:,}",
}

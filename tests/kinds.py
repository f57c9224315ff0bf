"""Tiny data of every kind of task, in which single words decide; sentences are over models.WORDS.

classification        the word from GOOD or BAD at the end says which
multi-label           a word from GOOD, from BAD, both or neither
regression            +1 for the word from GOOD, -1 for that from BAD
token-classification  a word from GOOD or BAD is a mood; a name (spelled in three sub-tokens) and the word behind it
embedding             pairs: alike (1) where both ends are good or both bad
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models import BAD, GOOD, LABELS, sentences
from pydantic import TypeAdapter

from pipeline.tasks import AnyTask, Task

KINDS = ("classification", "multi-label", "regression", "token-classification", "embedding")
NAMES = ("kim", "tom", "zoe")
Row = dict[str, Any]


def neutral(count: int, *, seed: int, longest: int = 4) -> list[str]:
    """Sentences without a word that decides."""
    found = sentences(4 * count, seed=seed, longest=longest)
    return [text for text in found if not {*text.split()} & {*GOOD, *BAD}][:count]


def _classification(text: str, i: int) -> Row:
    return {"text": f"{text} {(BAD, GOOD)[i % 2][i % 4]}", "label": LABELS[i % 2]}


def _moods(text: str, i: int) -> tuple[str, bool, bool]:
    """A text with neither, a bad word, a good one, or both."""
    bad, good = bool(i & 1), bool(i & 2)
    return " ".join([text, *([BAD[i // 4 % 4]] if bad else []), *([GOOD[i // 4 % 4]] if good else [])]), bad, good


def _multi_label(text: str, i: int) -> Row:
    text, bad, good = _moods(text, i)
    return {"text": text, "label": [name for name, given in zip(LABELS, (bad, good), strict=True) if given]}


def _regression(text: str, i: int) -> Row:
    text, bad, good = _moods(text, i)
    return {"text": text, "label": float(good) - float(bad)}


def _tagged(text: str, i: int) -> Row:
    words = text.split()
    mood, name = (BAD, GOOD)[i % 2][i % 4], [NAMES[i % 3], ("story", "plot")[i % 2]]
    words, tags = [*words, *name], [*["O"] * len(words), "B-name", "I-name"]
    if i % 4:
        words, tags = [mood, *words, "!"], ["B-mood", *tags, "O"]
    return {"tokens": words, "tags": tags}


def _pair(text: str, i: int) -> Row:
    left, right = bool(i & 1), bool(i & 2)
    ends = [(BAD, GOOD)[side][i % 4] for side in (left, right)]
    return {"sentence1": f"{text} {ends[0]}", "sentence2": f"the {text} {ends[1]}", "score": float(left == right)}


ROWS: dict[str, Callable[[str, int], Row]] = {
    "classification": _classification,
    "multi-label": _multi_label,
    "regression": _regression,
    "token-classification": _tagged,
    "embedding": _pair,
}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def task_over(root: Path, kind: str, *, train: int = 120, dev: int = 40, **settings: Any) -> AnyTask:
    """A task of the kind with its data in `root`; no test split."""
    for split, count, seed in (("train", train, 1), ("dev", dev, 2)):
        write_rows(root / f"{split}.jsonl", [ROWS[kind](text, i) for i, text in enumerate(neutral(count, seed=seed))])
    data = {"kind": "files", "train": str(root / "train.jsonl"), "dev": str(root / "dev.jsonl")}
    task: AnyTask = TypeAdapter(Task).validate_python({"kind": kind, "data": data, **settings})
    return task

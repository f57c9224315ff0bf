"""Tasks over small files: what the tests of tasks share."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.data.docstring_sets import Split
from pipeline.data.progress import silent
from pipeline.tasking.base import TUNING, TaskData
from pipeline.tasking.fitted import Fitted
from pipeline.tasks import Task
from serving.bundle import ServingSpec

NOWHERE = {"train": "nowhere.jsonl"}  # for what reads no data


def write(folder: Path, name: str, **columns: Sequence[Any]) -> str:
    """FOLDER/NAME.jsonl with these columns; its path."""
    path = folder / f"{name}.jsonl"
    rows = zip(*columns.values(), strict=True)
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return str(path)


def task_over(kind: str, data: Mapping[str, str] = NOWHERE, **settings: Any) -> Any:
    """A task of this kind whose splits are files."""
    return TypeAdapter(Task).validate_python({"kind": kind, "data": {"kind": "files", **data}, **settings})


def load(task: Any, folder: Path, splits: Sequence[Split] = TUNING) -> TaskData:
    """The splits; what is kept of them lies in the folder."""
    data: TaskData = task.load(folder / "cache", silent, splits)
    return data


def refused(error: type[Exception], run: Callable[[], object]) -> str:
    """The whole message of the error that `run` must raise."""
    try:
        run()
    except error as caught:
        return str(caught)
    raise AssertionError(f"nothing raised {error.__name__}")


def spec_of(fitted: Fitted, *, max_length: int = 8) -> ServingSpec:
    """What a server knows of a tiny graph that answers so."""
    return ServingSpec(
        name="tiny",
        task=fitted.kind,
        labels=fitted.labels,
        thresholds=fitted.thresholds,
        refuse_below=fitted.refuse_below,
        texts_per_item=1,
        max_length=max_length,
        pad_id=0,
        graph_inputs=("input_ids",),
        buckets=(max_length,),
        parameters=1,
    )

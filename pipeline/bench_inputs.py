"""What `retort bench` reads before it measures: bundles, targets, and the texts that they are asked with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from benchmarks.targets import TARGET, Torch
from pipeline.data.examples import read_texts
from pipeline.data.files import expand, format_of, load_files
from pipeline.data.labels import shown
from pipeline.data.progress import silent
from pipeline.data.table import Table
from pipeline.errors import BadRequest
from pipeline.gates import NAME
from pipeline.tasks import Task
from serving.bundle import Bundle, Item, ServingSpec, read_bundle

if TYPE_CHECKING:
    from benchmarks.targets import Target
    from pipeline.tasking.base import TaskData
    from pipeline.tasks import AnyTask

KINDS: Final = ("ort-cpu", "ort-cuda", "openvino")  # of bundles; torch runs model folders


@dataclass(frozen=True)
class Given:
    """Items to be answered; and the task with their labels, where they have any."""

    items: tuple[Item, ...]
    labelled: "tuple[AnyTask, TaskData] | None" = None


def read_bundles(arguments: Sequence[str]) -> dict[str, Bundle]:
    """FOLDER, called as the bundle calls itself, or NAME=FOLDER; what is a folder as it stands is one.

    Raises:
        BadRequest: a name that rules and files cannot have, two have one name, or they do different tasks.
        BadArtifact: a folder is no bundle, or was altered.
    """
    found: dict[str, Bundle] = {}
    for argument in arguments:
        name, equals, folder = ("", "", argument) if Path(argument).is_dir() else argument.partition("=")
        if equals:
            _require_name(name, argument)
        bundle = read_bundle(Path(folder if equals else argument))
        name = name if equals else _require_name(bundle.spec.name, argument)
        if name in found:
            raise BadRequest(
                f"two bundles are called {name!r}: tell them apart by NAME=FOLDER, as in new={bundle.path}"
            )
        found[name] = bundle
    asked = {name: (each.spec.task, each.spec.texts_per_item) for name, each in found.items()}
    if len(set(asked.values())) > 1:
        told = ", ".join(f"{name} {task} of {texts} text(s)" for name, (task, texts) in asked.items())
        raise BadRequest(f"bundles are compared on the same items, and these do: {told}; measure them apart")
    return found


def _require_name(name: str, argument: str) -> str:
    if not re.fullmatch(NAME, name):
        raise BadRequest(
            f"{argument}: a bundle cannot be called {name!r}, as rules and files name it: NAME=FOLDER takes a letter, "
            "then letters, digits, '_', '-' and '.', as in new=path/to/bundle"
        )
    return name


def read_targets(texts: Sequence[str], *, threads: int | None) -> "dict[str, Target]":
    """By kind: `KIND`, or settings as YAML, `{kind: openvino, precision: bf16}`.

    Raises:
        BadRequest: an unknown kind or setting, or one kind twice.
    """
    import yaml

    found: dict[str, Target] = {}
    for text in texts:
        try:
            written = yaml.safe_load(text)
            settings: dict[str, Any] = written if isinstance(written, dict) else {"kind": written}
            target = TARGET.validate_python({"threads": threads} | settings)
        except (ValidationError, yaml.YAMLError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is not YAML"
            raise BadRequest(f"--target {text}: {why}; known kinds: {', '.join(KINDS)}") from error
        if isinstance(target, Torch):
            raise BadRequest(f"--target {text}: torch runs model folders, not bundles; kinds here: {', '.join(KINDS)}")
        if target.kind in found:
            raise BadRequest(f"--target {target.kind} is given twice: one session has each kind once")
        found[target.kind] = target
    return found


def read_labelled(path: Path, spec: ServingSpec, *, text: str | None, label: str | None, cache: Path) -> Given:
    """Examples with the bundle's own labels, of the form that its task's data has; `text` and `label` name columns (a
    pair's two, apart by a comma)."""
    files = {"kind": "files", **dict.fromkeys(("train", "dev", "test"), str(path))}
    columns = {"text": _columns(text) if text else None, "label": label, "labels": _label_names(spec)}
    given = {name: value for name, value in columns.items() if value}
    try:
        task: AnyTask = TypeAdapter(Task).validate_python({"kind": spec.task, "data": files, **given})
    except ValidationError as error:
        raise BadRequest(f"--data {path}: {error.errors()[0]['msg']}") from error
    _require_names(task.data.tables(("test",), cache=cache, progress=silent)["test"], task.label, spec)
    data = task.load(cache, silent, ("test",))
    return Given(data.reported, (task, data))


def read_unlabelled(path: Path, *, text: str | None, cache: Path, what: str = "--texts") -> Given:
    """Lines of a text file, or a column of a table; `what` is the option that named it."""
    files = expand((str(path),), what=what)
    format_name = format_of(files, declared="by-suffix", what=what)
    table = load_files(files, format_name=format_name, where=f"{what} {path}", cache=cache)
    columns = _columns(text or "text")
    return Given(read_texts(table, text=(columns,) if isinstance(columns, str) else columns))


def golden_items(bundles: Mapping[str, Bundle]) -> Given:
    """The inputs that the first bundle carries along."""
    first = next(iter(bundles.values()))
    return Given(tuple(tuple(item) for item in first.golden.items))


def _require_names(table: Table, label: str, spec: ServingSpec) -> None:
    """A number says which label is meant only where labels are numbers: their order in a file may be another one."""
    values = [each for value in table.column(label) for each in (value if isinstance(value, list) else [value])]
    numbers = [value for value in values if isinstance(value, int | float)]
    if numbers and spec.task in ("classification", "multi-label") and not any(map(str.isdecimal, spec.labels)):
        told = shown([str(number) for number in dict.fromkeys(numbers)])
        raise BadRequest(
            f"{table.where}: column '{label}' holds numbers ({told}), and the bundle answers in names "
            f"({shown(spec.labels)}): give the column of names with --label; there are {', '.join(table.columns)}"
        )


def _columns(text: str) -> str | tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    return parts[0] if len(parts) == 1 else parts


def _label_names(spec: ServingSpec) -> tuple[str, ...]:
    """As the task is told them: of a tagging the types of entities."""
    if spec.per_token:
        return tuple(label.removeprefix("B-") for label in spec.labels if label.startswith("B-"))
    return spec.labels

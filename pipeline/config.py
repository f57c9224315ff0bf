"""A run is one YAML file: the teacher, the text, the task, and the sum of the stages' own configs."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from pipeline.data.corpus import CorpusSource
from pipeline.encoders.teachers import TeacherConfig
from pipeline.errors import BadRequest
from pipeline.records import Record
from pipeline.stages.benchmark import BenchmarkConfig
from pipeline.stages.distill import DistillConfig
from pipeline.stages.export import ExportConfig
from pipeline.stages.finetune import FinetuneConfig
from pipeline.stages.quantize import QuantizeConfig
from pipeline.stages.register import RegisterConfig
from pipeline.tasks import Task

with warnings.catch_warnings():
    # `register` is a method of the metaclass that pydantic takes for one of the class; no instance can see it.
    warnings.filterwarnings("ignore", message='Field name "register"')

    class RunConfig(Record):
        """Everything a run is asked for. Each stage's field is that stage's own config, and its key depends on
        nothing else here."""

        name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)
        teacher: TeacherConfig
        text: CorpusSource
        task: Task
        distill: DistillConfig = DistillConfig()
        finetune: FinetuneConfig = FinetuneConfig()
        export: ExportConfig = ExportConfig()
        quantize: QuantizeConfig = QuantizeConfig()
        benchmark: BenchmarkConfig = BenchmarkConfig()
        register: RegisterConfig = Field()  # or the metaclass's method would be the default


def load_config(path: Path, settings: Sequence[str] = ()) -> RunConfig:
    """Read a run's YAML and apply `a.b=c` settings, each value read as YAML. BadRequest names every mistake at once."""
    try:
        values = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise BadRequest(f"config {path}: {error.strerror or error}; `ls configs` shows the ones that ship") from error
    except yaml.YAMLError as error:
        raise BadRequest(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BadRequest(f"config {path}: expected a mapping at the top, found {type(values).__name__}")
    for setting in settings:
        _apply(values, setting)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise BadRequest(f"config {path}:\n" + "\n".join(f"  {line}" for line in _mistakes(error))) from error


def _apply(values: dict[str, Any], setting: str) -> None:
    """Set one dotted path; a mapping on the way that is missing is made."""
    path, separator, text = setting.partition("=")
    if not separator or not path:
        raise BadRequest(f"--set {setting}: expected a.b=value, as in --set finetune.seed=1")
    *parents, last = path.split(".")
    for name in parents:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise BadRequest(
                f"--set {setting}: {name!r} holds the value {values!r}, which has no keys; set {name} as a whole"
            )
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadRequest(f"--set {setting}: the value is not YAML: {' '.join(str(error).split())}") from error


def _mistakes(error: ValidationError) -> list[str]:
    """One line a mistake: where, what, the value, and what would be right."""
    from difflib import get_close_matches

    lines = []
    for mistake in error.errors():
        where = ".".join(_walk(mistake["loc"])[0])
        if mistake["type"] == "extra_forbidden":
            known = _known_keys(mistake["loc"][:-1])
            near = get_close_matches(str(mistake["loc"][-1]), known, n=1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}" if known else ""
            )
            lines.append(f"{where}: unknown key{hint}")
        elif mistake["type"] == "union_tag_invalid":
            context = mistake["ctx"]
            lines.append(f"{where}.kind: unknown kind {context['tag']!r}; known kinds: {context['expected_tags']}")
        elif mistake["type"] == "union_tag_not_found":
            lines.append(f"{where}: no `kind` given; known kinds: {_kinds(mistake['loc'])}")
        elif mistake["type"] == "missing":
            lines.append(f"{where}: required and not given")
        else:
            lines.append(f"{where}: {mistake['msg'].removeprefix('Value error, ')} (given: {mistake['input']!r})")
    return lines


def _kinds(location: tuple[int | str, ...]) -> str:
    return ", ".join(repr(kind) for kind in _walk(location)[1].get("discriminator", {}).get("mapping", {}))


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    return list(_walk(location)[1].get("properties", {}))


def _walk(location: tuple[int | str, ...]) -> tuple[list[str], dict[str, Any]]:
    """The keys as they are written in the YAML (pydantic also names the kind of each union), and the schema there."""
    schema = RunConfig.model_json_schema()
    definitions = schema["$defs"]

    def follow(node: dict[str, Any]) -> dict[str, Any]:
        reference = re.fullmatch(r"#/\$defs/(.+)", node.get("$ref", ""))
        return definitions[reference[1]] if reference else node

    node: dict[str, Any] = schema
    written = []
    for part in location:
        mapping = node.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            node = follow({"$ref": mapping[part]})
        else:
            written.append(str(part))
            node = follow(node.get("properties", {}).get(part, {}))
    return written, node

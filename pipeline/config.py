"""A run is one YAML file: the teacher, the text, the task, and the sum of the stages' own configs."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError

from pipeline.data.corpus import CorpusSource
from pipeline.encoders.teachers import TeacherConfig
from pipeline.errors import BadRequest
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.records import Record
from pipeline.stages.benchmark import BenchmarkConfig
from pipeline.stages.distill import DistillConfig
from pipeline.stages.export import ExportConfig
from pipeline.stages.finetune import FinetuneConfig
from pipeline.stages.pretrain import PretrainConfig
from pipeline.stages.quantize import QuantizeConfig
from pipeline.stages.register import RegisterConfig
from pipeline.tasks import Task
from serving.redaction import without_secrets

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

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
        pretrain: PretrainConfig | None = None
        distill: DistillConfig = DistillConfig()
        finetune: FinetuneConfig = FinetuneConfig()
        export: ExportConfig = ExportConfig()
        quantize: QuantizeConfig = DynamicRecipe()
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


def followed(source: str, settings: Sequence[str]) -> tuple[str, str | None]:
    """(what to serve, its registry where one is named): a run's config stands for the alias it registers under."""
    if not source.endswith((".yaml", ".yml")):
        return source, None
    register = load_config(Path(source), settings).register
    return f"models:/{register.name}@{register.alias}", register.tracking_uri


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
    found: dict[str, list[str]] = {}
    for mistake in error.errors():
        written, node = _walk(mistake["loc"])
        where, what = _told(mistake, ".".join(written), node)
        found.setdefault(where, []).append(what)
    # Of a value that may be this or that, and of a list, a mistake further inside is the one that was made.
    explained = {where for where in found if any(other.startswith(f"{where}.") for other in found)}
    return [f"{where}: {_either(told)}" for where, told in found.items() if where not in explained]


def _told(mistake: "ErrorDetails", where: str, node: dict[str, Any]) -> tuple[str, str]:
    """Where and what a mistake is."""
    match mistake["type"]:
        case "extra_forbidden":
            return where, f"unknown key{_hint(mistake['loc'])}"
        case "union_tag_invalid":
            context = mistake["ctx"]
            return f"{where}.kind", f"unknown kind {context['tag']!r}; known kinds: {context['expected_tags']}"
        case "union_tag_not_found":
            return where, f"no `kind` given; known kinds: {', '.join(repr(kind) for kind in _kinds(node))}"
        case "missing":
            return where, "required and not given"
    return where, f"{mistake['msg'].removeprefix('Value error, ')} (given: {without_secrets(repr(mistake['input']))})"


def _hint(location: tuple[int | str, ...]) -> str:
    """The key that was meant, or those there are."""
    from difflib import get_close_matches

    known = list(_walk(location[:-1])[1].get("properties", {}))
    near = get_close_matches(str(location[-1]), known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known keys: {', '.join(sorted(known))}" if known else ""


def _either(told: list[str]) -> str:
    """Of a value that may be this or that: `Input should be this, or that (given: ...)`."""
    first, *others = told
    branches = [first, *(one.removeprefix("Input should be ") for one in others)]
    return ", or ".join([*(one.rpartition(" (given: ")[0] for one in branches[:-1]), branches[-1]])


def _walk(location: tuple[int | str, ...]) -> tuple[list[str], dict[str, Any]]:
    """The keys as they are written in the YAML, and the schema there. Pydantic also names the kind of each union, the
    branch of one without kinds, and that a mapping's key is meant."""
    schema = RunConfig.model_json_schema()

    def plain(node: dict[str, Any]) -> dict[str, Any]:
        """Behind references, and without the null of what may be left out."""
        reference = re.fullmatch(r"#/\$defs/(.+)", node.get("$ref", ""))
        if reference:
            return plain(schema["$defs"][reference[1]])
        branches = [branch for branch in node.get("anyOf", ()) if branch != {"type": "null"}]
        return plain(branches[0]) if len(branches) == 1 else node

    node: dict[str, Any] = schema
    written = []
    for part in location:
        if part in _kinds(node):
            node = plain({"$ref": _kinds(node)[str(part)]})
        elif "anyOf" in node:
            is_list = str(part).startswith(("tuple[", "list["))
            node = next((plain(one) for one in node["anyOf"] if (one.get("type") == "array") == is_list), {})
        elif part != "[key]":
            written.append(str(part))
            node = plain(_inside(node, part))
    return written, node


def _inside(node: dict[str, Any], part: int | str) -> dict[str, Any]:
    """The schema of a field, of a mapping's value, or of a list's item."""
    if isinstance(part, int):
        return dict(node.get("items", {}))
    of_mapping = [node["additionalProperties"]] if node.get("additionalProperties") else []
    of_mapping += node.get("patternProperties", {}).values()
    return dict(node.get("properties", {}).get(part) or next(iter(of_mapping), {}))


def _kinds(node: dict[str, Any]) -> dict[str, str]:
    """A union's kinds, and where each is described."""
    return dict(node.get("discriminator", {}).get("mapping", {}))

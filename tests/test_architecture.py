"""The house keeps its shape: arrows, light commands, budgets, locked requirements. Reads sources, runs little."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import benchmarks
import pipeline
import serving
from pipeline.config import RunConfig, load_config
from pipeline.graph import STAGES, expand

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("pipeline", "serving", "benchmarks")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
HEAVY = {
    *("torch", "transformers", "datasets", "onnx", "onnxruntime", "mlflow"),
    *("kubernetes", "sklearn", "scipy", "matplotlib", "pandas", "openvino", "nncf"),
}
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
READS_ENVIRONMENT = {"pipeline/cli.py", "serving/__main__.py", "serving/app.py"}
OPTIONAL = {"pretrain"}  # stages that run where the config has their section
MAX_FILE_LINES, MAX_STAGE_LINES, MAX_FUNCTION_LINES = 250, 150, 40


class Import(NamedTuple):
    """Module `by` names module `what`; `typing` where only a type checker follows it."""

    by: str
    what: str
    typing: bool


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(source: str, *, by: str) -> Iterator[Import]:
    """Every import of a source text, at its top, inside functions, and under TYPE_CHECKING."""
    tree = ast.parse(source)
    guarded = (n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
    for_types = {id(inner) for block in guarded for inner in ast.walk(block)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        yield from (Import(by, name, id(node) in for_types) for name in names)


MODULES = {module_of(path): path for path in SOURCES}
OURS = [
    found
    for name, path in MODULES.items()
    for found in imports_in(path.read_text(encoding="utf-8"), by=name)
    if found.what.split(".")[0] in ROOMS or found.what.startswith(".")
]


def floor(module: str) -> int:
    """How high in the pipeline a module lives; arrows run downwards only."""
    floors = {
        **dict.fromkeys(("config", "graph", "keys"), 2),
        **dict.fromkeys(("benchmark_checks", "checks", "walk", "runner"), 3),
        **dict.fromkeys(("cost", "summary", "verification", "launch"), 4),
        **dict.fromkeys(("cli", "commands", "demo"), 5),
        "stages": 1,
    }
    parts = module.split(".")
    return floors.get(parts[1], 0) if len(parts) > 1 else 0


def wrong(arrow: Import) -> bool:
    """Whether HOUSE.md forbids this import."""
    by, what = arrow.by.split("."), arrow.what.split(".")
    if what[-1].endswith("_bench") or (len(what) > 1 and what[1].endswith("_bench")) or what[0] == "":
        return True
    if by[0] == "serving":
        return what[0] != "serving"
    if by[0] == "benchmarks":
        return not by[-1].endswith("_bench") and what[0] not in ("serving", "benchmarks")
    if what[0] != "pipeline":
        return False
    if by[1:2] == what[1:2] == ["stages"]:
        return len(by) > 2 and len(what) > 2 and by[2] != what[2]
    if what[1:2] in (["cli"], ["commands"], ["launch"]) and by[1:2] not in (["cli"], what[1:2]):
        return True
    return not arrow.typing and floor(arrow.what) > floor(arrow.by)


def test_every_import_runs_along_the_arrows() -> None:
    assert len(OURS) > 100
    assert [arrow for arrow in OURS if wrong(arrow)] == []


@pytest.mark.parametrize(
    ("by", "source"),
    [
        ("serving.app", "import pipeline"),
        ("serving.app", "def f():\n    from benchmarks.machine import read"),
        ("benchmarks.measure", "from pipeline import quality"),
        ("benchmarks.measure", "from benchmarks import distill_bench"),
        ("benchmarks.measure", "from . import machine"),
        ("pipeline.runner", "from benchmarks.distill_bench import main"),
        ("pipeline.stages.export", "from pipeline.stages.distill import check"),
        ("pipeline.stages.export", "from pipeline.stages import distill"),
        ("pipeline.stages.export", "if TYPE_CHECKING:\n    from pipeline.stages.distill import DistillConfig"),
        ("pipeline.stages.export", "from pipeline.graph import Tools"),
        ("pipeline.tasks", "from pipeline.stages.finetune import FinetuneConfig"),
        ("pipeline.graph", "from pipeline.runner import run"),
        ("pipeline.team", "from pipeline.graph import STAGES"),
        ("pipeline.training", "from pipeline.stages.distill import DistillConfig"),
        ("pipeline.distillation.cost", "from pipeline.graph import Tools"),
        ("pipeline.keys", "from pipeline.walk import Walk"),
        ("pipeline.walk", "from pipeline.cost import costs"),
        ("pipeline.runner", "from pipeline import cli"),
        ("pipeline.demo", "from pipeline.launch.local import argv"),
        ("pipeline.summary", "if TYPE_CHECKING:\n    from pipeline.cli import app"),
    ],
)
def test_a_wrong_arrow_is_seen(by: str, source: str) -> None:
    assert any(wrong(arrow) for arrow in imports_in(source, by=by))


@pytest.mark.parametrize(
    ("by", "source"),
    [
        ("benchmarks.distill_bench", "import torch\nfrom pipeline.stages.distill import run"),
        ("pipeline.stages.export", "if TYPE_CHECKING:\n    from pipeline.graph import Inputs, Tools"),
        ("pipeline.stages.benchmark", "from benchmarks.targets import OrtCpu\nfrom serving.bundle import read_bundle"),
        ("pipeline.cli", "from pipeline.launch.local import argv"),
        ("pipeline.launch.kubernetes", "from pipeline.launch.local import argv"),
    ],
)
def test_a_right_arrow_is_let_through(by: str, source: str) -> None:
    assert not any(wrong(arrow) for arrow in imports_in(source, by=by))


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules in memory after `retort ARGUMENTS` has answered, in a process of its own."""
    asking = (
        "import sys\n"
        "from pipeline.cli import main\n"
        f"sys.argv = ['retort', *{list(arguments)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))\n"
    )
    told = subprocess.run([sys.executable, "-c", asking], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return set(told.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("--help")
    assert "typer" in loaded
    assert loaded & (HEAVY | {"numpy", "pydantic"}) == set()


@pytest.mark.parametrize("settings", [[], ["pretrain={}", "distill.students={a: {}, b: {objective: {kind: output}}}"]])
def test_plan_loads_nothing_heavy(tmp_path: Path, settings: list[str]) -> None:
    set_ = [word for setting in settings for word in ("--set", setting)]
    loaded = loaded_by("plan", "configs/smoke.yaml", "--workspace", str(tmp_path), *set_)
    assert "pydantic" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("package", [pipeline, serving, benchmarks], ids=ROOMS)
def test_the_packages_lie_in_this_checkout(package: object) -> None:
    assert Path(str(inspect.getfile(package))).is_relative_to(ROOT)  # type: ignore[arg-type]


def test_stages_their_modules_and_their_fields_of_a_run_agree() -> None:
    modules = {path.stem for path in (ROOT / "pipeline" / "stages").glob("*.py")} - {"__init__"}
    fields = set(RunConfig.model_fields) - {"name", "teacher", "text", "task"}
    assert set(STAGES) == modules == fields
    assert {name for name in fields if RunConfig.model_fields[name].default is None} == OPTIONAL
    assert [stage.name for stage in STAGES.values()] == list(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_a_config_and_one_plain_function(name: str) -> None:
    module = import_module(f"pipeline.stages.{name}")
    config = getattr(module, f"{name.capitalize()}Config")
    config = getattr(config, "__origin__", config)  # of a tagged union without its tag
    assert RunConfig.model_fields[name].annotation == (config | None if name in OPTIONAL else config)
    assert list(inspect.signature(module.run).parameters) == ["config", "inputs", "out", "tools"]
    assert len(inspect.getsource(module).splitlines()) <= MAX_STAGE_LINES


def test_students_of_one_pass_are_run_by_a_function_beside_the_stage_s_own() -> None:
    """Stage.run_jobs calls it by name, and only where steps have a group."""
    written = {**load_config(CONFIGS[0]).model_dump(), "pretrain": {}}
    grouped = {step.stage for step in expand(RunConfig.model_validate(written)) if step.group}
    assert grouped == {"distill"}
    for stage in grouped:
        module = import_module(f"pipeline.stages.{stage}")
        assert list(inspect.signature(module.together).parameters) == ["jobs", "inputs"]


def environment_uses(source: str) -> list[int]:
    """Lines that touch environment variables, or let typer do it."""
    names = {"environ", "environb", "getenv", "putenv", "getenvb", "unsetenv"}
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.ImportFrom) and any(alias.name in names for alias in node.names))
        or (isinstance(node, ast.Call) and any(keyword.arg == "envvar" for keyword in node.keywords))
    )


def test_environment_variables_are_read_in_three_files_only() -> None:
    users = {p.relative_to(ROOT).as_posix() for p in SOURCES if environment_uses(p.read_text(encoding="utf-8"))}
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").glob("*_bench.py")}
    assert users - scripts <= READS_ENVIRONMENT


def test_the_environment_scan_sees_each_way_of_reading() -> None:
    ways = "import os\nos.environ['A']\nos.getenv('A')\nfrom os import environ\nOption(envvar='A')\nsomething.else_"
    assert environment_uses(ways) == [2, 3, 4, 5]


def function_lengths(source: str) -> list[int]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in found]


def test_no_file_is_longer_than_its_budget() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_nineteen_of_twenty_functions_fit_in_forty_lines() -> None:
    lengths = [length for path in SOURCES for length in function_lengths(path.read_text())]
    assert len(lengths) > 300
    assert sum(length <= MAX_FUNCTION_LINES for length in lengths) / len(lengths) >= 0.95


def test_no_drawer_is_called_utils() -> None:
    assert [path for path in SOURCES if path.stem in ("utils", "helpers", "common", "misc")] == []


def lock(name: str) -> dict[str, tuple[str, int]]:
    """Package -> (version, number of hashes) of a lock file; every entry must be pinned."""
    text = (ROOT / "requirements" / name).read_text()
    lines = re.sub(r"\\\n", " ", text).splitlines()
    entries = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    pins = [(entry[0].split("=="), sum(word.startswith("--hash=sha256:") for word in entry)) for entry in entries]
    return {canonicalize_name(package): (version, hashes) for (package, version), hashes in pins}


def versions(name: str) -> dict[str, str]:
    return {package: version for package, (version, _) in lock(name).items()}


def test_the_lock_files_agree_and_each_holds_the_smaller_one() -> None:
    shipped, offline, dev = versions("serving.txt"), versions("pipeline.txt"), versions("dev.txt")
    assert shipped.items() <= offline.items() <= dev.items()


def test_what_ships_has_a_hash_for_every_package_and_no_torch() -> None:
    shipped = lock("serving.txt")
    assert [package for package, (_, hashes) in shipped.items() if not hashes] == []
    barred = {"torch", "transformers", "optimum", "datasets", "onnx", "mlflow", "openvino", "nncf"}
    assert shipped.keys() & barred == set()


def test_torch_and_what_its_builds_pull_in_stand_in_no_other_lock() -> None:
    assert set(versions("torch.txt")) == {"torch"}
    others = versions("dev.txt").keys() | versions("pipeline.txt").keys()
    assert [name for name in others if re.match(r"(torch|triton|nvidia-(?!ml-py).*|cuda-.*)$", name)] == []


def test_no_package_index_is_written_into_the_requirements() -> None:
    files = [path for path in (ROOT / "requirements").iterdir() if path.suffix in (".in", ".txt")]
    assert len(files) >= 7
    lines = [(path.name, line) for path in files for line in path.read_text().splitlines()]
    assert [told for told in lines if re.search("https?:", told[1])] == []
    # No option at all, not even in a comment, but another file of requirements and a package's digest.
    options = {(name, option) for name, line in lines for option in re.findall(r"(?:^|\s)(-{1,2}[A-Za-z][\w-]*)", line)}
    assert {option for _, option in options} <= {"-r", "--hash"}, options


def test_the_ranges_of_the_metadata_hold_what_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        "serving.txt": extras["serving"],
        "pipeline.txt": [*project["dependencies"], *extras["demo"], *extras["openvino"], *extras["quantization"]],
    }
    for name, lines in wanted.items():
        locked = versions(name) | versions("torch.txt")
        asked = [requirement for requirement in map(Requirement, lines) if requirement.name != "retort"]
        assert [str(r) for r in asked if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"))] == []
        assert {canonicalize_name(r.name) for r in asked} - locked.keys() == set()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_that_ships_loads_and_is_called_as_its_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_the_configs_of_the_readme_are_there() -> None:
    assert {"demo", "smoke", "sst2-minilm"} <= {path.stem for path in CONFIGS}

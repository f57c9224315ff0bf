"""English docstrings of installed libraries, read with `ast` and never imported, kept per library and version.

library (a distribution's name) -> modules (its .py files) -> paragraphs (first of a docstring, or another)
"""

import ast
import functools
import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from pipeline.data import prose
from pipeline.data.digests import write_atomically
from pipeline.data.progress import Progress
from pipeline.errors import BadArtifact, BadRequest

# Read for distillation: those with the most different prose for the time that parsing takes.
TEXT_LIBRARIES = (
    "databricks-sdk",
    "fonttools",
    "huggingface-hub",
    "matplotlib",
    "mlflow",
    "networkx",
    "numpy",
    "onnxscript",
    "pandas",
    "scikit-learn",
    "scipy",
    "sqlalchemy",
    "sympy",
    "torch",
)
# The classes of the labelled task: far enough apart to be told by their subject, large enough to be balanced.
LABELLED_LIBRARIES = (
    "databricks-sdk",
    "matplotlib",
    "mlflow",
    "networkx",
    "pandas",
    "scikit-learn",
    "scipy",
    "sqlalchemy",
    "sympy",
    "torch",
)
SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "_testing", "_vendor", "vendor", "_vendored_packages"})
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Statements that hold classes and functions; a function's own body is not searched.
BLOCKS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.If, ast.Try, ast.With)


@dataclass(frozen=True)
class Module:
    """One source file's paragraphs."""

    path: str
    first: tuple[str, ...]
    rest: tuple[str, ...]


def library_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each; those that are not installed are all named in one error."""
    versions = {library: _version(library) for library in libraries}
    if missing := [library for library, version in versions.items() if not version]:
        known = sorted({*TEXT_LIBRARIES, *LABELLED_LIBRARIES})
        raise BadRequest(
            f"docstrings of {', '.join(missing)} cannot be read: not installed here; "
            f"any installed distribution will do, such as {', '.join(lib for lib in known if _version(lib))}"
        )
    return versions


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except (metadata.PackageNotFoundError, ValueError):
        return ""


@functools.cache
def extractor_digest() -> str:
    """What reads the docstrings: this file and the cleaning."""
    sources = [Path(__file__), Path(str(prose.__file__))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def read_library(library: str, *, cache: Path, progress: Progress) -> tuple[Module, ...]:
    """Its modules in the order of their paths, from the cache if this version was read before."""
    version = library_versions((library,))[library]
    kept = cache / "docstrings" / f"{library.lower()}-{version}-{extractor_digest()[:16]}.jsonl"
    if not kept.exists():
        modules = _extract(library, progress=progress)
        write_atomically(kept, "".join(json.dumps(asdict(module)) + "\n" for module in modules))
    return tuple(_module(json.loads(line)) for line in kept.read_text(encoding="utf-8").splitlines())


def _module(fields: dict[str, object]) -> Module:
    path, first, rest = fields["path"], fields["first"], fields["rest"]
    assert isinstance(path, str)
    assert isinstance(first, list)
    assert isinstance(rest, list)
    return Module(path=path, first=tuple(first), rest=tuple(rest))


def _extract(library: str, *, progress: Progress) -> list[Module]:
    sources = _sources(library)
    if not sources:
        raise BadArtifact(f"library {library} is installed without Python sources: choose another one")
    names = progress(sorted(sources), f"reading docstrings of {library}", len(sources))
    modules = [_read_module(name, sources[name].read_bytes()) for name in names]
    return [module for module in modules if module.first or module.rest]


def _sources(library: str) -> dict[str, Path]:
    """The distribution's .py files by their path in it, tests and vendored copies left out."""
    distribution = metadata.distribution(library)
    files = [PurePosixPath(file) for file in distribution.files or ()]
    wanted = [f for f in files if f.suffix == ".py" and f.parts[0] != ".." and not SKIPPED_FOLDERS & set(f.parts)]
    paths = {str(file): Path(str(distribution.locate_file(str(file)))) for file in wanted}
    return {name: path for name, path in paths.items() if path.is_file()}


def _read_module(name: str, source: bytes) -> Module:
    found = [prose.docstring_paragraphs(docstring) for docstring in _docstrings(source)]
    return Module(
        path=name,
        first=tuple(text for paragraphs in found for text in paragraphs.first),
        rest=tuple(text for paragraphs in found for text in paragraphs.rest),
    )


def _docstrings(source: bytes) -> Iterator[str]:
    """Docstrings in source order; a file that this Python cannot parse (a template, another version's) has none."""
    if source.count(b'"""') + source.count(b"'''") < 2:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Documented) and (text := _docstring(node)):
            yield text
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(reversed(_blocks_in(node)))


def _docstring(node: Documented) -> str:
    match node.body[:1]:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return text
    return ""


def _blocks_in(node: ast.AST) -> list[ast.AST]:
    parts = [*getattr(node, "body", ()), *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
    handled = [statement for handler in getattr(node, "handlers", ()) for statement in handler.body]
    return [statement for statement in [*parts, *handled] if isinstance(statement, BLOCKS)]

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pytest

from pipeline.data import docstrings
from pipeline.data.docstrings import library_versions, read_library
from pipeline.data.progress import silent
from pipeline.errors import BadArtifact, BadRequest

T = TypeVar("T")
Install = Callable[..., None]
SOURCE = '''"""The module counts the nodes of a graph."""
raise SystemExit("a library is read and never imported")
class Graph:
    """A graph with nodes and with edges.

    It can be directed, or not be directed."""
    def count(self):
        """Return the number of nodes in it."""
        def inner():
            """A function in a function is not searched for it."""
if True:
    def size():
        """Return the number of edges in it."""
try:
    pass
except ImportError:
    def fallback():
        """Return what is there when the import fails."""
'''


def test_docstrings_are_read_in_source_order_without_importing(install: Install, cache: Path) -> None:
    install("graphs", {"graphs/a.py": SOURCE, "graphs/tests/test_a.py": SOURCE, "graphs/_vendor/b.py": SOURCE})

    (module,) = read_library("graphs", cache=cache, progress=silent)

    assert module.path == "graphs/a.py"
    assert module.first == (
        "The module counts the nodes of a graph.",
        "A graph with nodes and with edges.",
        "Return the number of nodes in it.",
        "Return the number of edges in it.",
        "Return what is there when the import fails.",
    )
    assert module.rest == ("It can be directed, or not be directed.",)


def test_a_file_that_does_not_parse_has_no_docstrings(install: Install, cache: Path) -> None:
    install("graphs", {"graphs/a.py": SOURCE, "graphs/template.py": '"""The {{ name }} of it."""\ndef {{ f }}("""'})

    assert [m.path for m in read_library("graphs", cache=cache, progress=silent)] == ["graphs/a.py"]


def test_a_library_is_read_once_per_version(install: Install, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("graphs", {"graphs/a.py": SOURCE})
    first = read_library("graphs", cache=cache, progress=silent)
    with monkeypatch.context() as patch:
        patch.setattr(docstrings, "_extract", lambda *a, **k: pytest.fail("read again"))
        assert read_library("graphs", cache=cache, progress=silent) == first
    install("graphs", {"graphs/a.py": SOURCE.replace("nodes", "leaves")}, version="1.1")

    assert read_library("graphs", cache=cache, progress=silent) != first


def test_reading_reports_its_progress(install: Install, cache: Path) -> None:
    install("graphs", {"graphs/a.py": SOURCE, "graphs/b.py": ""})
    shown: list[tuple[str, int | None]] = []

    def progress(items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
        shown.append((what, total))
        return items

    read_library("graphs", cache=cache, progress=progress)

    assert shown == [("reading docstrings of graphs", 2)]


def test_unknown_libraries_are_all_named_with_what_there_is(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("graphs", {"graphs/a.py": SOURCE})
    monkeypatch.setattr(docstrings, "TEXT_LIBRARIES", ("graphs", "not-here"))
    monkeypatch.setattr(docstrings, "LABELLED_LIBRARIES", ())

    with pytest.raises(BadRequest) as caught:
        library_versions(("grahps", "graphs", "grpahs"))

    assert str(caught.value) == (
        "docstrings of grahps, grpahs cannot be read: not installed here; "
        "any installed distribution will do, such as graphs"
    )


def test_a_library_without_sources_is_refused(install: Install, cache: Path) -> None:
    install("compiled", {"compiled/core.so": ""})

    with pytest.raises(BadArtifact) as caught:
        read_library("compiled", cache=cache, progress=silent)

    assert str(caught.value) == "library compiled is installed without Python sources: choose another one"

"""The edge to `datasets`: one way to call it, its errors turned into ours."""

import contextlib
import errno
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.data.table import Table
from pipeline.errors import BadArtifact, Transient

# Below this nothing takes long enough to be worth a progress bar.
BARS_FROM_BYTES = 50_000_000
# How `datasets` says that a file had a header and nothing else.
NO_ROWS = "corresponds to no data"
UNREADABLE: tuple[type[Exception], ...] = (EOFError, OSError, StopIteration, ValueError, lzma.LZMAError, zlib.error)


@contextlib.contextmanager
def reading(where: str, *, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns what corrupt files make the readers raise into BadArtifact, and a full disk into Transient."""
    try:
        yield
    except tuple(UNREADABLE + also) as error:
        cause = _root(error)
        if isinstance(cause, OSError) and (cause.errno == errno.ENOSPC or "disk space" in str(cause)):
            raise Transient(f"{where} cannot be cached: {cause}: free some space and run again") from error
        if isinstance(cause, StopIteration) or NO_ROWS in str(cause):
            raise BadArtifact(f"{where} holds no rows") from error
        reason = f"{type(cause).__name__}: {(str(cause).splitlines() or ['no details'])[0]}"
        raise BadArtifact(f"{where} cannot be read ({reason}): repair or replace the file") from error


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def quiet_datasets(*, bars: bool) -> Iterator[None]:
    """Keeps the library's log lines (our errors say it) and, for small data, its bars off the terminal.

    Nor does it report the load to the hub, as it would for local files too (3 s and more where there is no network).
    """
    import datasets

    level = datasets.logging.get_verbosity()
    hidden = datasets.are_progress_bars_disabled()
    reports = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if not bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = reports
        if not hidden:
            datasets.enable_progress_bars()


def dataset_table(dataset: Any, *, where: str) -> Table:
    """A `datasets.Dataset` as a Table."""
    coded = {name: _class_label(feature) for name, feature in dataset.features.items()}
    names = {name: tuple(label.names) for name, label in coded.items() if label is not None}
    return Table(where=where, columns=tuple(dataset.column_names), read=lambda c: list(dataset[c]), class_names=names)


def _class_label(feature: Any) -> Any:
    """The ClassLabel that a column holds, by itself or in lists: what names its codes."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return feature if type(feature).__name__ == "ClassLabel" else None


def datasets_cache(cache: Path) -> str:
    """Where `datasets` keeps its Arrow files."""
    return str(cache / "datasets")

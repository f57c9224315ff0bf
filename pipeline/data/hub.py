"""The Hugging Face hub: ids of models and data sets resolved to a commit; data sets read at that commit."""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pipeline.data.reading import dataset_table, datasets_cache
from pipeline.data.table import Table, missing_column
from pipeline.errors import BadArtifact, BadRequest, Transient

COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = 10.0


Kind = Literal["data set", "model"]


@functools.cache
def resolve_commit(repository: str, revision: str | None, kind: Kind = "data set") -> str:
    """The commit that a revision names; a 40-hex revision is one already and nobody is asked.

    Raises:
        BadRequest: the hub has no such repository or revision.
        Transient: the hub cannot be reached.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    return _ask_hub(repository, revision, kind)


def _ask_hub(repository: str, revision: str | None, kind: Kind) -> str:
    import httpx2  # what the hub's client is built on and lets through
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name = f"{kind} {repository} at revision {revision or 'main'}"
    ask = HfApi().dataset_info if kind == "data set" else HfApi().model_info
    instead = "local files (kind: files)" if kind == "data set" else "a folder or package:NAME"
    try:
        commit = ask(repository, revision=revision, timeout=TIMEOUT_S).sha
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BadRequest(f"the hub has no {name}: check the id and the revision, or log in") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise Transient(
            f"{name} cannot be resolved on the hub ({type(error).__name__}): "
            f"give `revision` as a 40-hex commit, or {instead}"
        ) from error
    return str(commit)


def load_hub(repository: str, *, config: str | None, revision: str, split: str, where: str, cache: Path) -> Table:
    """One split at one commit."""
    options = {"revision": revision, "split": split, "cache_dir": datasets_cache(cache)}
    return dataset_table(_load(repository, config, where=where, **options), where=where)


def stream_hub(
    repository: str, *, config: str | None, revision: str, split: str, column: str, where: str
) -> Iterator[object]:
    """A column of one split, read only as far as it is asked for."""
    rows = _load(repository, config, where=where, revision=revision, split=split, streaming=True)
    with _downloading(where):
        for row in rows:
            if column not in row:
                raise missing_column(column, where=where, columns=tuple(row))
            yield row[column]


@contextlib.contextmanager
def _downloading(where: str) -> Iterator[None]:
    """A stream opens its files as it comes to them, long after `load_dataset` returned."""
    import httpx2
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (httpx2.HTTPError, OSError) as error:
        raise _no_download(where, error) from error
    except (DatasetsError, ValueError) as error:
        reason = (str(error).splitlines() or ["no details"])[0]
        raise BadArtifact(
            f"{where} cannot be read ({type(error).__name__}: {reason}): choose another revision"
        ) from error


def _no_download(where: str, error: Exception) -> Transient:
    return Transient(
        f"{where} cannot be downloaded ({type(error).__name__}): try again later, or give local files (kind: files)"
    )


def _load(repository: str, config: str | None, *, where: str, **options: Any) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(repository, config, **options)
    except DatasetNotFoundError as error:
        raise BadRequest(f"{where} is not on the hub: check the id and the revision, or log in") from error
    except (ValueError, RuntimeError) as error:
        raise BadRequest(f"{where} cannot be loaded: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise _no_download(where, error) from error

"""EXTENSION POINT: where labelled data comes from. A source is a record with `kind`, `identity`, `has` and `tables`;
its name goes into the union at the foot. (Text for distillation: corpus.py.)

    kind: hub         a data set of the Hugging Face hub at a commit
    kind: files       local files or fsspec URLs: jsonl, csv, tsv, parquet, plain or compressed
    kind: docstrings  first paragraphs of the installed libraries' docstrings, labelled by library
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pipeline.data.digests import json_digest
from pipeline.data.docstring_sets import Split, labelled_sets
from pipeline.data.docstring_tables import docstring_table
from pipeline.data.docstrings import LABELLED_LIBRARIES, extractor_digest, library_versions
from pipeline.data.files import Format, expand, files_identity, format_of, load_files
from pipeline.data.hub import load_hub, resolve_commit
from pipeline.data.progress import Progress
from pipeline.data.table import Table
from pipeline.records import Record

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Paths = str | tuple[str, ...]


class _Source(Record):
    @abstractmethod
    def identity(self, cache: Path, *, splits: Sequence[Split] = SPLITS) -> str:
        """sha256 of what the splits' data is; fast, and without a heavy import."""

    @abstractmethod
    def has(self, split: Split) -> bool:
        """Whether this split is named."""

    @abstractmethod
    def tables(self, splits: Sequence[Split], *, cache: Path, progress: Progress) -> dict[Split, Table]:
        """Those of the splits that there are, and no other row is handed out."""


class HubSplits(Record):
    """The names that the data set gives its splits."""

    train: str = "train"
    dev: str | None = None
    test: str | None = None


class HubSource(_Source):
    """`{kind: hub, id: stanfordnlp/sst2, revision: <40-hex commit>, splits: {dev: validation}}`."""

    kind: Literal["hub"] = "hub"
    id: str
    config: str | None = None
    revision: str | None = None
    splits: HubSplits = HubSplits()

    def identity(self, cache: Path, *, splits: Sequence[Split] = SPLITS) -> str:  # noqa: ARG002
        named = [getattr(self.splits, split) for split in splits]
        return json_digest([f"{self.id}@{resolve_commit(self.id, self.revision)}", self.config, named])

    def has(self, split: Split) -> bool:
        return getattr(self.splits, split) is not None

    def tables(self, splits: Sequence[Split], *, cache: Path, progress: Progress) -> dict[Split, Table]:  # noqa: ARG002
        commit = resolve_commit(self.id, self.revision)
        return {
            split: load_hub(
                self.id,
                config=self.config,
                revision=commit,
                split=getattr(self.splits, split),
                where=f"{split} data (split '{getattr(self.splits, split)}' of {self.id})",
                cache=cache,
            )
            for split in splits
            if self.has(split)
        }


class FilesSource(_Source):
    """`{kind: files, train: data/train.jsonl.gz, test: "s3://bucket/*.parquet"}`: a path, glob, URL or list of them."""

    kind: Literal["files"] = "files"
    train: Paths
    dev: Paths | None = None
    test: Paths | None = None
    format: Format = "by-suffix"

    def identity(self, cache: Path, *, splits: Sequence[Split] = SPLITS) -> str:
        present = [(split, *self._files(split)) for split in splits if self.has(split)]
        return json_digest([[s, files_identity(files, format_name=name, cache=cache)] for s, files, name in present])

    def has(self, split: Split) -> bool:
        return getattr(self, split) is not None

    def tables(self, splits: Sequence[Split], *, cache: Path, progress: Progress) -> dict[Split, Table]:  # noqa: ARG002
        tables: dict[Split, Table] = {}
        for split in (split for split in splits if self.has(split)):
            files, format_name = self._files(split)
            where = f"{split} data ({', '.join(files)})"
            tables[split] = load_files(files, format_name=format_name, where=where, cache=cache)
        return tables

    def _files(self, split: Split) -> tuple[tuple[str, ...], str]:
        paths: Paths = getattr(self, split)
        files = expand((paths,) if isinstance(paths, str) else paths, what=f"`{split}`")
        return files, format_of(files, declared=self.format, what=f"`{split}`")


class DocstringsSource(_Source):
    """`{kind: docstrings, train: 8000}`: columns for every kind of task (docstring_tables.py); sizes are upper bounds,
    balanced over the libraries."""

    kind: Literal["docstrings"] = "docstrings"
    libraries: Annotated[tuple[str, ...], Field(min_length=2)] = LABELLED_LIBRARIES
    train: PositiveInt = 12000
    dev: PositiveInt = 1000
    test: PositiveInt = 3500

    def identity(self, cache: Path, *, splits: Sequence[Split] = SPLITS) -> str:  # noqa: ARG002
        versions = sorted(library_versions(self.libraries).items())
        return json_digest([versions, extractor_digest(), {split: getattr(self, split) for split in splits}])

    def has(self, split: Split) -> bool:  # noqa: ARG002
        return True

    def tables(self, splits: Sequence[Split], *, cache: Path, progress: Progress) -> dict[Split, Table]:
        library_versions(self.libraries)
        sizes: dict[Split, int] = {split: getattr(self, split) for split in splits}
        sets = labelled_sets(self.libraries, sizes=sizes, cache=cache, progress=progress)
        return {split: docstring_table(examples, split=split) for split, examples in sets.items()}


DataSource = Annotated[HubSource | FilesSource | DocstringsSource, Field(discriminator="kind")]

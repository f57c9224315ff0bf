"""EXTENSION POINT: unlabelled text for distillation. A source is a record with `kind`, `identity` and `_stream`; its
name goes into the union at the foot. Reading is lazy: what `max_texts` and `max_words` leave out is never read.
"""

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pipeline.data.digests import json_digest
from pipeline.data.docstring_sets import unlabelled_texts
from pipeline.data.docstrings import TEXT_LIBRARIES, extractor_digest, library_versions
from pipeline.data.files import Format, expand, files_identity, format_of, stream_files
from pipeline.data.hub import resolve_commit, stream_hub
from pipeline.data.progress import Progress
from pipeline.data.sources import Paths
from pipeline.errors import BadArtifact
from pipeline.records import Record


class _Corpus(Record):
    """Limits are upper bounds; the text that would pass `max_words` is not taken."""

    max_texts: PositiveInt | None = None
    max_words: PositiveInt | None = None

    @abstractmethod
    def identity(self, cache: Path) -> str:
        """sha256 of what the text is; fast, and without a heavy import."""

    @abstractmethod
    def _stream(self, *, cache: Path, progress: Progress) -> Iterator[object]:
        """The raw values, one text each."""

    @property
    @abstractmethod
    def _where(self) -> str: ...

    def texts(self, cache: Path, progress: Progress) -> Iterable[str]:
        """Texts that are not blank, in a fixed order, up to the limits; a value of several lines is several texts.

        An encyclopedia's article is one value: taken whole, all but its beginning would be cut away.
        """
        stream = _checked(self._stream(cache=cache, progress=progress), where=self._where)
        limited = _at_most_words(itertools.islice(stream, self.max_texts), self.max_words)
        return progress(_not_empty(limited, where=self._where), "reading text", self.max_texts)

    def _limits(self) -> list[int | None]:
        return [self.max_texts, self.max_words]


def _checked(values: Iterable[object], *, where: str) -> Iterator[str]:
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise BadArtifact(f"{where}, row {number}: {value!r} is not text: remove the row or choose another column")
        yield from (text for line in value.splitlines() if (text := line.strip()))


def _at_most_words(texts: Iterable[str], limit: int | None) -> Iterator[str]:
    total = 0
    for text in texts:
        total += len(text.split())
        if limit is not None and total > limit:
            return
        yield text


def _not_empty(texts: Iterator[str], *, where: str) -> Iterator[str]:
    first = next(texts, None)
    if first is None:
        raise BadArtifact(f"{where} holds no text within the limits: raise max_words or give other text")
    yield first
    yield from texts


class HubCorpus(_Corpus):
    """`{kind: hub, id: wikimedia/wikipedia, config: 20231101.en, revision: <commit>, split: train, column: text}`."""

    kind: Literal["hub"] = "hub"
    id: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    column: str = "text"

    def identity(self, cache: Path) -> str:  # noqa: ARG002
        commit = resolve_commit(self.id, self.revision)
        return json_digest([f"{self.id}@{commit}", self.config, self.split, self.column, self._limits()])

    @property
    def _where(self) -> str:
        return f"text (split '{self.split}' of {self.id})"

    def _stream(self, *, cache: Path, progress: Progress) -> Iterator[object]:  # noqa: ARG002
        commit = resolve_commit(self.id, self.revision)
        return stream_hub(
            self.id, config=self.config, revision=commit, split=self.split, column=self.column, where=self._where
        )


class FilesCorpus(_Corpus):
    """`{kind: files, files: corpus/*.txt.xz}`: a paragraph a line, blank lines between documents; or a column."""

    kind: Literal["files"] = "files"
    files: Paths
    column: str = "text"
    format: Format = "by-suffix"

    def identity(self, cache: Path) -> str:
        files, format_name = self._files()
        contents = files_identity(files, format_name=format_name, cache=cache)
        return json_digest([contents, self.column, self._limits()])

    @property
    def _where(self) -> str:
        return f"text ({self.files if isinstance(self.files, str) else ', '.join(self.files)})"

    def _stream(self, *, cache: Path, progress: Progress) -> Iterator[object]:  # noqa: ARG002
        files, format_name = self._files()
        return stream_files(files, format_name=format_name, column=self.column, where=self._where)

    def _files(self) -> tuple[tuple[str, ...], str]:
        files = expand((self.files,) if isinstance(self.files, str) else self.files, what="`files`")
        return files, format_of(files, declared=self.format, what="`files`")


class DocstringsCorpus(_Corpus):
    """`{kind: docstrings, max_words: 500000}`: prose of installed libraries, less what the labelled task holds out."""

    kind: Literal["docstrings"] = "docstrings"
    libraries: Annotated[tuple[str, ...], Field(min_length=1)] = TEXT_LIBRARIES
    paragraphs: Literal["first", "all"] = "all"

    def identity(self, cache: Path) -> str:  # noqa: ARG002
        versions = sorted(library_versions(self.libraries).items())
        return json_digest([versions, extractor_digest(), self.paragraphs, self._limits()])

    @property
    def _where(self) -> str:
        return f"text (docstrings of {', '.join(self.libraries)})"

    def _stream(self, *, cache: Path, progress: Progress) -> Iterator[object]:
        library_versions(self.libraries)
        return iter(unlabelled_texts(self.libraries, paragraphs=self.paragraphs, cache=cache, progress=progress))


CorpusSource = Annotated[HubCorpus | FilesCorpus | DocstringsCorpus, Field(discriminator="kind")]

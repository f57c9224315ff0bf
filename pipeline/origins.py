"""Where a model's teacher, text and data came from, as it may be told to anybody: names, commits, versions, digests and
licences; no user or password of a URL, and no path of the machine that it was made on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pipeline.data.corpus import DocstringsCorpus, FilesCorpus, HubCorpus
from pipeline.data.docstrings import library_versions
from pipeline.data.files import expand
from pipeline.data.hub import TIMEOUT_S, resolve_commit
from pipeline.data.sources import SPLITS, DocstringsSource, FilesSource, HubSource
from pipeline.encoders.teachers import TeacherConfig
from pipeline.errors import BadRequest
from pipeline.licences import (
    NOT_STATED,
    README,
    Licence,
    folder_licence,
    package_licence,
    read_text,
    readme_languages,
    readme_licence,
)
from serving import redaction

if TYPE_CHECKING:
    from pipeline.data.hub import Kind

NOT_RECORDED: Final = "not recorded"
_HOMES: Final = ("home", "Users")


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source. `digest` is what the steps' keys were made with; `parts` says by split what it is called there, and
    `digests` what it holds."""

    role: str
    kind: str
    name: str
    version: str = ""
    digest: str = ""
    licence: Licence = NOT_STATED
    languages: tuple[str, ...] = ()
    parts: dict[str, str] = {}
    digests: dict[str, str] = {}


def without_secrets(text: str) -> str:
    """The text with the URLs in it less their users, passwords, queries and fragments."""
    return redaction.without_secrets(text, queries=False)


def shown_place(place: str) -> str:
    """A URL without its secrets; of a file or folder here its own name."""
    return without_secrets(place) if "://" in place else Path(place).name


def origin_of(role: str, source: Any, *, cache: Path) -> Origin:
    """What may be told of a teacher (TeacherConfig), a text (CorpusSource) or a task's data (DataSource).

    Raises:
        BadRequest: it is not there any more.
        Transient: it is elsewhere and cannot be reached.
    """
    if isinstance(source, TeacherConfig):
        return _teacher(role, source, cache=cache)
    digest = source.identity(cache)
    told = dict(_hub(source, cache) if isinstance(source, HubSource | HubCorpus) else {})
    if isinstance(source, FilesSource | FilesCorpus):
        told = _files(source)
    elif isinstance(source, DocstringsSource | DocstringsCorpus):
        told = _docstrings(source)
    if isinstance(source, HubSource | FilesSource | DocstringsSource):
        held = [split for split in SPLITS if source.has(split)]
        told["digests"] = {split: source.identity(cache, splits=(split,)) for split in held}
    return Origin(role=role, digest=digest, **told)


def unknown_origin(role: str, digest: str) -> Origin:
    """Of a source that nobody named: a hub's identity names itself."""
    match = re.fullmatch(r"hub:(?P<name>[^@]+)@(?P<version>\w+)", digest)
    if match:
        return Origin(role, "hub", match["name"], match["version"], digest)
    return Origin(role, NOT_RECORDED, NOT_RECORDED, digest=digest)


def _teacher(role: str, teacher: TeacherConfig, *, cache: Path) -> Origin:
    digest = teacher.identity(cache)
    if not teacher.is_local():
        commit = digest.rpartition("@")[2]
        text = _readme(teacher.source, commit, "model", cache)
        licence, languages = readme_licence(text), readme_languages(text)
        return Origin(role, "hub", teacher.source, commit, digest, licence, languages)
    folder = teacher.folder(cache)
    languages = readme_languages(read_text(folder / README))
    if not teacher.source.startswith("package:"):
        return Origin(role, "folder", shown_place(str(folder)), "", digest, folder_licence(folder), languages)
    name = teacher.source.removeprefix("package:").replace("_", "-")
    licence = next((each for each in (folder_licence(folder), package_licence(name)) if each != NOT_STATED), NOT_STATED)
    return Origin(role, "package", name, _version(name), digest, licence, languages)


def _hub(source: HubSource | HubCorpus, cache: Path) -> dict[str, Any]:
    commit = resolve_commit(source.id, source.revision)
    text = _readme(source.id, commit, "data set", cache)
    if isinstance(source, HubSource):
        parts: dict[str, str] = {split: name for split in SPLITS if (name := getattr(source.splits, split)) is not None}
    else:
        parts = {"text": source.split}
    config = {"config": source.config} if source.config else {}
    return {
        "kind": "hub",
        "name": source.id,
        "version": commit,
        "licence": readme_licence(text),
        "languages": readme_languages(text),
        "parts": config | parts,
    }


def _files(source: FilesSource | FilesCorpus) -> dict[str, Any]:
    named: dict[str, Any] = {split: getattr(source, split, None) for split in SPLITS}
    named |= {"text": source.files} if isinstance(source, FilesCorpus) else {}
    places = {part: (given,) if isinstance(given, str) else given for part, given in named.items() if given is not None}
    first = next(iter(places.values()))[0]
    folders = dict.fromkeys(folder for given in places.values() for folder in _folders(given))
    licences = (folder_licence(folder) for folder in folders)
    return {
        "kind": "files",
        "name": without_secrets(first).rpartition("/")[0] if "://" in first else _folder_name(folders, first),
        "licence": next((each for each in licences if each != NOT_STATED), NOT_STATED),
        "languages": next((found for each in folders if (found := readme_languages(read_text(each / README)))), ()),
        "parts": {part: ", ".join(map(shown_place, given)) for part, given in places.items()},
    }


def _folders(patterns: Sequence[str]) -> Iterator[Path]:
    """Where the local ones of these files are."""
    local = tuple(pattern for pattern in patterns if "://" not in pattern)
    yield from (Path(file).parent for file in expand(local, what="data"))


def _folder_name(folders: Mapping[Path, None], first: str) -> str:
    """What the folder of the data is called, unless it is called as its user is."""
    folder = next(iter(folders))
    private = folder.parent.name in _HOMES or folder.parent == folder or folder.parent.parent == folder.parent
    return shown_place(first) if private else folder.name


def _docstrings(source: DocstringsSource | DocstringsCorpus) -> dict[str, Any]:
    """Prose of libraries, each with a licence of its own."""
    versions = library_versions(source.libraries)
    licences = sorted({package_licence(library).name for library in versions})
    return {
        "kind": "docstrings",
        "name": "docstrings of " + ", ".join(f"{library} {version}" for library, version in versions.items()),
        "licence": Licence(" AND ".join(licences), "each library's metadata"),
        "languages": ("en",),
    }


def _readme(repository: str, commit: str, kind: "Kind", cache: Path) -> str:
    """A repository's README at a commit; "" where it has none or the hub is away: nothing is stated then."""
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(
            repository,
            README,
            repo_type="dataset" if kind == "data set" else "model",
            revision=commit,
            cache_dir=cache / "hub",
            etag_timeout=TIMEOUT_S,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError):
        return ""
    return read_text(Path(path))


def _version(package: str) -> str:
    try:
        return library_versions((package,))[package]
    except BadRequest:  # a package that no distribution of this name brought
        return ""

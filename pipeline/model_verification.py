"""`retort verify NAME`: is a model's ledger whole, do its aliases name what it says, and are the files of its versions
those that were registered?"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import BadArtifact
from pipeline.kept_ledger import existing_registry, require_ours
from pipeline.model_state import State, is_younger
from pipeline.settling import settled
from pipeline.tracking.versions import Version, download
from serving.registry import DIGEST_TAG
from serving.signatures import FILES_TAG
from serving.verifying import verify_version


@dataclass(frozen=True)
class Findings:
    """What was found of a model: faults in words, what was repaired, how many entries its ledger has and how many of
    them lost a race, its end, and the versions whose files were read."""

    name: str
    faults: tuple[str, ...]
    repaired: tuple[str, ...]
    entries: int
    void: int
    head: str
    versions: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.faults


def verify_model(name: str, *, uri: str, cache: Path, key: Path | None, every: bool = False) -> Findings:
    """Check the ledger, repair aliases that lag behind it, and read the files of the versions that an alias names, or
    of `every` version, again; who may not write is told what lags. With a public `key` only what its owner signed will
    do.

    Raises:
        BadRequest: there is no such registry or model, the key cannot be used, or a newer Retort wrote the ledger.
        Transient: the registry cannot be reached.
    """
    with existing_registry(uri) as client:
        found = settled(client, name)
        used = set(found.state.named.values())
        wanted = [each for number, each in found.state.versions.items() if every or number in used]
        faults = [*found.faults, *_recorded_faults(found.state)]
        faults += [fault for version in wanted for fault in _file_faults(client, version, cache=cache, key=key)]
    links = found.state.chain.links
    return Findings(
        name=name,
        faults=tuple(faults),
        repaired=found.repaired,
        entries=len(links),
        void=sum(link.won is not None for link in links),
        head=found.state.chain.head,
        versions=tuple(str(version.number) for version in wanted),
    )


def _recorded_faults(state: State) -> Iterator[str]:
    """Where a version's tags are not what they were when an alias was moved to it. One that has the number of another,
    which was deleted, is none of it, unless it stands in that one's place."""
    valid = state.chain.valid()
    last = {entry.alias: number for number, entry in valid}
    for number, entry in valid:
        version = state.versions.get(entry.to)
        stands = last[entry.alias] == number and state.named.get(entry.alias) == entry.to
        if version is None or (is_younger(version, entry) and not stands):
            continue
        recorded = {DIGEST_TAG: entry.digest, FILES_TAG: entry.files}
        for tag, value in recorded.items():
            if (now := version.tags.get(tag, "")) != value:
                yield (
                    f"version {entry.to}: its tag {tag} is {now[:12] or 'gone'}, and was {value[:12] or 'not there'} "
                    f"when entry {number} was written"
                )


def _file_faults(client: Any, version: Version, *, cache: Path, key: Path | None) -> Iterator[str]:
    what = f"version {version.number} of {version.name}"
    files = version.tags.get(FILES_TAG)
    if files is None and version.model_id is not None:
        yield f"{what} has no tag {FILES_TAG}, so nothing says what its files must be; register it again"
    elif files is None and key is not None:
        yield f"{what} was registered by an older Retort, which signed nothing; register it again"
    else:
        try:
            _verify(client, version, cache=cache, key=key, files=files, what=what)
        except BadArtifact as fault:
            yield str(fault)


def _verify(client: Any, version: Version, *, cache: Path, key: Path | None, files: str | None, what: str) -> None:
    """Fetch a version; raise BadArtifact where its files are not those registered, or not signed by the key's owner."""
    digest = require_ours(version)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".verify-") as place:
        folder = download(client, version, Path(place) / "files")
        verify_version(folder, files=files, digest=digest, key=key, called=what)

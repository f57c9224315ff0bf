"""A model's ledger as its registry keeps it: every entry is a version of the registered model NAME.ledger, whose number
the registry's database makes unique. Every function takes a client from `pipeline.tracking.client.talking_to`."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.ledger import Chain, Entry, Kept, chain, entry_hash, entry_text
from pipeline.model_state import HEAD_TAG, State
from pipeline.tracking.client import talking_to
from pipeline.tracking.ledgers import ensure_model, names_with_tag, read_version_file
from pipeline.tracking.versions import (
    Version,
    create_version,
    model_called,
    model_names,
    versions_of,
    versions_without_aliases,
)
from serving.reaching import is_made
from serving.registry import DIGEST_TAG
from serving.registry_failures import http_status, raised_by_registries, shown
from serving.signatures import FILES, FILES_TAG

LEDGER: Final = ".ledger"
ENTRY_TAG: Final = "retort.entry"
HASH_TAG: Final = "retort.entry_hash"
LEDGER_TAG: Final = "retort.ledger"
RECEIPTS: Final = ("bundle/receipts/", "manifests/")
MAX_NAME: Final = 256 - len(LEDGER)  # characters: a registry's database has room for so many of NAME.ledger
MAX_NAMES: Final = 20  # that a message lists
TRIES: Final = 20  # to find a ledger at rest, of who reads it and of who moves an alias


class NoSuchModel(BadRequest):
    """There is no registry, or no such model in it."""


@contextmanager
def existing_registry(uri: str) -> Iterator[Any]:
    """A client; what only reads must not make a registry.

    Raises:
        NoSuchModel: there is none.
    """
    if not is_made(uri):
        raise NoSuchModel(
            f"there is no registry at {shown(uri)}; `retort run` makes it, or name another with --tracking-uri"
        )
    with talking_to(uri) as client:
        yield client


def is_ledger(name: str) -> bool:
    """Whether this is the name of a ledger."""
    return name.endswith(LEDGER)


def read_state(client: Any, name: str) -> State:
    """All there is of a model. What it says of the ledger's end is read before the ledger, so that the ledger cannot
    seem cut off by an entry that came between.

    Raises:
        NoSuchModel: the registry has none of that name.
        BadRequest: that is a ledger; something else registered the model that would be its ledger; or a newer Retort
            wrote an entry.
    """
    head = dict(_model(client, name).tags).get(HEAD_TAG, "")
    kept = read_chain(client, name)
    versions = versions_of(client, name)
    named = {alias: str(each.number) for each in versions for alias in each.aliases}
    return State(name, head, kept, {str(each.number): each for each in versions}, named)


def read_state_at_rest(client: Any, name: str) -> State:
    """`read_state`, for who writes nothing: again while moves come in between, whose aliases and ends would seem to
    have come past the ledger. Raises Transient too."""
    for _ in range(TRIES):
        state = read_state(client, name)
        if read_chain(client, name).head == state.chain.head:
            return state
    raise restless(name)


def restless(name: str) -> Transient:
    """What to raise after so many tries."""
    return Transient(f"the ledger of {name} grows faster than it can be followed; run again")


def read_versions(client: Any, name: str) -> list[Version]:
    """The versions of a model, whatever its ledger is like. Raises NoSuchModel, and BadRequest where it is a ledger."""
    _model(client, name)
    return versions_of(client, name)


def read_chain(client: Any, name: str) -> Chain:
    """The ledger of a model; an empty one where nothing was moved yet. Raises BadRequest where something else
    registered the model that would be the ledger."""
    ledger = name + LEDGER
    model = model_called(client, ledger)
    if model is None:
        return chain([])
    if not _is_tagged(model):
        raise BadRequest(
            f"the model {ledger} in the registry {shown(client.tracking_uri)} was registered by something else than "
            f"Retort (it has no tag {LEDGER_TAG}), so the moves of {name} cannot be kept there; rename it"
        )
    entries = {each.number: each.tags for each in versions_without_aliases(client, ledger)}
    return chain([Kept(number, tags.get(ENTRY_TAG, ""), tags.get(HASH_TAG, "")) for number, tags in entries.items()])


def add_entry(client: Any, name: str, entry: Entry, *, first: bool) -> int:
    """Write an entry, the `first` one into a ledger that may have to be made; return its number, which does not say yet
    whether it is valid."""
    ledger = name + LEDGER
    if len(name) > MAX_NAME:
        raise BadRequest(
            f"the name of model {name[:20]}... has {len(name)} characters, and {MAX_NAME} are what a registry has room "
            f"for with {LEDGER} after them, where its moves are kept; register it by a shorter name"
        )
    with _told_of(client, ledger, name):
        return _add(client, name, entry, first=first)


def _add(client: Any, name: str, entry: Entry, *, first: bool) -> int:
    ledger = name + LEDGER
    if first:
        about = f"The ledger of {name}: each version is one move of an alias. Read it with `retort history {name}`."
        ensure_model(client, ledger, tags={LEDGER_TAG: "1"}, description=about)
        read_chain(client, name)  # refuses what something else registered just now
    made = create_version(
        client,
        ledger,
        source=f"models:/{name}/{entry.to}",
        tags={ENTRY_TAG: entry_text(entry), HASH_TAG: entry_hash(entry)},
        description=f"{entry.action} @{entry.alias} to {entry.to}: {entry.why}",
    )
    return made.number


@contextmanager
def _told_of(client: Any, ledger: str, name: str) -> Iterator[None]:
    """Say which model it is that these credentials may not write: the ledger belongs to whoever made its first move."""
    try:
        yield
    except raised_by_registries() as error:
        if http_status(error) != HTTPStatus.FORBIDDEN:
            raise
        raise BadRequest(
            f"the registry {shown(client.tracking_uri)} forbids to write the model {ledger}, where the moves of {name} "
            "are kept (HTTP 403), so nothing was moved; who moves its aliases must be allowed to edit both models"
        ) from error


def receipts_of(client: Any, version: Version) -> dict[str, str]:
    """Path -> digest of the receipts and manifests that a version carries; none of an older one, which has no list.

    Raises:
        BadArtifact: its list is gone, or is not the one that was registered.
    """
    registered = version.tags.get(FILES_TAG)
    if registered is None:
        return {}
    listed = read_version_file(client, version, FILES)
    if (found := hashlib.sha256(listed).hexdigest()) != registered:
        raise BadArtifact(
            f"version {version.number} of {version.name}: {FILES} is {found[:12]}, not the {registered[:12]} "
            "registered; register it again"
        )
    lines = (line.partition("  ") for line in listed.decode().splitlines())
    return {path: digest for digest, _, path in lines if path.startswith(RECEIPTS)}


def require_ours(version: Version) -> str:
    """The digest of the bundle that a version was registered with.

    Raises:
        BadArtifact: Retort did not register it.
    """
    if digest := version.tags.get(DIGEST_TAG):
        return digest
    raise BadArtifact(
        f"model {version.name} version {version.number} has no tag {DIGEST_TAG}: Retort did not register it, so "
        "nothing says what its files must be; register it with `retort run`"
    )


def own_models(client: Any) -> dict[str, list[Version]]:
    """Every registered model but Retort's ledgers, with its versions."""
    return {name: versions_of(client, name) for name in _own_names(client)}


def _own_names(client: Any) -> list[str]:
    ledgers = {name for name in names_with_tag(client, LEDGER_TAG) if is_ledger(name)}
    return [name for name in model_names(client) if name not in ledgers]


def _model(client: Any, name: str) -> Any:
    model = model_called(client, name)
    if is_ledger(name) and (model is None or _is_tagged(model)):
        raise BadRequest(f"{name} is the ledger of {name.removesuffix(LEDGER)}; name that model")
    if model is None:
        raise NoSuchModel(f"the registry {shown(client.tracking_uri)} has no model {name}; it has: {_models(client)}")
    return model


def _is_tagged(model: Any) -> bool:
    return dict(model.tags).get(LEDGER_TAG) == "1"


def _models(client: Any) -> str:
    names = _own_names(client)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return (", ".join(names[:MAX_NAMES]) or "none") + more

"""A version of a registered model: the version folder's own bytes in a LoggedModel, read back, then made visible."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import BadArtifact, BadRequest
from pipeline.tracking.client import talking_to
from pipeline.tracking.experiments import experiment_id
from pipeline.tracking.leftovers import being_made, remove_leftovers
from pipeline.tracking.marks import tag_model
from pipeline.tracking.versions import (
    KEY_TAG,
    Version,
    aliases_of,
    create_version,
    model_called,
    versions_by_key,
    versions_of,
)
from serving.bundle import read_bundle
from serving.reaching import expect_answers, fetch_files
from serving.registry import DIGEST_TAG
from serving.registry_failures import failure_of, raised_by_registries, shown
from serving.signatures import FILES, FILES_TAG, verify_folder
from serving.verifying import BUNDLE, verify_version

__all__ = ["KEY_TAG", "MODEL_TAG", "Offer", "Registered", "register"]

MODEL_TAG: Final = "retort.model"  # of a registered model that Retort made
MAX_DESCRIPTION: Final = 5000
_NOT_IN_NAMES: Final = str.maketrans(dict.fromkeys("/:.%\"'", "-"))  # of LoggedModels
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """What is to become a version: `folder` as pipeline.version_folder builds it, `tags` with the bundle's digest."""

    name: str
    key: str
    folder: Path
    tags: Mapping[str, str]
    experiment: str
    run_id: str | None
    description: str


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `new` where this call made it."""

    name: str
    version: str
    run_id: str | None
    model_id: str | None
    tracking_uri: str
    new: bool

    @property
    def model_uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(offer: Offer, *, uri: str, workspace: Path) -> Registered:
    """Make one version of the offer's folder, unless its key has one. No alias is moved.

    The files are read back and compared before the version is made, all its tags in one request: killed at any point,
    this leaves no version or a complete one, and called again it finishes what it began.

    Raises:
        BadArtifact: the folder is not whole, or its store gave other bytes back.
        BadRequest: the registry refuses the name or the request, or the name is another's.
        Transient: the registry cannot be reached, or is full.
    """
    _require_measured(offer)
    with talking_to(uri) as client:
        if found := versions_by_key(client, offer.name, offer.key):
            return _registered(_only(client, offer, found), uri=uri, new=False)
        _require_own_model(client, offer.name, uri=uri)  # first: a name it refuses must not cost an upload
        experiment = experiment_id(client, offer.experiment, uri=uri, workspace=workspace)
        remove_leftovers(client, experiment, offer.name, key=offer.key)
        tags = {**offer.tags, KEY_TAG: offer.key, FILES_TAG: _digest(offer.folder / FILES)}
        with _logged(client, offer, experiment=experiment, tags=tags) as model:
            _require_same(model, tags, uri=uri, scratch=workspace / "cache")
            client.finalize_logged_model(model.model_id, "READY")
            made = create_version(
                client,
                offer.name,
                source=f"models:/{model.model_id}",
                tags=tags,
                run_id=offer.run_id,
                model_id=model.model_id,
                description=offer.description[:MAX_DESCRIPTION],
            )
        first = _only(client, offer, versions_by_key(client, offer.name, offer.key) or [made])
        return _registered(first, uri=uri, new=first.model_id == made.model_id)


def _registered(version: Version, *, uri: str, new: bool) -> Registered:
    number = str(version.number)
    return Registered(version.name, number, version.run_id, version.model_id, tracking_uri=uri, new=new)


def _only(client: Any, offer: Offer, found: Sequence[Version]) -> Version:
    """The first of the versions of one key, which its LoggedModel is told of; the others go, but one that somebody gave
    an alias, and so does what was logged and is no version."""
    first, *others = found
    _link(client, first)
    named = set((aliases_of(client, first.name) or {}).values()) if others else set()
    for other in others:
        if str(other.number) not in named:
            _withdraw(client, other)
    experiment = client.get_experiment_by_name(offer.experiment)
    if experiment is not None and experiment.lifecycle_stage == "active":
        remove_leftovers(client, experiment.experiment_id, first.name, key=offer.key, kept=(first.model_id,))
    return first


def _link(client: Any, version: Version) -> None:
    """Let MLflow's page of a LoggedModel show the version that it became: a server of MLflow's does so once it has made
    a version, where nothing ends it in between, and its client of a database does not. Where that is refused, the
    version is registered all the same."""
    if version.model_id is None:
        return
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    told = json.dumps([{"name": version.name, "version": version.number}])
    try:
        if MLFLOW_MODEL_VERSIONS not in client.get_logged_model(version.model_id).tags:
            client.set_logged_model_tags(version.model_id, {MLFLOW_MODEL_VERSIONS: told})
    except raised_by_registries() as error:
        reason = failure_of(error, uri=client.tracking_uri)
        _log.warning("the logged model of version %d of %s does not name it: %s", version.number, version.name, reason)


def _withdraw(client: Any, version: Version) -> None:
    """Where that is not allowed it stays, and is told: the first one is registered all the same."""
    try:
        client.delete_model_version(version.name, str(version.number))
    except raised_by_registries() as error:
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            return  # the other machine was faster with this, too
        reason = failure_of(error, uri=client.tracking_uri)
        _log.warning("version %d of %s, which one step made twice, stays: %s", version.number, version.name, reason)


def _require_own_model(client: Any, name: str, *, uri: str) -> None:
    """Make the registered model, or find that all there is under its name was registered by Retort."""
    model = model_called(client, name) or _created_model(client, name)
    if MODEL_TAG in model.tags:
        return
    foreign = [version.number for version in versions_of(client, name) if DIGEST_TAG not in version.tags]
    if foreign:
        raise BadRequest(
            f"the model {name} in the registry {shown(uri)} was registered by something else than Retort (its version "
            f"{foreign[0]} has no tag {DIGEST_TAG}); choose another name (register.name)"
        )
    tag_model(client, name, MODEL_TAG, "1")


def _created_model(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.create_registered_model(name, tags={MODEL_TAG: "1"})
    except MlflowException as error:
        model = model_called(client, name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or model is None:  # None: a prompt of MLflow's has the name
            raise
        return model  # another process was faster


@contextmanager
def _logged(client: Any, offer: Offer, *, experiment: str, tags: Mapping[str, str]) -> Iterator[Any]:
    """A LoggedModel of the folder's own bytes, not ready yet. While the block runs it is no leftover."""
    with being_made() as by:
        model = client.create_logged_model(
            experiment,
            name=offer.name.translate(_NOT_IN_NAMES),
            source_run_id=offer.run_id,
            tags={**tags, **by},
            model_type="retort",
        )
        expect_answers(model.artifact_location)
        client.log_model_artifacts(model.model_id, str(offer.folder))
        yield model


def _require_measured(offer: Offer) -> None:
    """The folder is whole, and its bundle is the one that the tags speak of."""
    verify_folder(offer.folder, files_digest=None, key=None)
    digest, measured = read_bundle(offer.folder / BUNDLE).digest, offer.tags[DIGEST_TAG]
    if digest != measured:
        raise BadArtifact(
            f"the bundle to register is {digest[:12]}, not the {measured[:12]} that was measured; run again"
        )


def _require_same(model: Any, tags: Mapping[str, str], *, uri: str, scratch: Path) -> None:
    """Read back what was stored: file by file as listed, the bundle as measured. What a kill leaves in `scratch` is
    swept by `retort gc`."""
    place = shown(model.artifact_location)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        try:
            found = fetch_files(model.artifact_location, to=Path(folder), tracking_uri=uri)
            verify_version(found, files=tags[FILES_TAG], digest=tags[DIGEST_TAG], key=None, called=place)
        except BadArtifact as fault:
            told = str(fault).removeprefix(f"{place}: ").partition("; ")[0]  # its way out is another here
            raise BadArtifact(
                f"the artifact store of the registry {shown(uri)} gave back other files than it was given ({told}); "
                "nothing was registered: look at the store, then run again"
            ) from fault


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""`retort verify`: read every sealed file again, of a run, or of an artifact's, a bundle's or a version's folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artifact import MANIFEST, read_artifact, verify
from pipeline.config import load_config
from pipeline.errors import BadRequest
from pipeline.workspace import Workspace
from serving import bundle
from serving.signatures import FILES, verify_folder
from serving.verifying import BUNDLE


def verify_target(
    target: Path, settings: Sequence[str], workspace: Workspace, *, key: Path | None = None
) -> Iterator[str]:
    """Verify one thing and yield the name and digest of what was found whole; with a public `key`, that its owner
    signed it.

    Raises:
        BadArtifact: the first file that is not what it was, or a signature that is not there or does not fit.
        BadRequest: it is none of these things, or one that nobody signs.
    """
    if (target / FILES).is_file():
        verify_folder(target, files_digest=None, key=key)
        yield f"{target} {bundle.read_bundle(target / BUNDLE).digest}"
    elif key is not None and target.exists():
        raise BadRequest(f"{target} has no {FILES}: only versions are signed, so --key is for their folders and models")
    elif target.is_file():
        config = load_config(target, settings)
        for label, artifact in workspace.finished(config.name, config=config.model_dump(mode="json")).items():
            verify(artifact)
            yield f"{label} {artifact.digest}"
    elif (target / bundle.MANIFEST).is_file():
        yield f"{target} {bundle.read_bundle(target).digest}"
    elif (target / MANIFEST).is_file():
        artifact = read_artifact(target)
        verify(artifact)
        yield f"{target} {artifact.digest}"
    else:
        raise BadRequest(
            f"{target} is neither a config, nor an artifact ({MANIFEST}), nor a bundle ({bundle.MANIFEST}), nor a "
            f"version ({FILES}), nor the name of a model"
        )

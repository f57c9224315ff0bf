"""`retort verify`: read every sealed file again, of a run, an artifact folder or a bundle folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artifact import MANIFEST, read_artifact, verify
from pipeline.config import load_config
from pipeline.errors import BadRequest
from pipeline.workspace import Workspace
from serving import bundle


def verify_target(target: Path, settings: Sequence[str], workspace: Workspace) -> Iterator[str]:
    """Verify one thing and yield the name and digest of what was found whole; BadArtifact at the first that is not."""
    if target.is_file():
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
            f"{target} is neither a config, nor an artifact ({MANIFEST}), nor a bundle ({bundle.MANIFEST})"
        )

"""What fine-tuning leaves beside the weights: read back as it was, and carried on by a bundle."""

from pathlib import Path

import pytest
from fakes import tiny_bundle
from taskdata import refused

from pipeline.errors import BadArtifact
from pipeline.tasking.fitted import Fitted, fitted_of, read_fitted
from serving.bundle import read_bundle

EACH = (
    Fitted("classification", ("no", "yes"), refuse_below=0.7),
    Fitted("multi-label", ("b", "a"), thresholds=(0.25, 0.1 + 0.2)),
    Fitted("regression"),
    Fitted("token-classification", ("O", "B-x", "I-x")),
    Fitted("embedding", dimensions=3),
)


@pytest.mark.parametrize("fitted", EACH, ids=lambda fitted: fitted.kind)
def test_what_was_fitted_is_read_back_from_a_model_and_from_a_bundle(tmp_path: Path, fitted: Fitted) -> None:
    fitted.write(tmp_path)
    tiny_bundle(
        tmp_path / "bundle",
        task=fitted.kind,
        labels=fitted.labels,
        thresholds=fitted.thresholds,
        refuse_below=fitted.refuse_below,
    )

    assert read_fitted(tmp_path) == fitted
    assert fitted_of(read_bundle(tmp_path / "bundle").spec) == fitted


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "[Errno 2] No such file or directory: '{path}'"),
        ("{", "Input data was truncated"),
        ('{"kind": "ranking"}', "Invalid enum value 'ranking' - at `$.kind`"),
        ('{"kind": "regression", "epochs": 3}', "Object contains unknown field `epochs`"),
        ('{"labels": ["a"]}', "Object missing required field `kind`"),
    ],
)
def test_a_folder_that_does_not_say_what_it_was_tuned_for_is_a_bad_artifact(
    tmp_path: Path, written: str | None, why: str
) -> None:
    path = tmp_path / "task.json"
    if written is not None:
        path.write_text(written)

    message = refused(BadArtifact, lambda: read_fitted(tmp_path))

    assert message == f"{path} does not say what the model was fine-tuned for: {why.format(path=path)}"

"""What is asked of MLflow for the run of an outbox and its steps, a run each, nested in the first.

Each may be asked twice: a run is looked for by its tag before it is made.
"""

from pathlib import Path
from typing import Any, Final

from pipeline.errors import BadArtifact
from pipeline.events import PARENT, Closed, Files, Opened, Read
from pipeline.outbox_reading import Target, outboxes_of
from pipeline.store import key_lock
from pipeline.tracking.entities import input_of, tags_of
from pipeline.tracking.experiments import experiment_id

RUN_TAG: Final = "retort.run"  # of the run itself: the outbox's uid
STEP_TAG: Final = "retort.step"  # of a step: uid, label and key


class RunRequests:
    """Asked through a client from `talking_to`. `runs` are MLflow's ids by label, and grow with each that is opened.

    Raises BadArtifact where an event is about a run that no event opened, or about files that are gone.
    """

    def __init__(self, client: Any, folder: Path, target: Target, runs: dict[str, str]) -> None:
        self._client, self._folder, self._target, self._runs = client, folder, target, runs
        self._experiment: str | None = None

    def open(self, event: Opened) -> None:
        """Find or make the run, and have it at work. Who only joins a run leaves to others whether it is."""
        with key_lock(self._folder.parent.parent, f"run-{self._target.run}", waiting=lambda: None):
            found = self._find(event)
            run = self._runs[event.of] = str((found or self._made(event)).run_id)
        if found is None:
            return
        if not (event.of == PARENT and self._target.joins) and not self._ended_after(event, found):
            self._client.update_run(run, status="RUNNING")
        self._client.log_batch(run, tags=tags_of(self._tags(event)))

    def close(self, event: Closed) -> None:
        """End the run, for now, unless another of its outboxes told a later end of it."""
        from mlflow import environment_variables as settings

        settings.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.default = True  # stdout is for what a command says
        run = self._run(event.of)
        if not self._shares() or not self._ended_after(event, self._client.get_run(run).info):
            self._client.set_terminated(run, event.status, event.at)

    def log(self, label: str, **told: list[Any]) -> None:
        """A batch of metrics, params or tags."""
        self._client.log_batch(self._run(label), **told)

    def upload(self, event: Files) -> None:
        """Put files beside the run."""
        folder = self._folder / event.folder
        if not folder.is_dir():
            raise BadArtifact(f"{folder} is gone")
        self._client.log_artifacts(self._run(event.of), str(folder), event.to or None)

    def inputs(self, event: Read) -> None:
        """Name what was read."""
        self._client.log_inputs(self._run(event.of), datasets=[input_of(data) for data in event.data])

    def is_active(self, label: str) -> bool:
        """Whether the run can be told anything: one that was deleted in MLflow cannot."""
        return bool(self._client.get_run(self._run(label)).info.lifecycle_stage == "active")

    def is_known(self) -> bool:
        """Whether the server knows the run that it was told of."""
        from mlflow.exceptions import MlflowException

        if PARENT not in self._runs:
            return True
        try:
            self._client.get_run(self._runs[PARENT])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _run(self, label: str) -> str:
        if label not in self._runs:
            raise BadArtifact(f"no event says which run {label!r} is")
        return self._runs[label]

    def _identity(self, event: Opened) -> tuple[str, str]:
        """The tag that the run is found by, and its value."""
        run = self._target.run
        return (RUN_TAG, run) if event.of == PARENT else (STEP_TAG, f"{run}/{event.of}/{event.key}")

    def _shares(self) -> bool:
        """Whether other outboxes tell of this run: what several tell arrives in any order."""
        return self._target.joins or len(outboxes_of(self._folder.parent, self._target.run)) > 1

    def _ended_after(self, event: Opened | Closed, info: Any) -> bool:
        """Whether the server knows an end of the run that is later than the event. Of one outbox the order decides, and
        no clock."""
        return self._shares() and info.status != "RUNNING" and (info.end_time or 0) > event.at

    def _find(self, event: Opened) -> Any:
        """The run, where it was made before; of two the first one."""
        tag, value = self._identity(event)
        runs = self._client.search_runs([self._experiment_id()], filter_string=f"tags.`{tag}` = '{value}'")
        found = sorted((run.info for run in runs), key=lambda info: (info.start_time, info.run_id))
        for other in found[1:]:
            self._client.delete_run(other.run_id)
        return found[0] if found else None

    def _made(self, event: Opened) -> Any:
        """A new run. Where an answer is lost MLflow's client asks again, and there are two of it: one goes."""
        tags = {each.key: each.value for each in tags_of(self._tags(event))}
        made = self._client.create_run(self._experiment_id(), start_time=event.at, tags=tags, run_name=event.name)
        return self._find(event) or made.info

    def _tags(self, event: Opened) -> dict[str, str]:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        nested = {} if event.of == PARENT else {MLFLOW_PARENT_RUN_ID: self._run(PARENT)}
        return {**event.tags, **nested, **dict([self._identity(event)])}

    def _experiment_id(self) -> str:
        if self._experiment is None:
            root, uri = self._folder.parent.parent, str(self._client.tracking_uri)
            self._experiment = experiment_id(self._client, self._target.experiment, uri=uri, workspace=root)
        return self._experiment

"""Outboxes for tests, and what MLflow knows of a run, in a form that can be compared."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.events import PARENT, Closed, Data, Event, Files, Metrics, Opened, Params, Read, Tags
from pipeline.outbox import Outbox, open_outbox

EXPERIMENT = "retort-tests"
SST2 = Data(name="sst2", digest="d" * 64, kind="hub", context="training", source={"id": "sst2"}, splits={"train": 7})


def outbox_in(root: Path, *, uri: str | None = None, experiment: str = EXPERIMENT, asked: str = "a" * 64) -> Outbox:
    return open_outbox(root, name="demo", experiment=experiment, uri=uri, asked=asked)


def put(outbox: Outbox, *events: Event) -> None:
    for event in events:
        outbox.put(event)


def opening() -> list[Event]:
    """A run begins, and its first step."""
    return [
        Opened(of=PARENT, name="demo", tags={"retort.git_commit": "c0ffee"}),
        Params(of=PARENT, values={"distill": {"tokens": 500}}),
        Opened(of="distill", name="distill", key="distill-1", tags={"retort.key": "distill-1"}),
        Params(of="distill", values={"tokens": 500}),
    ]


def rows(first: int, last: int, *, of: str = "distill") -> list[Event]:
    """What training says at these steps."""
    return [Metrics(of=of, step=step, values={"loss": 1.0 / step, "grad_norm": 0.5}) for step in range(first, last + 1)]


def ending(outbox: Outbox, folder: Path) -> list[Event]:
    """The step is done, and so is the run; `folder` is for its files."""
    (folder / "curve.png").write_bytes(b"a picture")
    kept = outbox.keep({"evidence/curve.png": folder / "curve.png"})
    return [
        Files(of="distill", folder=kept, to=""),
        Read(of="distill", data=[SST2]),
        Read(of=PARENT, data=[SST2]),
        Tags(of="distill", values={"retort.digest": "d1"}),
        Closed(of="distill", status="FINISHED"),
        Tags(of=PARENT, values={"retort.verdict": "PASS"}),
        Closed(of=PARENT, status="FINISHED"),
    ]


class Known(NamedTuple):
    """One run as MLflow has it; metrics are (step, value) in order, or (time, step, value) that no two may share."""

    status: str
    params: dict[str, str]
    metrics: dict[str, list[tuple[int, float]]]
    tags: dict[str, str]
    data: list[tuple[str, str]]
    files: list[str]


def known(client: Any, *, experiment: str = EXPERIMENT) -> dict[str, Known]:
    """Every run of an experiment by its name; each name occurs once."""
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    names = [run.info.run_name for run in runs]
    assert len(names) == len({*names}), names
    return {run.info.run_name: _known(client, run) for run in runs}


def _known(client: Any, run: Any) -> Known:
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return Known(
        status=run.info.status,
        params=dict(run.data.params),
        metrics={name: sorted((each.step, each.value) for each in points) for name, points in histories.items()},
        tags=dict(run.data.tags),
        data=[(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs],
        files=sorted(_files(client, run.info.run_id)),
    )


def _files(client: Any, run_id: str, folder: str = "") -> list[str]:
    found = client.list_artifacts(run_id, folder or None)
    return [path for each in found for path in (_files(client, run_id, each.path) if each.is_dir else [each.path])]

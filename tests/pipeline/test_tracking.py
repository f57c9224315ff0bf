"""Against a real MLflow sqlite store. Its migration takes seconds: one store is shared, each test has its own model."""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fakes import tiny_bundle

from pipeline import tracking
from pipeline.errors import BadRequest, Failure, Transient
from pipeline.tracking import Curve, Evidence, Registered, default_uri, flattened, register, talking_to
from serving.bundle import Bundle, read_bundle
from serving.registry import resolve

# Raised inside MLflow's own models of its tables, when `serving.registry` reads.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def bundle(root: Path) -> Bundle:
    found = tiny_bundle(root / "made" / "bundle")
    (found.path / "receipts").mkdir()
    (found.path / "receipts" / "latency@here.json").write_text('{"p95_ms": 1.5}')
    return found


@pytest.fixture(scope="module")
def evidence(root: Path, bundle: Bundle) -> Evidence:
    curve = root / "made" / "evidence"
    curve.mkdir()
    (curve / "curve.png").write_bytes(b"a picture")
    rows = [{"step": 10, "loss": 2.0, "query": 0.5}, {"step": 20, "loss": 1.0, "query": 0.25}]
    return Evidence(
        folders={"bundle": bundle.path, "manifests/distill": curve},
        params={"distill": {"tokens": 500, "objective": {"kind": "relation"}}, "export": {"parity_texts": 256}},
        metrics={"student-onnx-int8/accuracy": 0.91, "student-onnx-int8/p95_ms": 1.5},
        curves=[Curve("distill", rows)],
        tags={"retort.digest": bundle.digest, "retort.verdict": "PASS"},
    )


def registered(evidence: Evidence, root: Path, *, name: str, key: str = "register-1", **changes: Any) -> Registered:
    return register(
        evidence,
        **{
            "uri": default_uri(root),
            "workspace": root,
            "experiment": name,
            "name": name,
            "alias": "champion",
            "key": key,
            **changes,
        },
    )


@pytest.fixture
def client(root: Path) -> Iterator[Any]:
    with talking_to(default_uri(root)) as found:
        yield found


def refusal(kind: type[Failure], evidence: Evidence, root: Path, **changes: Any) -> str:
    with pytest.raises(kind) as refused:
        registered(evidence, root, **{"name": "m", **changes})
    return str(refused.value)


# -- what is registered ------------------------------------------------------------------------------------------------


def test_a_bundle_becomes_a_version_with_tags_and_the_alias(evidence: Evidence, root: Path, client: Any) -> None:
    found = registered(evidence, root, name="tags")

    version = client.get_model_version_by_alias("tags", "champion")
    assert found == Registered("tags", "1", "champion", version.run_id, default_uri(root))
    assert found.model_uri == "models:/tags/1"  # not by alias: that may have moved on when this is read
    assert str(version.version) == "1"
    assert version.tags == {**evidence.tags, "retort.key": "register-1"}
    assert client.get_run(version.run_id).data.tags.items() >= version.tags.items()
    assert client.get_run(version.run_id).info.status == "FINISHED"


def test_the_registered_bytes_are_the_bytes_that_were_measured(
    evidence: Evidence, bundle: Bundle, root: Path, client: Any, tmp_path: Path
) -> None:
    found = registered(evidence, root, name="bytes")

    there = Path(client.download_artifacts(found.run_id, "bundle", str(tmp_path)))
    files = {file.relative_to(bundle.path): file.read_bytes() for file in bundle.path.rglob("*") if file.is_file()}
    assert {file.relative_to(there): file.read_bytes() for file in there.rglob("*") if file.is_file()} == files
    assert read_bundle(there).digest == bundle.digest


def test_what_was_registered_is_what_the_server_resolves(
    evidence: Evidence, bundle: Bundle, root: Path, tmp_path: Path
) -> None:
    """Both halves of MLflow agree, for a name with a space too."""
    found = registered(evidence, root, name="with space")

    resolved = resolve(found.model_uri, tracking_uri=found.tracking_uri, cache=tmp_path)

    assert (resolved.version, resolved.digest) == ("1", bundle.digest)
    assert (resolved.path / "model.onnx").read_bytes() == (bundle.path / "model.onnx").read_bytes()


def test_the_run_carries_the_evidence(evidence: Evidence, root: Path, client: Any) -> None:
    found = registered(evidence, root, name="evidence")

    data = client.get_run(found.run_id).data
    assert data.params == {
        "distill.tokens": "500",
        "distill.objective.kind": "relation",
        "export.parity_texts": "256",
    }
    assert data.metrics["student-onnx-int8/accuracy"] == 0.91
    assert [entry.path for entry in client.list_artifacts(found.run_id, "manifests/distill")] == [
        "manifests/distill/curve.png"
    ]


def test_loss_curves_are_metrics_over_steps(evidence: Evidence, root: Path, client: Any) -> None:
    found = registered(evidence, root, name="curves")

    points = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(found.run_id, name)]
        for name in ("distill/loss", "distill/query")
    }
    assert points == {"distill/loss": [(10, 2.0), (20, 1.0)], "distill/query": [(10, 0.5), (20, 0.25)]}
    assert "distill/step" not in client.get_run(found.run_id).data.metrics


def test_more_than_one_request_takes_is_logged_in_portions(
    evidence: Evidence, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "METRICS_A_BATCH", 3)
    monkeypatch.setattr(tracking, "PARAMS_A_BATCH", 2)
    large = replace(
        evidence,
        params={f"p{i}": i for i in range(5)} | {"long": "x" * 600},
        curves=[Curve("c", [{"step": step, "loss": float(step)} for step in range(8)])],
    )

    found = registered(large, root, name="portions")

    assert len(client.get_metric_history(found.run_id, "c/loss")) == 8
    params = client.get_run(found.run_id).data.params
    assert len(params) == 6
    assert params["long"] == "x" * 500


# -- versions and aliases ----------------------------------------------------------------------------------------------


def test_the_alias_moves_to_the_newer_version(evidence: Evidence, root: Path, client: Any) -> None:
    for key in ("register-a", "register-b"):
        registered(evidence, root, name="moves", key=key)

    assert str(client.get_model_version_by_alias("moves", "champion").version) == "2"
    assert len(client.search_model_versions("name='moves'")) == 2


def test_another_alias_leaves_the_first_where_it_is(evidence: Evidence, root: Path, client: Any) -> None:
    registered(evidence, root, name="aliases", key="register-a")
    registered(evidence, root, name="aliases", key="register-b", alias="challenger")

    aliases = client.get_registered_model("aliases").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "1", "challenger": "2"}


def test_the_same_step_registers_one_version_however_often_it_is_run(
    evidence: Evidence, root: Path, client: Any
) -> None:
    first, again = (registered(evidence, root, name="once") for _ in range(2))

    assert again == first
    assert len(client.search_model_versions("name='once'")) == 1


def test_a_step_killed_before_the_alias_finishes_what_it_began(
    evidence: Evidence, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            registered(evidence, root, name="killed")
    found = registered(evidence, root, name="killed")

    assert found.version == "1"
    assert str(client.get_model_version_by_alias("killed", "champion").version) == "1"
    assert len(client.search_model_versions("name='killed'")) == 1


def test_local_files_lie_in_the_workspace(evidence: Evidence, root: Path, client: Any) -> None:
    found = registered(evidence, root, name="place")
    assert (
        client.get_run(found.run_id).info.artifact_uri
        == f"{(root / 'mlartifacts').as_uri()}/place/{found.run_id}/artifacts"
    )
    assert (root / "mlartifacts" / "place" / found.run_id / "artifacts" / "bundle" / "model.onnx").is_file()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_name_the_registry_does_not_take_is_a_bad_request_and_uploads_nothing(
    evidence: Evidence, root: Path, client: Any
) -> None:
    assert refusal(BadRequest, evidence, root, name="a/b", experiment="refused") == (
        f"the registry {default_uri(root)} refused: Invalid model name 'a/b'. Names cannot contain '/' or ':'."
    )
    assert client.get_experiment_by_name("refused") is None


def test_an_alias_the_registry_keeps_is_a_bad_request(evidence: Evidence, root: Path) -> None:
    assert refusal(BadRequest, evidence, root, name="reserved", alias="v1") == (
        f"the registry {default_uri(root)} refused: Version alias name 'v1' is reserved."
    )


def test_a_server_that_is_not_there_is_transient_at_once(evidence: Evidence, root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        message = refusal(Transient, evidence, root, uri=uri)

    assert message == (
        f"the MLflow server {uri} cannot be reached (ConnectError); start it or set register.tracking_uri, "
        "then run again: finished stages are kept"
    )
    assert time.monotonic() - started < tracking.REACH_TIMEOUT_S


@contextmanager
def server(status: int) -> Iterator[str]:
    """One that answers everything with `status`."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_server_that_is_not_well_is_transient(evidence: Evidence, root: Path) -> None:
    with server(503) as uri:
        message = refusal(Transient, evidence, root, uri=uri)
    assert message == (
        f"the MLflow server {uri} cannot be reached (HTTPStatusError); start it or set register.tracking_uri, "
        "then run again: finished stages are kept"
    )


def test_a_registry_that_fails_inside_is_transient(
    evidence: Evidence, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    def fails(*_: Any, **__: Any) -> None:
        raise MlflowException("the disk is gone\nand a stack trace")

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", fails)
    assert refusal(Transient, evidence, root, name="fails") == (
        f"the registry {default_uri(root)} failed: the disk is gone; run again, finished work is kept"
    )


def test_a_file_that_is_no_database_is_named(evidence: Evidence, root: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all, but long enough to be read as the header of one" * 20)

    assert refusal(Transient, evidence, root, uri=default_uri(tmp_path)) == (
        f"the registry {default_uri(tmp_path)} failed: (sqlite3.DatabaseError) file is not a database; "
        "run again, finished work is kept"
    )


def test_mlflow_says_nothing_below_an_error(root: Path) -> None:
    with talking_to(default_uri(root)):
        assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.WARNING)
        assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)


def test_nested_settings_become_dotted_names() -> None:
    assert flattened({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": {}}) == {"a.b.c": 1, "a.d": [1, 2], "e": None}

"""A registry that is a real MLflow server process: what the pipeline registers there, the server fetches from there."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import tiny_bundle

from pipeline import tracking
from pipeline.errors import BadRequest, Transient
from serving.bundle import read_bundle
from serving.registry import DIGEST_TAG, resolve

START_S = 90.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """`mlflow server` with artifacts served over HTTP: (its URI, its process)."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *stores], cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_up(f"http://127.0.0.1:{port}", process, folder / "log")
            yield f"http://127.0.0.1:{port}", process
        finally:
            _stop(process)


def _wait_until_up(uri: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(f"{uri}/health", timeout=1.0).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-2000:])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    import os
    import signal

    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def evidence(tmp_path: Path) -> tracking.Evidence:
    bundle = tiny_bundle(tmp_path / "bundle")
    return tracking.Evidence(
        folders={"bundle": bundle.path},
        params={"distill": {"tokens": 7}},
        metrics={"student-onnx-int8/p95_ms": 1.5},
        curves=[tracking.Curve("distill", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])],
        tags={DIGEST_TAG: bundle.digest, "retort.lineage.distill": "d" * 64},
    )


@pytest.mark.timeout(300)
def test_what_is_registered_over_http_is_fetched_and_verified_over_http_and_a_server_that_went_away_is_said_so(
    server: "tuple[str, subprocess.Popen[bytes]]", evidence: tracking.Evidence, tmp_path: Path
) -> None:
    uri, process = server
    where = {"uri": uri, "workspace": tmp_path, "experiment": "tiny", "name": "tiny", "alias": "champion"}

    first = tracking.register(evidence, **where, key="register-1")
    again = tracking.register(evidence, **where, key="register-1")
    second = tracking.register(evidence, **where, key="register-2")
    resolved = resolve("models:/tiny@champion", tracking_uri=uri, cache=tmp_path / "cache")

    assert (first.version, again.version, second.version) == ("1", "1", "2")
    assert (resolved.version, resolved.digest) == ("2", evidence.tags[DIGEST_TAG])
    assert read_bundle(resolved.path).digest == evidence.tags[DIGEST_TAG]
    with pytest.raises(BadRequest, match="has no alias challenger; it has: champion"):
        resolve("models:/tiny@challenger", tracking_uri=uri, cache=tmp_path / "cache")

    _stop(process)
    with pytest.raises(Transient) as away:
        tracking.register(evidence, **where, key="register-3")
    assert str(away.value) == (
        f"the MLflow server {uri} cannot be reached (ConnectError); start it or set register.tracking_uri, then run "
        "again: finished stages are kept"
    )

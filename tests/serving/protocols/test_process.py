"""The protocols of the real process, as it is started."""

import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from fakes import tiny_bundle
from served import WAIT_S, Running, running
from tritonclient.utils import InferenceServerException


def grpc_port(server: Running) -> int:
    """As its log tells."""
    end = time.monotonic() + WAIT_S
    while not (found := re.search(r"gRPC on port (\d+)", server.errors.read_text())):
        assert time.monotonic() < end, server.errors.read_text()
        time.sleep(0.01)
    return int(found[1])


def good() -> triton.InferInput:
    given = triton.InferInput("text", [1], "BYTES")
    given.set_data_from_numpy(np.array(["good"], np.object_))
    return given


def test_grpc_is_served_beside_http_for_those_who_have_a_key(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "serving.security.keys", "new", "alice"], capture_output=True, text=True, check=True
    )
    (tmp_path / "keys.txt").write_text(made.stdout)
    key = made.stderr.split()[-1]
    bundle = tiny_bundle(tmp_path / "bundle")
    with running(bundle.path, "--grpc-port", "0", "--api-keys", str(tmp_path / "keys.txt")) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{grpc_port(server)}") as client:
            assert client.is_server_ready()
            with pytest.raises(InferenceServerException) as refused:
                client.infer("tiny", [good()])
            result = client.infer("tiny", [good()], headers={"x-api-key": key})
            over_http = httpx.post(
                f"{server.url}/classify", json={"texts": ["good"]}, headers={"authorization": f"Bearer {key}"}
            )
        assert server.metric('retort_requests_total{outcome="client_error"}') == 1
        assert server.metric('retort_requests_total{outcome="ok"}') == 2
        stopped = server.stop()
    assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
    assert result.as_numpy("label").tolist() == [b"positive"]
    assert over_http.json()["results"][0]["label"] == "positive"
    assert stopped == 0


def test_without_a_grpc_port_nothing_of_grpc_is_loaded() -> None:
    asking = "import sys, serving.server; print('grpc' in sys.modules, 'google.protobuf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

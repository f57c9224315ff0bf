"""MLServer's own types and codecs read what this server sends, in an environment of their own."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest
from speaking import speaking, tiny_live

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-mlserver" / "bin" / "python"  # MLServer needs an older FastAPI and protobuf than MLflow does
TEXTS = ["good", "bad 😀 day"]

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="MLServer has an environment of its own: make mlserver")


def test_mlserver_s_types_and_codecs_read_what_is_sent(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server:
        script = ROOT / "tests" / "mlserver_client.py"
        done = subprocess.run(
            [PYTHON, script, server.url, "m", *TEXTS], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        plain = httpx.post(f"{server.url}/classify", json={"texts": TEXTS}).json()["results"]
    scores = told.pop("scores")
    assert scores == [pytest.approx(list(one["scores"].values())) for one in plain]
    assert told == {
        "server": "retort",
        "inputs": [["text", "BYTES", [-1]], *([name, "INT64", [-1, -1]] for name in IDS)],
        "outputs": [["scores", "FP32", [-1, 2]], ["label", "BYTES", [-1]]],
        "id": "mine",
        "model": ["m", "7", server.live.digest],
        "label": ["positive", "negative"],
        "again": ["positive", "negative"],
        "dumped": ["id", "model_name", "model_version", "outputs", "parameters"],
    }


IDS = ("input_ids", "attention_mask", "token_type_ids")

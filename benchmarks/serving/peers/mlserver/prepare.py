"""Where MLServer shall listen: it reads a file."""

import json
from pathlib import Path

from classifier import read_peer

PORT = read_peer().port

if __name__ == "__main__":
    settings = {
        "host": "127.0.0.1",
        "http_port": PORT,
        "grpc_port": 0,
        "metrics_port": 0,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    Path("settings.json").write_text(json.dumps(settings), encoding="utf-8")

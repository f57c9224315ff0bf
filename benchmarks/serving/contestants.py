"""Who is measured beside us: how each is started, what it is asked, and where its files lie.

EXTENSION POINT: a folder in peers/ with requirements.txt and what the server needs, and a row in PEERS. A folder's
prepare.py, where there is one, is run by the peer's own Python before the server, in the folder that it starts in.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from serving.errors import BadRequest

HERE: Final = Path(__file__).parent / "peers"
CLASSIFIER: Final = HERE / "classifier.py"
OURS: Final = "retort"

Body = Callable[[str], Any]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """`command` runs in the peer's environment; `{bin}` and `{port}` in it are filled in. A request holds one text, as
    `body` says it, and goes to `path`; a GET of `ready` says whether one may be sent."""

    name: str
    command: tuple[str, ...]
    path: str
    ready: str
    body: Body

    @property
    def folder(self) -> Path:
        return HERE / self.name

    @property
    def requirements(self) -> Path:
        return self.folder / "requirements.txt"

    def argv(self, *, bin_folder: Path, port: int) -> list[str]:
        """What is started."""
        return [part.format(bin=bin_folder, port=port) for part in self.command]

    def bodies(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(msgspec.json.encode(self.body(text)).decode("utf-8") for text in texts)


def plain(text: str) -> dict[str, Any]:
    """What our own POST /classify reads."""
    return {"texts": [text]}


def open_inference(text: str) -> dict[str, Any]:
    """The Open Inference Protocol's, of a list of texts."""
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}


def batched(text: str) -> dict[str, Any]:
    """The same of a matrix with one column, which is what Triton makes of a model that can batch."""
    return {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}


def invocation(text: str) -> dict[str, Any]:
    """What MLflow's server reads."""
    return {"dataframe_split": {"columns": ["text"], "data": [[text]]}}


def infinity_input(text: str) -> dict[str, Any]:
    return {"model": "classifier", "input": [text], "raw_scores": False}


_SERVER = ("{bin}/python", "server.py")
_V2, _MODEL_READY = "/v2/models/classifier/infer", "/v2/models/classifier/ready"

# Nobody here writes a line for each request.
_MLFLOW = (
    *("env", "UVICORN_ACCESS_LOG=false"),
    *("{bin}/mlflow", "models", "serve", "-m", "version", "--env-manager", "local", "--workers", "1"),
)
_BENTOML = ("{bin}/bentoml", "serve", "service:Classify", "--host", "127.0.0.1", "--port", "{port}")

# The graph as it is: what Infinity makes of it lies in a cache under the name ".", which every bundle has here.
_INFINITY = (
    *(*_SERVER, "v2", "--model-id", ".", "--served-model-name", "classifier", "--engine", "optimum", "--device", "cpu"),
    *("--no-bettertransformer", "--onnx-disable-optimize", "--no-model-warmup", "--log-level", "warning"),
    *("--host", "127.0.0.1", "--port", "{port}"),
)

# Triton brings an older Python 3.11 of its own, whose locks lack what the shared memory of a newer one's library asks
# for; texts and scores are a few bytes, for which there is nothing to share.
_PYTRITON = ("env", "PYTRITON_NO_TENSORSTORE=1", *_SERVER)

PEERS: Final = (
    Peer(name="fastapi", command=_SERVER, path="/classify", ready="/openapi.json", body=plain),
    Peer(
        name="mlserver",
        command=("{bin}/mlserver", "start", "."),
        path=_V2,
        ready="/v2/health/ready",
        body=open_inference,
    ),
    Peer(name="litserve", command=_SERVER, path="/classify", ready="/health", body=plain),
    Peer(name="bentoml", command=_BENTOML, path="/classify", ready="/readyz", body=plain),
    Peer(name="pytriton", command=_PYTRITON, path=_V2, ready=_MODEL_READY, body=batched),
    Peer(name="mlflow", command=(*_MLFLOW, "--port", "{port}"), path="/invocations", ready="/ping", body=invocation),
    Peer(name="infinity", command=_INFINITY, path="/classify", ready="/health", body=infinity_input),
)


def chosen(names: Sequence[str], *, known: Sequence[Peer] = PEERS) -> tuple[Peer, ...]:
    """The peers of these names, in their order; all of them where none is named.

    Raises:
        BadRequest: nobody is called so.
    """
    by_name: Mapping[str, Peer] = {peer.name: peer for peer in known}
    if strange := [name for name in names if name not in by_name]:
        raise BadRequest(f"--peers {', '.join(strange)}: nobody here is called so; there are {', '.join(by_name)}")
    return tuple(by_name[name] for name in names) if names else tuple(known)

"""The model as every peer runs it: the bundle's own tokenizer and graph, with the options that our server runs them
with. It imports nothing of ours, for a peer's environment has nothing of ours.

It lies beside a peer's own files in the folder that the peer is started in; `peer.json` there is a `Peer`.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Peer(NamedTuple):
    """What a peer is told."""

    bundle: str
    checkout: str
    labels: list[str]
    max_length: int
    port: int


def read_peer() -> Peer:
    """What stands beside this file."""
    return Peer(**json.loads(Path(__file__).with_name("peer.json").read_text(encoding="utf-8")))


def session_options() -> onnxruntime.SessionOptions:
    """One core's: no thread beside the caller's, which would leave that core, and no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Classifier:
    """Safe to call from several threads."""

    def __init__(self, peer: Peer) -> None:
        bundle = Path(peer.bundle)
        self._labels = peer.labels
        self._tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length=peer.max_length, strategy="longest_first")
        self._tokenizer.no_padding()
        self._session = onnxruntime.InferenceSession(
            str(bundle / "model.onnx"), session_options(), providers=["CPUExecutionProvider"]
        )
        self._inputs = {node.name for node in self._session.get_inputs()}

    def scores(self, text: str) -> list[float]:
        """Probabilities, in the order of the labels."""
        encoded = self._tokenizer.encode_batch_fast([text])[0]
        fed = {
            "input_ids": np.array([encoded.ids], np.int64),
            "attention_mask": np.ones((1, len(encoded.ids)), np.int64),
            "token_type_ids": np.array([encoded.type_ids], np.int64),
        }
        (logits,) = self._session.run(None, {name: value for name, value in fed.items() if name in self._inputs})
        powers = np.exp(logits[0] - logits[0].max())
        return [float(value) for value in powers / powers.sum()]

    def answer(self, text: str) -> dict[str, Any]:
        """As our server words it."""
        scores = dict(zip(self._labels, self.scores(text), strict=True))
        best = max(scores, key=scores.__getitem__)
        return {"label": best, "score": scores[best], "scores": scores}

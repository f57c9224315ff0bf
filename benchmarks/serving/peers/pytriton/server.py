"""PyTriton: NVIDIA's Triton in front, this process behind it; no batching by Triton, whose requests hold one text."""

from classifier import Classifier, read_peer
from numpy import array, bytes_, float32
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

peer = read_peer()
classifier = Classifier(peer)


@batch
def infer(text: "NDArray[bytes_]") -> list["NDArray[float32]"]:
    """(N, 1) texts as bytes to (N, labels) scores."""
    return [array([classifier.scores(row[0].decode("utf-8")) for row in text], float32)]


if __name__ == "__main__":
    where = TritonConfig(
        http_address="127.0.0.1", http_port=peer.port, allow_grpc=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=where) as triton:
        triton.bind(
            model_name="classifier",
            infer_func=infer,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="scores", dtype=float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=64, batcher=None),
        )
        triton.serve()

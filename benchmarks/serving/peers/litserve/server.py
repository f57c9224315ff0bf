"""LitServe: one worker, no batching, as its documentation has a model for the CPU."""

from typing import Any

import litserve
from classifier import Classifier, read_peer


class Api(litserve.LitAPI):
    """A text in, a record out."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (the name is LitServe's)
        self.classifier = Classifier(read_peer())

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        return list(request["texts"])

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        return [self.classifier.answer(text) for text in texts]

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {"results": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/classify"), accelerator="cpu", workers_per_device=1)
    server.run(port=read_peer().port, num_api_servers=1, generate_client_file=False, log_level="warning")

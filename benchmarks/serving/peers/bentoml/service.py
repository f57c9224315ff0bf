"""BentoML: one worker; its own thread pool runs the function. Nobody here writes a line for each request."""

from typing import Any

import bentoml
from classifier import Classifier, read_peer


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Classify:
    """`bentoml serve service:Classify`"""

    def __init__(self) -> None:
        self.classifier = Classifier(read_peer())

    @bentoml.api
    def classify(self, texts: list[str]) -> dict[str, Any]:
        return {"results": [self.classifier.answer(text) for text in texts]}

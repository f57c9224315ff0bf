"""BentoML: one worker; its own thread pool runs the function."""

from typing import Any

import bentoml
from classifier import Classifier, read_peer


@bentoml.service(workers=1)
class Classify:
    """`bentoml serve service:Classify`"""

    def __init__(self) -> None:
        self.classifier = Classifier(read_peer())

    @bentoml.api
    def classify(self, texts: list[str]) -> dict[str, Any]:
        return {"results": [self.classifier.answer(text) for text in texts]}

"""MLServer's runtime for the classifier: text in, the scores of the labels out, in one process (no parallel workers,
which on one core only add a hop)."""

from classifier import Classifier, read_peer
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from numpy import array, float32


class Runtime(MLModel):
    """Named in model-settings.json."""

    async def load(self) -> bool:
        self.classifier = Classifier(read_peer())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        scores = array([self.classifier.scores(text) for text in texts], float32)
        output = NumpyCodec.encode_output(name="scores", payload=scores)
        return InferenceResponse(model_name=self.name, outputs=[output])

"""A plain FastAPI app: its thread pool runs the function, uvicorn with uvloop and httptools speaks HTTP."""

from typing import Any

import uvicorn
from classifier import Classifier, read_peer
from fastapi import FastAPI
from pydantic import BaseModel

peer = read_peer()
classifier = Classifier(peer)
app = FastAPI()


class Texts(BaseModel):
    """A request."""

    texts: list[str]


@app.post("/classify")
def classify(asked: Texts) -> dict[str, Any]:
    """Not `async`: it runs in the pool."""
    return {"results": [classifier.answer(text) for text in asked.texts]}


if __name__ == "__main__":
    uvicorn.run(app, port=peer.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")

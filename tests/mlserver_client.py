"""Asks a server as users of MLServer do, with its types and codecs; prints what it read, as JSON.

Runs in an environment of its own, with nothing of Retort: `python tests/mlserver_client.py URL MODEL TEXT...`
"""

import json
import sys
import urllib.request

from mlserver.codecs import NumpyCodec, StringCodec, StringRequestCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataServerResponse


def read(address: str, body: str | None = None) -> str:
    sent = None if body is None else body.encode()
    request = urllib.request.Request(address, data=sent, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        told: str = response.read().decode()
        return told


def main(url: str, model: str, *texts: str) -> None:
    server = MetadataServerResponse.model_validate_json(read(f"{url}/v2"))
    metadata = MetadataModelResponse.model_validate_json(read(f"{url}/v2/models/{model}"))
    inputs = [StringCodec.encode_input("text", [*texts], use_bytes=False)]
    request = InferenceRequest(id="mine", inputs=inputs)
    answer = InferenceResponse.model_validate_json(read(f"{url}/v2/models/{model}/infer", request.model_dump_json()))
    whole = StringRequestCodec.encode_request([*texts], use_bytes=False)
    whole.inputs[0].name = "text"
    again = InferenceResponse.model_validate_json(read(f"{url}/v2/models/{model}/infer", whole.model_dump_json()))
    named = {output.name: output for output in answer.outputs}
    told = {
        "server": server.name,
        "inputs": [[each.name, each.datatype, each.shape] for each in metadata.inputs],
        "outputs": [[each.name, each.datatype, each.shape] for each in metadata.outputs],
        "id": answer.id,
        "model": [answer.model_name, answer.model_version, answer.parameters.digest],
        "label": StringCodec.decode_output(named["label"]),
        "scores": NumpyCodec.decode_output(named["scores"]).tolist(),
        "again": StringCodec.decode_output({output.name: output for output in again.outputs}["label"]),
        "dumped": sorted(json.loads(answer.model_dump_json(exclude_none=True))),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

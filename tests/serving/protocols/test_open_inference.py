"""The Open Inference Protocol over REST, by tritonclient and by plain requests against a real server."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from fakes import LABELS, VOCABULARY, tiny_bundle
from speaking import Speaking, speaking, tiny_live
from tritonclient.utils import InferenceServerException

from serving.errors import BadArtifact
from serving.lanes import CANARY
from serving.models import load
from serving.registry import Resolved
from serving.security.guard import Guard
from serving.security.keys import Keys, new_key
from serving.security.notes import Requests

INFER = "/v2/models/m/infer"
IDS = {word: index for index, word in enumerate(VOCABULARY)}


def text(*texts: str, name: str = "text", **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": [*texts], **changes}


def ids(*rows: list[int], name: str = "input_ids", **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "INT64", "shape": [len(rows), len(rows[0])], "data": [*rows], **changes}


def tokens(words: str) -> list[int]:
    return [IDS[word] for word in f"[CLS] {words} [SEP]".split()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("single"))) as server:
        yield server


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("pairs"), texts_per_item=2)) as server:
        yield server


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("tagger"), task="token-classification")) as server:
        yield server


class Client(triton.InferenceServerClient):
    def __del__(self) -> None:
        """Closed by its fixture; a garbage collection in the server's thread could not."""


@pytest.fixture
def client(server: Speaking) -> Iterator[Client]:
    with Client(server.host) as client:
        yield client


def post(server: Speaking, inputs: list[dict[str, Any]], path: str = INFER, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={"inputs": inputs, **more})


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {one["name"]: one["data"] for one in response.json()["outputs"]}


def refusal(response: httpx.Response, status: int = 422) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


# -- tritonclient ------------------------------------------------------------------------------------------------------


def test_tritonclient_finds_a_server_that_lives_and_is_ready(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "7")
    assert not client.is_model_ready("m", "8")
    assert not client.is_model_ready("other")


def test_tritonclient_reads_the_metadata_of_server_and_model(client: Client, server: Speaking) -> None:
    assert client.get_server_metadata() == {"name": "retort", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
    told = client.get_model_metadata("m", "7")
    assert told == client.get_model_metadata("m")
    assert told == {
        "name": "m",
        "versions": ["7"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "token_type_ids", "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {
            "version": "7",
            "digest": server.live.digest,
            "task": "classification",
            "labels": ["negative", "positive"],
        },
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritonclient_asks_with_texts(client: Client, server: Speaking, binary_in: bool, binary_out: bool) -> None:
    given = triton.InferInput("text", [2, 1], "BYTES")
    given.set_data_from_numpy(np.array([["good"], ["bad 😀"]], np.object_), binary_data=binary_in)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("label", "scores")]
    result = client.infer("m", [given], model_version="7", outputs=wanted, request_id="one")
    body = result.get_response()
    assert (body["model_name"], body["model_version"], body["id"]) == ("m", "7", "one")
    assert body["parameters"] == {"version": "7", "digest": server.live.digest}
    assert [one["name"] for one in body["outputs"]] == ["label", "scores"]
    labels, scores = result.as_numpy("label"), result.as_numpy("scores")
    assert [one.decode() if binary_out else one for one in labels] == ["positive", "negative"]
    plain = httpx.post(f"{server.url}/classify", json={"texts": ["good", "bad 😀"]}).json()["results"]
    assert scores.dtype == np.float32
    assert scores.tolist() == [pytest.approx(list(one["scores"].values())) for one in plain]


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_asks_with_the_ids_of_its_own_tokenizer(client: Client, server: Speaking, binary: bool) -> None:
    rows = [tokens("good"), tokens("bad bad good")]
    length = max(map(len, rows))
    padded = np.array([row + [0] * (length - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int64)
    inputs = []
    for name, array in (("input_ids", padded), ("attention_mask", mask), ("token_type_ids", np.zeros_like(padded))):
        inputs.append(triton.InferInput(name, array.shape, "INT64"))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    found = client.infer("m", inputs).as_numpy("scores")
    by_text = outputs(post(server, [text("good", "bad bad good")]))["scores"]
    assert found.ravel().tolist() == pytest.approx(by_text)


def test_tritonclient_is_told_why_it_is_refused(client: Client) -> None:
    given = triton.InferInput("text", [1], "BYTES")
    given.set_data_from_numpy(np.array(["good"], np.object_))
    with pytest.raises(InferenceServerException) as refused:
        client.infer("other", [given])
    assert refused.value.message() == "there is no model 'other' here; this server has 'm'"
    assert refused.value.status() == "404"


# -- every task --------------------------------------------------------------------------------------------------------


def test_an_answer_tells_its_model_and_its_phases_in_headers_too(server: Speaking) -> None:
    answered = post(server, [text("good")])
    assert answered.headers["x-model-version"] == "7"
    assert answered.headers["x-model-digest"] == server.live.digest
    phases = [phase.split(";dur=")[0] for phase in answered.headers["server-timing"].split(", ")]
    assert phases == ["queue", "tokenize", "infer", "total"]
    assert "id" not in answered.json()


def test_labels_stand_beside_their_scores(server: Speaking) -> None:
    (scores,) = (one for one in post(server, [text("good")]).json()["outputs"] if one["name"] == "scores")
    assert scores["shape"] == [1, 2]
    assert json.loads(scores["parameters"]["labels"]) == ["negative", "positive"]


def test_only_the_outputs_that_are_wanted_come(server: Speaking) -> None:
    assert list(outputs(post(server, [text("good")], outputs=[{"name": "label"}]))) == ["label"]


def test_a_pair_is_two_inputs_or_two_columns_of_one(pairs: Speaking) -> None:
    two = outputs(post(pairs, [text("good", "bad"), text("fine", "dull", name="text_pair")]))
    one = outputs(post(pairs, [text("good", "fine", "bad", "dull", shape=[2, 2])]))
    nested = outputs(post(pairs, [text("", shape=[2, 2], data=[["good", "fine"], ["bad", "dull"]])]))
    assert two == one == nested
    assert two["label"] == ["positive", "negative"]


def test_pairs_of_ids_need_their_type_ids(pairs: Speaking) -> None:
    row = [*tokens("good"), IDS["fine"], IDS["[SEP]"]]
    told = outputs(post(pairs, [ids(row), ids([0, 0, 0, 1, 1], name="token_type_ids")]))
    assert told["scores"] == pytest.approx(
        outputs(post(pairs, [text("good"), text("fine", name="text_pair")]))["scores"]
    )
    needed = "this model tells the texts of a pair apart by their type ids; send 'token_type_ids', too"
    assert refusal(post(pairs, [ids(row)])) == needed


def test_regression_gives_one_number_per_item(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path, task="regression")) as server:
        (score,) = post(server, [text("good bad", "good")]).json()["outputs"]
    assert (score["name"], score["shape"]) == ("score", [2, 1])
    assert score["data"] == pytest.approx([4.0, 8 / 3])


def test_several_labels_come_as_a_list_in_json(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path, task="multi-label")) as server:
        told = outputs(post(server, [text("good", "the")]))
    assert [json.loads(one) for one in told["labels"]] == [["positive"], []]
    assert len(told["scores"]) == 4


def test_a_refused_answer_has_an_empty_label(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path, refuse_below=0.9)) as server:
        assert outputs(post(server, [text("good", "good bad")]))["label"] == ["positive", ""]


def test_an_embedding_is_a_row_per_item(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path, task="embedding")) as server:
        (vector,) = post(server, [text("good", "bad")]).json()["outputs"]
        plain = httpx.post(f"{server.url}/embed", json={"texts": ["good", "bad"]}).json()["results"]
    assert (vector["name"], vector["shape"]) == ("embedding", [2, 3])
    assert vector["data"] == pytest.approx([value for one in plain for value in one["embedding"]])


def test_entities_of_texts_are_those_of_the_plain_route(tagger: Speaking) -> None:
    told = outputs(post(tagger, [text("good awful day 😀", "the")]))
    plain = httpx.post(f"{tagger.url}/tag", json={"texts": ["good awful day 😀", "the"]}).json()["results"]
    assert list(told) == ["entities"]
    assert [json.loads(one) for one in told["entities"]] == [one["entities"] for one in plain]
    assert plain[0]["entities"]


def test_ids_have_the_scores_of_their_tokens_padded_to_the_longest(tagger: Speaking) -> None:
    rows = [[*tokens("good"), 0, 0], [*tokens("bad dull"), 0]]
    mask = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    (found,) = post(tagger, [ids(*rows), ids(*mask, name="attention_mask")]).json()["outputs"]
    labels = len(LABELS["token-classification"])
    assert (found["name"], found["shape"]) == ("token_scores", [2, 4, labels])
    scores = np.array(found["data"]).reshape(found["shape"])
    assert scores.sum(axis=2).tolist() == [pytest.approx(row) for row in ([1, 1, 1, 0], [1, 1, 1, 1])]
    assert scores[0, 1].argmax() == 1


# -- what is refused ---------------------------------------------------------------------------------------------------

NO_TEXT = "are not 1 text(s), each after its length in 4 bytes"
GIVES = "this model gives scores and label"
REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "nothing": ([], {}, "the input 'text' is missing; send it, or 'input_ids'"),
    "no item": ([text()], {}, "text is empty; send at least one"),
    "too many": ([text(*"abcde")], {}, "text holds 5 items, more than the 4 allowed; split the request"),
    "unknown": (
        [text("a", name="words")],
        {},
        "there is no input 'words'; send text or text_pair or input_ids or attention_mask or token_type_ids",
    ),
    "type": ([text("a", datatype="FP32")], {}, "input 'text' is BYTES, not 'FP32'"),
    "twice": ([text("a"), text("a")], {}, "an input is there twice; send each once"),
    "shape": ([text("a", shape=[2])], {}, "input 'text' has 1 value(s), and its shape [2] says 2"),
    "scalar": (
        [text("a", shape=[])],
        {},
        "input 'text' has the shape []; its sizes are whole numbers, none below 0",
    ),
    "columns": (
        [text("a", "b", shape=[1, 2])],
        {},
        "the request has 2 text(s) per item; this model takes 'text' alone",
    ),
    "cube": ([text("a", shape=[1, 1, 1])], {}, "input 'text' has the shape [1, 1, 1]; send [N] or [N, 1]"),
    "number": ([text("a", data=[1])], {}, "the data of input 'text' holds 1, which is no BYTES"),
    "fraction": ([ids([1], data=[1.5])], {}, "the data of input 'input_ids' holds 1.5, which is no INT64"),
    "truth": ([ids([1], data=[True])], {}, "the data of input 'input_ids' holds True, which is no INT64"),
    "huge number": ([ids([1], data=[2**63])], {}, "the data of input 'input_ids' holds a number that is no INT64"),
    "ragged": (
        [ids([1, 2], [3, 4], data=[[1, 2], [3]])],
        {},
        "the rows of input 'input_ids' are not those of its shape [2, 2]",
    ),
    "no list": ([text("a", data="a")], {}, "the data of input 'text' is no list"),
    "id": ([ids([2, 999, 3])], {}, "item 0 has the token id 999; this model's are 0 to 10"),
    "negative": ([ids([2, -1, 3])], {}, "item 0 has the token id -1; this model's are 0 to 10"),
    "long": ([ids([2] * 17)], {}, "item 0 has 17 token id(s); this model takes 1 to 16"),
    "no token": (
        [ids([], shape=[1, 0], data=[])],
        {},
        "input 'input_ids' has the shape [1, 0]; send a token or more per item",
    ),
    "masked": (
        [ids([2, 3]), ids([0, 0], name="attention_mask")],
        {},
        "item 0 has 0 token id(s); this model takes 1 to 16",
    ),
    "hole": (
        [ids([2, 5, 3]), ids([1, 0, 1], name="attention_mask")],
        {},
        "input 'attention_mask' holds other than ones before zeros in a row; pad behind the tokens",
    ),
    "mask": (
        [ids([2, 3]), ids([1], name="attention_mask")],
        {},
        "input 'attention_mask' has the shape [1, 1], not [1, 2] as the ids",
    ),
    "mask alone": (
        [text("a"), ids([1], name="attention_mask")],
        {},
        "input 'attention_mask' needs 'input_ids' beside it",
    ),
    "kind": (
        [ids([2, 3]), ids([0, 7], name="token_type_ids")],
        {},
        "item 0 has the type id 7; a type id is 0 or 1",
    ),
    "vast": (
        [ids([1], shape=[2**40, 2**40], data=[])],
        {},
        f"input 'input_ids' has {2**80} values, more than the 128 that are read; split the request",
    ),
    "rows of nothing": (
        [ids([], shape=[2**40, 0], data=[])],
        {},
        f"input 'input_ids' has {2**40} values, more than the 128 that are read; split the request",
    ),
    "axes": ([text("a", shape=[1] * 9)], {}, "input 'text' has 9 axes, more than the 8 that are read"),
    "both": ([text("a"), ids([2, 3])], {}, "the request has texts and token ids; send one or the other"),
    "flat ids": ([ids([2], shape=[1], data=[2])], {}, "input 'input_ids' has the shape [1]; send [N, L]"),
    "base64": (
        [text("YQ==", parameters={"content_type": "base64"})],
        {},
        "input 'text' has the content_type 'base64'; send plain text, which is 'str'",
    ),
    "base64 pair": (
        [text("YQ==", "YQ==", shape=[1, 2], parameters={"content_type": "base64"})],
        {},
        "input 'text' has the content_type 'base64'; send plain text, which is 'str'",
    ),
    "base64 request": (
        [text("YQ==")],
        {"parameters": {"content_type": "base64"}},
        "the request has the content_type 'base64'; send plain text, which is 'str'",
    ),
    "output": ([text("a")], {"outputs": [{"name": "logits"}]}, f"there is no output 'logits' for this input; {GIVES}"),
    "flag": (
        [text("a")],
        {"parameters": {"binary_data_output": 1}},
        "the parameter 'binary_data_output' is 1; send true or false",
    ),
    "no data": (
        [{"name": "text", "datatype": "BYTES", "shape": [1]}],
        {},
        "input 'text' needs either 'data' or the parameter 'binary_data_size'",
    ),
    "no bytes": (
        [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}],
        {},
        "input 'text' has the binary_data_size 5, and 0 bytes are left behind the JSON",
    ),
}  # fmt: skip


@pytest.mark.parametrize("content_type", [None, "str"])
@pytest.mark.parametrize("whole", [None, "str", "pd", "np"])
def test_plain_text_may_be_called_so(server: Speaking, content_type: str | None, whole: str | None) -> None:
    one = text("good", parameters={"content_type": content_type})
    assert outputs(post(server, [one], parameters={"content_type": whole}))["label"] == ["positive"]


@pytest.mark.parametrize("digits", [19, 400, 4000, 5000])
def test_a_shape_of_huge_numbers_is_the_client_s_fault(server: Speaking, digits: int) -> None:
    body = '{"inputs":[{"name":"text","shape":[N,N],"datatype":"BYTES","data":["a"]}]}'.replace("N", "9" * digits)
    refused = refusal(httpx.post(f"{server.url}{INFER}", content=body.encode()))
    assert refused.startswith("the body cannot be read: ")


@pytest.mark.parametrize(
    "inputs",
    [
        b'{"name":"text","shape":[1],"datatype":"BYTES","data":[' + b"[]," * 1_000_000 + b"[]]}",
        b'{"name":"text","shape":[' + b"1," * 1_000_000 + b'1],"datatype":"BYTES","data":["a"]}',
        b'{"name":"","shape":[],"datatype":""},' * 90_000 + b'{"name":"","shape":[],"datatype":""}',
    ],
    ids=["data", "shape", "inputs"],
)
def test_a_body_of_a_million_values_is_refused_before_they_are_made(server: Speaking, inputs: bytes) -> None:
    told = "the body holds more than the 32976 values that are read; split the request"
    assert refusal(httpx.post(f"{server.url}{INFER}", content=b'{"inputs":[' + inputs + b"]}")) == told


def test_a_value_of_the_wrong_kind_is_not_worded_whole(server: Speaking) -> None:
    told = "the data of input 'text' holds a list of 9000, which is no BYTES"
    assert refusal(post(server, [text("a", shape=[1, 1], data=[[["x"] * 9000]])])) == told


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_input_is_told_what_is_wrong(server: Speaking, name: str) -> None:
    inputs, more, told = REFUSED[name]
    assert refusal(post(server, inputs, **more)) == told


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/v2/models/other/infer", 404, "there is no model 'other' here; this server has 'm'"),
        ("/v2/models/m/versions/8/infer", 404, "m has no version '8' here; in service: '7'"),
        ("/v2/models/m/guess", 404, "there is no /v2/models/m/guess here; /openapi.json lists what there is"),
        ("/v2/models/m/", 404, "there is no /v2/models/m/ here; /openapi.json lists what there is"),
        ("/v2/models/m", 405, "/v2/models/m takes GET, not POST"),
        ("/v2/models/m/ready", 405, "/v2/models/m/ready takes GET, not POST"),
        ("/v2", 405, "/v2 takes GET, not POST"),
    ],
)  # fmt: skip
def test_a_wrong_name_version_or_action_is_not_there(server: Speaking, path: str, status: int, told: str) -> None:
    assert refusal(post(server, [text("good")], path=path), status) == told


def test_infer_is_for_post(server: Speaking) -> None:
    assert refusal(httpx.get(f"{server.url}{INFER}"), 405) == f"{INFER} takes POST, not GET"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\x02\0\0\0\xff\xfe", "the data of input 'text' is no UTF-8: invalid start byte at byte 0"),
        (b"\x09\0\0\0good", f"the raw data of input 'text' (8 bytes) {NO_TEXT}"),
        (b"\x04\0", f"the raw data of input 'text' (2 bytes) {NO_TEXT}"),
        (b"", f"the raw data of input 'text' (0 bytes) {NO_TEXT}"),
    ],
)
def test_raw_texts_that_do_not_add_up_are_refused(server: Speaking, raw: bytes, told: str) -> None:
    head = json.dumps({"inputs": [text(data=None, shape=[1], parameters={"binary_data_size": len(raw)})]})
    head = head.replace('"data": null, ', "")
    response = httpx.post(
        f"{server.url}{INFER}",
        content=head.encode() + raw,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert refusal(response) == told


def test_raw_numbers_that_do_not_add_up_are_refused(server: Speaking) -> None:
    one = {"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "parameters": {"binary_data_size": 9}}
    head = json.dumps({"inputs": [one]})
    sent = {"content": head.encode() + b"\0" * 9, "headers": {"Inference-Header-Content-Length": str(len(head))}}
    told = "the raw data of input 'input_ids' has 9 bytes, not the 16 of its shape [1, 2]"
    assert refusal(httpx.post(f"{server.url}{INFER}", **sent)) == told  # type: ignore[arg-type]


def test_bytes_that_no_input_claims_are_refused(server: Speaking) -> None:
    head = json.dumps({"inputs": [text("good")]})
    sent = {"content": head.encode() + b"more", "headers": {"Inference-Header-Content-Length": str(len(head))}}
    told = "4 of the bytes behind the JSON are no input's; tell the sizes of all"
    assert refusal(httpx.post(f"{server.url}{INFER}", **sent)) == told  # type: ignore[arg-type]


@pytest.mark.parametrize("length", ["-1", "99", "1e1", "", "٣", "9" * 5000])
def test_a_length_of_the_json_that_cannot_be_is_refused(server: Speaking, length: str) -> None:
    body = json.dumps({"inputs": []}).encode()
    response = httpx.post(
        f"{server.url}{INFER}",
        content=body,
        headers=[(b"Inference-Header-Content-Length", length.encode())],
    )
    assert refusal(response).endswith("the body has 14 bytes, of which it counts those of the JSON")


def test_a_deeply_nested_parameter_is_refused(server: Speaking) -> None:
    deep = b'{"inputs": [], "parameters": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001
    assert refusal(httpx.post(f"{server.url}{INFER}", content=deep)).startswith("the body cannot be read: ")


def test_another_version_that_comes_meanwhile_is_not_the_one_that_was_asked_for(
    server: Speaking, tmp_path: Path
) -> None:
    before = server.desk.models.current
    server.hold()
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(post(server, [text("good")], path="/v2/models/m/versions/7/infer"))
    )
    asking.start()
    server.until_held()
    server.desk.models.current = tiny_live(tmp_path, version="8")
    server.gate.set()
    asking.join()
    server.desk.models.current = before
    assert refusal(answers[0], 404) == "m has no version '7' here any more; ask without a version"


class Always:
    """A router that has the canary answer whatever names no version."""

    def lane(self, _: object) -> str:
        return CANARY

    def answered(self, _: object) -> None:
        """Nobody else is asked."""


def test_a_request_that_names_a_version_is_answered_by_it_whatever_the_canary_s_share(
    server: Speaking, tmp_path: Path
) -> None:
    router = server.desk.router
    server.desk.models.put(CANARY, tiny_live(tmp_path, version="8", bias=20.0))
    server.desk.router = Always()
    try:
        told = {}
        for path in (INFER, "/v2/models/m/versions/7/infer", "/v2/models/m/versions/8/infer"):
            answered = post(server, [text("good")], path=path)
            told[path] = (answered.json()["model_version"], outputs(answered)["label"])
        versions = httpx.get(f"{server.url}/v2/models/m/versions/8").json()["versions"]
        absent = refusal(post(server, [text("good")], path="/v2/models/m/versions/9/infer"), 404)
    finally:
        server.desk.models.put(CANARY, None)
        server.desk.router = router
    assert told == {
        INFER: ("8", ["negative"]),
        "/v2/models/m/versions/7/infer": ("7", ["positive"]),
        "/v2/models/m/versions/8/infer": ("8", ["negative"]),
    }
    assert versions == ["7", "8"]
    assert absent == "m has no version '9' here; in service: '7' and '8'"


READY = ("/v2/models/m/ready", "/v2/models/m/versions/7/ready")


def test_a_model_s_readiness_needs_no_key_and_all_else_of_it_does(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(new_key("alice")[1])
    guard = Guard(keys=Keys(tmp_path / "keys"), requests=Requests(every=False))
    with speaking(tiny_live(tmp_path / "bundle"), guard=guard) as server:
        for path in READY:
            ready = httpx.get(f"{server.url}{path}")
            assert (ready.status_code, ready.json()) == (200, {"name": "m", "ready": True})
        for path in ("/v2/models/m", "/v2/models/m/versions/7", "/v2"):
            assert httpx.get(f"{server.url}{path}").status_code == 401
        assert post(server, [text("good")]).status_code == 401
        assert refusal(httpx.get(f"{server.url}/v2/models/m/versions/8/ready"), 404) == (
            "m has no version '8' here; in service: '7'"
        )


def test_a_canary_is_ready_where_it_computes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it was looked at is no request of its own."""
    failed: list[object] = []
    with speaking(tiny_live(tmp_path / "main")) as server:
        canary = tiny_live(tmp_path / "canary", version="8")
        server.desk.models.put(CANARY, canary)
        server.desk.models.on_failed = lambda *told: failed.append(told)
        well = httpx.get(f"{server.url}/v2/models/m/versions/8/ready")
        monkeypatch.setattr(canary.engine, "answer_jobs", lambda jobs, **_: [BadArtifact("it is unfit") for _ in jobs])
        monkeypatch.setattr("serving.desk.PROBE_FRESH_S", 0.0)
        monkeypatch.setattr("serving.desk.PROBE_FRESHEST_S", 0.0)
        until_s = time.monotonic() + 5
        while (ill := httpx.get(f"{server.url}/v2/models/m/versions/8/ready")).status_code == 200:
            assert time.monotonic() < until_s, "no sign of life is fresh for so long"
        main = httpx.get(f"{server.url}/v2/models/m/versions/7/ready")
    assert (well.status_code, well.json()) == (200, {"name": "m", "ready": True})
    assert (ill.status_code, ill.json()) == (503, {"error": "it is unfit"})
    assert main.status_code == 200
    assert failed == []


def test_a_model_whose_name_has_slashes_is_asked_by_it(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, max_items=4)
    live = load(Resolved(path=bundle.path, name="org/model/ready", version="7", digest=bundle.digest), threads=1)
    with speaking(live) as server:
        for base in ("/v2/models/org/model/ready", "/v2/models/org%2Fmodel%2Fready"):
            for path in (base, f"{base}/versions/7"):
                assert post(server, [text("good")], path=f"{path}/infer").json()["model_name"] == "org/model/ready"
                assert httpx.get(f"{server.url}{path}/ready").json()["ready"]
            assert httpx.get(f"{server.url}{base}/versions/7").json()["name"] == "org/model/ready"
        told = "there is no model 'org' here; this server has 'org/model/ready'"
        assert refusal(post(server, [text("good")], path="/v2/models/org/infer"), 404) == told


def test_the_accounts_add_up(server: Speaking) -> None:
    counts = server.counts()
    assert set(counts) <= {"ok", "client_error"}
    assert counts["ok"] > 0

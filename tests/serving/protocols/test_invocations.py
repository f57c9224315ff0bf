"""/ping, /version and /invocations, by MLflow's own client and by plain requests against a real server."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from speaking import Speaking, speaking, tiny_live

from serving.security.guard import Guard
from serving.security.keys import Keys, new_key
from serving.security.notes import Requests

TEXTS = ["good fine day", "😀 dull bright, it is", ""]
PAIRS = [["good", "bad day"], ["awful", "fine"]]
SINGLE, PAIRED = "texts, or the column 'text'", "pairs of texts, or the columns 'text' and 'text_pair'"
FORMS = "dataframe_split, dataframe_records, instances, inputs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("single"), max_characters=40)) as server:
        yield server


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("pairs"), texts_per_item=2)) as server:
        yield server


def invoke(server: Speaking, body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/invocations", json=body)


def sent(server: Speaking, content: bytes, content_type: str) -> httpx.Response:
    return httpx.post(f"{server.url}/invocations", content=content, headers={"content-type": content_type})


def plain(server: Speaking, texts: list[Any]) -> dict[str, Any]:
    return {"predictions": httpx.post(f"{server.url}/classify", json={"texts": texts}).json()["results"]}


def refusal(response: httpx.Response, status: int = 400, code: str = "BAD_REQUEST") -> str:
    body = response.json()
    assert (response.status_code, list(body), body["error_code"]) == (status, ["error_code", "message"], code), body
    return str(body["message"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # of MLflow's own classes
def test_mlflow_s_own_client_is_answered(server: Speaking) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    host, port = server.host.split(":")
    client = ScoringServerClient(host, int(port))
    client.wait_server_ready(timeout=10, scoring_server_proc=None)
    answered = client.invoke(pd.DataFrame({"text": TEXTS}))
    assert answered.get_predictions().to_dict("records") == plain(server, TEXTS)["predictions"]
    assert client.get_version() == "0.1.0"


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
        {"dataframe_split": {"columns": ["id", "text"], "index": [5, 6, 7], "data": [[1, text] for text in TEXTS]}},
        {"dataframe_split": {"data": [[text] for text in TEXTS]}},
        {"dataframe_split": {"columns": [0], "data": [[text] for text in TEXTS]}},
        {"dataframe_records": [{"text": text, "id": 1} for text in TEXTS]},
        {"instances": TEXTS},
        {"instances": [[text] for text in TEXTS]},
        {"instances": [{"text": text} for text in TEXTS]},
        {"inputs": TEXTS},
        {"inputs": {"text": TEXTS}, "params": {}},
    ],
)
def test_texts_come_in_every_form_of_mlflow_s(server: Speaking, body: Any) -> None:
    answered = invoke(server, body)
    assert (answered.status_code, answered.json()) == (200, plain(server, TEXTS))
    assert answered.headers["x-model-version"] == "7"
    assert "infer;dur=" in answered.headers["server-timing"]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["text_pair", "text"], "data": [pair[::-1] for pair in PAIRS]}},
        {"dataframe_records": [{"text": one, "text_pair": other} for one, other in PAIRS]},
        {"instances": PAIRS},
        {"inputs": {"text": [pair[0] for pair in PAIRS], "text_pair": [pair[1] for pair in PAIRS]}},
    ],
)
def test_pairs_come_in_every_form_of_mlflow_s(pairs: Speaking, body: Any) -> None:
    assert invoke(pairs, body).json() == plain(pairs, PAIRS)


def test_one_text_is_one_item(server: Speaking) -> None:
    assert invoke(server, {"inputs": "good"}).json() == invoke(server, {"inputs": {"text": "good"}}).json()
    assert invoke(server, {"inputs": "good"}).json() == plain(server, ["good"])


@pytest.mark.parametrize(
    ("content", "content_type", "texts"),
    [
        (b"text\ngood\nbad day\n", "text/csv", ["good", "bad day"]),
        (b'id,text\r\n1,"good, ""fine"""\r\n2,"bad\nday"', "text/csv; charset=utf-8", ['good, "fine"', "bad\nday"]),
        (b"\xef\xbb\xbftext\n\xf0\x9f\x98\x80 good\nNA\n", "Text/CSV; charset=UTF-8", ["😀 good", "NA"]),
    ],
)
def test_csv_is_read_by_its_names(server: Speaking, content: bytes, content_type: str, texts: list[str]) -> None:
    answered = sent(server, content, content_type)
    assert (answered.status_code, answered.json()) == (200, plain(server, texts))


def test_pairs_come_as_csv_too(pairs: Speaking) -> None:
    assert sent(pairs, b"text,text_pair\ngood,bad day\nawful,fine\n", "text/csv").json() == plain(pairs, PAIRS)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, f"the body has none of {FORMS}; send one of them"),
        ({"inputs": ["a"], "instances": ["a"]}, f"the body has instances and inputs of {FORMS}; send one of them"),
        ([], f"the body cannot be read: Expected `object`, got `array`; send one of {FORMS} as JSON"),
        ({"inputs": ["a"] * 5}, "inputs holds 5 items, more than the 4 allowed; split the request"),
        ({"inputs": ["x" * 41]}, "inputs[0] has 41 characters, more than the 40 allowed"),
        ({"inputs": [1]}, f"item 0 of inputs is 1; send {SINGLE}"),
        ({"inputs": ["a", None]}, f"item 1 of inputs is None; send {SINGLE}"),
        ({"inputs": [["a", "b"]]}, f"item 0 of inputs is a list of 2; send {SINGLE}"),
        ({"inputs": 3}, f"the items are no list; send {SINGLE}"),
        ({"inputs": {"text": 3}}, f"the columns differ in length, or are no lists; send {SINGLE}"),
        ({"inputs": {"review": ["a"]}}, f"the column 'text' is missing among 'review'; send {SINGLE}"),
        ({"inputs": ["a"], "params": {"top_k": 3}}, "params has 'top_k'; this model takes none"),
        (
            {"dataframe_split": {"columns": ["id"], "data": [["a"]]}},
            f"the column 'text' is missing among 'id'; send {SINGLE}",
        ),
        (
            {"dataframe_split": {"columns": ["text"], "data": [["a", "b"]]}},
            "a row has 2 value(s) for 1 column(s); send one for each",
        ),
        (
            {"dataframe_split": {"columns": ["text", "text"], "data": [["a", "b"]]}},
            "a column is there twice; send each once",
        ),
        ({"dataframe_records": [{}]}, f"the column 'text' is missing among none; send {SINGLE}"),
    ],
)
def test_wrong_items_are_told_in_mlflow_s_shape(server: Speaking, body: Any, told: str) -> None:
    assert refusal(invoke(server, body)) == told


def test_columns_of_different_lengths_are_no_pairs(pairs: Speaking) -> None:
    told = f"the columns differ in length, or are no lists; send {PAIRED}"
    assert refusal(invoke(pairs, {"inputs": {"text": ["a", "b"], "text_pair": ["c"]}})) == told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"\n\r\n", "it is empty"),
        (b'text\n"open', "unexpected end of data"),
        (b"text\n\xff", "'utf-8' codec can't decode byte 0xff in position 5: invalid start byte"),
    ],
)
def test_what_is_no_csv_is_told(server: Speaking, content: bytes, told: str) -> None:
    way_out = "send a row of names and then a row per item, as UTF-8"
    assert refusal(sent(server, content, "text/csv")) == f"the body cannot be read as CSV: {told}; {way_out}"


def test_a_csv_of_many_rows_is_not_read_to_its_end(server: Speaking) -> None:
    told = "the CSV holds more than the 4 items allowed; split the request"
    assert refusal(sent(server, b"text\n" + b"a\n" * 10_000 + b'"', "text/csv")) == told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"text\n" + b"\n" * 2_000_000, "the CSV has 2000001 ends of lines, more than the 33792 that are read"),
        (b'"' + b"\r" * 2_000_000, "the CSV has 2000000 ends of lines, more than the 33792 that are read"),
    ],
    ids=["blank", "quoted"],
)
def test_lines_of_a_csv_are_counted_before_they_are_read(server: Speaking, content: bytes, told: str) -> None:
    assert refusal(sent(server, content, "text/csv")) == f"{told}; split the request"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"," * 2_000_000, "a line of the CSV has more than the 32848 commas that are read; send fewer columns"),
        (b"text" + b"," * 256, "the CSV has 257 columns, more than the 256 that are read"),
        (b"text\n" + b"a," * 30_000, "a row has 30001 value(s) for 1 column(s); send one for each"),
    ],
    ids=["commas", "columns", "row"],
)
def test_a_csv_as_wide_as_no_frame_is_told_so(server: Speaking, content: bytes, told: str) -> None:
    assert refusal(sent(server, content, "text/csv")) == told


def test_a_long_text_in_a_csv_is_refused_by_the_model_s_limit_alone(server: Speaking) -> None:
    """Python's csv has a limit of its own, 131,072 characters."""
    content = b"id,text\n" + b"x" * 200_000 + b",good\n"
    assert sent(server, content, "text/csv").json() == plain(server, ["good"])
    told = "CSV[0] has 200000 characters, more than the 40 allowed"
    assert refusal(sent(server, b"text\n" + b"x" * 200_000, "text/csv")) == told


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["text"], "data": []}},
        {"dataframe_split": {"data": []}},
        {"dataframe_records": []},
        {"instances": []},
        {"inputs": []},
        {"inputs": {"text": []}},
    ],
)
def test_a_frame_without_rows_has_no_predictions_as_from_mlflow_s_server(server: Speaking, body: Any) -> None:
    answered = invoke(server, body)
    assert (answered.status_code, answered.json()) == (200, {"predictions": []})
    assert answered.headers["x-model-version"] == "7"


def test_reading_a_csv_narrows_no_other_reader_of_the_process(server: Speaking) -> None:
    """importlib.metadata is one: it reads what is installed as CSV."""
    before = csv.field_size_limit()
    assert sent(server, b"", "text/csv").status_code == 400
    assert sent(server, b"text\ngood", "text/csv").status_code == 200
    assert csv.field_size_limit() >= before
    assert next(csv.reader(["a" * 131_072])) == ["a" * 131_072]


def test_a_csv_of_names_alone_has_no_predictions(server: Speaking) -> None:
    assert sent(server, b"id,text\n", "text/csv").json() == {"predictions": []}
    told = f"the column 'text' is missing among 'id'; send {SINGLE}"
    assert refusal(sent(server, b"id\n", "text/csv")) == told
    assert refusal(invoke(server, {"dataframe_split": {"columns": ["id"], "data": []}})) == told


def test_names_of_columns_that_are_nested_are_the_client_s_fault(server: Speaking) -> None:
    """At whichever depth: one was read, and could not be worded."""
    for depth in (1, 500, *range(930, 1000)):
        name = '{"a":' * depth + "1" + "}" * depth
        body = f'{{"dataframe_split":{{"columns":[{name}],"data":[["a"]]}}}}'
        told = "the body cannot be read: "
        assert refusal(sent(server, body.encode(), "application/json")).startswith(told)


@pytest.mark.parametrize("columns", [["text", 5], ["text", 0.5], ["text", None]])
def test_columns_that_pandas_names_otherwise_are_passed_over(server: Speaking, columns: list[Any]) -> None:
    body = {"dataframe_split": {"columns": columns, "data": [["good", 1]]}}
    assert invoke(server, body).json() == plain(server, ["good"])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"inputs":[' + b"[]," * 1_300_000 + b"[]]}", "the body holds more than the 33796 values that are read"),
        (b'{"instances":{"a":[[' + b"1," * 2_000_000 + b"1]]}}", "the body holds more than the 33796 values"),
        (b'{"inputs":[[' + b'"",' * 1_300_000 + b'""]]}', "the body holds more than the 33796 values that are read"),
    ],
    ids=["lists", "numbers", "strings"],
)
def test_a_body_of_a_million_values_is_refused_before_they_are_made(server: Speaking, body: bytes, told: str) -> None:
    assert refusal(sent(server, body, "application/json")).startswith(told)


def test_a_value_of_the_wrong_kind_is_not_worded_whole(server: Speaking) -> None:
    deep = {"inputs": [[["x" * 200]] * 3000]}
    assert refusal(invoke(server, deep)) == f"item 0 of inputs is a list of 3000; send {SINGLE}"
    assert refusal(invoke(server, {"inputs": ["a"], "params": {"x" * 200: 1}})) == (
        f"params has {'x' * 50!r}; this model takes none"
    )


@pytest.mark.parametrize("content_type", ["application/x-parquet", "application/json; charset=latin-1"])
def test_another_media_type_is_415(server: Speaking, content_type: str) -> None:
    told = f"the body is {content_type!r}; send application/json or text/csv, as UTF-8"
    assert refusal(sent(server, b"{}", content_type), 415) == told


def test_a_model_that_fails_is_told_in_one_line(server: Speaking) -> None:
    told = "model tiny gave NaN or infinity for this input; its weights are unfit"
    assert refusal(invoke(server, {"inputs": ["poison"]}), 500, "INTERNAL_ERROR") == told


def test_a_body_too_large_closes_the_connection(server: Speaking) -> None:
    refused = sent(server, b" " * (4 * 2**20 + 1), "application/json")
    assert refusal(refused, 413) == "the body exceeds the 4194304 bytes allowed; split the request"
    assert refused.headers["connection"] == "close"


def test_requests_here_are_counted_as_others_are(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server:
        invoke(server, {"inputs": ["good"]})
        invoke(server, {})
        invoke(server, {"inputs": ["poison"]})
        invoke(server, {"inputs": ["good"]})
        assert server.counts() == {"ok": 2, "client_error": 1, "server_error": 1}


def test_who_has_no_key_is_told_in_mlflow_s_shape_and_counted(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(new_key("alice")[1])
    guard = Guard(keys=Keys(tmp_path / "keys"), requests=Requests(every=False))
    with speaking(tiny_live(tmp_path / "bundle"), guard=guard) as server:
        refused = invoke(server, {"inputs": ["good"]})
        told = "send a key that is valid here, as Authorization: Bearer KEY or X-API-Key: KEY"
        assert refusal(refused, 401, "UNAUTHENTICATED") == told
        assert refused.headers["www-authenticate"] == "Bearer"
        assert server.counts() == {"client_error": 1}


def test_a_full_queue_is_503_with_retry_after(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path), limit=1) as server:
        server.desk.batcher.queue.close()
        refused = invoke(server, {"inputs": ["good"]})
        told = "the server is stopping; retry after 1 s"
        assert refusal(refused, 503, "TEMPORARILY_UNAVAILABLE") == told
        assert refused.headers["retry-after"] == "1"
        assert server.counts() == {"rejected": 1}


@pytest.mark.parametrize("path", ["/ping", "/health"])
def test_ping_says_whether_the_model_answers(tmp_path: Path, path: str) -> None:
    """MLflow's server has it by both names."""
    (tmp_path / "keys").write_text(new_key("alice")[1])
    guard = Guard(keys=Keys(tmp_path / "keys"), requests=Requests(every=False))
    with speaking(tiny_live(tmp_path / "bundle"), guard=guard) as server:
        up = httpx.get(f"{server.url}{path}")
        server.desk.draining = True
        down = httpx.get(f"{server.url}{path}")
        server.desk.draining = False
    assert (up.status_code, up.json()) == (200, {"ready": True})
    assert (down.status_code, down.json()) == (503, {"error": "the server is draining; send requests elsewhere"})

import msgspec
import pytest
from fakes import tiny_bundle

from serving.bundle import ServingSpec, TaskKind
from serving.errors import BadRequest
from serving.faults import NotThere
from serving.schema import check_route, parse_items

SINGLES = '; send {"texts": ["a", ...]} as UTF-8 JSON'
PAIRS = '; send {"texts": [["a", "b"], ...]} as UTF-8 JSON'


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ServingSpec:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), max_items=3, max_characters=10).spec


@pytest.fixture(scope="module")
def pairs(spec: ServingSpec) -> ServingSpec:
    return msgspec.structs.replace(spec, texts_per_item=2)


def refusal(body: bytes, spec: ServingSpec) -> str:
    with pytest.raises(BadRequest) as refused:
        parse_items(body, spec=spec)
    return str(refused.value)


def test_single_texts_become_items_of_one(spec: ServingSpec) -> None:
    assert parse_items(b'{"texts": ["a", ""]}', spec=spec) == [("a",), ("",)]


def test_pairs_become_items_of_two(pairs: ServingSpec) -> None:
    assert parse_items(b'{"texts": [["a", "b"]]}', spec=pairs) == [("a", "b")]


def test_escaped_nul_and_astral_characters_are_text(spec: ServingSpec) -> None:
    assert parse_items(rb'{"texts": ["\u0000", "\ud83d\ude00"]}', spec=spec) == [("\0",), ("😀",)]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `texts`"),
        (b'{"text": ["a"]}', "Object contains unknown field `text`"),
        (b'{"texts": "a"}', "Expected `array`, got `str` - at `$.texts`"),
        (b'{"texts": ["a", 1]}', "Expected `str`, got `int` - at `$.texts[1]`"),
        (b'{"texts": [null]}', "Expected `str`, got `null` - at `$.texts[0]`"),
        (b'{"texts": [["a", "b"]]}', "Expected `str`, got `array` - at `$.texts[0]`"),
        (b'{"texts": [NaN]}', "JSON is malformed: invalid character (byte 11)"),
        (b'{"texts": ["a"]} more', "JSON is malformed: trailing characters (byte 18)"),
        (b'{"texts": ["\0"]}', "JSON is malformed: invalid character (byte 12)"),
        (b'{"texts": ' + b"[" * 100_000, "Expected `str`, got `array` - at `$.texts[0]`"),
        (b'{"x": ' + b"[" * 100_000, "Object contains unknown field `x`"),
    ],
)
def test_a_body_of_the_wrong_shape_is_told_what_is_wrong(spec: ServingSpec, body: bytes, fault: str) -> None:
    assert refusal(body, spec) == f"the body cannot be read: {fault}{SINGLES}"


@pytest.mark.parametrize("value", [b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 200_000 + b"1" + b"}" * 200_000])
def test_what_is_nested_too_deeply_is_refused(spec: ServingSpec, value: bytes) -> None:
    assert refusal(b'{"texts": [' + value + b"]}", spec).startswith("the body cannot be read: ")


@pytest.mark.parametrize("text", [rb"\ud800", rb"\ud800 and more text", b"\xed\xa0\x80"])
def test_a_lone_surrogate_is_refused(spec: ServingSpec, text: bytes) -> None:
    assert refusal(b'{"texts": ["' + text + b'"]}', spec).startswith("the body cannot be read: ")


def test_bytes_that_are_not_utf_8_are_refused(spec: ServingSpec) -> None:
    told = "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    assert refusal(b'{"texts": ["\xff"]}', spec) == f"the body cannot be read: {told}{SINGLES}"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"texts": ["a"]}', "Expected `array`, got `str` - at `$.texts[0]`"),
        (b'{"texts": [["a"]]}', "Expected `array` of length 2 - at `$.texts[0]`"),
        (b'{"texts": [["a", 2]]}', "Expected `str`, got `int` - at `$.texts[0][1]`"),
    ],
)
def test_what_is_no_pair_is_refused_by_a_model_of_pairs(pairs: ServingSpec, body: bytes, fault: str) -> None:
    assert refusal(body, pairs) == f"the body cannot be read: {fault}{PAIRS}"


def test_no_texts_are_refused(spec: ServingSpec) -> None:
    assert refusal(b'{"texts": []}', spec) == "texts is empty; send at least one"


def test_items_up_to_the_limit_pass_and_one_more_does_not(spec: ServingSpec) -> None:
    assert len(parse_items(b'{"texts": ["a", "b", "c"]}', spec=spec)) == 3
    told = "texts holds 4 items, more than the 3 allowed; split the request"
    assert refusal(b'{"texts": ["a", "b", "c", "d"]}', spec) == told


def test_characters_up_to_the_limit_pass_and_one_more_does_not(spec: ServingSpec, pairs: ServingSpec) -> None:
    told = "texts[1] has 11 characters, more than the 10 allowed"
    assert parse_items('{"texts": ["éééééééééé"]}'.encode(), spec=spec) == [("é" * 10,)]
    assert refusal(b'{"texts": ["a", "12345678901"]}', spec) == told
    assert refusal(b'{"texts": [["a", "b"], ["a", "12345678901"]]}', pairs) == told


@pytest.mark.parametrize(
    ("task", "right"),
    [
        ("classification", "/classify"),
        ("multi-label", "/classify"),
        ("regression", "/classify"),
        ("token-classification", "/tag"),
        ("embedding", "/embed"),
    ],
)
def test_each_task_has_one_route_and_the_others_name_it(task: TaskKind, right: str) -> None:
    check_route(right, task=task)
    for wrong in {"/classify", "/tag", "/embed"} - {right}:
        with pytest.raises(NotThere) as refused:
            check_route(wrong, task=task)
        assert str(refused.value) == f"this model does {task}: POST {right}"

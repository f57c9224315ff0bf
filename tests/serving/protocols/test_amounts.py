"""How many values a body holds is told without making them, and a value in few words."""

import json
import random
from typing import Any

import pytest

from serving.errors import BadRequest
from serving.protocols.amounts import SMALL_BYTES, SPARE_VALUES, require_few_values, shown

MOST = 10
WHOLE = SPARE_VALUES + MOST


def is_refused(body: bytes) -> bool:
    try:
        require_few_values(body, most=MOST)
    except BadRequest:
        return True
    return False


def padded(body: bytes) -> bytes:
    return body + b" " * SMALL_BYTES


def values_of(found: Any) -> int:
    """With what it holds."""
    inside = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return 1 + sum(map(values_of, inside))


def test_as_many_as_are_read_are_let_through_and_one_more_is_not() -> None:
    assert not is_refused(padded(json.dumps([1] * WHOLE).encode()))
    with pytest.raises(BadRequest) as refused:
        require_few_values(padded(json.dumps([1] * (WHOLE + 1)).encode()), most=MOST)
    assert str(refused.value) == f"the body holds more than the {WHOLE} values that are read; split the request"


@pytest.mark.parametrize(
    "text", ["a,[{" * 20_000, '","' * 20_000, "\\\\,[" * 20_000, '\\"[[,' * 20_000, '\\\\"{,' * 9000]
)
def test_what_stands_in_a_text_is_no_value(text: str) -> None:
    assert not is_refused(json.dumps({"texts": [text, "b"]}).encode())
    assert is_refused(json.dumps({"texts": [text, *([[]] * WHOLE)]}).encode())


@pytest.mark.parametrize("one", [b"[]", b"{}", b'""', b"1", b'{"a":1}', b'{"":""}', b'["",""]', b"[[]]"])
def test_values_of_every_kind_are_counted(one: bytes) -> None:
    assert is_refused(b'{"inputs":[' + (one + b",") * 200_000 + one + b"]}")


def test_a_broken_body_hides_nothing_of_what_comes_before_its_fault() -> None:
    many = b"[]," * 200_000
    assert is_refused(b"[" + many + b'"')
    assert is_refused(b'["' + b"\\\\" * 9 + b'",' + many + b"]")


def test_a_small_body_is_not_counted() -> None:
    assert not is_refused(b"[" * SMALL_BYTES)


def test_random_bodies_are_refused_where_they_hold_too_many() -> None:
    chance = random.Random(8)

    def made(depth: int) -> Any:
        match chance.randrange(4 if depth else 2):
            case 0:
                return chance.choice(["", '"', "\\", ',[{"\\', "a" * 9])
            case 1:
                return chance.randrange(99)
            case 2:
                return [made(depth - 1) for _ in range(chance.randrange(9))]
            case _:
                return {f'{number}"\\': made(depth - 1) for number in range(chance.randrange(9))}

    for _ in range(20):
        found = [made(6) for _ in range(chance.randrange(1, 4000))]
        empty = json.dumps(found).count("[]") + json.dumps(found).count("{}")
        many = values_of(found)
        if not many - 1 <= WHOLE < many + empty:  # an empty one may count as two
            assert is_refused(padded(json.dumps(found).encode())) == (many > WHOLE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x" * 5000, repr("x" * 50)),
        ([1] * 5000, "a list of 5000"),
        ({"a": 1}, "an object"),
        (None, "None"),
        (1.5, "1.5"),
        (10**4000, "1" + "0" * 49),
    ],
)
def test_a_value_is_shown_in_few_words(value: object, told: str) -> None:
    assert shown(value) == told

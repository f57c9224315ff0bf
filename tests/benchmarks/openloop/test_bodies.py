"""How requests word texts, ours and other servers'."""

import json

import pytest

from benchmarks.openloop.bodies import Protocol, protocol_bodies, template_bodies
from serving.errors import BadRequest

ONE, PAIR = ('a "fine" day',), ("a", "b")


@pytest.mark.parametrize(
    ("protocol", "item", "wanted"),
    [
        ("retort", ONE, {"texts": [ONE[0]]}),
        ("retort", PAIR, {"texts": [["a", "b"]]}),
        ("v2", ONE, {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [ONE[0]]}]}),
        ("v2", PAIR, {"inputs": [{"name": "text", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}]}),
        ("invocations", ONE, {"dataframe_split": {"columns": ["text"], "data": [[ONE[0]]]}}),
        ("invocations", PAIR, {"dataframe_split": {"columns": ["text", "text_pair"], "data": [["a", "b"]]}}),
    ],
)
def test_each_protocol_has_its_own_words(protocol: Protocol, item: tuple[str, ...], wanted: object) -> None:
    (body,) = protocol_bodies([item], protocol)
    assert json.loads(body) == wanted


def test_texts_go_to_their_places_in_a_template_as_json_strings() -> None:
    bodies = template_bodies([ONE, ("é",)], '{"input": [{{text}}, {{ text }}]}')
    assert [json.loads(body) for body in bodies] == [{"input": [ONE[0]] * 2}, {"input": ["é"] * 2}]
    (body,) = template_bodies([PAIR], "[{{text}}, {{text_pair}}]")
    assert json.loads(body) == ["a", "b"]


def test_a_text_that_looks_like_a_place_stays_a_text() -> None:
    (body,) = template_bodies([("{{text}}",)], "[{{text}}]")
    assert json.loads(body) == ["{{text}}"]


def test_a_template_without_places_is_one_body() -> None:
    assert template_bodies([], '{"ids": [1, 2]}') == ('{"ids": [1, 2]}',)


@pytest.mark.parametrize(
    ("items", "template", "message"),
    [
        (
            [ONE],
            "[{{tekst}}]",
            "the body template has {{tekst}}; texts go to {{text}}, and of pairs the second ones to {{text_pair}}",
        ),
        ([], "[{{text}}]", "the body template has a place for texts, and there are none: give them with --data FILE"),
        (
            [ONE],
            "[{{text}}, {{text_pair}}]",
            "the body template has a place for a second text, and the data has one an item: name two",
        ),
        (
            [("a",)],
            '{"text": "{{text}}"}',
            'the body template makes no JSON (JSON is malformed: expected \',\' or \'}\' (byte 11)): {"text": ""a""}; '
            'texts come with their quotes, so write {"text": {{text}}}',
        ),
    ],
)
def test_a_template_that_makes_no_request_is_refused(items: list[tuple[str, ...]], template: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        template_bodies(items, template)
    assert str(caught.value) == message

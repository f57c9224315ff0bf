"""What a run's YAML says of long texts is what serving.yaml says of them."""

from typing import Any, get_args

import msgspec
import pytest
from pydantic import ValidationError

from pipeline import long_texts as asked
from pipeline.long_texts import served
from pipeline.stages.export import ExportConfig
from serving import long_texts as shipped


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ({}, shipped.Truncate()),
        ({"long_texts": {"kind": "refuse"}}, shipped.Refuse()),
        ({"long_texts": {"kind": "windows"}}, shipped.Windows(stride=64, max_windows=32)),
        ({"long_texts": {"kind": "windows", "stride": 8, "max_windows": 3}}, shipped.Windows(stride=8, max_windows=3)),
    ],
)
def test_every_kind_is_shipped_as_it_is_asked_for(written: dict[str, Any], wanted: shipped.LongTexts) -> None:
    assert served(ExportConfig.model_validate(written).long_texts) == wanted


def test_both_halves_know_the_same_kinds_fields_and_defaults() -> None:
    mine = {kind.model_fields["kind"].default: kind().model_dump() for kind in get_args(get_args(asked.LongTexts)[0])}
    theirs = {kind.__struct_config__.tag: msgspec.to_builtins(kind()) for kind in get_args(shipped.LongTexts)}
    assert mine == theirs


@pytest.mark.parametrize(
    "wrong", [{"kind": "guess"}, {"kind": "windows", "stride": -1}, {"kind": "refuse", "stride": 1}]
)
def test_what_no_server_knows_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExportConfig.model_validate({"long_texts": wrong})


def test_a_card_says_what_becomes_of_long_texts() -> None:
    told = [one.told(reads=1024) for one in (shipped.Truncate(), shipped.Refuse(), shipped.Windows(stride=8))]
    assert told == [
        "texts are cut at 1,024 tokens",
        "texts of more than 1,024 tokens are refused",
        "texts of more than 1,024 tokens are read in up to 32 windows of which neighbours share 8",
    ]

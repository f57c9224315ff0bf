"""What is known of each family from its config alone."""

from types import SimpleNamespace
from typing import Any

import models
import pytest
from models import tiny_config

from pipeline.encoders.families import (
    FAMILIES,
    FULL,
    SLIDING,
    Shape,
    attention_kinds,
    check_taps,
    family_of,
    first_position,
    reads_token_types,
    shape_of,
)
from pipeline.errors import BadRequest

# As the hub's ModernBERT configs say it: an interval, no list.
ON_THE_HUB = SimpleNamespace(model_type="modernbert", num_hidden_layers=7, global_attn_every_n_layers=3)


@pytest.fixture(params=models.ENCODERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_these_are_the_families_that_are_tested() -> None:
    assert set(models.ENCODERS) == set(FAMILIES)


def test_the_shape_is_read_from_the_plain_fields_of_config_json(family: str) -> None:
    fields = SimpleNamespace(**tiny_config(family, layers=3, width=48, heads=6).to_dict())
    assert shape_of(fields) == Shape(layers=3, width=48, heads=6, feed_forward=96)


def test_every_dropout_of_the_config_is_known(family: str) -> None:
    """Those of heads aside, which no encoder has."""
    fields = tiny_config(family).to_dict()
    heads = ("classifier_dropout", "seq_classif_dropout", "qa_dropout", "summary_last_dropout", "pooler_dropout")
    assert {name for name in fields if "dropout" in name} - set(heads) == set(FAMILIES[family].dropouts)


@pytest.mark.parametrize("model_type", ["gpt2", "deberta", "None"])
def test_an_unknown_family_is_answered_with_the_known_ones(model_type: str) -> None:
    with pytest.raises(BadRequest) as refused:
        family_of(model_type)
    assert str(refused.value) == (
        f"{model_type!r} is not an encoder Retort knows; teachers may be of the families "
        "bert, deberta-v2, distilbert, electra, modernbert, roberta, xlm-roberta"
    )


def test_these_families_tell_the_texts_of_a_pair_apart_by_token_types() -> None:
    assert {family for family in models.ENCODERS if reads_token_types(tiny_config(family))} == {"bert", "electra"}


@pytest.mark.parametrize(
    ("fields", "position"),
    [
        ({"model_type": "roberta", "pad_token_id": 1}, 2),
        ({"model_type": "xlm-roberta", "pad_token_id": 4}, 5),
        ({"model_type": "roberta", "pad_token_id": None}, 1),
        ({"model_type": "bert", "pad_token_id": 4}, 0),
        ({"model_type": "modernbert", "pad_token_id": 4}, 0),
    ],
)
def test_positions_of_robertas_families_start_behind_the_padding_id(fields: dict[str, Any], position: int) -> None:
    assert first_position(SimpleNamespace(**fields)) == position


# -- sliding windows ---------------------------------------------------------------------------------------------------


def test_windows_are_read_from_an_interval_as_from_a_list() -> None:
    wanted = (FULL, SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL)
    assert attention_kinds(ON_THE_HUB) == wanted
    assert attention_kinds(tiny_config("modernbert", layers=7)) == wanted
    assert attention_kinds(tiny_config("modernbert", layers=2, layer_types=[SLIDING, FULL])) == (SLIDING, FULL)


def test_only_modernbert_has_windows() -> None:
    having = {family for family in models.ENCODERS if SLIDING in attention_kinds(tiny_config(family, layers=4))}
    assert having == {"modernbert"}


@pytest.mark.parametrize("kind", ["query", "key", "value"])
def test_a_projection_of_a_layer_with_a_window_is_refused_with_the_layers_that_have_none(kind: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        check_taps(ON_THE_HUB, [("query", 4), (kind, 6), (kind, 5)])
    assert str(refused.value) == (
        "layer 5 of this modernbert encoder attends within a sliding window, so relations between its queries, keys "
        "and values do not span the text; its full-attention layers are 1, 4, 7"
    )


def test_an_encoder_of_windows_alone_has_no_layer_to_offer() -> None:
    with pytest.raises(BadRequest, match=r"its full-attention layers are none$"):
        check_taps(tiny_config("modernbert", layers=2, layer_types=[SLIDING, SLIDING]), [("value", 2)])


def test_hidden_states_may_be_read_everywhere_and_projections_in_full_layers() -> None:
    check_taps(ON_THE_HUB, [("hidden", 2), ("query", 4), ("value", 7)])
    check_taps(tiny_config("bert", layers=4), [("query", 2)])

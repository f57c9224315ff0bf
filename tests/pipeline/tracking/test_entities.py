"""What events become in MLflow is what MLflow takes; its own checks are asked."""

import pytest
from mlflow.utils import validation

from pipeline.events import Data, Metrics
from pipeline.tracking.entities import cut, flattened, input_of, metrics_of, name_of, params_of, tags_of


@pytest.mark.parametrize("name", ["distill.tokens", "student-onnx-int8/p95_ms", "a b", "system/cpu", "x" * 250])
def test_a_name_that_mlflow_takes_stays_as_it_is(name: str) -> None:
    assert name_of(name) == name


@pytest.mark.parametrize(
    "name", ["p95 <= 5%", "a//b", "/a", "../a", "..", ".", "", "a/", "x" * 251, "größe", "k=v", "a:b", "x/" * 200]
)
def test_any_other_name_becomes_one_that_mlflow_takes(name: str) -> None:
    validation._validate_metric_name(name_of(name))
    validation._validate_param_name(name_of(name))
    assert len(name_of(name)) <= validation.MAX_ENTITY_KEY_LENGTH


def test_names_that_look_alike_once_they_fit_stay_apart() -> None:
    assert name_of("a<b") == "a_b-4a826aac"
    assert len({name_of(name) for name in ("a<b", "a>b", "a_b", "x" * 251, "x" * 252)}) == 5


def test_a_long_value_is_cut_and_says_how_long_it_was() -> None:
    (param,) = params_of({"gate": "x" * 7000})
    assert param.value == "x" * (6000 - len("... (7000 characters)")) + "... (7000 characters)"
    assert len(param.value) == validation.MAX_PARAM_VAL_LENGTH
    (tag,) = tags_of({"retort.reason": "y" * 9000})
    assert len(tag.value) == validation.MAX_TAG_VAL_LENGTH
    assert cut("short", 5) == "short"


def test_nested_settings_become_dotted_names_and_lists_become_json() -> None:
    params = params_of({"distill": {"tokens": 7, "objective": {"kind": "relation"}}, "gate": ["a", "b"], "none": None})
    assert {param.key: param.value for param in params} == {
        "distill.tokens": "7",
        "distill.objective.kind": "relation",
        "gate": '["a","b"]',
        "none": "null",
    }
    assert flattened({"a": {}, "b": {"c": {}}}) == {"a": {}, "b.c": {}}


def test_numbers_that_are_not_finite_are_numbers_again() -> None:
    found = metrics_of(Metrics(of="distill", at=5, step=3, values={"loss": 0.5, "norm": "inf", "other": "nan"}))
    assert [(each.key, each.timestamp, each.step) for each in found] == [
        ("loss", 5, 3),
        ("norm", 5, 3),
        ("other", 5, 3),
    ]
    assert (found[0].value, found[1].value) == (0.5, float("inf"))
    assert found[2].value != found[2].value


def test_a_data_set_is_known_by_as_much_of_its_digest_as_mlflow_takes_and_keeps_the_whole_one() -> None:
    data = Data(
        name="sst2", digest="d" * 64, kind="hub", context="training", source={"id": "sst2"}, splits={"train": 7}
    )
    found = input_of(data)
    validation._validate_dataset_inputs([found])
    assert (found.dataset.name, found.dataset.digest, found.dataset.source_type) == ("sst2", "d" * 36, "hub")
    assert found.dataset.source == '{"digest":"%s","id":"sst2"}' % ("d" * 64)
    assert found.dataset.profile == '{"train":7}'
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training", "texts.train": "7"}


def test_a_source_too_long_for_mlflow_is_left_to_its_digest() -> None:
    data = Data(name="n" * 600, digest="d", kind="files", context="training", source={"f": "x" * 70_000}, splits={})
    found = input_of(data)
    validation._validate_dataset_inputs([found])
    assert found.dataset.source == '{"digest":"d"}'

"""The bill of materials: valid CycloneDX, the same bytes for the same facts, and all that a version is made of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from earned import LABELS, earned_steps, facts_in, sources_in

from pipeline.licences import NOT_STATED, Licence
from pipeline.locks import PIPELINE, SERVING, read_lock
from pipeline.origins import Origin
from pipeline.sbom import bill_of_materials
from pipeline.version_records import VersionFacts
from serving.bundle import TaskKind

CORE = {"model.onnx": "a" * 64, "serving.yaml": "b" * 64}
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


@pytest.fixture
def facts(tmp_path: Path) -> VersionFacts:
    return facts_in(tmp_path, earned_steps(tmp_path / "steps"), sources=sources_in(tmp_path))


def bill(facts: VersionFacts) -> dict[str, Any]:
    """The document, which is valid."""
    told = bill_of_materials(facts, CORE)
    fault = VALIDATOR.validate_str(told)
    assert fault is None, fault
    found: dict[str, Any] = json.loads(told)
    return found


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in component["properties"]}


def references(value: Any) -> Iterator[str]:
    """Every bom-ref of a document."""
    if isinstance(value, dict):
        yield from ([value["bom-ref"]] if "bom-ref" in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def components(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["bom-ref"]: each for each in told["components"]}


@pytest.mark.parametrize("task", LABELS)
def test_every_task_has_a_valid_bill(tmp_path: Path, task: TaskKind) -> None:
    told = bill(facts_in(tmp_path, earned_steps(tmp_path / "steps", task=task)))
    assert told["metadata"]["component"]["modelCard"]["modelParameters"]["task"] == task


def test_a_fault_would_be_seen(facts: VersionFacts) -> None:
    told = bill(facts)
    told["metadata"]["component"]["type"] = "model"
    assert VALIDATOR.validate_str(json.dumps(told)) is not None


def test_the_same_facts_give_the_same_bytes_and_other_facts_another_number(facts: VersionFacts) -> None:
    told = bill_of_materials(facts, CORE)
    assert bill_of_materials(facts, dict(reversed(CORE.items()))) == told
    other = bill_of_materials(msgspec.structs.replace(facts, digest="0" * 64), CORE)
    assert json.loads(other)["serialNumber"] != json.loads(told)["serialNumber"]


def test_its_time_is_that_of_the_last_step(facts: VersionFacts) -> None:
    assert bill(facts)["metadata"]["timestamp"] == facts.made_at == "2026-01-01T00:00:00+00:00"


def test_the_model_has_the_hashes_of_its_files(facts: VersionFacts) -> None:
    model = bill(facts)["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "tiny", facts.digest)
    assert model["hashes"] == [{"alg": "SHA-256", "content": facts.model_sha256}]
    files = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert files == CORE
    assert "licenses" not in model


def test_the_model_s_card_has_data_metrics_and_times_as_the_receipts_do(facts: VersionFacts) -> None:
    card = bill(facts)["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": "source:text"}, {"ref": "source:data"}]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    interval = {"lowerBound": "0.868", "upperBound": "0.888"}
    assert metrics[0] == {"type": "accuracy", "value": "0.878", "slice": "test", "confidenceInterval": interval}
    first = facts.first.times[0].percentiles["p50"]
    assert metrics[1] == {
        "type": "p50_ms",
        "value": repr(first.value),
        "slice": "here, Testor 9000, 64 tokens, n 500, batch 1",
        "confidenceInterval": {"lowerBound": repr(first.low), "upperBound": repr(first.high)},
    }


def test_teacher_text_and_data_are_components_with_digests_and_licences(facts: VersionFacts) -> None:
    found = components(bill(facts))
    teacher, text, data = (found[f"source:{role}"] for role in ("teacher", "text", "data"))
    assert (teacher["type"], teacher["name"]) == ("machine-learning-model", "a-teacher")
    assert teacher["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert (data["type"], data["name"]) == ("data", "moods")
    assert data["licenses"] == [{"license": {"name": "CC BY 4.0 (see its page)"}}]
    assert "licenses" not in text
    for component, origin in zip((teacher, text, data), facts.origins, strict=True):
        assert properties(component)["retort:digest"] == origin.digest
    assert properties(data)["retort:digest:test"] == facts.origins[2].digests["test"]
    assert properties(data)["retort:part:test"] == "test.jsonl"


@pytest.mark.parametrize(
    ("origin", "purl"),
    [
        (Origin("teacher", "hub", "org/a-model", "c" * 40), f"pkg:huggingface/org/a-model@{'c' * 40}"),
        (Origin("teacher", "hub", "bert-base", "c" * 40), f"pkg:huggingface/bert-base@{'c' * 40}"),
        (Origin("teacher", "package", "a-package", "1.0+cpu"), "pkg:pypi/a-package@1.0%2Bcpu"),
        (Origin("teacher", "folder", "a-folder"), None),
        (Origin("teacher", "not recorded", "not recorded", digest="d" * 64), None),
    ],
)
def test_what_others_know_has_their_name_for_it(facts: VersionFacts, origin: Origin, purl: str | None) -> None:
    told = bill(msgspec.structs.replace(facts, origins=(origin, *facts.origins[1:])))
    assert components(told)["source:teacher"].get("purl") == purl


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MIT", [{"license": {"id": "MIT"}}]),
        ("Apache-2.0 AND MIT", [{"expression": "Apache-2.0 AND MIT"}]),
        ("our own terms", [{"license": {"name": "our own terms"}}]),
    ],
)
def test_a_licence_is_an_id_an_expression_or_words(facts: VersionFacts, name: str, told: list[Any]) -> None:
    found = bill(msgspec.structs.replace(facts, licence=Licence(name, "somebody")))
    assert found["metadata"]["component"]["licenses"] == told
    assert "licenses" not in bill(msgspec.structs.replace(facts, licence=NOT_STATED))["metadata"]["component"]


def test_every_package_of_the_serving_lock_is_there_with_version_purl_and_hashes(facts: VersionFacts) -> None:
    found = components(bill(facts))
    for locked in read_lock(SERVING):
        component = found[f"serves:{locked.name}"]
        assert (component["name"], component["version"]) == (locked.name, locked.version)
        assert component["purl"] == f"pkg:pypi/{locked.name}@{locked.version}"
        assert [each["content"] for each in component["hashes"]] == list(locked.sha256)
    assert len(found) == len(read_lock(SERVING)) + 3


def test_a_runtime_beside_the_lock_is_there_too(facts: VersionFacts) -> None:
    spec = msgspec.structs.replace(facts.spec, runtime="openvino")
    found = components(bill(msgspec.structs.replace(facts, spec=spec)))
    assert found["serves:openvino"]["purl"].startswith("pkg:pypi/openvino@")
    assert "serves:openvino" not in components(bill(facts))


def test_a_package_that_is_installed_has_its_licence(facts: VersionFacts) -> None:
    assert components(bill(facts))["serves:msgspec"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]


def test_what_it_was_made_with_is_the_formulation(facts: VersionFacts) -> None:
    told = bill(facts)
    (formula,) = told["formulation"]
    made = {(each["name"], each["version"]) for each in formula["components"]}
    assert {(each.name, each.version) for each in read_lock(PIPELINE)} <= made
    assert ("torch", "2.13.0") in made
    assert "nncf" not in {name for name, version in made if version == "absent"}
    step = facts.steps[0]
    assert properties(formula)["retort:step:distill"] == f"{step.key} {step.digest} {step.commit}"
    (tool,) = told["metadata"]["tools"]["components"]
    assert (tool["name"], properties(tool)["retort:git-dirty"]) == ("retort", "true")
    assert properties(tool)["retort:git-commits"] == "c0ffee" * 6


def test_every_reference_is_one_thing_and_every_dependency_is_there(facts: VersionFacts) -> None:
    told = bill(facts)
    known = list(references(told))
    assert len(known) == len(set(known))
    graph = {each["ref"]: each.get("dependsOn", []) for each in told["dependencies"]}
    assert set(graph["model"]) == set(components(told))
    assert graph.keys() <= set(known)

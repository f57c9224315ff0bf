"""The facts of a version: each from a receipt or a manifest, and none from elsewhere."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from earned import SPLITS, VERDICT, VERSIONS, earned_steps, facts_in, having_read, origin, sources_in
from judged import seal
from receipts import INT8, MS

from benchmarks.measure import TOTAL
from benchmarks.receipt import read_receipt
from pipeline.artifact import Artifact, file_sha256
from pipeline.errors import BadArtifact
from pipeline.licences import NOT_STATED, Licence
from pipeline.version_facts import facts_of
from pipeline.version_records import Figure
from serving.bundle import read_bundle


@pytest.fixture
def steps(tmp_path: Path) -> dict[str, Artifact]:
    return earned_steps(tmp_path / "steps")


def changed(steps: dict[str, Artifact], label: str, **changes: Any) -> dict[str, Artifact]:
    """The same, with other words in one step's manifest."""
    manifest = msgspec.structs.replace(steps[label].manifest, **changes)
    return {**steps, label: Artifact(steps[label].path, manifest)}


def test_what_the_bundle_is_comes_from_the_bundle(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    facts = facts_in(tmp_path, steps)
    bundle = read_bundle(tmp_path / "bundle")
    assert (facts.name, facts.variant, facts.digest, facts.spec) == ("tiny", INT8, bundle.digest, bundle.spec)
    assert facts.model_sha256 == file_sha256(bundle.path / "model.onnx")
    assert facts.size_bytes == (bundle.path / "model.onnx").stat().st_size
    assert facts.verdict == VERDICT


def test_quality_is_that_of_the_first_session_with_the_teacher_s_beside_it(
    tmp_path: Path, steps: dict[str, Artifact]
) -> None:
    facts = facts_in(tmp_path, steps)
    assert facts.metrics == ("accuracy",)
    assert facts.first.figures["accuracy"] == Figure("accuracy", 0.878, 0.868, 0.888)
    assert facts.first.teacher["accuracy"] == Figure("accuracy", 0.9, 0.89, 0.91)
    assert facts.first.figures["batch_flips"] == Figure("batch_flips", 0.005)
    assert not any("/" in name or name.endswith(("_low", "_high")) for name in facts.first.figures)


def test_times_are_the_receipt_s_by_series_with_n_and_only_the_percentiles_that_n_allows(
    tmp_path: Path, steps: dict[str, Artifact]
) -> None:
    facts = facts_in(tmp_path, steps)
    receipt = read_receipt(tmp_path / "bundle" / "receipts" / "latency@here.json")
    mine = receipt.variant(INT8)
    assert [each.what for each in facts.first.times] == ["64 tokens", "16 tokens", "texts as they come"]
    long, _, real = facts.first.times
    latency = mine.latency[64][TOTAL]
    assert (long.n, long.processes) == (latency.n, latency.processes) == (500, 5)
    assert latency.p50_ms is not None
    assert long.percentiles["p50"] == Figure("p50", latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms)
    assert abs(latency.p50_ms - MS[INT8]) < 0.1
    assert (set(long.percentiles), set(real.percentiles)) == ({"p50", "p95"}, {"p50", "p95", "p99"})


def test_a_session_says_where_it_was_held(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    first = facts_in(tmp_path, steps).first
    assert (first.target, first.cpu_model, first.cores, first.threads) == ("here", "Testor 9000", 2, 1)
    assert (first.python, first.libraries) == ("3.11.9", {"onnxruntime": "1.31.0"})
    assert first.receipt == read_receipt(tmp_path / "bundle" / "receipts" / "latency@here.json").digest


def test_every_target_that_was_measured_has_a_session_and_the_first_is_the_gate_s(tmp_path: Path) -> None:
    steps = earned_steps(tmp_path / "steps", targets=("zone", "edge", "attic"))
    assert [each.target for each in facts_in(tmp_path, steps).sessions] == ["zone", "edge", "attic"]


def test_a_target_that_was_skipped_has_none(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    path = tmp_path / "steps" / "benchmark-gpu"
    path.mkdir()
    skipped = {"target": "gpu", "skipped": "it needs a GPU", "disturbed": {}}
    found = {**steps, "benchmark-gpu": seal(path, label="benchmark-gpu", facts=skipped)}
    assert [each.target for each in facts_in(tmp_path, found).sessions] == ["here"]


def test_sizes_shares_and_tokens_are_the_manifests(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    facts = facts_in(tmp_path, steps)
    assert facts.sizes == {**SPLITS, "test": 1821}
    assert facts.cut == {"train": 0.25, "dev": 0.0}
    assert (facts.also_in_train, facts.teacher_parameters, facts.distilled_tokens) == (7, 22_713_216, 6029)
    assert (facts.parity.texts, facts.parity.labels_differ) == (256, 0)


def test_every_step_is_told_with_its_commit_and_versions(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    facts = facts_in(tmp_path, steps)
    assert [step.label for step in facts.steps] == list(steps)
    assert {step.label for step in facts.steps if step.dirty} == {label for label in steps if label[-7:] == "student"}
    assert facts.dirty
    assert facts.commits == ("c0ffee" * 6,)
    assert facts.steps[0].versions == VERSIONS
    assert facts.made_at == "2026-01-01T00:00:00+00:00"


def test_a_version_of_clean_steps_is_clean(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    clean = {"commit": "c0ffee", "dirty": False}
    for label in steps:
        steps = changed(steps, label, git=clean)
    assert not facts_in(tmp_path, steps).dirty


def test_the_student_is_the_one_whose_name_the_variant_begins_with(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    """Of `small` and `small-one`, small-one-onnx-int8 is the latter's."""
    found = dict(steps)
    for name, tokens in (("stu", 1.0), ("student-one", 2.0), ("student", 3.0)):
        facts = {**steps["distill"].manifest.facts, "tokens": tokens}
        found[f"distill-{name}"] = changed(steps, "distill", facts=facts)["distill"]
        found[f"finetune-{name}"] = steps["finetune-student"]
    assert facts_in(tmp_path, found).distilled_tokens == 3


# -- where it comes from -----------------------------------------------------------------------------------------------


def test_sources_are_told_by_role(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    facts = facts_in(tmp_path, steps, sources=sources_in(tmp_path))
    assert [(each.role, each.name) for each in facts.origins] == [
        ("teacher", "a-teacher"),
        ("text", "sources"),
        ("data", "moods"),
    ]
    assert facts.code == Licence("Apache-2.0", "the metadata of retort 0.1.0")


def test_without_sources_their_digests_are_told_from_the_manifests(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    facts = facts_in(tmp_path, steps)
    assert [(each.role, each.name, each.digest) for each in facts.origins] == [
        ("teacher", "not recorded", "t" * 64),
        ("text", "not recorded", "t" * 64),
        ("data", "not recorded", "t" * 64),
    ]


def test_of_a_pretrained_teacher_the_one_it_began_from_is_told(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    path = tmp_path / "steps" / "pretrain"
    path.mkdir()
    pretrained = Artifact(
        path, msgspec.structs.replace(steps["distill"].manifest, inputs={"teacher": "p", "text": "q"})
    )
    facts = facts_in(tmp_path, {"pretrain": pretrained, **changed(steps, "distill", inputs={"teacher": "made"})})
    assert (origin(facts, "teacher").digest, origin(facts, "text").digest) == ("p", "q")


def test_a_folder_that_taught_the_task_is_told_by_its_name(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    asked = {"distill_from": "/somewhere/secret/large-teacher"}
    found = changed(steps, "finetune-student", config=asked, inputs={"task": "t", "teacher": "d" * 64})
    taught = origin(facts_in(tmp_path, found), "teacher of the task")
    assert (taught.name, taught.digest, taught.licence) == ("large-teacher", "d" * 64, NOT_STATED)


def test_this_run_s_own_teacher_is_told_once(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    found = changed(steps, "finetune-student", config={"distill_from": "teacher"})
    assert [each.role for each in facts_in(tmp_path, found).origins] == ["teacher", "text", "data"]


def test_texts_that_a_task_reads_beside_its_data_are_told(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    sources = sources_in(tmp_path)
    refusal = {"keep": 0.9, "data": sources["task"].data}
    told = {**sources, "task": sources["task"].model_validate({**sources["task"].model_dump(), "refusal": refusal})}
    assert origin(facts_in(tmp_path, steps, sources=told), "texts out of scope").name == "moods"


def test_the_model_s_own_licence_is_what_its_maker_says(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    assert facts_in(tmp_path, steps).licence == NOT_STATED
    assert facts_in(tmp_path, steps, licence="MIT").licence == Licence("MIT", "whoever registered it")


def test_the_version_in_service_is_called_champion_unless_it_is_said_otherwise(
    tmp_path: Path, steps: dict[str, Artifact]
) -> None:
    assert facts_in(tmp_path, steps).alias == "champion"
    assert facts_in(tmp_path, steps, alias="live").alias == "live"


# -- sources that were changed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "place", "name", "label"),
    [
        ("teacher", "a-teacher/config.json", "a-teacher", "distill"),
        ("text", "words.txt", "sources", "distill"),
        ("data", "moods/train.jsonl", "moods", "finetune-teacher"),
        ("data", "moods/test.jsonl", "moods", "benchmark"),  # the others do not read it
    ],
)
def test_a_source_that_was_changed_since_a_step_read_it_is_refused(
    tmp_path: Path, steps: dict[str, Artifact], role: str, place: str, name: str, label: str
) -> None:
    sources, cache = sources_in(tmp_path), tmp_path / "cache"
    read = having_read(sources, steps, cache)
    digest = facts_in(tmp_path, read, sources=sources).digest
    path = tmp_path / "sources" / place
    path.write_text(path.read_text() + " ")
    now = having_read(sources, steps, cache)
    named = {"data": "task"}.get(role, role)
    before, after = (
        each[label].manifest.inputs[named if named in each[label].manifest.inputs else "model"] for each in (read, now)
    )
    with pytest.raises(BadArtifact) as refused:
        facts_of(read, VERDICT, tmp_path / "bundle", name="tiny", digest=digest, sources=sources, cache=cache)
    assert str(refused.value) == (
        f"the {role} ({name}) was changed after {label} read it: its digest was {before} and is {after} now; put back "
        "what was there, or run again: the steps that read it are made anew"
    )


def test_data_that_changed_between_two_steps_is_refused(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    """A run looks at a source once, a run that goes on after it looks again."""
    sources, cache = sources_in(tmp_path), tmp_path / "cache"
    before = having_read(sources, steps, cache)["distill"]
    (tmp_path / "sources" / "words.txt").write_text("other words\n")
    read = {**having_read(sources, steps, cache), "distill": before}
    digest = facts_in(tmp_path, steps).digest
    with pytest.raises(BadArtifact, match=r"^the text \(sources\) was changed after distill read it: "):
        facts_of(read, VERDICT, tmp_path / "bundle", name="tiny", digest=digest, sources=sources, cache=cache)


def test_a_teacher_that_the_run_pretrained_is_no_source(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    sources, cache = sources_in(tmp_path), tmp_path / "cache"
    read = having_read(sources, steps, cache)
    manifest = msgspec.structs.replace(read["distill"].manifest, stage="pretrain", label="pretrain")
    read = {"pretrain": Artifact(read["distill"].path, manifest), **read}
    made = {"distill": {"teacher": "made", "text": manifest.inputs["text"]}}
    made["finetune-teacher"] = {"model": "made", "task": read["finetune-teacher"].manifest.inputs["task"]}
    for label, inputs in made.items():
        read = changed(read, label, inputs=inputs)
    digest = facts_in(tmp_path, steps).digest
    told = facts_of(read, VERDICT, tmp_path / "bundle", name="tiny", digest=digest, sources=sources, cache=cache)
    assert origin(told, "teacher").digest == manifest.inputs["teacher"]
    (tmp_path / "sources" / "a-teacher" / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(BadArtifact, match=r"^the teacher \(a-teacher\) was changed after pretrain read it: "):
        facts_of(read, VERDICT, tmp_path / "bundle", name="tiny", digest=digest, sources=sources, cache=cache)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_another_bundle_than_was_chosen_is_refused(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    facts_in(tmp_path, steps)
    bundle = tmp_path / "bundle"
    digest = read_bundle(bundle).digest
    with pytest.raises(BadArtifact) as refused:
        facts_of(steps, VERDICT, bundle, name="tiny", digest="0" * 64)
    assert str(refused.value) == f"{bundle} is {digest[:12]}, not the 000000000000 that was chosen; run again"


def test_a_receipt_that_was_altered_is_refused(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    path = steps["benchmark"].path / "receipt.json"
    path.write_text(path.read_text().replace('"seconds":95.0', '"seconds":94.0'))
    with pytest.raises(BadArtifact, match=r"latency@here.json was altered after it was written"):
        facts_in(tmp_path, steps)


@pytest.mark.parametrize("name", ["quality@here.json", "parity@here.json"])
def test_a_receipt_that_is_none_is_refused(tmp_path: Path, steps: dict[str, Artifact], name: str) -> None:
    facts_in(tmp_path, steps)
    path = tmp_path / "bundle" / "receipts" / name
    path.write_text("[]")
    with pytest.raises(BadArtifact) as refused:
        facts_of(steps, VERDICT, tmp_path / "bundle", name="tiny", digest=read_bundle(tmp_path / "bundle").digest)
    assert str(refused.value).startswith(f"{path} is no receipt that can be read: ")


def test_a_variant_of_no_student_is_refused(tmp_path: Path, steps: dict[str, Artifact]) -> None:
    alone = {label: each for label, each in steps.items() if label != "finetune-student"}
    with pytest.raises(BadArtifact) as refused:
        facts_in(tmp_path, alone)
    assert str(refused.value) == f"variant {INT8} is of none of the students teacher; run again"

"""The search: what it is asked, and what it does with candidates that fail, are beaten, or win. Most tests pass in what
would start processes; one starts them."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest
from models import LABELS, Exported, sentences
from pydantic import Field, ValidationError
from rich.console import Console
from taskdata import load, refused, task_over

from benchmarks.invariance import Invariance
from benchmarks.measure import Latency, WarmUp
from benchmarks.shapes import Raced, RacedShape, Shape
from benchmarks.targets import Facts
from pipeline.errors import BadArtifact, BadRequest, Failure, GateFailed, Transient
from pipeline.graph import Inputs, Tools
from pipeline.progress import Silent
from pipeline.quality import Difference
from pipeline.quantization import SearchRecipe
from pipeline.quantizing.candidate import Job, Receipt
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.quantizing.given import Given
from pipeline.quantizing.mixed import MixedRecipe
from pipeline.quantizing.openvino import OpenVinoRecipe
from pipeline.quantizing.pareto import Budget
from pipeline.quantizing.plain import Fp32Recipe
from pipeline.quantizing.search import SearchBase, recipe_name, shapes_within
from pipeline.quantizing.search_report import build_table
from pipeline.quantizing.searching import Search
from pipeline.quantizing.timing import Timing
from pipeline.stages import quantize
from pipeline.tasking.base import TUNING
from pipeline.tasks import TaskSplits
from serving.bundle import Item, read_bundle
from serving.cpu import usable_threads
from serving.engine import Engine, check_golden

SHAPES = ((1, 8), (4, 16))
Recipe = Annotated[DynamicRecipe | Fp32Recipe | OpenVinoRecipe | MixedRecipe, Field(discriminator="kind")]


class Asked(SearchBase):
    """As pipeline/quantization.py has it, over four kinds."""

    recipes: tuple[Recipe, ...]
    fallbacks: tuple[Recipe, ...] = ()
    shapes: Any = SHAPES


FUSED, PLAIN, TENSOR = DynamicRecipe(fused=True), DynamicRecipe(), DynamicRecipe(per_channel=False)
MIXED = MixedRecipe()
TENSOR_NAME = "dynamic per_channel=false"
NAMES = ("dynamic fused", "dynamic", TENSOR_NAME)


def asked(*recipes: Any, **settings: Any) -> Asked:
    return Asked(recipes=recipes or (FUSED, PLAIN, TENSOR), **settings)


# -- what it is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (DynamicRecipe(), "dynamic"),
        (DynamicRecipe(fused=True, per_channel=False), "dynamic fused per_channel=false"),
        (Fp32Recipe(), "fp32 fused"),
        (Fp32Recipe(fused=False), "fp32"),
        (OpenVinoRecipe(precision="bf16"), "openvino bf16"),
        (OpenVinoRecipe(precision="int8", samples=16), "openvino int8 samples=16"),
    ],
)
def test_a_candidate_is_named_by_what_was_set(recipe: Any, name: str) -> None:
    assert recipe_name(recipe) == name


@pytest.mark.parametrize(
    ("recipes", "told"),
    [
        ([], "a search needs a recipe to try: name some, or leave `recipes` out"),
        ([{"kind": "dynamic"}] * 2, "'dynamic' is named more than once: each recipe is tried once"),
        (
            [{"kind": "dynamic", "per_channel": True}, {"kind": "fp32"}, {"kind": "dynamic"}],
            "'dynamic per_channel' is named more than once: each recipe is tried once",
        ),
    ],
)
def test_a_list_of_recipes_that_is_empty_or_names_one_twice_is_refused(recipes: Any, told: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        Asked.model_validate({"recipes": recipes})
    assert [error["msg"] for error in wrong.value.errors()] == [f"Value error, {told}"]


def test_a_bound_on_a_shape_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"budget\.ms bounds 1x999, which is not measured; shapes has 1x8, 4x16"):
        asked(budget={"ms": {"1x999": 3}})


def test_what_it_needs_is_what_its_recipes_need_and_dev() -> None:
    assert asked().needs == {"dev"}
    assert asked(PLAIN, OpenVinoRecipe(precision="int8")).needs == {"dev", "calibration"}
    assert asked().variant == "onnx-best"


def test_left_alone_it_tries_eight_recipes_or_more_and_trains_last_of_all() -> None:
    config = SearchRecipe()
    assert len(config.recipes) >= 8
    assert "model" not in {need for recipe in config.recipes for need in recipe.needs}
    assert [recipe_name(recipe).split()[0] for recipe in config.fallbacks] == ["mixed", "smoothquant", "aware"]
    assert config.needs == {"dev", "calibration", "model"}


def test_a_fallback_that_is_tried_anyway_is_refused() -> None:
    with pytest.raises(ValidationError, match="'dynamic' is a fallback and named before: each recipe is tried once"):
        asked(PLAIN, FUSED, fallbacks=(PLAIN,))


def test_a_recipe_that_is_a_fallback_unless_it_is_named_is_tried_once(stage: "Stage") -> None:
    config = SearchRecipe.model_validate({"kind": "search", "recipes": [{"kind": "dynamic"}, {"kind": "smoothquant"}]})
    assert list(stage.search(config).fallbacks) == ["mixed fused", "aware fused max_texts=10000"]


def test_shapes_longer_than_the_model_reads_are_cut() -> None:
    config = asked(shapes=((1, 8), (1, 100), (2, 100), (1, 200)), budget={"ms": {"1x8": 1}})
    assert shapes_within(config, max_length=24) == ((1, 8), (1, 24), (2, 24))
    bounded = asked(shapes=((1, 100),), budget={"ms": {"1x100": 1}})
    assert refused(BadRequest, lambda: shapes_within(bounded, max_length=24)) == (
        "budget.ms bounds 1x100, and the model reads 24 tokens at most: bound less"
    )


# -- at work, with passed-in processes ---------------------------------------------------------------------------------


class Told(Silent):
    """What people would have seen."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def given(bert: Exported, tmp_path: Path) -> Given:
    rows = [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(sentences(40, longest=12))]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_over("classification", {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "dev")})
    (tmp_path / "scratch").mkdir()
    return Given(
        bundle=read_bundle(bert.bundle),
        scratch=tmp_path / "scratch",
        task=task,
        load=lambda: load(task, tmp_path),
        reporter=Told(),
    )


def raced(name: str, ms: float, shapes: Sequence[tuple[int, int]]) -> Raced:
    """What a race tells of a bundle that takes `ms` at every shape."""
    latency = Latency(ms, None, None, None, None, None, n=2, processes=1)
    samples_ns = ([int(ms * 1e6)] * 2,)
    at = [RacedShape(Shape(*shape), ms, latency, (WarmUp(20, steady=True),), samples_ns) for shape in shapes]
    return Raced(name, Facts("d", 10.0, 1, ("CPUExecutionProvider",)), tuple(at))


class Stage:
    """Candidates whose drop and milliseconds a test says, by name; a Failure in place of the drop is raised."""

    def __init__(self, given: Given, out: Path) -> None:
        self.given, self.out = given, out
        self.drops: dict[str, float | Failure] = dict.fromkeys(NAMES, 0.0)
        self.ms: dict[str, float] = dict(zip(NAMES, (0.4, 0.5, 0.6), strict=True))
        self.size_mb: dict[str, float] = dict(zip(NAMES, (12.0, 11.0, 10.0), strict=True))  # each is good for something
        self.batch: dict[str, tuple[float, int]] = {}
        self.jobs: list[Job] = []
        self.timed: list[tuple[str, ...]] = []
        self.breaks: set[str] = set()
        self.dies_in_the_race: set[str] = set()

    def search(self, config: Asked | None = None, **settings: Any) -> Search:
        return Search(
            config=config or asked(),
            given=self.given,
            cache=self.out / "cache",
            out=self.out,
            threads=1,
            trial=self.trial,
            look=self.time,
            race=self.race,
            **settings,
        )

    def trial(self, job: Job, *, seconds: float | None) -> Receipt:
        self.jobs.append(job)
        drop = self.drops.get(job.name, 0.0)
        if isinstance(drop, Failure):
            Path(job.target).mkdir(exist_ok=True)
            raise drop
        if job.recipe is not None:
            Path(job.target).mkdir()
            (Path(job.target) / "model.onnx").write_text(job.name)
        difference, flips = self.batch.get(job.name, (0.0, 0))
        return Receipt(
            name=job.name,
            recipe=job.recipe,
            digest="d",
            size_mb=self.size_mb.get(job.name, 40.0),
            metric="accuracy",
            value=0.9 - drop,
            items=40,
            difference=Difference("accuracy", -drop, -drop - 0.01, -drop + 0.01, 40),
            flips=2,
            invariance=(Invariance(8, 0, 40, difference, flips),),
            facts={"bundle_digest": "d", "operators": {"MatMulInteger": 3}},
            cpu_features=(),
            providers=(),
            threads=job.threads,
            seconds=1.0,
        )

    def time(
        self,
        bundles: Mapping[str, Path],
        *,
        shapes: Sequence[tuple[int, int]],
        items: Sequence[Item],
        threads: int,
        reporter: Any,
    ) -> Timing:
        self.timed.append(tuple(bundles))
        assert (len(items), threads) == (40, 1)
        ran = [raced(name, self.ms.get(name, 1.0), shapes) for name in bundles if name not in self.breaks]
        return Timing(tuple(ran), dict.fromkeys(self.breaks & set(bundles), "ended by SIGKILL"))

    def race(self, bundles: Mapping[str, Path], **settings: Any) -> Timing:
        self.breaks = self.breaks | self.dies_in_the_race
        return self.time(bundles, **settings)


@pytest.fixture
def stage(given: Given, tmp_path: Path) -> Stage:
    out = tmp_path / "out"
    (out / "evidence").mkdir(parents=True)
    return Stage(given, out)


def rows_of(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in facts["search"]["rows"]}


def test_the_fastest_within_the_budget_becomes_the_bundle(stage: Stage) -> None:
    stage.drops["dynamic fused"] = 0.1
    facts = stage.search().run()

    assert (stage.out / "bundle" / "model.onnx").read_text() == "dynamic"
    assert facts["bundle_digest"] == "d"
    found = facts["search"]
    assert found["winner"] == "dynamic"
    assert found["reason"].startswith("dynamic is the fastest of 2 within the budget (3 raced): 2.00x as fast")
    assert found["front"] == ["dynamic fused", "dynamic"]
    assert [row["name"] for row in found["rows"]] == ["exported", "dynamic fused", "dynamic", NAMES[2]]
    assert [row["remark"] for row in found["rows"][:3]] == [
        "fp32",
        "misses metric_drop 0.1000 of 0.0050",
        "chosen",
    ]
    assert (found["metric"], found["dev_items"], found["shapes"]) == ("accuracy", 40, [[1, 8], [4, 16]])


def test_every_candidate_is_asked_for_alike_and_called_as_the_winner(stage: Stage) -> None:
    stage.search(asked(dev_items=7)).run()

    first, *others = stage.jobs
    assert (first.recipe, first.target, first.reference) == (None, first.bundle, None)
    assert [job.recipe for job in others] == [each.model_dump() for each in (FUSED, PLAIN, TENSOR)]
    assert {job.reference for job in others} == {first.outputs}
    assert len({job.target for job in others} | {job.outputs for job in others}) == 6
    assert {job.called for job in others} == {"tinyonnx-best"}  # of NAME-onnx-fp32 it would be NAME-onnx-best
    assert {(job.threads, job.task["max_dev"]) for job in stage.jobs} == {(1, 7)}


@pytest.mark.parametrize(
    "failure",
    [
        BadArtifact("calibration needs training texts of several lengths, found 40, all of 5 tokens: add texts"),
        BadRequest("OpenVINO is not installed here: pip install 'retort[openvino]'"),
        Transient("no space left on the disk of /scratch"),
        Failure("the process was ended by SIGKILL (...)"),
    ],
    ids=["one length", "not installed", "full disk", "killed"],
)
def test_a_candidate_that_fails_leaves_one_message_and_the_rest_go_on(stage: Stage, failure: Failure) -> None:
    stage.drops["dynamic fused"] = failure
    facts = stage.search().run()

    assert facts["search"]["winner"] == "dynamic"
    assert rows_of(facts)["dynamic fused"] == {"name": "dynamic fused", "remark": str(failure)}
    assert isinstance(stage.given.reporter, Told)
    assert stage.given.reporter.lines[0] == f"  dynamic fused: {failure}"
    assert len(stage.given.reporter.lines) == 2  # and the table
    assert not (stage.given.scratch / "candidates" / "dynamic-fused").exists()  # what it left would fill the disk
    kept = json.loads((stage.out / "evidence" / "search" / "dynamic-fused.failed.json").read_text())
    assert kept == {
        "name": "dynamic fused",
        "recipe": FUSED.model_dump(),
        "failed": str(failure),
        "code": failure.exit_code,
    }


def test_a_candidate_that_dies_while_it_is_timed_is_out(stage: Stage) -> None:
    stage.breaks = {"dynamic fused"}
    facts = stage.search().run()
    assert facts["search"]["winner"] == "dynamic"
    assert rows_of(facts)["dynamic fused"]["remark"] == "ended by SIGKILL"
    assert "dynamic fused" not in stage.timed[1]


@pytest.mark.parametrize(
    ("second", "kind"), [(BadArtifact("unfit"), BadArtifact), (Transient("full again"), Transient)]
)
def test_where_no_candidate_can_be_made_all_messages_are_told(
    stage: Stage, second: Failure, kind: type[Failure]
) -> None:
    stage.drops |= {"dynamic": Transient("full"), "dynamic fused": second}
    told = refused(kind, stage.search(asked(PLAIN, FUSED)).run)
    assert told == f"no recipe made a candidate:\n  dynamic: full\n  dynamic fused: {second}"


def test_what_was_exported_cannot_be_computed_ends_the_search(stage: Stage) -> None:
    stage.drops["exported"] = BadArtifact("model.onnx does not load: our.company:Calibrate(-1) is not registered")
    assert "our.company" in refused(BadArtifact, stage.search().run)
    assert len(stage.jobs) == 1


def test_who_is_beaten_in_the_short_timing_is_not_timed_again(stage: Stage) -> None:
    stage.size_mb["dynamic"] = 12.0
    facts = stage.search().run()

    assert stage.timed == [("exported", *NAMES), ("exported", "dynamic fused", "dynamic per_channel=false")]
    assert rows_of(facts)["dynamic"]["remark"] == "at a first look beaten at every shape by dynamic fused"


def test_whom_one_had_beaten_that_dies_is_timed_too(stage: Stage) -> None:
    stage.size_mb["dynamic"] = 12.0
    stage.dies_in_the_race = {"dynamic fused"}
    facts = stage.search().run()

    assert stage.timed[1:] == [
        ("exported", "dynamic fused", "dynamic per_channel=false"),
        ("exported", "dynamic", "dynamic per_channel=false"),
    ]
    assert facts["search"]["winner"] == "dynamic"
    assert rows_of(facts)["dynamic fused"]["remark"] == "ended by SIGKILL"


def test_while_nobody_keeps_the_quality_fallbacks_are_tried_one_by_one(stage: Stage) -> None:
    stage.drops = dict.fromkeys(NAMES, 0.03)
    config = asked(FUSED, PLAIN, fallbacks=(MIXED, TENSOR, Fp32Recipe()), budget={"metric_drop": 0.01})
    stage.drops |= {"mixed": 0.02, "dynamic per_channel=false": 0.01}
    facts = stage.search(config).run()

    assert [job.name for job in stage.jobs] == ["exported", "dynamic fused", "dynamic", "mixed", TENSOR_NAME]
    assert facts["search"]["winner"] == TENSOR_NAME
    assert stage.timed[1:3] == [("exported", "mixed"), ("exported", TENSOR_NAME)]
    assert {"mixed", TENSOR_NAME} <= rows_of(facts).keys()
    assert stage.jobs[3].recipe == {**MIXED.model_dump(mode="json"), "metric_drop": 0.01}  # the search's
    assert (stage.out / "evidence" / "search" / "look-at-mixed.json").is_file()
    assert (stage.out / "evidence" / "search" / "mixed.json").is_file()


def test_fp32_that_keeps_the_quality_spares_no_fallback(stage: Stage) -> None:
    stage.drops = dict.fromkeys(NAMES, 0.03)
    facts = stage.search(asked(PLAIN, Fp32Recipe(), fallbacks=(MIXED,))).run()
    assert "mixed" in rows_of(facts)


def test_a_fallback_is_tried_too_when_who_kept_the_quality_dies_in_the_race(stage: Stage) -> None:
    stage.drops = {"dynamic": 0.03}
    stage.dies_in_the_race = {"dynamic fused"}
    facts = stage.search(asked(PLAIN, FUSED, fallbacks=(MIXED,))).run()
    assert facts["search"]["winner"] == "mixed"
    assert {"race-1.json", "race-2.json"} <= {path.name for path in (stage.out / "evidence" / "search").iterdir()}


def test_where_no_mix_is_good_enough_the_gate_failed(stage: Stage) -> None:
    stage.drops["mixed"] = GateFailed("no mix with int8 in it is within 0.005; the nearest has 0.62")
    assert "the nearest has 0.62" in refused(GateFailed, stage.search(asked(MIXED)).run)
    assert (stage.out / "evidence" / "search" / "mixed.failed.json").is_file()


def test_a_fallback_that_fails_leaves_one_message_and_the_next_is_tried(stage: Stage) -> None:
    stage.drops = {"dynamic": 0.03, "mixed": BadArtifact("no mix with int8 in it is within 0.005")}
    facts = stage.search(asked(PLAIN, fallbacks=(MIXED, FUSED))).run()

    assert facts["search"]["winner"] == "dynamic fused"
    assert rows_of(facts)["mixed"]["remark"] == "no mix with int8 in it is within 0.005"
    assert (stage.out / "evidence" / "search" / "mixed.failed.json").is_file()


def test_where_the_quality_is_kept_or_something_else_is_missed_no_fallback_is_tried(stage: Stage) -> None:
    stage.search(asked(FUSED, PLAIN, fallbacks=(MIXED,))).run()
    assert "mixed" not in {job.name for job in stage.jobs}

    (stage.given.scratch / "candidates").rename(stage.given.scratch / "earlier")
    slow = asked(FUSED, PLAIN, fallbacks=(MIXED,), budget={"ms": {"1x8": 0.1}})
    assert "misses ms of 1x8" in refused(GateFailed, stage.search(slow).run)
    assert "mixed" not in {job.name for job in stage.jobs}


def test_nobody_within_the_budget_is_told_with_the_nearest(stage: Stage) -> None:
    stage.drops = dict(zip(NAMES, (0.03, 0.01, 0.02), strict=True))
    told = refused(GateFailed, stage.search().run)

    assert told == (
        "no candidate meets the budget; the nearest: dynamic misses metric_drop 0.0100 of 0.0050; "
        "dynamic per_channel=false misses metric_drop 0.0200 of 0.0050; dynamic fused misses metric_drop 0.0300 of "
        f"0.0050; allow more or try other recipes (all receipts: {stage.out / 'evidence' / 'search'})"
    )
    assert GateFailed.exit_code == 66
    assert not (stage.out / "bundle").exists()
    assert (stage.out / "evidence" / "search" / "dynamic.json").is_file()
    assert "nobody meets the budget" in (stage.out / "evidence" / "report.html").read_text()


def test_a_search_for_invariance_takes_none_that_depends_on_the_batch(stage: Stage) -> None:
    stage.batch = {"dynamic fused": (0.4, 0), "dynamic": (1e-6, 1)}
    facts = stage.search(asked(budget=Budget(invariant=True))).run()
    assert facts["search"]["winner"] == "dynamic per_channel=false"


def test_when_its_seconds_are_over_no_candidate_is_begun(stage: Stage) -> None:
    ticks = iter([0.0, 5.0, 11.0, 12.0])
    facts = stage.search(asked(seconds=10), clock=lambda: next(ticks)).run()
    assert [job.name for job in stage.jobs] == ["exported", "dynamic fused"]
    assert rows_of(facts)["dynamic"]["remark"] == "not tried: the search's 10 s were over; give it more"


def test_the_evidence_holds_every_receipt_and_all_samples(stage: Stage) -> None:
    stage.search().run()
    folder = stage.out / "evidence" / "search"
    assert sorted(path.name for path in folder.iterdir()) == [
        "dynamic-fused.json",
        "dynamic-per_channel-false.json",
        "dynamic.json",
        "exported.json",
        "look.json",
        "race-1.json",
    ]
    assert msgspec.json.decode((folder / "dynamic.json").read_bytes(), type=Receipt).name == "dynamic"
    timing = msgspec.json.decode((folder / "race-1.json").read_bytes(), type=Timing)
    assert timing.ms()["dynamic"] == {"1x8": 0.5, "4x16": 0.5}


def test_the_table_and_the_page_show_everybody(stage: Stage) -> None:
    stage.drops["dynamic fused"] = Failure("a <b>bad</b> end [sic]:\n  line 3, in run\n  KeyError: 1")
    facts = stage.search().run()["search"]

    console = Console(width=170, record=True, file=io.StringIO())
    console.print(build_table(facts))
    table = console.export_text()
    for told in (
        "1x8",
        "4x16",
        "dynamic per_channel=false",
        "chosen",
        "2.00x",
        "failed: a <b>bad</b>",
        "[sic]:",
        "KeyError: 1",
    ):
        assert told in table
    page = (stage.out / "evidence" / "report.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace('"http', "")
    assert "&lt;b&gt;bad" in page
    assert "tiny: dynamic</h1>" in page.replace("Search for ", "")


def test_the_stage_hands_a_search_what_it_reads(
    bert: Exported, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Search] = []

    def run(search: Search) -> dict[str, Any]:
        seen.append(search)
        return {"search": {}}

    monkeypatch.setattr(Search, "run", run)
    assert given.task is not None
    inputs = Inputs({"bundle": SimpleNamespace(path=bert.bundle.parent)}, {"task": TaskSplits(given.task, TUNING)})  # type: ignore[dict-item]
    tools = Tools("key", tmp_path, tmp_path / "cache", tmp_path / "checkpoints", Told())
    assert quantize.run(asked(), inputs, tmp_path / "out", tools) == {"search": {}}

    (search,) = seen
    assert search.config == asked()
    assert (search.cache, search.out, search.threads) == (tmp_path / "cache", tmp_path / "out", usable_threads())
    assert search.given.bundle.digest == given.bundle.digest
    assert len(search.given.data.dev.items) == 40


# -- with processes of its own -----------------------------------------------------------------------------------------


def test_a_real_search_leaves_a_sealed_bundle(given: Given, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "evidence").mkdir(parents=True)
    config = asked(PLAIN, TENSOR, shapes=((1, 8),), budget={"metric_drop": 1.0})
    facts = Search(config=config, given=given, cache=tmp_path / "cache", out=out, threads=1).run()

    bundle = read_bundle(out / "bundle")
    assert bundle.digest == facts["bundle_digest"]
    assert bundle.spec.name == "tinyonnx-best"
    check_golden(Engine(bundle, threads=1))
    figures = rows_of(facts)["exported"]["figures"]
    assert (figures["drop"], figures["relative_ms"], figures["batch_flips"]) == (0.0, 1.0, 0)
    assert set(figures["ms"]) == {"1x8"}

"""Quantization-aware distillation: for every kind of task, what is exported answers as what was trained; a model that
static int8 harms recovers; what is harmed by nothing stays; and a killed run goes on."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kinds import task_over
from models import Exported, encoder_folder, exported_case, spec_of
from pydantic import ValidationError

from pipeline import exporting, finetuning
from pipeline.checkpoints import Checkpoints
from pipeline.data.progress import silent
from pipeline.encoders.heads import load_for_task, load_tuned
from pipeline.encoders.students import save_encoder
from pipeline.encoders.teachers import load_tokenizer
from pipeline.errors import BadArtifact
from pipeline.finetuning import finetune
from pipeline.optimization import Optimization
from pipeline.predicting import seen_by
from pipeline.progress import Silent
from pipeline.quantizing import aware
from pipeline.quantizing.aware import AwareRecipe
from pipeline.quantizing.fake_quant import insert
from pipeline.quantizing.given import Given
from pipeline.quantizing.graphs import operators
from pipeline.quantizing.static import StaticRecipe
from pipeline.schedule import Schedule
from pipeline.tasking.fitted import read_fitted
from pipeline.tasks import AnyTask
from serving.bundle import read_bundle

BRISK = Optimization(learning_rate=3e-3)
AT_REST = Optimization(learning_rate=1e-30)
OUTLIER = 1000.0
# One case of each kind of task, and whether its graph is fused.
KINDS = {"bert": True, "distilbert": True, "xlm-roberta": False, "bert-tags": False, "bert-vectors": False}


def given_for(bundle: Path, model: Path, task: AnyTask, root: Path, **more: Any) -> Given:
    scratch = root / "scratch"
    scratch.mkdir(exist_ok=True)
    return Given(
        bundle=read_bundle(bundle),
        scratch=scratch,
        task=task,
        load=lambda: task.load(root / "cache", silent),
        model=model,
        threads=1,
        **more,
    )


def given_of(case: Exported, root: Path, **more: Any) -> Given:
    task = task_over(root, case.fitted.kind, train=40, dev=16)
    return given_for(case.bundle, case.folder, task, root, **more)


def recipe(**changes: Any) -> AwareRecipe:
    return AwareRecipe(**{"epochs": 1, "batch_tokens": 128, "samples": 16, "optimization": BRISK, **changes})


# -- every kind --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fused"), KINDS.items())
def test_what_is_exported_answers_as_what_was_trained(name: str, fused: bool, base: Path, tmp_path: Path) -> None:
    """For every kind of task; `dev` is the bundle's own metric, `dev_scores` begin with the score before training."""
    case = exported_case(name, base)
    given = given_of(case, tmp_path)

    facts = recipe(fused=fused).apply(case.bundle / "model.onnx", tmp_path / "int8.onnx", given)

    assert facts["agreement"]["nine_in_ten"] <= facts["agreement"]["allowed"]
    assert facts["agreement"]["texts"] == len(given.data.dev.items)
    assert facts["texts"] == len(given.data.train.items)
    assert facts["operators"] == operators(tmp_path / "int8.onnx")
    assert facts["operators"].get("QAttention", 0) == 2 * fused
    assert facts["dev"].keys() == {"fp32", "static", "aware"}
    assert facts["dev"]["fp32"] == pytest.approx(given.dev_metric(case.bundle / "model.onnx"))
    assert facts["dev"]["aware"] == given.dev_metric(tmp_path / "int8.onnx")
    assert len(facts["dev_scores"]) == 2
    assert facts["best_epoch"] == int(np.argmax(facts["dev_scores"]))


# -- outliers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harmed(base: Path) -> tuple[Path, Path, AnyTask]:
    """A bundle, its model and its task: of the values that attention adds up, one channel is OUTLIER times as large,
    and what reads it as many times smaller. In fp32 that changes nothing."""
    root = base / "harmed"
    root.mkdir()
    task = task_over(root, "classification")
    folder = encoder_folder(root / "encoder", layers=1, width=32, initializer_range=0.2)
    model, tokenizer = learned(folder, task, root)
    attention = model.bert.encoder.layer[0].attention
    for parameter in (attention.self.value.weight, attention.self.value.bias):
        parameter.data[0] *= OUTLIER
    attention.output.dense.weight.data[:, 0] /= OUTLIER
    save_encoder(model, tokenizer, root / "model")
    return bundle_of(root, task), root / "model", task


def learned(folder: Path, task: AnyTask, root: Path) -> tuple[Any, Any]:
    data, tokenizer = task.load(root / "cache", silent), load_tokenizer(folder)
    model = load_for_task(folder, task, data.label_names, seed=0)
    train, dev = (seen_by(task, part, tokenizer, max_length=24) for part in (data.train, data.dev))
    outcome = finetune(
        model,
        data,
        train=train,
        dev=dev,
        pad_id=tokenizer.pad_token_id,
        schedule=Schedule(epochs=4, batch_tokens=64, patience=99, precision="fp32"),
        optimization=Optimization(learning_rate=1e-2),
        checkpoints=Checkpoints(root / "checkpoints", every_s=1e9),
        reporter=Silent(),
        title="finetune",
    )
    (root / "model").mkdir()
    outcome.fitted.write(root / "model")
    return model, tokenizer


def bundle_of(root: Path, task: AnyTask) -> Path:
    fitted, bundle = read_fitted(root / "model"), root / "bundle"
    model = load_tuned(root / "model", task, fitted.labels)
    bundle.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (bundle / name).write_bytes((root / "model" / name).read_bytes())
    exporting.export_onnx(model, bundle / "model.onnx", inputs=exporting.graph_inputs(model.config))
    items = task.load(root / "cache", silent).dev.items
    exporting.seal_bundle(bundle, model=model, spec=spec_of(model, fitted), items=items)
    return bundle


class Counted:
    """Stands for `inputs_for` of training and is interrupted at a call; 0: never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int = 0) -> None:
        self.calls, self.at, self.real = 0, at, finetuning.inputs_for
        monkeypatch.setattr(finetuning, "inputs_for", self)

    def __call__(self, *rest: Any, **settings: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.real(*rest, **settings)


@dataclass(frozen=True)
class Recovered:
    """What training left of the harmed model, and in how many calls."""

    given: Given
    facts: dict[str, Any]
    graph: Path
    calls: int


FOUR = recipe(epochs=4, samples=32)


@pytest.fixture(scope="module")
def recovered(harmed: tuple[Path, Path, AnyTask], base: Path) -> Recovered:
    bundle, model, task = harmed
    given = given_for(bundle, model, task, base)
    with pytest.MonkeyPatch.context() as patched:
        counted = Counted(patched)
        facts = FOUR.apply(bundle / "model.onnx", base / "aware.onnx", given)
    return Recovered(given, facts, base / "aware.onnx", counted.calls)


def test_a_model_that_static_int8_harms_recovers(recovered: Recovered, tmp_path: Path) -> None:
    source, given, dev = recovered.given.bundle.path / "model.onnx", recovered.given, recovered.facts["dev"]
    StaticRecipe(samples=32).apply(source, tmp_path / "static.onnx", given)

    exact, static, trained = (
        np.stack(given.dev_logits(path)) for path in (source, tmp_path / "static.onnx", recovered.graph)
    )
    assert dev["static"] == given.dev_metric(tmp_path / "static.onnx")
    assert dev["static"] < dev["fp32"] - 0.1
    assert dev["aware"] >= dev["static"] + 0.5 * (dev["fp32"] - dev["static"])
    assert np.abs(trained - exact).mean() < 0.5 * np.abs(static - exact).mean()
    assert recovered.facts["best_epoch"] > 0


def test_a_killed_run_goes_on_to_the_very_same_graph(
    recovered: Recovered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges, the best weights so far and the scores included; killed in the third epoch of four."""
    bundle, model, task = recovered.given.bundle.path, recovered.given.model, recovered.given.task
    given = given_for(bundle, model, task, tmp_path, checkpoints=tmp_path / "cut")
    monkeypatch.setattr(Checkpoints, "__init__", always_saving)
    counted = Counted(monkeypatch, at=recovered.calls * 5 // 8)

    with pytest.raises(KeyboardInterrupt):
        FOUR.apply(bundle / "model.onnx", tmp_path / "cut.onnx", given)
    found = FOUR.apply(bundle / "model.onnx", tmp_path / "cut.onnx", given)

    assert recovered.calls <= counted.calls <= recovered.calls + 2  # it did not begin anew
    assert found == recovered.facts
    assert (tmp_path / "cut.onnx").read_bytes() == recovered.graph.read_bytes()


def always_saving(self: Checkpoints, folder: Path) -> None:
    self.folder, self.every_s = folder, 0.0


# -- which epoch -------------------------------------------------------------------------------------------------------


def test_where_training_gains_nothing_the_graph_is_that_of_static(bert: Exported, tmp_path: Path) -> None:
    source, given = bert.bundle / "model.onnx", given_of(bert, tmp_path)
    StaticRecipe(samples=16).apply(source, tmp_path / "static.onnx", given)

    facts = recipe(optimization=AT_REST).apply(source, tmp_path / "aware.onnx", given)

    static, found = (weights(tmp_path / f"{name}.onnx") for name in ("static", "aware"))
    assert (facts["best_epoch"], facts["dev"]["aware"]) == (0, facts["dev"]["static"])
    assert static.keys() == found.keys()
    assert all(np.array_equal(static[name], found[name]) for name in static)


def weights(path: Path) -> dict[str, Any]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


# -- settings ----------------------------------------------------------------------------------------------------------


def test_what_is_excluded_stays_fp32_and_no_more_than_max_texts_are_read(bert: Exported, tmp_path: Path) -> None:
    source = bert.bundle / "model.onnx"
    (*_, last) = [node for node in onnx.load(source).graph.node if node.op_type == "Gemm"]
    some = recipe(exclude=(last.name,), max_texts=9, hidden=0)

    facts = some.apply(source, tmp_path / "int8.onnx", given_of(bert, tmp_path))

    assert facts["operators"]["Gemm"] == 1
    assert facts["texts"] == 9
    assert facts["agreement"]["nine_in_ten"] <= facts["agreement"]["allowed"]


def test_its_schedule_has_what_the_recipe_says() -> None:
    told = recipe(epochs=3, patience=1, precision="bf16", seed=4).schedule(max_length=77)

    assert told == Schedule(epochs=3, patience=1, batch_tokens=128, precision="bf16", seed=4, max_length=77)


def test_no_epoch_is_refused() -> None:
    with pytest.raises(ValidationError, match="epochs"):
        recipe(epochs=0)


# -- post-condition ----------------------------------------------------------------------------------------------------


def test_a_graph_that_does_not_answer_as_it_was_trained_is_refused(bert: Exported, tmp_path: Path) -> None:
    """Here: the one in fp32."""
    source = bert.bundle / "model.onnx"
    training = aware._Training(recipe(), given_of(bert, tmp_path), source)
    calibrated = training.calibrated
    insert(training.model, training.origins, calibrated.ranges, bits=calibrated.bits)

    with pytest.raises(BadArtifact) as refused:
        aware._agreement(training, source)

    before, _, after = str(refused.value).partition(" differs by ")
    assert before == f"{source}: of 16 dev items one in ten"
    assert after.endswith(" or more from the model as it was trained (allowed: 0.05); use the recipe static")


def test_a_trained_model_that_exports_to_another_graph_is_refused(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ranges would be those of other tensors."""
    given = given_of(bert, tmp_path)
    training = aware._Training(recipe(), given, bert.bundle / "model.onnx")
    calibrated = training.calibrated
    insert(training.model, training.origins, calibrated.ranges, bits=calibrated.bits)
    training.origins = replace(training.origins, tables=())
    monkeypatch.setattr(
        exporting, "export_onnx", lambda _, path, **__: shutil.copyfile(bert.bundle / "model.onnx", path)
    )

    with pytest.raises(BadArtifact) as refused:
        aware._export(training, tmp_path / "int8.onnx")

    assert str(refused.value) == (
        f"{given.scratch / 'trained.onnx'}: the trained model became another graph than the one its ranges were found "
        "on; export it anew with the versions in use, or use the recipe static"
    )

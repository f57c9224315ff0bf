"""A label the whole way, for every kind of task: from a line of data through fine-tuning, export and int8 to what the
server's engine tells a client: names and their order, thresholds, the refusal, the characters of an entity."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kinds import KINDS, task_over
from models import encoder_folder

from pipeline.artifact import Artifact
from pipeline.encoders.heads import load_tuned
from pipeline.encoders.teachers import TeacherConfig, load_tokenizer
from pipeline.graph import Inputs
from pipeline.quantization import DynamicRecipe
from pipeline.quantizing.building import INT8_OVER_FP32
from pipeline.stages.export import ExportConfig
from pipeline.stages.finetune import FinetuneConfig
from pipeline.tasking.base import TUNING, TaskData
from pipeline.tasking.fitted import Fitted, fitted_of, read_fitted
from pipeline.tasks import TaskSplits
from serving.answers import probabilities, results
from serving.bundle import read_bundle
from serving.engine import Engine, check_golden

# What the config says: an order that is neither the alphabet's nor the data's, and choices that dev makes.
SETTINGS: dict[str, dict[str, Any]] = {
    "classification": {"labels": ("good", "bad"), "refusal": {"keep": 0.9}},
    "multi-label": {"labels": ("good", "bad"), "threshold": "per-label"},
    "regression": {},
    "token-classification": {"labels": ("name", "mood")},
    "embedding": {"pooling": "cls"},
}
EPOCHS = {"classification": 3, "multi-label": 8, "regression": 8, "token-classification": 3, "embedding": 1}


@dataclass
class Way:
    """One kind's task, and what its stages left."""

    kind: str
    root: Path
    chain: Any

    @cached_property
    def view(self) -> TaskSplits:
        return TaskSplits(task_over(self.root, self.kind, train=230, dev=40, **SETTINGS[self.kind]), TUNING)

    @cached_property
    def data(self) -> TaskData:
        return self.view.load(self.root / "cache", lambda items, *_: items)

    @cached_property
    def finetuned(self) -> Artifact:
        folder = encoder_folder(self.root / "encoder", layers=1, width=32, initializer_range=0.2)
        told = {"epochs": EPOCHS[self.kind], "batch_tokens": 64, "max_length": 24, "patience": 99, "precision": "fp32"}
        config = FinetuneConfig.model_validate({**told, "optimization": {"learning_rate": 1e-2}})
        inputs = Inputs({}, {"model": TeacherConfig(source=str(folder)), "task": self.view})
        return self._run("finetune", "finetune-teacher", config, inputs)

    @cached_property
    def exported(self) -> Artifact:
        inputs = Inputs({"model": self.finetuned}, {"task": self.view})
        return self._run("export", "export-teacher", ExportConfig(), inputs)

    @cached_property
    def quantized(self) -> Artifact:
        return self._run("quantize", "quantize-teacher", DynamicRecipe(), Inputs({"bundle": self.exported}, {}))

    def engine(self, made: Artifact | None = None) -> Engine:
        return Engine(read_bundle((made or self.exported).path / "bundle"), threads=1)

    def told(self, *texts: str, made: Artifact | None = None) -> list[Any]:
        """What a client who sends these texts is told."""
        engine, items = self.engine(made), [(text,) for text in texts]
        answer = engine.answer(items)
        return results(answer.scores, spec=engine.bundle.spec, items=items, offsets=answer.offsets)

    def by_torch(self, *texts: str) -> Any:
        """(N, C): the model that was fine-tuned, text by text."""
        model = load_tuned(self.finetuned.path, self.view.task, self.data.label_names)
        tokenizer = load_tokenizer(self.finetuned.path)
        with torch.inference_mode():
            return np.stack([model(**tokenizer([text], return_tensors="pt")).logits[0].numpy() for text in texts])

    def _run(self, stage: str, label: str, config: Any, inputs: Inputs) -> Artifact:
        made: Artifact = self.chain.run(stage, label, config, inputs, root=self.root)
        return made


@pytest.fixture(scope="module")
def ways(chain: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Way]:
    return {kind: Way(kind, tmp_path_factory.mktemp(kind), chain) for kind in KINDS}


def dev_texts(way: Way) -> list[str]:
    return [text for (text,) in way.data.dev.items]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bundle_carries_on_what_fine_tuning_left_and_its_golden_answers_hold(
    kind: str, ways: dict[str, Way]
) -> None:
    way = ways[kind]
    left = read_fitted(way.finetuned.path)

    for made in (way.exported, way.quantized):
        engine = way.engine(made)
        assert fitted_of(engine.bundle.spec) == left
        check_golden(engine)
    assert (left.kind, left.labels) == (kind, way.data.label_names)
    assert way.exported.manifest.facts["parity"]["labels_differ"] == 0
    assert way.exported.manifest.facts["parity"]["texts"] == 256


@pytest.mark.parametrize("kind", KINDS)
def test_the_int8_bundle_has_golden_rows_of_its_own_of_the_same_shape(kind: str, ways: dict[str, Way]) -> None:
    before, after = (way_of.bundle.golden for way_of in (ways[kind].engine(), ways[kind].engine(ways[kind].quantized)))

    assert [len(row) for row in after.logits] == [len(row) for row in before.logits]
    assert after.logits != before.logits
    assert after.tolerance == pytest.approx(INT8_OVER_FP32 * before.tolerance, rel=0.5)  # its own outputs' size counts
    assert after.items == before.items


def test_a_class_travels_with_its_name_and_place(ways: dict[str, Way]) -> None:
    way = ways["classification"]

    good, bad = way.told("a strong story lovely", "a strong story boring")

    assert (good["label"], bad["label"]) == ("good", "bad")
    assert list(good["scores"]) == ["good", "bad"]
    wanted_C = probabilities(way.by_torch("a strong story lovely")[0], task="classification")
    assert list(good["scores"].values()) == pytest.approx(wanted_C.tolist(), abs=1e-4)
    config = json.loads((way.finetuned.path / "config.json").read_text())
    assert config["id2label"] == {"0": "good", "1": "bad"}


def test_a_refusal_travels_so_that_the_share_dev_chose_is_answered(ways: dict[str, Way]) -> None:
    way = ways["classification"]
    chances_NC = probabilities(way.by_torch(*dev_texts(way)), task="classification")

    told = way.told(*dev_texts(way))

    refused = [n for n, each in enumerate(told) if each.get("refused")]
    assert len(refused) == 4  # of 40, of which nine in ten are kept
    assert refused == sorted(np.argsort(chances_NC.max(axis=1), kind="stable")[:4].tolist())
    assert all(told[n]["label"] is None for n in refused)


def test_several_labels_travel_with_a_threshold_each(ways: dict[str, Way]) -> None:
    way = ways["multi-label"]

    told = way.told(*dev_texts(way))

    thresholds = read_fitted(way.finetuned.path).thresholds
    assert thresholds[0] != thresholds[1]
    chances_NC = probabilities(way.by_torch(*dev_texts(way)), task="multi-label")
    wanted = [{n for n, p, t in zip(("good", "bad"), row, thresholds, strict=True) if p >= t} for row in chances_NC]
    assert all(each in wanted for each in (set(), {"good"}, {"bad"}, {"good", "bad"}))
    assert [set(each["labels"]) for each in told] == wanted
    assert all(each["labels"] == sorted(each["labels"], key=each["scores"].__getitem__)[::-1] for each in told)
    assert {tuple(each["scores"]) for each in told} == {("good", "bad")}
    right = [{("good", "bad")[c] for c in (0, 1) if row[c]} for row in way.data.dev.labels]
    assert sum(one == other for one, other in zip(wanted, right, strict=True)) >= 36


def test_a_number_travels_as_it_is(ways: dict[str, Way]) -> None:
    way, texts = ways["regression"], ("a strong story lovely", "a strong story boring")

    up, down = way.told(*texts)

    assert list(up) == ["score"]
    assert [up["score"], down["score"]] == pytest.approx(way.by_torch(*texts).ravel().tolist(), abs=1e-4)
    assert up["score"] > down["score"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_entity_travels_to_the_characters_it_stands_at(precision: str, ways: dict[str, Way]) -> None:
    """Past an emoji of one code point, a blank too many, and a word that ends in punctuation."""
    way = ways["token-classification"]
    text = "lovely \N{SLIGHTLY SMILING FACE} the cold  tom story!"

    (told,) = way.told(text, made=way.exported if precision == "fp32" else way.quantized)

    found = [(each["label"], each["start"], each["end"], each["text"]) for each in told["entities"]]
    assert found == [("mood", 0, 6, "lovely"), ("name", 19, 28, "tom story")]
    assert all(text[each["start"] : each["end"]] == each["text"] for each in told["entities"])
    assert all(0.5 < each["score"] <= 1 for each in told["entities"])
    assert way.engine().bundle.spec.labels == ("O", "B-name", "I-name", "B-mood", "I-mood")


def test_a_vector_travels_pooled_and_of_length_one(ways: dict[str, Way]) -> None:
    way, text = ways["embedding"], "a strong story lovely"

    (told,) = way.told(text)

    assert list(told) == ["embedding"]
    assert np.linalg.norm(told["embedding"]) == pytest.approx(1.0, abs=1e-5)
    assert told["embedding"] == pytest.approx(way.by_torch(text)[0].tolist(), abs=1e-5)
    assert way.engine().bundle.spec.dimensions == 32
    assert read_fitted(way.finetuned.path) == Fitted("embedding", dimensions=32)
    assert (way.finetuned.path / "1_Pooling" / "config.json").is_file()
    pooled = json.loads((way.finetuned.path / "1_Pooling" / "config.json").read_text())
    assert pooled["pooling_mode_cls_token"]

"""Masked language modelling: where it starts, that it learns to guess, and what it leaves can teach."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import encoder_folder, masked_lm_folder, sentences
from pydantic import TypeAdapter, ValidationError

from pipeline.artifact import EVIDENCE
from pipeline.data.corpus import CorpusSource
from pipeline.encoders.families import Shape, shape_of
from pipeline.encoders.masked_lm import has_mlm_head, load_masked_lm
from pipeline.encoders.teachers import TeacherConfig, load_encoder
from pipeline.graph import Inputs, Tools
from pipeline.pretraining import starting_point
from pipeline.progress import Silent
from pipeline.stages import pretrain
from pipeline.stages.pretrain import FromScratch, PretrainConfig

SHORT = {"tokens": 6000, "batch_tokens": 512, "max_length": 16, "whole_words": False, "precision": "fp32"}


def config(**settings: Any) -> PretrainConfig:
    return PretrainConfig.model_validate({**SHORT, "optimization": {"learning_rate": 5e-3}, **settings})


def run(folder: Path, root: Path, **settings: Any) -> tuple[dict[str, Any], Path]:
    """The stage on few sentences that are often the same, so that there is something to guess."""
    (root / "text.txt").write_text("\n".join(sentences(12, seed=1, shortest=5) * 10))
    text = TypeAdapter(CorpusSource).validate_python({"kind": "files", "files": str(root / "text.txt")})
    out = root / "out"
    (out / EVIDENCE).mkdir(parents=True)
    tools = Tools("key", root, root / "cache", root / "checkpoints", Silent(), label="pretrain")
    inputs = Inputs({}, {"teacher": TeacherConfig(source=str(folder)), "text": text})
    return pretrain.run(config(**settings), inputs, out, tools), out


def test_an_encoder_without_a_head_is_given_one_and_learns_to_guess(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "teacher", initializer_range=0.05)

    facts, out = run(folder, tmp_path)

    assert facts["head_was_drawn"] is True
    rows = [json.loads(line) for line in (out / EVIDENCE / "curve.jsonl").read_text().splitlines()]
    assert rows[-1]["mlm"] < 0.8 * rows[0]["mlm"]
    assert facts["masked_accuracy"] == rows[-1]["agreement/accuracy"] > rows[0]["agreement/accuracy"]
    assert 6000 <= facts["tokens"] < 6600
    assert not has_mlm_head(folder)
    assert has_mlm_head(out)
    assert load_masked_lm(out).config.num_hidden_layers == 2
    assert {"curve.jsonl", "curve.png", "report.html"} == {file.name for file in (out / EVIDENCE).iterdir()}


def test_a_masked_language_model_goes_on_with_its_own_head(tmp_path: Path) -> None:
    folder = masked_lm_folder(tmp_path / "teacher")

    model, tokenizer, fresh = starting_point(config(), folder)

    assert not fresh
    stored = load_masked_lm(folder).state_dict()
    assert all(torch.equal(weight, stored[name]) for name, weight in model.state_dict().items())
    assert tokenizer.mask_token == "[MASK]"


def test_an_encoder_starts_with_its_own_weights_and_a_head_of_the_seed(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "teacher")

    one, other = (starting_point(config(seed=seed), folder)[0] for seed in (0, 1))

    stored = load_encoder(folder).state_dict()
    assert all(torch.equal(w, stored[n]) for n, w in one.base_model.state_dict().items())
    assert not torch.equal(one.cls.predictions.transform.dense.weight, other.cls.predictions.transform.dense.weight)


def test_from_scratch_nothing_of_the_teacher_is_kept_but_family_and_tokenizer(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "teacher")

    model, _, fresh = starting_point(config(start={"kind": "scratch", "layers": 1, "width": 32}), folder)

    assert fresh
    assert shape_of(model.config) == Shape(layers=1, width=32, heads=4, feed_forward=128)
    assert model.config.model_type == "bert"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, Shape(6, 384, 12, 1536)),
        ({"layers": 2}, Shape(2, 384, 12, 1536)),
        ({"width": 96}, Shape(6, 96, 12, 384)),
        ({"heads": 6, "feed_forward": 100}, Shape(6, 384, 6, 100)),
    ],
)
def test_the_shape_from_scratch_is_the_teachers_where_no_other_is_given(given: dict[str, int], wanted: Shape) -> None:
    assert FromScratch(**given).shape(Shape(6, 384, 12, 1536)) == wanted


def test_whole_words_are_hidden_unless_told_otherwise_and_unknown_starts_are_refused() -> None:
    assert PretrainConfig().whole_words
    with pytest.raises(ValidationError, match="'continued', 'scratch'"):
        PretrainConfig.model_validate({"start": {"kind": "afresh"}})

"""A bundle's folder loads in `optimum.onnxruntime` too, and answers there as it does here."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import CASES, family_export
from givens import real_bundle
from models import EXPORTED, exported_case

from pipeline.quantization import AnyRecipe
from pipeline.quantizing.building import build
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.quantizing.given import Given
from pipeline.quantizing.plain import Fp32Recipe
from serving.bundle import Bundle, read_bundle
from serving.engine import Engine

PYTHON = Path(".venv-optimum/bin/python").absolute()
BOUND = 1e-4  # of a logit
TEXTS = [
    "a film that is all heart",
    "dull",
    "so long a text that the others are padded behind their last word, and more",
]
RECIPES: dict[str, AnyRecipe] = {
    "fused": Fp32Recipe(),
    "int8": DynamicRecipe(),
    "fused int8": DynamicRecipe(fused=True),
}
NAMES = [*EXPORTED, *CASES, "minilm", *(f"bert {name}" for name in RECIPES)]

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="optimum's onnxruntime half has an environment of its own: make optimum"
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    base, here = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("optimum")
    found = {name: read_bundle(exported_case(name, base).bundle) for name in EXPORTED}
    found |= {name: read_bundle(family_export(name, base).bundle) for name in CASES} | {"minilm": real_bundle(base)}
    for name, recipe in RECIPES.items():
        (here / name).mkdir()
        build(recipe, Given(bundle=found["bert"], scratch=here / name, threads=1), here / name / "bundle")
        found[f"bert {name}"] = read_bundle(here / name / "bundle")
    return found


@pytest.fixture(scope="module")
def answers(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of every bundle, in one process."""
    folder = tmp_path_factory.mktemp("answers")
    jobs = [{"bundle": str(each.path), "task": each.spec.task, "texts": TEXTS} for each in bundles.values()]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("optimum_answers.py")
    subprocess.run([PYTHON, script, folder / "jobs.json", folder / "answers.json"], check=True, cwd=folder)
    return dict(zip(bundles, json.loads((folder / "answers.json").read_text()), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_optimum_gives_the_answers_of_the_engine(
    name: str, bundles: dict[str, Bundle], answers: dict[str, dict[str, Any]]
) -> None:
    engine = Engine(bundles[name], threads=1)
    tokens = engine.encode([(text,) for text in TEXTS])
    length = max(len(one.ids) for one in tokens)
    wanted = engine.run(tokens, length=length)  # the same batch: dynamic int8 depends on it

    for one, row, found in zip(tokens, wanted, answers[name]["rows"], strict=True):
        own = row[: len(one.ids)] if engine.bundle.spec.per_token else row
        np.testing.assert_allclose(found, own, atol=BOUND, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_optimum_knows_the_labels_by_name(
    name: str, bundles: dict[str, Bundle], answers: dict[str, dict[str, Any]]
) -> None:
    spec = bundles[name].spec
    if spec.labels:
        assert answers[name]["labels"] == list(spec.labels)

"""Students: their shape, and which of the teacher's numbers they start with."""

from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import tiny_encoder, tiny_tokenizer
from pydantic import ValidationError
from torch import Tensor

from pipeline.encoders.families import Shape, shape_of
from pipeline.encoders.students import StudentConfig, build_student, save_encoder
from pipeline.encoders.teachers import load_encoder, load_tokenizer
from pipeline.errors import BadRequest

TEACHER = Shape(layers=6, width=384, heads=12, feed_forward=1000)


@pytest.fixture(params=models.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def layer_of(model: Any, number: int) -> dict[str, Tensor]:
    """The weights of one layer (1-based), by their name inside it."""
    prefix = "transformer.layer" if model.config.model_type == "distilbert" else "encoder.layer"
    start = f"{prefix}.{number - 1}."
    return {name.removeprefix(start): value for name, value in model.state_dict().items() if name.startswith(start)}


def leading(teacher: Tensor, student: Tensor) -> Tensor:
    return teacher[tuple(slice(size) for size in student.shape)]


# -- shape -------------------------------------------------------------------------------------------------------------


def test_what_is_not_given_is_the_teachers_but_for_the_feed_forward() -> None:
    assert StudentConfig(layers=3).shape(TEACHER) == Shape(layers=3, width=384, heads=12, feed_forward=1536)


def test_the_feed_forward_is_four_times_the_students_own_width() -> None:
    """Not the teacher's: a "6x384" student that keeps 3072 is no 6x384 student."""
    assert StudentConfig(layers=3, width=192).shape(TEACHER).feed_forward == 768


def test_everything_may_be_given() -> None:
    config = StudentConfig(layers=2, width=96, heads=4, feed_forward=100)
    assert config.shape(TEACHER) == Shape(layers=2, width=96, heads=4, feed_forward=100)


def test_a_width_that_does_not_divide_into_the_heads_is_refused_with_those_that_do() -> None:
    with pytest.raises(BadRequest) as refused:
        StudentConfig(width=20).shape(TEACHER)
    assert str(refused.value) == (
        "distill.student: width 20 does not divide into 12 heads; heads may be 1, 2, 4, 5, 10, 20"
    )


@pytest.mark.parametrize("settings", [{"layers": 0}, {"width": 0}, {"heads": 0}, {"init": "zeros"}, {"depth": 3}])
def test_a_shape_that_cannot_be_is_refused_by_the_config(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StudentConfig.model_validate(settings)


@pytest.mark.parametrize("init", ["random", "teacher-layers"])
def test_a_student_of_every_family_has_the_shape_asked_for(family: str, init: str) -> None:
    config = StudentConfig.model_validate({"layers": 2, "width": 24, "heads": 3, "feed_forward": 50, "init": init})

    student = build_student(tiny_encoder(family, layers=4), config, seed=0)

    assert shape_of(student.config) == Shape(layers=2, width=24, heads=3, feed_forward=50)
    assert len({name.split(".")[2] for name in student.state_dict() if ".layer." in name}) == 2
    assert student.config.model_type == family
    assert student.config.vocab_size == len(tiny_tokenizer(family))
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}
    assert student(input_ids=torch.arange(5, 15).reshape(2, 5)).last_hidden_state.shape == (2, 5, 24)


def test_the_teachers_config_is_left_alone() -> None:
    teacher = tiny_encoder("bert", layers=4)
    before = teacher.config.to_dict()
    build_student(teacher, StudentConfig(layers=2, width=24), seed=0)
    assert teacher.config.to_dict() == before


# -- start -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["random", "teacher-layers"])
def test_a_student_depends_on_its_seed_alone(family: str, init: str) -> None:
    config = StudentConfig.model_validate({"layers": 2, "width": 64, "heads": 4, "init": init})
    teacher = tiny_encoder(family, layers=4)

    first = build_student(teacher, config, seed=1).state_dict()
    torch.rand(7)
    again, other = (build_student(teacher, config, seed=seed).state_dict() for seed in (1, 2))

    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in first.items())


def test_a_random_student_has_nothing_of_its_teacher(family: str) -> None:
    teacher = tiny_encoder(family, layers=4)
    student = build_student(teacher, StudentConfig(layers=2, init="random"), seed=5)

    same = [
        name
        for name, weight in student.state_dict().items()
        if weight.std() > 0 and torch.equal(weight, leading(teacher.state_dict()[name], weight))
    ]
    assert same == []


@pytest.mark.parametrize(("layers", "sources"), [(1, (4,)), (2, (2, 4)), (3, (1, 3, 4)), (4, (1, 2, 3, 4))])
def test_teacher_layers_are_spread_evenly_over_the_student(family: str, layers: int, sources: tuple[int, ...]) -> None:
    teacher = tiny_encoder(family, layers=4)
    config = StudentConfig(layers=layers, feed_forward=96)

    student = build_student(teacher, config, seed=5)

    for number, source in enumerate(sources, start=1):
        wanted = layer_of(teacher, source)
        for name, weight in layer_of(student, number).items():
            assert torch.equal(weight, wanted[name]), (number, name)


def test_embeddings_and_pooler_come_from_the_teacher_too(family: str) -> None:
    teacher = tiny_encoder(family, layers=4)
    student = build_student(teacher, StudentConfig(layers=2), seed=5)

    outside = {name for name in student.state_dict() if ".layer." not in name}
    assert "embeddings.word_embeddings.weight" in outside
    assert ("pooler.dense.weight" in outside) == (family != "distilbert")
    assert all(torch.equal(student.state_dict()[name], teacher.state_dict()[name]) for name in outside)


def test_a_student_as_large_as_its_teacher_answers_as_its_teacher(family: str) -> None:
    teacher = tiny_encoder(family, layers=3)
    student = build_student(teacher, StudentConfig(layers=3, feed_forward=96), seed=5).eval()

    ids = torch.arange(5, 15).reshape(2, 5)
    assert torch.equal(student(input_ids=ids).last_hidden_state, teacher(input_ids=ids).last_hidden_state)


def test_a_narrower_student_takes_the_leading_channels(family: str) -> None:
    teacher = tiny_encoder(family, layers=4)
    config = StudentConfig(layers=2, width=24, heads=3, feed_forward=50)

    student = build_student(teacher, config, seed=5)

    for number, source in enumerate((2, 4), start=1):
        wanted = layer_of(teacher, source)
        for name, weight in layer_of(student, number).items():
            assert torch.equal(weight, leading(wanted[name], weight)), name
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(student.state_dict()[words], teacher.state_dict()[words][:, :24])


def test_a_matrix_larger_than_the_teachers_stays_random(family: str) -> None:
    """A wider feed-forward is drawn anew as a whole, and what still fits beside it is the teacher's."""
    teacher = tiny_encoder(family, layers=4)

    student = build_student(teacher, StudentConfig(layers=2, feed_forward=200), seed=5)

    wide, narrow = (
        ("ffn.lin1.weight", "attention.q_lin.weight")
        if family == "distilbert"
        else ("intermediate.dense.weight", "attention.self.query.weight")
    )
    mine, its = layer_of(student, 1), layer_of(teacher, 2)
    assert mine[wide].shape[0] == 200
    assert not torch.equal(mine[wide][:96], its[wide])
    assert torch.equal(mine[narrow], its[narrow])


def test_a_student_deeper_than_its_teacher_may_be_random_but_not_copied() -> None:
    teacher = tiny_encoder("bert", layers=2)
    assert build_student(teacher, StudentConfig(layers=3, init="random"), seed=0).config.num_hidden_layers == 3
    with pytest.raises(BadRequest) as refused:
        StudentConfig(layers=3).shape(shape_of(teacher.config))
    assert str(refused.value) == (
        "layer mapping 'uniform': the student has 3 layers and the teacher only 2; "
        "set distill.student.layers to 2 or fewer"
    )


# -- saving ------------------------------------------------------------------------------------------------------------


def test_a_saved_student_is_a_folder_that_loads_as_a_teacher(family: str, tmp_path: Path) -> None:
    student = build_student(tiny_encoder(family, layers=4), StudentConfig(layers=2, width=24), seed=0)

    save_encoder(student, tiny_tokenizer(family), tmp_path)

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in tmp_path.iterdir()}
    loaded = load_encoder(tmp_path).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in student.state_dict().items())
    assert load_tokenizer(tmp_path)("a good story").input_ids == tiny_tokenizer(family)("a good story").input_ids

"""Students: their shape, and which of the teacher's numbers they start with."""

from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import tiny_encoder, tiny_tokenizer
from pydantic import ValidationError
from torch import Tensor

from pipeline.encoders.families import FULL, SLIDING, Shape, shape_of
from pipeline.encoders.students import StudentConfig, build_student, copy_leading, save_encoder
from pipeline.encoders.teachers import load_encoder, load_tokenizer
from pipeline.errors import BadRequest

TEACHER = Shape(layers=6, width=384, heads=12, feed_forward=1000)


@pytest.fixture(params=models.ENCODERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def layers_path(model: Any) -> str:
    return {"distilbert": "transformer.layer", "modernbert": "layers"}.get(model.config.model_type, "encoder.layer")


def layer_of(model: Any, number: int) -> dict[str, Tensor]:
    """The weights of one layer (1-based), by their name inside it."""
    start = f"{layers_path(model)}.{number - 1}."
    return {name.removeprefix(start): value for name, value in model.state_dict().items() if name.startswith(start)}


def leading(teacher: Tensor, student: Tensor, *, parts: int = 1) -> Tensor:
    """The leading channels of the teacher's matrix, or of each of its parts."""
    columns = tuple(slice(size) for size in student.shape[1:])
    rows = len(student) // parts
    return torch.cat([part[(slice(rows), *columns)] for part in teacher.chunk(parts)])


def outside_layers(model: Any) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith(layers_path(model))}


# ModernBERT's matrices that are several: queries, keys and values; input and gate.
STACKED = {"attn.Wqkv.weight": 3, "mlp.Wi.weight": 2}


# -- shape -------------------------------------------------------------------------------------------------------------


def test_what_is_not_given_is_the_teachers() -> None:
    assert StudentConfig(layers=3).shape(TEACHER) == Shape(layers=3, width=384, heads=12, feed_forward=1000)


def test_the_feed_forward_of_another_width_is_four_times_it() -> None:
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
    assert layer_of(student, 2)
    assert not layer_of(student, 3)
    assert student.config._attn_implementation == ("eager" if family == "deberta-v2" else "sdpa")
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

    mine, its = outside_layers(student), outside_layers(teacher)
    assert list(mine) == list(its)
    assert ("pooler.dense.weight" in mine) == (family in ("bert", "roberta", "xlm-roberta"))
    assert [name for name in mine if not torch.equal(mine[name], its[name])] == []


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
            assert torch.equal(weight, leading(wanted[name], weight, parts=STACKED.get(name, 1))), name
    for name, weight in outside_layers(student).items():
        assert torch.equal(weight, leading(outside_layers(teacher)[name], weight)), name


def test_of_stacked_matrices_the_student_takes_the_leading_channels_of_each() -> None:
    """Not of the stack: its leading rows would all be queries."""
    teacher = tiny_encoder("modernbert", layers=4)

    student = build_student(teacher, StudentConfig(layers=2, width=24, heads=3, feed_forward=50), seed=5)

    mine, its = layer_of(student, 2), layer_of(teacher, 4)
    for part in range(3):
        rows = its["attn.Wqkv.weight"][part * 48 : part * 48 + 24, :24]
        assert torch.equal(mine["attn.Wqkv.weight"][part * 24 : (part + 1) * 24], rows)
    for part in range(2):
        rows = its["mlp.Wi.weight"][part * 96 : part * 96 + 50, :24]
        assert torch.equal(mine["mlp.Wi.weight"][part * 50 : (part + 1) * 50], rows)


def test_a_stack_of_which_one_side_is_larger_is_not_copied() -> None:
    """Six rows of two parts are three each: less than the four that are wanted of each, though not of the stack."""
    target = torch.zeros(8, 2)
    copy_leading(torch.ones(6, 9), target, parts=2)
    assert not target.any()


def test_a_matrix_larger_than_the_teachers_stays_random(family: str) -> None:
    """A wider feed-forward is drawn anew as a whole, and what still fits beside it is the teacher's."""
    teacher = tiny_encoder(family, layers=4)

    student = build_student(teacher, StudentConfig(layers=2, feed_forward=200), seed=5)

    wide, narrow = {
        "distilbert": ("ffn.lin1.weight", "attention.q_lin.weight"),
        "deberta-v2": ("intermediate.dense.weight", "attention.self.query_proj.weight"),
        "modernbert": ("mlp.Wi.weight", "attn.Wqkv.weight"),
    }.get(family, ("intermediate.dense.weight", "attention.self.query.weight"))
    mine, its = layer_of(student, 1), layer_of(teacher, 2)
    assert len(mine[wide]) == 200 * STACKED.get(wide, 1)
    assert not torch.isclose(mine[wide][:96], its[wide][:96]).any(dim=1).all()
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


# -- which layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "sources"), [("uniform", (2, 4)), ("last", (3, 4)), ((4, 1), (4, 1)), ([2, 2], (2, 2))]
)
def test_a_student_starts_with_the_layers_it_is_told_to(family: str, mapping: Any, sources: tuple[int, ...]) -> None:
    teacher = tiny_encoder(family, layers=4)
    config = StudentConfig.model_validate({"layers": 2, "feed_forward": 96, "init_mapping": mapping})

    student = build_student(teacher, config, seed=5)

    assert config.sources(4) == sources
    for number, source in enumerate(sources, start=1):
        wanted = layer_of(teacher, source)
        for name, weight in layer_of(student, number).items():
            if name in wanted:  # ModernBERT's first layer has no normalisation to hand on
                assert torch.equal(weight, wanted[name]), (number, name)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            (2, 4, 6),
            "distill.student.init_mapping: [2, 4, 6] names 3 teacher layers, and the student has 2; name one for each",
        ),
        (
            (2, 7),
            "distill.student.init_mapping: there is no teacher layer 7, the teacher has 6; choose from 1 to 6",
        ),
    ],
)
def test_layers_that_cannot_be_are_refused(mapping: tuple[int, ...], message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        StudentConfig(layers=2, init_mapping=mapping).shape(TEACHER)
    assert str(refused.value) == message


@pytest.mark.parametrize("mapping", ["single", [0, 1], "uniform+last"])
def test_a_mapping_that_is_none_is_refused_by_the_config(mapping: Any) -> None:
    with pytest.raises(ValidationError):
        StudentConfig.model_validate({"init_mapping": mapping})


# -- what only some families have --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "mapping", "kinds"),
    [
        (2, "uniform", [SLIDING, SLIDING]),
        (3, "last", [SLIDING, FULL, SLIDING]),
        (2, (1, 4), [FULL, FULL]),
        (5, "uniform", [FULL, SLIDING, SLIDING, FULL, SLIDING]),
    ],
)
def test_a_copied_layer_keeps_the_attention_it_had(layers: int, mapping: Any, kinds: list[str]) -> None:
    teacher = tiny_encoder("modernbert", layers=5)
    student = build_student(teacher, StudentConfig(layers=layers, init_mapping=mapping), seed=0)
    assert student.config.layer_types == kinds
    assert [layer.attention_type for layer in student.layers] == kinds


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        (1, [FULL]),
        (3, [SLIDING, FULL, FULL]),
        (5, [FULL, SLIDING, SLIDING, FULL, FULL]),
        (7, [FULL, SLIDING, FULL, SLIDING, SLIDING, FULL, FULL]),
    ],
)
def test_a_random_student_ends_with_full_attention(layers: int, kinds: list[str]) -> None:
    student = build_student(tiny_encoder("modernbert", layers=5), StudentConfig(layers=layers, init="random"), seed=0)
    assert student.config.layer_types == kinds


def test_heads_that_cannot_be_turned_are_refused_with_those_that_can() -> None:
    with pytest.raises(BadRequest) as refused:
        build_student(tiny_encoder("modernbert"), StudentConfig(layers=2, width=36, heads=4), seed=0)
    assert str(refused.value) == (
        "distill.student: width 36 in 4 heads makes 9 channels a head, and a modernbert turns them in groups of 2; "
        "heads may be 1, 2, 3, 6, 9, 18"
    )


@pytest.mark.parametrize(("of_teacher", "of_student"), [(32, 32), (48, 24)])
def test_embeddings_as_wide_as_the_teacher_are_as_wide_as_the_student(of_teacher: int, of_student: int) -> None:
    teacher = tiny_encoder("electra", embedding_size=of_teacher)

    student = build_student(teacher, StudentConfig(layers=2, width=24), seed=0)

    assert student.config.embedding_size == of_student
    assert student.get_input_embeddings().weight.shape[1] == of_student
    assert hasattr(student, "embeddings_project") == (of_student != 24)


def test_a_head_width_of_its_own_follows_the_student() -> None:
    """DeBERTa-v2-xlarge's config writes it down."""
    teacher = tiny_encoder("deberta-v2", attention_head_size=12, pooler_hidden_size=48)
    student = build_student(teacher, StudentConfig(layers=2, width=24, heads=3), seed=0)
    assert layer_of(student, 1)["attention.self.query_proj.weight"].shape == (24, 24)
    assert student.config.pooler_hidden_size == 24


# -- saving ------------------------------------------------------------------------------------------------------------


def test_a_saved_student_is_a_folder_that_loads_as_a_teacher(family: str, tmp_path: Path) -> None:
    student = build_student(tiny_encoder(family, layers=4), StudentConfig(layers=2, width=24), seed=0)

    save_encoder(student, tiny_tokenizer(family), tmp_path)

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in tmp_path.iterdir()}
    loaded = load_encoder(tmp_path).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in student.state_dict().items())
    assert load_tokenizer(tmp_path)("a good story").input_ids == tiny_tokenizer(family)("a good story").input_ids

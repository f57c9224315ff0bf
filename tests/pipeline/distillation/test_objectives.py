"""Every member of the union, and what each reads and computes."""

from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from models import tiny_encoder, tiny_tokenizer
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from pipeline.data.batches import tokenize
from pipeline.distillation.objectives import HiddenObjective, NoObjective, Objective, Pair, RelationObjective
from pipeline.encoders.families import Shape, reading, shape_of
from pipeline.errors import BadRequest

MEMBERS = get_args(get_args(Objective)[0])
SETTINGS: dict[str, dict[str, Any]] = {"relation": {"relation_heads": 8}, "hidden": {}}
TRAINING = [
    pytest.param({"kind": "relation", "relation_heads": 8}, id="relation"),
    pytest.param({"kind": "hidden"}, id="hidden"),
    pytest.param({"kind": "hidden", "mapping": "last"}, id="hidden-last"),
]
TEXTS = ("a good story", "the plot of a very slow and sad film", "great")


def objective(settings: dict[str, Any]) -> Any:
    return TypeAdapter(Objective).validate_python(settings)


def shapes(*, student: tuple[int, int], teacher: tuple[int, int]) -> Pair:
    """(layers, width) of each."""
    return Pair(*(Shape(layers, width, heads=4, feed_forward=4 * width) for layers, width in (student, teacher)))


def terms_of(chosen: Any, student: Any, teacher: Any) -> tuple[dict[str, Tensor], Any]:
    """The loss terms on real texts, and the projections used."""
    tokenizer = tiny_tokenizer("bert")
    batch = tokenize([(text,) for text in TEXTS], tokenizer=tokenizer, max_length=16).batch([0, 1, 2], pad_id=0)
    fed = {"input_ids": torch.from_numpy(batch.input_ids), "attention_mask": torch.from_numpy(batch.attention_mask)}
    pair = Pair(student=shape_of(student.config), teacher=shape_of(teacher.config))
    chosen.check(pair)
    torch.manual_seed(0)
    projections = chosen.projections(pair)
    of_student_taps, of_teacher_taps = chosen.taps(pair)
    with reading(student, of_student_taps) as of_student, reading(teacher, of_teacher_taps) as of_teacher:
        with torch.no_grad():
            teacher(**fed)
        student(**fed)
        lengths = batch.attention_mask.sum(axis=1).tolist()
        return chosen.loss(of_student(), of_teacher(), pair=pair, lengths=lengths, projections=projections), projections


def test_every_kind_of_the_union_is_covered_here() -> None:
    kinds = {member.model_fields["kind"].default for member in MEMBERS}
    assert kinds == {settings.values[0]["kind"] for settings in TRAINING} | {"none"}


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_loads_by_its_kind_alone(member: type[Any]) -> None:
    loaded = objective({"kind": member.model_fields["kind"].default})
    assert loaded == member()
    assert objective(loaded.model_dump(mode="json")) == loaded


def test_an_unknown_kind_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ValidationError, match="'relation', 'hidden', 'none'"):
        objective({"kind": "relations"})


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_refuses_an_unknown_key(member: type[Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        objective({"kind": member.model_fields["kind"].default, "relation_head": 12})


@pytest.mark.parametrize("settings", TRAINING)
def test_the_loss_is_finite_and_positive_for_a_smaller_student(settings: dict[str, Any]) -> None:
    terms, _ = terms_of(objective(settings), tiny_encoder(layers=2, width=32), tiny_encoder(layers=3, width=48, seed=1))

    assert all(term.ndim == 0 and term.isfinite() and term > 0 for term in terms.values())


@pytest.mark.parametrize("settings", TRAINING)
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(settings: dict[str, Any]) -> None:
    student, teacher = tiny_encoder(layers=2, seed=3), tiny_encoder(layers=2, seed=3)

    terms, _ = terms_of(objective(settings), student, teacher)
    total = torch.stack(list(terms.values())).sum()
    total.backward()

    assert total.item() == pytest.approx(0, abs=1e-7)
    assert all(weight.grad is None or weight.grad.abs().max() < 1e-6 for weight in student.parameters())


@pytest.mark.parametrize("settings", TRAINING)
def test_gradient_flows_to_the_student_and_its_projections_and_not_to_the_teacher(settings: dict[str, Any]) -> None:
    student, teacher = tiny_encoder(layers=2, width=32), tiny_encoder(layers=3, width=48, seed=1)

    terms, projections = terms_of(objective(settings), student, teacher)
    torch.stack(list(terms.values())).sum().backward()

    moved = {
        name for name, weight in student.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert {"embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"} <= moved
    assert {f"encoder.layer.1.attention.self.{name}.weight" for name in ("query", "key", "value")} <= moved
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in projections.parameters())


def test_relations_give_the_rest_of_the_last_layer_no_gradient_and_hidden_states_do() -> None:
    last = "encoder.layer.1.output.dense.weight"
    students = {kind: tiny_encoder(layers=2) for kind in SETTINGS}
    for kind, settings in SETTINGS.items():
        terms, _ = terms_of(objective({"kind": kind, **settings}), students[kind], tiny_encoder(layers=3, seed=1))
        torch.stack(list(terms.values())).sum().backward()

    assert students["relation"].get_parameter(last).grad is None
    assert students["hidden"].get_parameter(last).grad is not None


# -- relation ----------------------------------------------------------------------------------------------------------


def test_relations_read_the_last_student_layer_and_the_last_teacher_layer_by_default() -> None:
    student, teacher = RelationObjective().taps(shapes(student=(3, 384), teacher=(6, 384)))
    assert student == (("query", 3), ("key", 3), ("value", 3))
    assert teacher == (("query", 6), ("key", 6), ("value", 6))


def test_relations_read_the_teacher_layer_that_is_asked_for() -> None:
    _, teacher = RelationObjective(teacher_layer=5).taps(shapes(student=(3, 384), teacher=(6, 384)))
    assert {layer for _, layer in teacher} == {5}


def test_each_relation_is_one_term_of_its_own_weight() -> None:
    student, teacher = tiny_encoder(layers=2, width=32), tiny_encoder(layers=3, width=48, seed=1)
    plain, _ = terms_of(objective({"kind": "relation", "relation_heads": 8}), student, teacher)
    weights = {"query": 0.5, "key": 1.0, "value": 3.0}
    weighted, _ = terms_of(objective({"kind": "relation", "relation_heads": 8, "weights": weights}), student, teacher)

    assert list(plain) == ["query", "key", "value"]
    assert {name: term.item() for name, term in weighted.items()} == pytest.approx(
        {name: weights[name] * term.item() for name, term in plain.items()}
    )


def test_a_relation_of_weight_zero_is_not_even_read() -> None:
    chosen = objective({"kind": "relation", "relation_heads": 8, "weights": {"query": 0, "key": 0}})
    student, _ = chosen.taps(shapes(student=(3, 384), teacher=(6, 384)))
    terms, _ = terms_of(chosen, tiny_encoder(layers=2), tiny_encoder(layers=3, seed=1))

    assert student == (("value", 3),)
    assert list(terms) == ["value"]


def test_relation_heads_that_do_not_divide_both_widths_are_refused_with_those_that_do() -> None:
    with pytest.raises(BadRequest) as refused:
        RelationObjective(relation_heads=48).check(shapes(student=(3, 36), teacher=(6, 48)))
    assert str(refused.value) == (
        "distill.objective.relation_heads: 48 does not divide both the student's width 36 and the teacher's 48; "
        "these do: 1, 2, 3, 4, 6, 12"
    )


@pytest.mark.parametrize(("student", "teacher"), [(96, 40), (40, 96)])
def test_relation_heads_that_divide_one_width_only_are_refused(student: int, teacher: int) -> None:
    with pytest.raises(BadRequest, match=r"these do: 1, 2, 4, 8$"):
        RelationObjective(relation_heads=48).check(shapes(student=(3, student), teacher=(6, teacher)))


def test_relation_heads_need_not_divide_into_attention_heads() -> None:
    RelationObjective(relation_heads=48).check(shapes(student=(3, 384), teacher=(12, 768)))


def test_a_teacher_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        RelationObjective(teacher_layer=7).check(shapes(student=(3, 384), teacher=(6, 384)))
    assert str(refused.value) == "distill.objective.teacher_layer: 7, but the teacher has 6 layers"


def test_relations_whose_weights_are_all_zero_are_refused() -> None:
    chosen = objective({"kind": "relation", "weights": {"query": 0, "key": 0, "value": 0}})
    with pytest.raises(BadRequest) as refused:
        chosen.check(shapes(student=(3, 384), teacher=(6, 384)))
    assert str(refused.value) == (
        "distill.objective.weights: query, key and value are all 0, so nothing would be learned; "
        "raise one, or set distill.objective={kind: none}"
    )


@pytest.mark.parametrize("settings", [{"relation_heads": 0}, {"teacher_layer": 0}, {"weights": {"query": -1}}])
def test_numbers_out_of_range_are_refused_by_the_config(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to"):
        objective({"kind": "relation", **settings})


# -- hidden states -----------------------------------------------------------------------------------------------------


def test_hidden_states_need_projections_only_where_widths_differ() -> None:
    same = HiddenObjective().projections(shapes(student=(2, 48), teacher=(4, 48)))
    other = HiddenObjective().projections(shapes(student=(2, 32), teacher=(4, 48)))

    assert list(same.parameters()) == []
    assert {name: tuple(weight.shape) for name, weight in other.named_parameters()} == {
        "1.weight": (48, 32),
        "2.weight": (48, 32),
    }


@pytest.mark.parametrize(("mapping", "layers"), [("uniform", (2, 4, 6)), ("last", (4, 5, 6))])
def test_hidden_states_are_read_of_the_mapped_layers(mapping: str, layers: tuple[int, ...]) -> None:
    student, teacher = objective({"kind": "hidden", "mapping": mapping}).taps(shapes(student=(3, 48), teacher=(6, 48)))
    assert student == (("hidden", 1), ("hidden", 2), ("hidden", 3))
    assert teacher == tuple(("hidden", layer) for layer in layers)


def test_hidden_states_of_a_deeper_student_are_refused() -> None:
    with pytest.raises(BadRequest, match="the student has 7 layers and the teacher only 6"):
        HiddenObjective().check(shapes(student=(7, 48), teacher=(6, 48)))


def hidden_loss(student_BLE: Tensor, teacher_BLE: Tensor, lengths: Sequence[int]) -> Tensor:
    pair = shapes(student=(1, student_BLE.shape[2]), teacher=(1, teacher_BLE.shape[2]))
    chosen = HiddenObjective()
    terms = chosen.loss(
        {("hidden", 1): student_BLE},
        {("hidden", 1): teacher_BLE},
        pair=pair,
        lengths=lengths,
        projections=chosen.projections(pair),
    )
    return terms["hidden_1"]


def test_the_hidden_loss_equals_a_plain_loop_over_real_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 1, 8)
    student_BLE, teacher_BLE = (torch.randn(3, 8, 12, generator=generator) for _ in range(2))

    wanted = 0.0
    for row, length in enumerate(lengths):
        wanted += sum(
            (student_BLE[row, token, channel].item() - teacher_BLE[row, token, channel].item()) ** 2
            for token in range(length)
            for channel in range(12)
        ) / (length * 12)

    assert hidden_loss(student_BLE, teacher_BLE, lengths).item() == pytest.approx(wanted / 3, rel=1e-6)


def test_padding_changes_neither_the_hidden_loss_nor_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 1, 8)
    student_BLE, teacher_BLE = (torch.randn(3, 8, 12, generator=generator) for _ in range(2))
    padded_BLE, garbage_BLE = (torch.cat([x, torch.full((3, 4, 12), 1e4)], dim=1) for x in (student_BLE, teacher_BLE))
    padded_BLE[1, 1:], garbage_BLE[0, 5:] = -1e4, 1e4
    student_BLE.requires_grad_()
    padded_BLE.requires_grad_()

    plain, padded = hidden_loss(student_BLE, teacher_BLE, lengths), hidden_loss(padded_BLE, garbage_BLE, lengths)
    plain.backward()
    padded.backward()

    assert padded.item() == pytest.approx(plain.item(), rel=1e-6)
    assert student_BLE.grad is not None
    assert padded_BLE.grad is not None
    torch.testing.assert_close(padded_BLE.grad[:, :8], student_BLE.grad)
    assert padded_BLE.grad[:, 8:].abs().max() == 0


def test_no_objective_asks_for_nothing() -> None:
    NoObjective().check(shapes(student=(7, 36), teacher=(6, 48)))

"""Every member of the union, and what each reads and computes."""

from contextlib import ExitStack
from typing import Any, get_args

import pytest
import torch
from models import text_batch, tiny_masked_lm
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from pipeline.data.layout import Layout, Masked
from pipeline.distillation.attention_objectives import RelationObjective
from pipeline.distillation.objectives import HiddenObjective, NoObjective, Objective
from pipeline.distillation.train import How, Lesson, Pupil, Teacher
from pipeline.distillation.transfer import Pair, Seen
from pipeline.encoders.families import Shape
from pipeline.errors import BadRequest
from pipeline.losses import Terms
from pipeline.optimization import Optimization

MEMBERS = get_args(get_args(Objective)[0])
# The least that each kind must be given.
NEEDED: dict[str, Any] = {"sum": {"terms": [{"objective": {"kind": "hidden"}}]}}
BOTH = [{"objective": {"kind": "relation", "relation_heads": 8}}, {"weight": 0.5, "objective": {"kind": "hidden"}}]
TRAINING = [
    pytest.param({"kind": "relation", "relation_heads": 8}, id="relation"),
    pytest.param({"kind": "relation", "relation_heads": 8, "mapping": "last"}, id="relation-last"),
    pytest.param({"kind": "direct"}, id="direct"),
    pytest.param({"kind": "direct", "mapping": "uniform+last"}, id="direct-uniform-last"),
    pytest.param({"kind": "hidden"}, id="hidden"),
    pytest.param({"kind": "hidden", "mapping": "last"}, id="hidden-last"),
    pytest.param({"kind": "hidden", "mapping": "single"}, id="hidden-single"),
    pytest.param({"kind": "hidden", "mapping": "uniform-consecutive"}, id="hidden-consecutive"),
    pytest.param({"kind": "hidden", "mapping": [[1, 3], [2, 1]]}, id="hidden-pairs"),
    pytest.param({"kind": "output"}, id="output"),
    pytest.param({"kind": "output", "temperature": 1, "mlm_weight": 0.5}, id="output-mlm"),
    pytest.param({"kind": "sum", "terms": BOTH}, id="sum"),
    pytest.param({"kind": "sum", "terms": [*BOTH, {"objective": {"kind": "output"}}]}, id="sum-output"),
]
ATTENTIVE = [parameters for parameters in TRAINING if parameters.values[0]["kind"] in ("relation", "direct")]
TEXTS = ("a good story", "the plot of a very slow and sad film", "great")


def objective(settings: dict[str, Any]) -> Any:
    return TypeAdapter(Objective).validate_python(settings)


def shapes(*, student: tuple[int, int], teacher: tuple[int, int]) -> Pair:
    """(layers, width) of each."""
    return Pair(*(Shape(layers, width, heads=4, feed_forward=4 * width) for layers, width in (student, teacher)))


def masked_batch(*, packed: bool = False) -> Any:
    """The texts, with one token of each to guess (two of the longest)."""
    from dataclasses import replace

    import numpy as np

    batch = text_batch("bert", TEXTS, packed=packed)
    starts = batch.layout.starts
    places = np.array([starts[0] + 2, starts[1] + 1, starts[1] + 4, starts[2] + 1])
    flat = batch.input_ids_RC.reshape(-1).copy()
    labels = flat[places].copy()
    flat[places] = 4  # [MASK]
    return replace(
        batch,
        input_ids_RC=flat.reshape(batch.input_ids_RC.shape),
        masked=Masked(places, labels, np.array([0, 1, 1, 2])),
    )


def lesson_of(chosen: Any, student: Any, teacher: Any, stack: ExitStack) -> Lesson:
    """Student and teacher (masked language models) as a pass has them; in fp32."""
    pupils = {"student": Pupil(student.base_model, chosen, Optimization(), tokens=1)}
    taught = Teacher(teacher.base_model, teacher)
    return Lesson(taught, pupils, how=How("fp32"), device=torch.device("cpu"), stack=stack)


def terms_of(chosen: Any, student: Any, teacher: Any, *, packed: bool = False) -> tuple[Terms, Any]:
    """The loss terms and agreement on real texts, and the projections used."""
    batch = masked_batch(packed=packed) if chosen.masking else text_batch("bert", TEXTS, packed=packed)
    with ExitStack() as stack:
        lesson = lesson_of(chosen, student, teacher, stack)
        terms = lesson(batch, ["student"], True)["student"]
    return terms, lesson.part("student")["projections"]


def small_student(**changes: Any) -> Any:
    return tiny_masked_lm(layers=2, width=32, **changes)


def larger_teacher() -> Any:
    return tiny_masked_lm(layers=3, width=48, seed=1)


def test_every_kind_of_the_union_is_covered_here() -> None:
    kinds = {member.model_fields["kind"].default for member in MEMBERS}
    assert kinds == {settings.values[0]["kind"] for settings in TRAINING} | {"none"}


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_loads_by_its_kind_and_comes_back_from_what_it_writes(member: type[Any]) -> None:
    kind = member.model_fields["kind"].default
    loaded = objective({"kind": kind, **NEEDED.get(kind, {})})
    assert isinstance(loaded, member)
    assert objective(loaded.model_dump(mode="json")) == loaded


def test_an_unknown_kind_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ValidationError, match="'relation', 'hidden', 'direct', 'output', 'sum', 'none'"):
        objective({"kind": "relations"})


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_refuses_an_unknown_key(member: type[Any]) -> None:
    kind = member.model_fields["kind"].default
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        objective({"kind": kind, **NEEDED.get(kind, {}), "relation_head": 12})


@pytest.mark.parametrize("settings", TRAINING)
def test_the_loss_is_finite_and_positive_for_a_smaller_student(settings: dict[str, Any]) -> None:
    terms, _ = terms_of(objective(settings), small_student(), larger_teacher())

    assert terms.losses
    assert all(term.ndim == 0 and term.isfinite() and term > 0 for term in terms.losses.values())


@pytest.mark.parametrize("settings", [p for p in TRAINING if "pairs" not in p.id and "mlm" not in p.id])
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(settings: dict[str, Any]) -> None:
    student, teacher = tiny_masked_lm(layers=2, seed=3), tiny_masked_lm(layers=2, seed=3)

    terms, _ = terms_of(objective(settings), student, teacher)
    total = torch.stack(list(terms.losses.values())).sum()
    total.backward()

    assert total.item() == pytest.approx(0, abs=2e-6)
    assert all(weight.grad is None or weight.grad.abs().max() < 1e-5 for weight in student.parameters())
    assert [value.item() for value in terms.measures.values()] == pytest.approx([3.0] * len(terms.measures), rel=1e-5)


@pytest.mark.parametrize("settings", TRAINING)
def test_agreement_is_named_as_its_term_and_lies_between_its_bounds(settings: dict[str, Any]) -> None:
    terms, _ = terms_of(objective(settings), small_student(), larger_teacher())

    assert {name for name in terms.losses if not name.endswith("mlm")} == set(terms.measures)
    assert all(-3 <= value.item() <= 2.99 for value in terms.measures.values())
    assert not any(value.requires_grad for value in terms.measures.values())


@pytest.mark.parametrize("settings", TRAINING)
def test_gradient_flows_to_the_student_and_its_projections_and_not_to_the_teacher(settings: dict[str, Any]) -> None:
    student, teacher = small_student(), larger_teacher()

    terms, projections = terms_of(objective(settings), student, teacher)
    torch.stack(list(terms.losses.values())).sum().backward()

    encoder = student.base_model
    moved = {
        name for name, weight in encoder.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert {"embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"} <= moved
    assert {f"encoder.layer.1.attention.self.{name}.weight" for name in ("query", "key", "value")} <= moved
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in projections.parameters())


@pytest.mark.parametrize("settings", TRAINING)
def test_packed_and_padded_batches_have_one_loss_and_one_gradient(settings: dict[str, Any]) -> None:
    found = []
    for packed in (False, True):
        student = small_student()
        terms, projections = terms_of(objective(settings), student, larger_teacher(), packed=packed)
        torch.stack(list(terms.losses.values())).sum().backward()
        gradients = [
            w.grad for w in (*student.base_model.parameters(), *projections.parameters()) if w.grad is not None
        ]
        found.append((terms, gradients))

    (padded, padded_gradients), (packed_terms, packed_gradients) = found
    for name, value in padded.losses.items():
        assert packed_terms.losses[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6)
    for name, value in padded.measures.items():
        assert packed_terms.measures[name].item() == pytest.approx(value.item(), rel=1e-4)
    for one, other in zip(packed_gradients, padded_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("settings", ATTENTIVE)
def test_attention_gives_the_rest_of_the_last_layer_no_gradient(settings: dict[str, Any]) -> None:
    student = small_student()
    terms, _ = terms_of(objective(settings), student, larger_teacher())
    torch.stack(list(terms.losses.values())).sum().backward()

    assert student.base_model.get_parameter("encoder.layer.1.output.dense.weight").grad is None


def test_hidden_states_give_the_whole_last_layer_a_gradient() -> None:
    student = small_student()
    terms, _ = terms_of(HiddenObjective(), student, larger_teacher())
    torch.stack(list(terms.losses.values())).sum().backward()

    assert student.base_model.get_parameter("encoder.layer.1.output.dense.weight").grad is not None


# -- relation ----------------------------------------------------------------------------------------------------------


def test_relations_read_the_last_student_layer_and_the_last_teacher_layer_by_default() -> None:
    student, teacher = RelationObjective().taps(shapes(student=(3, 384), teacher=(6, 384)))
    assert student == (("query", 3), ("key", 3), ("value", 3))
    assert teacher == (("query", 6), ("key", 6), ("value", 6))


def test_relations_read_the_teacher_layer_that_is_asked_for() -> None:
    _, teacher = RelationObjective(teacher_layer=5).taps(shapes(student=(3, 384), teacher=(6, 384)))
    assert {layer for _, layer in teacher} == {5}


def test_each_relation_is_one_term_of_its_own_weight() -> None:
    student, teacher = small_student(), larger_teacher()
    (plain, _), _ = terms_of(objective({"kind": "relation", "relation_heads": 8}), student, teacher)
    weights = {"query": 0.5, "key": 1.0, "value": 3.0}
    chosen = objective({"kind": "relation", "relation_heads": 8, "weights": weights})
    (weighted, _), _ = terms_of(chosen, student, teacher)

    assert list(plain) == ["query", "key", "value"]
    assert {name: term.item() for name, term in weighted.items()} == pytest.approx(
        {name: weights[name] * term.item() for name, term in plain.items()}
    )


def test_a_relation_of_weight_zero_is_not_even_read() -> None:
    chosen = objective({"kind": "relation", "relation_heads": 8, "weights": {"query": 0, "key": 0}})
    student, _ = chosen.taps(shapes(student=(3, 384), teacher=(6, 384)))
    terms, _ = terms_of(chosen, tiny_masked_lm(layers=2), tiny_masked_lm(layers=3, seed=1))

    assert student == (("value", 3),)
    assert list(terms.losses) == ["value"]


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
        "hidden_1_2.weight": (48, 32),
        "hidden_2_4.weight": (48, 32),
    }


@pytest.mark.parametrize(
    ("mapping", "own", "layers"),
    [
        ("uniform", (1, 2, 3), (2, 4, 6)),
        ("last", (1, 2, 3), (4, 5, 6)),
        ("single", (3,), (6,)),
        ("uniform-consecutive", (1, 2, 3), (1, 2, 3, 4, 5, 6)),
        ("uniform+last", (1, 2, 3), (2, 4, 5, 6)),
        ([[2, 5], [2, 1]], (2,), (5, 1)),
    ],
)
def test_hidden_states_are_read_of_the_mapped_layers_each_once(
    mapping: Any, own: tuple[int, ...], layers: tuple[int, ...]
) -> None:
    student, teacher = objective({"kind": "hidden", "mapping": mapping}).taps(shapes(student=(3, 48), teacher=(6, 48)))
    assert student == tuple(("hidden", layer) for layer in own)
    assert teacher == tuple(("hidden", layer) for layer in layers)


def test_a_student_layer_of_several_teacher_layers_has_a_projection_for_each() -> None:
    chosen = HiddenObjective(mapping="uniform+last")
    projections = chosen.projections(shapes(student=(3, 32), teacher=(6, 48)))
    assert list(projections) == ["hidden_1_2", "hidden_1_4", "hidden_2_4", "hidden_2_5", "hidden_3_6"]


def test_hidden_states_of_a_deeper_student_are_refused() -> None:
    with pytest.raises(BadRequest, match="the student has 7 layers and the teacher only 6"):
        HiddenObjective().check(shapes(student=(7, 48), teacher=(6, 48)))


def hidden_loss(student_BLE: Tensor, teacher_BLE: Tensor, lengths: tuple[int, ...]) -> Tensor:
    pair = shapes(student=(1, student_BLE.shape[2]), teacher=(1, teacher_BLE.shape[2]))
    chosen = HiddenObjective()
    layout = Layout.padded(lengths, columns=student_BLE.shape[1])
    seen = Seen({("hidden", 1): student_BLE.flatten(0, 1)}, {("hidden", 1): teacher_BLE.flatten(0, 1)}, layout)
    return chosen.loss(seen, pair=pair, projections=chosen.projections(pair))["hidden"]


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

    assert hidden_loss(student_BLE, teacher_BLE, lengths).item() == pytest.approx(wanted, rel=1e-6)


def test_padding_changes_neither_the_hidden_loss_nor_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 1, 8)
    student_BLE, teacher_BLE = (torch.randn(3, 8, 12, generator=generator) for _ in range(2))
    padded_BLE, garbage_BLE = (torch.cat([x, torch.full((3, 4, 12), 1e4)], dim=1) for x in (student_BLE, teacher_BLE))
    padded_BLE[1, 1:], garbage_BLE[0, 5:] = float("nan"), 1e4
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


# -- vectors of attention ----------------------------------------------------------------------------------------------


def test_direct_transfer_maps_each_of_q_k_and_v_where_widths_differ() -> None:
    chosen = objective({"kind": "direct", "weights": {"key": 0}})
    assert {
        n: tuple(w.shape) for n, w in chosen.projections(shapes(student=(2, 32), teacher=(4, 48))).named_parameters()
    } == {
        "query.weight": (48, 32),
        "value.weight": (48, 32),
    }
    assert list(chosen.projections(shapes(student=(2, 48), teacher=(4, 48))).parameters()) == []


def test_direct_transfer_is_the_mean_square_of_the_mapped_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    student_ND, teacher_NE = torch.randn(7, 6, generator=generator), torch.randn(7, 9, generator=generator)
    pair = shapes(student=(1, 6), teacher=(1, 9))
    chosen = objective({"kind": "direct", "weights": {"query": 2, "key": 0, "value": 0}})
    projections = chosen.projections(pair)
    seen = Seen({("query", 1): student_ND}, {("query", 1): teacher_NE}, Layout.packed((3, 4)))

    found = chosen.loss(seen, pair=pair, projections=projections)["query"]

    square_NE = (student_ND @ projections["query"].weight.T - teacher_NE).square()
    assert found.item() == pytest.approx(2 * (square_NE[:3].mean() + square_NE[3:].mean()).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["relation", "direct"])
def test_attention_of_several_layers_has_a_term_for_each(kind: str) -> None:
    chosen = objective({"kind": kind, "mapping": [[1, 2], [2, 6]], "weights": {"query": 0, "key": 0}})
    student, teacher = chosen.taps(shapes(student=(2, 384), teacher=(6, 384)))
    assert student == (("value", 1), ("value", 2))
    assert teacher == (("value", 2), ("value", 6))
    assert [name for name, *_ in chosen._reads(shapes(student=(2, 384), teacher=(6, 384)))] == [
        "value_1_2",
        "value_2_6",
    ]


def test_a_teacher_layer_beside_a_mapping_is_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        RelationObjective(teacher_layer=5, mapping="uniform").check(shapes(student=(3, 384), teacher=(6, 384)))
    assert str(refused.value) == (
        "distill.objective: teacher_layer 5 is for the mapping 'single', and mapping is 'uniform'; "
        "give one of the two (pairs like [[3, 5]] name any layers)"
    )


def test_relation_agreement_is_how_often_the_strongest_other_token_is_the_same() -> None:
    # Two relation heads of one channel, three tokens: by the products, who is strongest for whom.
    student_ND = torch.tensor([[1.0, 1.0], [2.0, -1.0], [3.0, 2.0]])
    teacher_NE = torch.tensor([[1.0, 1.0], [3.0, -1.0], [2.0, 2.0]])
    seen = Seen({("query", 1): student_ND}, {("query", 1): teacher_NE}, Layout.packed((3,)))
    chosen = objective({"kind": "relation", "relation_heads": 2, "weights": {"key": 0, "value": 0}})

    found = chosen.agreement(seen, pair=shapes(student=(1, 2), teacher=(1, 2)), projections=None)

    # Head 1, student: token 1 -> 3, 2 -> 3, 3 -> 2; teacher: 1 -> 2, 2 -> 3, 3 -> 2. Head 2: equal in all three.
    assert found["query"].item() == pytest.approx(5 / 6)


# -- output distributions ----------------------------------------------------------------------------------------------


def test_the_output_loss_is_a_mean_over_masked_positions_of_each_text_at_a_temperature() -> None:
    """Against the whole models' logits."""
    student, teacher, batch = small_student(), larger_teacher(), masked_batch()
    fed = {
        "input_ids": torch.from_numpy(batch.input_ids_RC),
        "attention_mask": torch.from_numpy(batch.attention_mask_RC),
    }
    with torch.no_grad():
        logits = [model(**fed).logits.flatten(0, 1)[batch.masked.positions_M].double() for model in (student, teacher)]
        logs_student, logs_teacher = (torch.log_softmax(z / 3, dim=1) for z in logits)
        kl_M = 9 * (logs_teacher.exp() * (logs_teacher - logs_student)).sum(dim=1)
        nll_M = -torch.log_softmax(logits[0], dim=1)[torch.arange(4), torch.from_numpy(batch.masked.labels_M)]
    weights_M = torch.tensor([1.0, 0.5, 0.5, 1.0], dtype=torch.float64)

    # The head of a student begins as the leading channels of its teacher's: give it back its own.
    with ExitStack() as stack:
        lesson = lesson_of(objective({"kind": "output", "temperature": 3, "mlm_weight": 0.25}), student, teacher, stack)
        lesson._heads["student"].cls.load_state_dict(student.cls.state_dict())
        losses = lesson(batch, ["student"], False)["student"].losses

    assert losses["output"].item() == pytest.approx((weights_M * kl_M).sum().item(), rel=1e-5)
    assert losses["mlm"].item() == pytest.approx(0.25 * (weights_M * nll_M).sum().item(), rel=1e-5)


def test_only_an_output_objective_masks_the_text() -> None:
    chosen = objective({"kind": "output", "masked_share": 0.2, "whole_words": True})
    assert (chosen.masking.share, chosen.masking.whole_word) == (0.2, True)
    assert RelationObjective().masking is HiddenObjective().masking is NoObjective().masking is None


# -- sums --------------------------------------------------------------------------------------------------------------


def test_the_terms_of_a_sum_are_those_of_its_parts_times_their_weights() -> None:
    student, teacher = small_student(), larger_teacher()
    alone = {
        "relation": terms_of(RelationObjective(relation_heads=8), student, teacher)[0],
        "direct": terms_of(
            objective({"kind": "direct", "mapping": [[2, 3]]}), tiny_masked_lm(layers=2, width=48), teacher
        )[0],
    }
    weights = {"relation": 2.0, "direct": 0.125}
    parts = [{"weight": 2.0, "objective": {"kind": "relation", "relation_heads": 8}}]
    summed, _ = terms_of(objective({"kind": "sum", "terms": parts}), student, teacher)
    parts.append({"weight": 0.125, "objective": {"kind": "direct", "mapping": [[2, 3]]}})
    both, _ = terms_of(objective({"kind": "sum", "terms": parts}), tiny_masked_lm(layers=2, width=48), teacher)

    assert {name: value.item() for name, value in summed.losses.items()} == pytest.approx(
        {f"relation/{name}": 2 * value.item() for name, value in alone["relation"].losses.items()}
    )
    assert {n: v.item() for n, v in both.losses.items() if n.startswith("direct")} == pytest.approx(
        {f"direct/{name}": weights["direct"] * value.item() for name, value in alone["direct"].losses.items()}
    )


def test_parts_of_one_kind_are_numbered() -> None:
    parts = [{"objective": {"kind": "hidden", "mapping": m}} for m in ("single", "uniform")]
    terms, _ = terms_of(objective({"kind": "sum", "terms": parts}), small_student(), larger_teacher())
    assert list(terms.losses) == ["hidden1/hidden", "hidden2/hidden_1_2", "hidden2/hidden_2_3"]


def test_a_sum_reads_each_tap_once() -> None:
    parts = [{"objective": {"kind": "hidden", "mapping": m}} for m in ("single", "uniform")]
    student, teacher = objective({"kind": "sum", "terms": parts}).taps(shapes(student=(2, 48), teacher=(4, 48)))
    assert student == (("hidden", 2), ("hidden", 1))
    assert teacher == (("hidden", 4), ("hidden", 2))


def test_a_part_that_cannot_work_refuses_the_sum() -> None:
    parts = [{"objective": {"kind": "hidden"}}, {"objective": {"kind": "relation", "relation_heads": 7}}]
    with pytest.raises(BadRequest, match="relation_heads: 7 does not divide"):
        objective({"kind": "sum", "terms": parts}).check(shapes(student=(2, 48), teacher=(4, 48)))


def test_parts_that_mask_in_two_ways_are_refused() -> None:
    parts = [{"objective": {"kind": "output", "masked_share": share}} for share in (0.15, 0.3)]
    with pytest.raises(BadRequest) as refused:
        objective({"kind": "sum", "terms": parts}).check(shapes(student=(2, 48), teacher=(4, 48)))
    assert str(refused.value) == (
        "distill.objective.terms: its output objectives mask the text in different ways, and one pass reads it in one "
        "way; give them the same masked_share and whole_words"
    )


@pytest.mark.parametrize(
    "parts", [[], [{"objective": {"kind": "none"}}], [{"weight": 0, "objective": {"kind": "hidden"}}]]
)
def test_a_sum_of_nothing_of_no_objective_or_of_weight_zero_is_refused(parts: list[Any]) -> None:
    with pytest.raises(ValidationError):
        objective({"kind": "sum", "terms": parts})


def test_no_objective_asks_for_nothing() -> None:
    NoObjective().check(shapes(student=(7, 36), teacher=(6, 48)))

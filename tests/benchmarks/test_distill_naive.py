"""The baseline computes what it should: its speed would mean nothing otherwise."""

import numpy as np
import pytest
import torch
from models import tiny_encoder

from benchmarks import distill_naive
from benchmarks.distill_naive import Ids, NaiveDistillation, gradient_of, materialised_kl
from pipeline.data.layout import Layout
from pipeline.distillation.relation_kl.reference import relation_kl as reference

HEADS, PAD = 8, 0


def documents(*lengths: int) -> list[Ids]:
    generator = np.random.default_rng(0)
    return [generator.integers(5, 60, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize("lengths", [(6, 6), (6, 1, 4)], ids=["full", "padded"])
def test_the_stored_relations_give_value_and_gradient_of_the_reference(lengths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    student_BLD = torch.randn(len(lengths), 6, 48, generator=generator).requires_grad_()
    teacher_BLE = torch.randn(len(lengths), 6, 96, generator=generator)
    again_BLD = student_BLD.detach().clone().requires_grad_()

    loss = materialised_kl(student_BLD, teacher_BLE, lengths_B=torch.tensor(lengths), relation_heads=HEADS)
    layout = Layout.padded(lengths, columns=6)
    wanted = reference(again_BLD.flatten(0, 1), teacher_BLE.flatten(0, 1), layout=layout, relation_heads=HEADS)

    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(
        *torch.autograd.grad([loss, wanted.float()], [student_BLD, again_BLD]), rtol=1e-4, atol=1e-6
    )


def naive(learning_rate: float = 1e-3) -> NaiveDistillation:
    teacher, student = tiny_encoder(layers=3, width=96), tiny_encoder(layers=2, width=48, seed=1)
    return NaiveDistillation(teacher, student, pad_id=PAD, relation_heads=HEADS, learning_rate=learning_rate)


def test_the_naive_loss_is_the_mean_over_documents_of_the_three_relations_of_the_last_layers() -> None:
    trial, found = naive(), documents(9, 4)
    alone = [naive().backward([each]) for each in found]

    loss = trial.backward(found)

    seen = {}
    with torch.no_grad():
        for model, layer in ((tiny_encoder(layers=3, width=96), 2), (tiny_encoder(layers=2, width=48, seed=1), 1)):
            states = model(torch.from_numpy(found[0])[None].long(), output_hidden_states=True).hidden_states[layer]
            attention = model.encoder.layer[layer].attention.self
            seen[layer] = [getattr(attention, name)(states)[0] for name in ("query", "key", "value")]
    layout = Layout.packed((9,))
    pairs = zip(seen[1], seen[2], strict=True)
    first = sum(reference(s, t, layout=layout, relation_heads=HEADS).item() for s, t in pairs)
    assert alone[0] == pytest.approx(first, rel=1e-4)
    assert loss == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_a_step_done_in_parts_for_want_of_memory_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts, found = naive(), naive(), documents(9, 4, 7, 2)
    loss = whole.backward(found)
    monkeypatch.setattr(distill_naive, "MOST_BYTES", 2 * 4 * HEADS * 9 * 9)
    sizes = [len(lengths_B) for _, lengths_B in parts._padded_parts(found)]
    assert sizes == [2, 2]
    assert parts.backward(found) == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(gradient_of(parts.student), gradient_of(whole.student), rtol=1e-3, atol=1e-6)


def test_training_takes_the_documents_in_steps_and_leaves_the_given_models_alone() -> None:
    teacher, student = tiny_encoder(layers=3, width=96), tiny_encoder(layers=2, width=48, seed=1)
    trial = NaiveDistillation(teacher, student, pad_id=PAD, relation_heads=HEADS, learning_rate=1e-3)
    found = documents(9, 4, 7, 2, 5)
    before = trial.backward(found)

    trial.train(found, size=2)

    assert trial._optimizer.state_dict()["state"][0]["step"] == 3
    trial._optimizer.zero_grad()
    assert trial.backward(found) < before
    assert all(
        torch.equal(mine, fresh)
        for mine, fresh in zip(student.parameters(), tiny_encoder(layers=2, width=48, seed=1).parameters(), strict=True)
    )
    assert (trial.student.config._attn_implementation, student.config._attn_implementation) == ("eager", "sdpa")


def test_a_step_begins_without_the_gradient_of_the_one_before() -> None:
    first, second = documents(9, 4), documents(3, 8)
    both, alone = naive(learning_rate=0.0), naive(learning_rate=0.0)
    both.step(first)
    both.step(second)
    alone.step(second)
    torch.testing.assert_close(gradient_of(both.student), gradient_of(alone.student))
    assert gradient_of(alone.student).norm() == pytest.approx(distill_naive.CLIP_NORM, rel=1e-3)

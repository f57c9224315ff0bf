"""Every implementation of the relation loss against the plain fp64 loop: value, gradient, and what must not enter
either."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pipeline.distillation.relation_kl as package
from pipeline.data.layout import Layout
from pipeline.distillation.relation_kl import compiled, cpu, implementation, reference, relation_kl

Loss = Callable[..., Tensor]
LAYOUTS = {
    "no padding": Layout.padded((7, 7, 7), columns=7),
    "one token": Layout.padded((1,), columns=1),
    "one token beside many": Layout.padded((1, 9, 1, 4), columns=9),
    "all lengths": Layout.padded((6, 5, 4, 3, 2, 1), columns=6),
    "equal pairs": Layout.padded((5, 8, 5, 8), columns=8),
    "padding everywhere": Layout.padded((3, 2, 3), columns=7),
    "packed": Layout.packed((4, 1, 9, 2)),
    "packed, longer than vectors": Layout.packed((16, 33, 17, 64, 31)),
    "packed with padding behind": Layout((0, 4), (4, 19), 32),
    "gaps between, not in order": Layout((20, 3, 12), (5, 7, 1), 27),
}


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def which(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with each implementation for a CPU."""
    if request.param == "compiled" and not compiled.available():
        pytest.skip("no C++ compiler here that makes the kernel")
    monkeypatch.setattr(package, "implementation", lambda device: request.param)
    return str(request.param)


def activations(layout: Layout, width: int, *, seed: int, spread: float = 1.0, padding: float = 1e3) -> Tensor:
    """(N, width): what stands in a document depends on its number and the seed alone; `padding` everywhere else."""
    x_ND = torch.full((layout.positions, width), padding)
    for number, (start, length) in enumerate(zip(layout.starts, layout.lengths, strict=True)):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        x_ND[start : start + length] = spread * torch.randn(length, width, generator=generator)
    return x_ND


def value_and_gradient(
    loss: Loss, student_ND: Tensor, teacher_NE: Tensor, *, layout: Layout, heads: int, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    student_ND = student_ND.detach().clone().requires_grad_()
    value = loss(student_ND, teacher_NE, layout=layout, relation_heads=heads)
    (scale * value).backward()  # type: ignore[no-untyped-call]
    assert student_ND.grad is not None
    return value.detach(), student_ND.grad


def of_documents(x_ND: Tensor, layout: Layout) -> Tensor:
    """The rows of the layout's documents, one after another."""
    return torch.cat(
        [x_ND[start : start + length] for start, length in zip(layout.starts, layout.lengths, strict=True)]
    )


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def assert_equals_reference(
    student_ND: Tensor, teacher_NE: Tensor, *, layout: Layout, heads: int
) -> tuple[Tensor, Tensor]:
    """fp32 within 1e-6; returns the reference's value and gradient."""
    value, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=heads)
    wanted, wanted_ND = value_and_gradient(reference.relation_kl, student_ND, teacher_NE, layout=layout, heads=heads)
    assert value.item() == pytest.approx(wanted.item(), abs=1e-6, rel=1e-6)
    torch.testing.assert_close(gradient_ND, wanted_ND, atol=1e-6, rtol=0)
    return wanted, wanted_ND


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("channels", [6, 8, 12, 16, 64])
def test_value_and_gradient_equal_the_fp64_loop(channels: int, layout: Layout) -> None:
    student_ND = activations(layout, 4 * channels, seed=1)
    teacher_NE = activations(layout, 4 * channels, seed=2)

    assert_equals_reference(student_ND, teacher_NE, layout=layout, heads=4)


@pytest.mark.parametrize(
    ("student_channels", "teacher_channels"),
    [(6, 16), (16, 6), (1, 12), (7, 5), (20, 9), (24, 64), (100, 3), (33, 128)],
)
def test_student_and_teacher_may_differ_in_width_which_may_be_anything(
    student_channels: int, teacher_channels: int
) -> None:
    layout = Layout.packed((5, 1, 8, 35))
    student_ND = activations(layout, 3 * student_channels, seed=1)
    teacher_NE = activations(layout, 3 * teacher_channels, seed=2)

    assert_equals_reference(student_ND, teacher_NE, layout=layout, heads=3)


@pytest.mark.parametrize("heads", [1, 2, 5, 9])  # the kernel takes four at a time
@pytest.mark.parametrize("length", [1, 2, 40])
def test_any_number_of_heads_and_tokens_will_do(heads: int, length: int) -> None:
    layout = Layout.packed((length,))
    student_ND, teacher_NE = activations(layout, 8 * heads, seed=1), activations(layout, 4 * heads, seed=2)

    assert_equals_reference(student_ND, teacher_NE, layout=layout, heads=heads)


def test_a_sequence_too_long_to_keep_its_exponentials_has_the_same_loss() -> None:
    layout = Layout.packed((1030, 3))  # the kernel keeps those of up to 1024 tokens
    student_ND, teacher_NE = activations(layout, 12, seed=1), activations(layout, 16, seed=2)

    assert_equals_reference(student_ND, teacher_NE, layout=layout, heads=2)


def test_no_sequence_at_all_is_no_loss() -> None:
    layout = Layout((), (), 5)

    value, gradient_ND = value_and_gradient(relation_kl, torch.ones(5, 4), torch.ones(5, 8), layout=layout, heads=2)

    assert value.item() == 0
    assert torch.equal(gradient_ND, torch.zeros(5, 4))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -3e38])
def test_padding_and_what_stands_in_it_change_nothing(garbage: float) -> None:
    narrow, wide = Layout.padded((4, 7, 1), columns=7), Layout.padded((4, 7, 1), columns=12)
    student_ND, teacher_NE = activations(narrow, 12, seed=1), activations(narrow, 24, seed=2)
    wider_ND, wider_NE = (activations(wide, w, seed=s, padding=garbage) for w, s in ((12, 1), (24, 2)))

    value, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=narrow, heads=2)
    padded, padded_ND = value_and_gradient(relation_kl, wider_ND, wider_NE, layout=wide, heads=2)

    assert padded.item() == value.item()
    assert torch.equal(of_documents(padded_ND, wide), of_documents(gradient_ND, narrow))
    assert padded_ND.count_nonzero() == gradient_ND.count_nonzero() > 0
    assert padded_ND.isfinite().all()


def test_no_gradient_reaches_padding_nor_a_token_that_is_alone() -> None:
    layout = Layout.padded((4, 7, 1), columns=8)

    _, gradient_ND = value_and_gradient(
        relation_kl, activations(layout, 12, seed=1), activations(layout, 12, seed=2), layout=layout, heads=2
    )

    rows_RC = gradient_ND.abs().sum(dim=1).view(3, 8)
    assert [int(row_C.count_nonzero()) for row_C in rows_RC] == [4, 7, 0]  # one token: R is 1
    assert rows_RC[0, 4:].sum() == rows_RC[1, 7:].sum() == 0


def test_packed_equals_padded_equals_one_by_one() -> None:
    lengths = (3, 20, 1, 11, 20)
    packed, padded = Layout.packed(lengths), Layout.padded(lengths, columns=23)

    in_one_row = value_and_gradient(
        relation_kl, activations(packed, 24, seed=1), activations(packed, 32, seed=2), layout=packed, heads=4
    )
    in_rows = value_and_gradient(
        relation_kl, activations(padded, 24, seed=1), activations(padded, 32, seed=2), layout=padded, heads=4
    )
    alone = [
        value_and_gradient(
            relation_kl,
            activations(packed, 24, seed=1)[start : start + length],
            activations(packed, 32, seed=2)[start : start + length],
            layout=Layout.packed((length,)),
            heads=4,
        )
        for start, length in zip(packed.starts, packed.lengths, strict=True)
    ]

    assert in_rows[0].item() == in_one_row[0].item() == pytest.approx(sum(value.item() for value, _ in alone), rel=1e-6)
    assert torch.equal(of_documents(in_rows[1], padded), in_one_row[1])
    torch.testing.assert_close(in_one_row[1], torch.cat([gradient_ND for _, gradient_ND in alone]), atol=1e-7, rtol=0)


def test_a_share_of_a_fused_projection_is_read_where_it_stands() -> None:
    layout = Layout.padded((6, 3), columns=6)
    fused_NF = activations(layout, 36, seed=1)
    teacher_EN = activations(layout, 24, seed=2).T.contiguous()

    value = relation_kl(fused_NF[:, 12:24], teacher_EN.T, layout=layout, relation_heads=3)

    alone = relation_kl(fused_NF[:, 12:24].clone(), teacher_EN.T.contiguous(), layout=layout, relation_heads=3)
    assert value.item() == alone.item() > 0


def test_a_sequence_of_two_tokens_has_the_value_worked_out_by_hand() -> None:
    student_ND, teacher_NE = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [0.0]])

    # Logits of row 1 are (1, 0) and (0, 0): KL = log((e + 1) / 2) - 1/2; row 2 is equal in both; one head, length 2.
    wanted = (torch.log((torch.e * torch.ones(())) + 1) - torch.log(torch.tensor(2.0)) - 0.5) / 2
    value = relation_kl(student_ND, teacher_NE, layout=Layout.packed((2,)), relation_heads=1)
    assert value.item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("spread", [1.0, 6.0, 30.0])  # logits of tens, of hundreds, and of thousands
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(spread: float) -> None:
    layout = Layout.packed((6, 3, 37))
    x_ND = activations(layout, 24, seed=3, spread=spread)

    value, gradient_ND = value_and_gradient(relation_kl, x_ND, x_ND, layout=layout, heads=3)

    assert value.item() == 0
    assert gradient_ND.abs().max() == 0


def test_the_loss_is_positive_where_relations_differ_and_the_teacher_is_the_target() -> None:
    layout = Layout.packed((6, 3))
    student_ND, teacher_NE = activations(layout, 24, seed=3), activations(layout, 24, seed=4)

    forth = relation_kl(student_ND, teacher_NE, layout=layout, relation_heads=3).item()
    back = relation_kl(teacher_NE, student_ND, layout=layout, relation_heads=3).item()

    assert forth > 0.1
    assert abs(forth - back) > 1e-3  # KL is not symmetric: swapping them must show


def test_the_teacher_gets_no_gradient() -> None:
    layout = Layout.packed((6, 3))
    student_ND = activations(layout, 12, seed=3).requires_grad_()
    teacher_NE = activations(layout, 12, seed=4).requires_grad_()

    relation_kl(student_ND, teacher_NE, layout=layout, relation_heads=3).backward()  # type: ignore[no-untyped-call]

    assert teacher_NE.grad is None
    assert student_ND.grad is not None
    assert student_ND.grad.abs().sum() > 0


@pytest.mark.parametrize("length", [9, 1030])
def test_a_student_that_learns_nothing_has_the_value_alone(
    length: int, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.packed((length, 4))
    student_ND, teacher_NE = activations(layout, 12, seed=3), activations(layout, 12, seed=4)
    formed: list[Tensor | None] = []
    module, compute = {"compiled": compiled, "torch": cpu}[which], package._value_and_gradient(which)

    def watched(*inputs: Tensor, **settings: Any) -> tuple[Tensor, Tensor | None]:
        value, gradient_ND = compute(*inputs, **settings)
        formed.append(gradient_ND)
        return value, gradient_ND

    monkeypatch.setattr(module, "value_and_gradient", watched)
    value = relation_kl(student_ND, teacher_NE, layout=layout, relation_heads=3)

    assert formed == [None]
    assert not value.requires_grad
    assert value.item() == relation_kl(student_ND.requires_grad_(), teacher_NE, layout=layout, relation_heads=3).item()


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_gradient_is_the_slope_of_the_loss(spread: float) -> None:
    layout = Layout.padded((5, 2), columns=6)
    student_ND, teacher_NE = (activations(layout, 12, seed=s, spread=spread, padding=0.0) for s in (5, 6))
    direction_ND = activations(layout, 12, seed=7, padding=0.0)
    _, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=2)

    def loss_at(step: float) -> float:
        moved_ND = student_ND.double() + step * direction_ND.double()
        return reference.relation_kl(moved_ND, teacher_NE, layout=layout, relation_heads=2).item()

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    assert (gradient_ND * direction_ND).sum().item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("scale", [0.25, -3.0])
def test_the_incoming_gradient_scales_the_outgoing_one_and_may_come_twice(scale: float) -> None:
    layout = Layout.packed((5, 2))
    student_ND, teacher_NE = activations(layout, 12, seed=5).requires_grad_(), activations(layout, 12, seed=6)
    _, plain_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=2)

    value = relation_kl(student_ND, teacher_NE, layout=layout, relation_heads=2)
    for _ in range(2):
        value.backward(torch.tensor(scale), retain_graph=True)  # type: ignore[no-untyped-call]

    torch.testing.assert_close(student_ND.grad, 2 * scale * plain_ND)


@pytest.mark.parametrize("tile_bytes", [1, 4 * 8 * 8, 4 * 8 * 8 * 4 + 100, 4 * 8 * 8 * 6 * 2])
def test_how_the_work_is_cut_changes_nothing(monkeypatch: pytest.MonkeyPatch, tile_bytes: int) -> None:
    """From one head of one sequence at a time, over heads that do not divide evenly, to two whole sequences."""
    layout = Layout.packed((8, 8, 3, 8, 1, 3, 8))
    student_ND, teacher_NE = activations(layout, 36, seed=8), activations(layout, 24, seed=9)
    whole, whole_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=6)

    monkeypatch.setattr(cpu, "TILE_BYTES", tile_bytes)
    monkeypatch.setattr(compiled, "HEADS_PER_ITEM", 1 + tile_bytes % 7)
    value, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=6)

    assert value.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(gradient_ND, whole_ND, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.03])  # KL from 0.26 down to 6e-6
def test_bf16_inputs_give_the_gradient_within_one_percent_even_near_the_teacher(spread: float, noise: float) -> None:
    layout = Layout.padded((16, 9, 1, 12), columns=16)
    near_ND = activations(layout, 48, seed=10, spread=spread) + noise * spread * activations(layout, 48, seed=11)
    student_ND, teacher_NE = activations(layout, 48, seed=10, spread=spread).bfloat16(), near_ND.bfloat16()

    value, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=4)
    wanted, wanted_ND = value_and_gradient(
        reference.relation_kl, student_ND.double(), teacher_NE.double(), layout=layout, heads=4
    )

    assert value.dtype == torch.float32
    assert gradient_ND.dtype == torch.bfloat16
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-7)
    assert relative_error(gradient_ND, wanted_ND) <= 0.01


def test_a_bf16_gradient_is_the_fp32_one_rounded_once() -> None:
    layout = Layout.packed((16, 9, 30))
    student_ND, teacher_NE = (activations(layout, 36, seed=seed).bfloat16() for seed in (10, 11))

    value, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=4)
    exact, exact_ND = value_and_gradient(relation_kl, student_ND.float(), teacher_NE.float(), layout=layout, heads=4)

    assert value.item() == exact.item()
    assert torch.equal(gradient_ND, exact_ND.bfloat16())


@pytest.mark.parametrize(
    ("student_type", "teacher_type"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16, torch.float64)],
)
def test_student_and_teacher_may_differ_in_type(student_type: torch.dtype, teacher_type: torch.dtype) -> None:
    layout = Layout.padded((16, 9), columns=17)
    student_ND, teacher_NE = activations(layout, 24, seed=1).to(student_type), activations(layout, 24, seed=2)

    value, gradient_ND = value_and_gradient(
        relation_kl, student_ND, teacher_NE.to(teacher_type), layout=layout, heads=4
    )

    wanted, wanted_ND = value_and_gradient(
        reference.relation_kl, student_ND.double(), teacher_NE.to(teacher_type).double(), layout=layout, heads=4
    )
    assert (value.dtype, gradient_ND.dtype) == (torch.float32, student_type)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert relative_error(gradient_ND, wanted_ND) <= 0.004


def test_autocast_does_not_lower_the_precision_inside() -> None:
    layout = Layout.padded((16, 9), columns=16)
    student_ND, teacher_NE = activations(layout, 48, seed=12), activations(layout, 48, seed=13)
    plain, plain_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=4)

    with torch.autocast("cpu", torch.bfloat16):
        value, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=4)

    assert value.item() == plain.item()
    assert torch.equal(gradient_ND, plain_ND)


@pytest.mark.parametrize("spread", [4.0, 6.0, 8.0, 12.0, 100.0])
def test_logits_of_any_size_have_the_loss_and_gradient_of_the_fp64_loop(spread: float) -> None:
    """The kernel has three ways: logits as they are, less one shift, and less a shift for each row."""
    layout = Layout.packed((20, 5))
    student_ND, teacher_NE = (activations(layout, 16, seed=seed, spread=spread) for seed in (14, 15))

    value, gradient_ND = value_and_gradient(relation_kl, student_ND, teacher_NE, layout=layout, heads=2)

    wanted, wanted_ND = value_and_gradient(reference.relation_kl, student_ND, teacher_NE, layout=layout, heads=2)
    assert value.item() == pytest.approx(wanted.item(), rel=2e-6)
    assert relative_error(gradient_ND, wanted_ND) <= 1e-5


def test_one_row_may_be_far_larger_than_the_others() -> None:
    layout = Layout.packed((33,))
    student_ND, teacher_NE = activations(layout, 16, seed=14), activations(layout, 16, seed=15)
    student_ND[3] *= 5
    teacher_NE[20] *= 5

    assert_equals_reference(student_ND, teacher_NE, layout=layout, heads=2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("of", ["student", "teacher"])
def test_what_is_not_finite_in_a_real_token_makes_the_loss_so(bad: float, of: str) -> None:
    layout = Layout.padded((5, 8), columns=9)
    given = {"student": activations(layout, 24, seed=1), "teacher": activations(layout, 24, seed=2)}
    given[of][10, 11] = bad  # second document, second of three heads

    value, gradient_ND = value_and_gradient(relation_kl, given["student"], given["teacher"], layout=layout, heads=3)

    assert value.isnan()
    assert gradient_ND[9:17, 8:16].isnan().all()
    assert gradient_ND[:9].isfinite().all()


@pytest.mark.parametrize("of", ["student", "teacher"])
def test_what_is_not_finite_shows_even_in_a_token_that_is_alone(of: str) -> None:
    layout = Layout.packed((1,))
    given = {"student": torch.ones(1, 8), "teacher": torch.ones(1, 8)}
    given[of][0, 5] = float("nan")

    value = relation_kl(given["student"], given["teacher"], layout=layout, relation_heads=2)

    assert value.isnan()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux tells it")
def test_no_tensor_of_all_heads_by_all_pairs_is_ever_stored(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.packed((512,) * 2)
    student_ND, teacher_NE = activations(layout, 384, seed=1).requires_grad_(), activations(layout, 384, seed=2)
    pairs_bytes = 2 * 48 * 512 * 512 * 4

    def extra_peak_bytes() -> int:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident_bytes("VmRSS")
        relation_kl(student_ND, teacher_NE, layout=layout, relation_heads=48).backward()  # type: ignore[no-untyped-call]
        return resident_bytes("VmHWM") - before

    extra_peak_bytes()  # whatever is set up once
    assert extra_peak_bytes() < pairs_bytes / 8
    if which == "torch":  # the meter sees such a tensor
        monkeypatch.setattr(cpu, "TILE_BYTES", pairs_bytes)
        assert extra_peak_bytes() > pairs_bytes


def resident_bytes(name: str) -> int:
    """VmRSS (now) or VmHWM (at its highest) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch, tracing what comes after the break
def test_it_stands_in_a_compiled_graph_as_one_clean_break() -> None:
    layout = Layout.packed((6, 3))
    weight_DD, teacher_NE = torch.eye(12), activations(layout, 12, seed=4)

    def step(student_ND: Tensor) -> Tensor:
        return 2 * relation_kl(student_ND @ weight_DD, teacher_NE, layout=layout, relation_heads=3) + 1

    plain_ND, traced_ND = (activations(layout, 12, seed=3).requires_grad_() for _ in range(2))
    plain, traced = step(plain_ND), torch.compile(step, backend="eager")(traced_ND)
    (plain + traced).backward()  # type: ignore[no-untyped-call]

    assert plain.item() == traced.item()
    assert plain_ND.grad is not None
    assert torch.equal(plain_ND.grad, traced_ND.grad)


def test_what_does_not_fit_is_refused_before_memory_is_read() -> None:
    layout = Layout.packed((6, 3))

    with pytest.raises(ValueError, match="relation_kl") as told:
        relation_kl(torch.zeros(9, 12), torch.zeros(9, 16), layout=layout, relation_heads=3)
    assert str(told.value) == (
        "relation_kl: 3 relation heads and a layout of 9 positions do not fit activations of shapes (9, 12) and "
        "(9, 16); they are (positions, a multiple of the heads)"
    )
    with pytest.raises(ValueError, match=r"a layout of 9 positions do not fit activations of shapes \(8, 12\)"):
        relation_kl(torch.zeros(8, 12), torch.zeros(9, 12), layout=layout, relation_heads=3)
    with pytest.raises(ValueError, match="relation_kl: the student is on cpu, the teacher on meta"):
        relation_kl(torch.zeros(9, 12), torch.zeros(9, 12, device="meta"), layout=layout, relation_heads=3)
    with pytest.raises(AssertionError, match="a layout that lies in its positions"):
        relation_kl(torch.zeros(9, 12), torch.zeros(9, 12), layout=Layout((0, 6), (6, 4), 9), relation_heads=3)


def test_a_small_tile_splits_sequences_of_one_length_and_their_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "TILE_BYTES", 4 * 8 * 8 * 6 * 2)
    assert list(cpu._tiles(Layout.packed((8, 8, 3, 8)), 6)) == [([0, 8], 8), ([19], 8), ([16], 3)]

    monkeypatch.setattr(cpu, "TILE_BYTES", 4 * 8 * 8 * 4)
    assert list(cpu._tiles(Layout.packed((8, 8)), 6)) == [([0], 8), ([8], 8)]
    assert list(cpu._head_slices(6, 1, 8)) == [slice(0, 4), slice(4, 6)]


def test_a_device_is_told_what_computes_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    assert implementation("cpu") == ("compiled" if compiled.available() else "torch")
    assert implementation("mps") == "torch"
    assert implementation(torch.device("cuda", 1)) == ("triton" if find_spec("triton") else "torch")

    monkeypatch.setattr(compiled, "available", lambda: False)
    assert implementation("cpu") == "torch"

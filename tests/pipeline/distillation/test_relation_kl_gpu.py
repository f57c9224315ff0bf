"""The Triton kernels' numerics, on a CPU: their interpreter runs all cases in one process of its own, for it must be
asked for before Triton is first imported."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pipeline
from pipeline.data.layout import Layout
from pipeline.distillation.relation_kl import reference

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

BATCHES = {
    "no padding": Layout.padded((7, 7), columns=7),
    "one token": Layout.packed((1,)),
    "shorter than a block, as long, longer": Layout.packed((3, 64, 1, 70)),
    "padding full of garbage": Layout.padded((6, 9, 1), columns=11),
    "gaps between, not in order": Layout((20, 3, 12), (5, 7, 1), 27),
}
CHANNELS = [(6, 6), (8, 12), (12, 8), (16, 16), (64, 6), (6, 200)]  # 200 make the blocks smaller
EQUAL_THE_LOOP = [("no padding", channels) for channels in CHANNELS] + [(batch, (8, 12)) for batch in BATCHES]
PROGRAM = """
import sys, torch
from pipeline.distillation.relation_kl import gpu
sizes = []
class Seen(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes.extend(x.numel() for x in (made if isinstance(made, tuple) else (made,)) if isinstance(x, torch.Tensor))
        return made
found = {}
for name, (student, teacher, layout, heads) in torch.load(sys.argv[1], weights_only=False).items():
    sizes.clear()
    with Seen():
        made = gpu.value_and_gradient(student, teacher, layout=layout, relation_heads=heads)
    alone = gpu.value_and_gradient(student, teacher, layout=layout, relation_heads=heads, gradient=False)
    found[name] = (*made, alone, max(sizes))
torch.save(found, sys.argv[2])
"""


def activations(layout: Layout, width: int, *, seed: int, padding: float = float("nan")) -> Tensor:
    """(N, width): normal in documents, `padding` elsewhere."""
    x_ND = torch.full((layout.positions, width), padding)
    generator = torch.Generator().manual_seed(seed)
    for start, length in zip(layout.starts, layout.lengths, strict=True):
        x_ND[start : start + length] = torch.randn(length, width, generator=generator)
    return x_ND


def cases() -> dict[str, tuple[Tensor, Tensor, Layout, int]]:
    """Everything that is asked of the interpreter."""
    made = {}
    for batch, (student, teacher) in EQUAL_THE_LOOP:
        x, y = activations(BATCHES[batch], 2 * student, seed=1), activations(BATCHES[batch], 2 * teacher, seed=2)
        made[f"{batch}, {student} of {teacher}"] = (x, y, BATCHES[batch], 2)
    layout = Layout.packed((20, 9))
    x, y = activations(layout, 48, seed=1), activations(layout, 48, seed=2)
    made |= {f"noise {share}": (x.bfloat16(), (x + share * y).bfloat16(), layout, 4) for share in (1.0, 0.1, 0.03)}
    made["equal"] = (x, x.clone(), layout, 4)
    made["huge"] = (30 * x, 30 * y, layout, 4)
    made["fused"] = (torch.cat([y, x, y], dim=1)[:, 48:96], y.T.contiguous().T, layout, 4)
    made["nan"] = (x.index_fill(0, torch.tensor([25]), float("nan")), y, layout, 4)
    made["half of double"] = (x.half(), y.double(), layout, 4)
    made["long"] = (*(activations(Layout.packed((200,)), 4, seed=seed) for seed in (1, 2)), Layout.packed((200,)), 1)
    made["none"] = (torch.ones(3, 8), torch.ones(3, 8), Layout((), (), 3), 2)
    return made


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Case -> (value, gradient, (value, None) without a gradient, elements of the largest tensor made)."""
    folder = tmp_path_factory.mktemp("triton")
    torch.save(cases(), folder / "cases.pt")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "cases.pt"), str(folder / "found.pt")],
        cwd=Path(pipeline.__file__).parents[1],
        env=environment,
        check=True,
    )
    return dict(torch.load(folder / "found.pt", weights_only=True))


def wanted(name: str) -> tuple[Tensor, Tensor]:
    """The fp64 loop's value and gradient."""
    student_ND, teacher_NE, layout, heads = cases()[name]
    student_ND = student_ND.double().requires_grad_()
    value = reference.relation_kl(student_ND, teacher_NE.double(), layout=layout, relation_heads=heads)
    value.backward()  # type: ignore[no-untyped-call]
    assert student_ND.grad is not None
    return value.detach(), student_ND.grad


def relative_error(found_ND: Tensor, wanted_ND: Tensor) -> float:
    return float((found_ND.double() - wanted_ND).norm() / wanted_ND.norm())


@pytest.mark.parametrize(("batch", "channels"), EQUAL_THE_LOOP)
def test_value_and_gradient_equal_the_fp64_loop(batch: str, channels: tuple[int, int], found: dict[str, Any]) -> None:
    name = f"{batch}, {channels[0]} of {channels[1]}"
    value, gradient_ND, alone, _ = found[name]
    true, true_ND = wanted(name)

    assert value.dtype == gradient_ND.dtype == torch.float32
    assert value.item() == pytest.approx(true.item(), abs=1e-6, rel=1e-6)
    torch.testing.assert_close(gradient_ND.double(), true_ND, atol=1e-6, rtol=0)
    assert alone == (value, None)


@pytest.mark.parametrize("noise", ["noise 1.0", "noise 0.1", "noise 0.03"])
def test_bf16_inputs_give_the_gradient_within_one_percent_even_near_the_teacher(
    noise: str, found: dict[str, Any]
) -> None:
    value, gradient_ND, *_ = found[noise]
    true, true_ND = wanted(noise)

    assert (value.dtype, gradient_ND.dtype) == (torch.float32, torch.bfloat16)
    assert value.item() == pytest.approx(true.item(), rel=1e-4)
    assert relative_error(gradient_ND, true_ND) <= 0.01


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(found: dict[str, Any]) -> None:
    value, gradient_ND, *_ = found["equal"]

    assert value.item() == 0
    assert gradient_ND.abs().max() == 0


@pytest.mark.parametrize("name", ["huge", "fused", "half of double"])
def test_logits_of_any_size_and_inputs_of_any_form_will_do(name: str, found: dict[str, Any]) -> None:
    value, gradient_ND, *_ = found[name]
    true, true_ND = wanted(name)

    assert gradient_ND.dtype == cases()[name][0].dtype
    assert value.item() == pytest.approx(true.item(), rel=2e-6)
    assert relative_error(gradient_ND, true_ND) <= (1e-3 if name == "half of double" else 1e-5)


def test_what_is_not_finite_in_a_real_token_makes_the_loss_so(found: dict[str, Any]) -> None:
    value, gradient_ND, *_ = found["nan"]

    assert value.isnan()
    assert gradient_ND[20:].isnan().all()
    assert gradient_ND[:20].isfinite().all()


def test_no_tensor_of_all_pairs_is_ever_stored(found: dict[str, Any]) -> None:
    *_, largest = found["long"]

    assert 200 * 4 <= largest < 200 * 200 / 8


def test_no_sequence_at_all_is_no_loss(found: dict[str, Any]) -> None:
    value, gradient_ND, *_ = found["none"]

    assert value.item() == 0
    assert torch.equal(gradient_ND, torch.zeros(3, 8))

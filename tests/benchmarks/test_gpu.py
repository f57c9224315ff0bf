"""What is asked of a GPU: the formula counts what PyTorch counts, and nothing is made up where there is none."""

import pytest
import torch
from models import tiny_config
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import Size, forward_flops, not_measured, peak_flops, step_flops

SIZE = Size(layers=3, width=48, feed_forward=96)


def test_the_forward_of_a_cut_model_is_its_layers_but_the_last_and_three_projections() -> None:
    from transformers import BertModel

    config = tiny_config("bert", layers=2, width=48, intermediate_size=96)
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, 10, dtype=torch.long))
    assert 10 * (forward_flops(SIZE, length=10) - 6 * 48 * 48) == counter.get_total_flops()


def test_a_step_is_one_forward_of_the_teacher_three_of_the_student_and_the_loss() -> None:
    student = Size(layers=2, width=24, feed_forward=48)
    models = forward_flops(SIZE, length=10) + 3 * forward_flops(student, length=10)
    assert step_flops(SIZE, student, length=10) == models + 3 * (2 * 10 * 48 + 4 * 10 * 24)


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA L4", 121e12), ("NVIDIA X", None)])
def test_the_peak_is_the_data_sheets(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_an_l40s_is_not_taken_for_an_l4() -> None:
    assert peak_flops("NVIDIA L40S") == 362e12


def test_what_was_not_measured_says_why_and_has_no_ratio() -> None:
    figures = not_measured("no GPU here")
    assert [figure.key for figure in figures] == ["gpu_relation_eager", "gpu_relation_compiled", "gpu_step"]
    assert {(figure.note, figure.ratio, figure.reached) for figure in figures} == {("no GPU here", None, None)}

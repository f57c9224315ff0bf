"""Fake quantization: the floats are those of onnxruntime's own quantized values, and gradients pass."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pipeline.quantizing.calibration import Range
from pipeline.quantizing.fake_quant import (
    FakeQuantEmbedding,
    FakeQuantLinear,
    InputRange,
    float_state,
    insert,
    ranges_of,
    weight_on_grid,
)
from pipeline.quantizing.origins import Origins
from pipeline.quantizing.products import int8_columns, scale_and_zero

RANGES = [(-3.3, 3.4), (-0.17, 12.1), (0.0, 1e-3), (-7.7, 0.0), (0.0, 0.0), (-1e4, 3.0)]


def round_trip(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    """Through onnxruntime's QuantizeLinear and DequantizeLinear, as they are written."""
    told = {} if axis is None else {"axis": axis}
    grid = [numpy_helper.from_array(array, name) for array, name in ((scale, "scale"), (zero, "zero"))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["steps"], **told),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["y"], **told),
    ]
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "grid", *([end] for end in ends), initializer=grid)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_an_input_is_onnxruntimes_bit_for_bit(low: float, high: float) -> None:
    """Values inside, outside, and half way between two steps."""
    reads = InputRange(low, high)
    low, high = reads.ends().tolist()
    scale, zero = scale_and_zero(Range(low, high))
    halves = (np.arange(-300, 600, dtype=np.float32) / 2) * scale
    spread = np.random.default_rng(0).normal(0, max(-low, high, 1.0), 20_000)
    x = np.concatenate([halves, spread, [low, high, 0.0]]).astype(np.float32)

    found = reads(torch.from_numpy(x)).detach().numpy()

    assert np.array_equal(found, round_trip(x, scale, zero))


@pytest.mark.parametrize("bits", [8, 7])
def test_weights_are_onnxruntimes_bit_for_bit(bits: int) -> None:
    weight_OI = np.random.default_rng(0).normal(0, 0.3, (40, 64)).astype(np.float32)
    weight_OI[3], weight_OI[4] = 0, weight_OI[4] * 1e-6

    found_OI = weight_on_grid(torch.from_numpy(weight_OI), bits=bits).numpy()

    integers_IO, scales_O = int8_columns(weight_OI.T, bits=bits)
    assert np.abs(integers_IO).max() == 2 ** (bits - 1) - 1
    assert np.array_equal(found_OI, (integers_IO.astype(np.float32) * scales_O).T)
    assert np.array_equal(found_OI, round_trip(weight_OI, scales_O, np.zeros(40, np.int8), axis=0))


def test_what_lies_on_the_grid_stays_as_it_is() -> None:
    reads = InputRange(-127.0, 128.0)
    x = torch.arange(-127.0, 129.0)
    weight = torch.tensor([[127.0, -3.0, 0.0], [64.0, 127.0, -127.0]]) / 8

    assert torch.equal(reads(x), x)
    assert torch.equal(weight_on_grid(weight, bits=8), weight)


def test_the_gradient_goes_through_inside_and_to_the_end_that_cuts_off_outside() -> None:
    reads = InputRange(-127.0, 128.0)
    x = torch.tensor([-200.0, -300.0, 5.0, 7.0, 400.0], requires_grad=True)

    (reads(x) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()

    assert x.grad is not None
    assert reads.stretch.grad is not None
    assert x.grad.tolist() == [0, 0, 3, 4, 0]
    # d end / d stretch = 100 * end; on the grid rounding leaves nothing
    assert reads.stretch.grad.tolist() == pytest.approx([-127 * 100 * 3, 128 * 100 * 5])


def test_a_range_that_wastes_its_steps_learns_to_be_narrower() -> None:
    """One outlier in a thousand: the steps for it cost all others more than it is worth."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1999), torch.tensor([40.0])])
    reads = InputRange(float(x.min()), float(x.max()))
    optimizer = torch.optim.AdamW(reads.parameters(), lr=1e-3)

    def error() -> torch.Tensor:
        return (reads(x) - x)[:-1].square().mean()

    before = error().item()
    for _ in range(60):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()

    assert error().item() < 0.2 * before
    assert reads.ends()[1] < 20


class Small(nn.Module):
    """Two Linears that read one tensor, and a third."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8, padding_idx=0)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.out = nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.words(ids)
        return self.out(self.query(rows) * self.key(rows))


READS = Origins({"query": "x", "key": "x", "out": "y"}, tables=("words",))


def put_on_grid() -> tuple[Small, Small]:
    torch.manual_seed(0)
    plain, quantized = Small(), Small()
    quantized.load_state_dict(plain.state_dict())
    insert(quantized, READS, {"x": (-3.0, 3.0), "y": (-2.0, 4.0)}, bits=8)
    return plain, quantized


def test_a_model_on_the_grid_answers_nearly_as_before_and_every_weight_learns() -> None:
    plain, quantized = put_on_grid()
    ids = torch.arange(1, 20)[None]

    found = quantized(ids)
    found.square().sum().backward()

    difference = (found - plain(ids)).abs().max()
    assert 0 < difference < 0.1
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in quantized.parameters())


def test_linears_that_read_one_tensor_share_its_range() -> None:
    _, quantized = put_on_grid()
    query, key, out = (quantized.get_submodule(name) for name in ("query", "key", "out"))

    assert isinstance(query, FakeQuantLinear)
    assert query.reads is key.reads is not out.reads
    assert ranges_of(quantized) == {"query": (-3, 3), "key": (-3, 3), "out": (-2, 4)}


def test_what_it_learned_goes_back_into_the_plain_model() -> None:
    plain, quantized = put_on_grid()
    with torch.no_grad():
        quantized.out.weight += 1

    plain.load_state_dict(float_state(quantized))

    assert torch.equal(plain.out.weight, quantized.out.weight)
    assert plain.state_dict().keys() == Small().state_dict().keys()


def test_the_table_of_words_is_computed_by_rows() -> None:
    plain, quantized = put_on_grid()
    ids = torch.tensor([[3, 3, 7]])

    assert isinstance(quantized.words, FakeQuantEmbedding)
    whole = weight_on_grid(plain.words.weight, bits=8)
    assert torch.equal(quantized.words(ids), whole[ids])

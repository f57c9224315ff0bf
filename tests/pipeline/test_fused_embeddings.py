"""The embeddings become one operator where their sum is what that operator computes, and nowhere else."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.fused_embeddings import fuse_embeddings


def embeddings(*, positions: Any = None, start: int = 0, types: bool = True, extra: bool = False) -> Any:
    """Gathers, sums and a normalisation as an export has them; `extra` adds a table nobody knows."""
    tables = ("words", "places", *(("kinds",) if types else ()), *(("extra",) if extra else ()))
    constants = {
        **{name: np.ones((9, 4), np.float32) for name in tables},
        "position_ids": np.arange(9)[None] if positions is None else positions,
        "start": np.array([start]),
        "end": np.array([3]),
        "one": np.array([1]),
        "scale": np.ones(4, np.float32),
        "shift": np.zeros(4, np.float32),
    }
    reads = {"words": "input_ids", "places": "cut", "kinds": "token_type_ids", "extra": "attention_mask"}
    nodes = [helper.make_node("Slice", ["position_ids", "start", "end", "one", "one"], ["cut"])]
    nodes += [helper.make_node("Gather", [name, reads[name]], [f"{name}_rows"]) for name in tables]
    total = "words_rows"
    for name in tables[1:]:
        nodes.append(helper.make_node("Add", [total, f"{name}_rows"], [f"with_{name}"]))
        total = f"with_{name}"
    nodes.append(helper.make_node("LayerNormalization", [total, "scale", "shift"], ["normed"], epsilon=1e-6))
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in set(reads.values()) - {"cut"}]
    output = helper.make_tensor_value_info("normed", TensorProto.FLOAT, ["N", "L", 4])
    given = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_graph(nodes, "embeddings", ids, [output], given)


@pytest.mark.parametrize("types", [True, False])
def test_words_types_and_positions_become_one_operator(types: bool) -> None:
    graph = embeddings(types=types)

    assert fuse_embeddings(graph)

    node = graph.node[-1]
    kinds = ("token_type_ids_int32", "kinds") if types else ("", "")
    assert node.op_type == "EmbedLayerNormalization"
    assert list(node.input) == ["input_ids_int32", kinds[0], "words", "places", kinds[1], "scale", "shift"]
    assert node.output[0] == "normed"
    assert node.attribute[0].f == pytest.approx(1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"start": 1},  # positions that begin elsewhere
        {"positions": np.arange(9)[None] + 2},
        {"positions": np.arange(9)[None, ::-1].copy()},
        {"extra": True},  # a table more
    ],
)
def test_any_other_sum_is_left_alone(changes: dict[str, Any]) -> None:
    graph = embeddings(**changes)
    before = graph.SerializeToString()

    assert not fuse_embeddings(graph)
    assert graph.SerializeToString() == before

"""The embeddings of a text as one operator: words, token types where there are any, positions, and the normalisation of
their sum.

Only where positions count from 0: other ones would need the input `position_ids`, which onnxruntime's quantizer drops
in silence. Shapes: N texts, L tokens, P positions.
"""

from typing import Any, NamedTuple

import numpy as np

IDS, TYPES = "input_ids", "token_type_ids"


class Tables(NamedTuple):
    """Names of the tables whose rows are summed; `types` is empty where there is none."""

    words: str
    positions: str
    types: str = ""


def fuse_embeddings(graph: Any) -> bool:
    """Put one EmbedLayerNormalization in the place of the first LayerNormalization whose input is such a sum; say
    whether there was one. What it replaced is left for `sweep`."""
    made_by = {name: node for node in graph.node for name in node.output}
    for place, node in enumerate(graph.node):
        if node.op_type == "LayerNormalization" and len(node.input) == 3:
            tables = _tables(node.input[0], made_by, graph)
            if tables:
                _replace(graph, place, tables)
                return True
    return False


def _tables(total: str, made_by: dict[str, Any], graph: Any) -> Tables | None:
    gathers = [made_by.get(name) for name in _summands(total, made_by)]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, str] = {}
    for node in gathers:
        if node is None or node.op_type != "Gather" or node.input[0] not in constants:
            return None
        kind = {IDS: "words", TYPES: "types"}.get(node.input[1])
        if kind is None and _counts_from_zero(made_by.get(node.input[1]), constants):
            kind = "positions"
        if kind is None or kind in found:
            return None
        found[kind] = node.input[0]
    return Tables(**found) if {"words", "positions"} <= found.keys() else None


def _summands(total: str, made_by: dict[str, Any]) -> list[str]:
    node = made_by.get(total)
    if node is None or node.op_type != "Add":
        return [total]
    return [summand for name in node.input for summand in _summands(name, made_by)]


def _counts_from_zero(node: Any, constants: dict[str, Any]) -> bool:
    """Whether a node cuts 0, 1, 2, ... (1, L) out of a constant (1, P)."""
    from onnx import numpy_helper

    if node is None or node.op_type != "Slice" or node.input[0] not in constants or node.input[1] not in constants:
        return False
    counted, starts = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    return bool(not starts.any() and np.array_equal(counted, np.arange(counted.size)[None]))


def _replace(graph: Any, place: int, tables: Tables) -> None:
    from onnx import TensorProto, helper

    norm = graph.node[place]
    read = [IDS, TYPES] if tables.types else [IDS]
    made = {name: f"{name}_int32" for name in read}
    casts = [helper.make_node("Cast", [old], [new], new, to=TensorProto.INT32) for old, new in made.items()]
    fused = helper.make_node(
        "EmbedLayerNormalization",
        [
            *(made[IDS], made.get(TYPES, "")),
            *(tables.words, tables.positions, tables.types),
            *norm.input[1:],
        ],
        [norm.output[0], "embeddings_mask_index"],  # the quantized form must have the second, which nothing reads
        "EmbedLayerNormalization_0",
        domain="com.microsoft",
        epsilon=next((each.f for each in norm.attribute if each.name == "epsilon"), 1e-5),
    )
    graph.node.remove(norm)
    for offset, node in enumerate((*casts, fused)):
        graph.node.insert(place + offset, node)

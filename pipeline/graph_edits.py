"""Small changes to a graph that leave its answers alone."""

from typing import Any, Final

import numpy as np

FOLDED: Final = ("Concat", "Transpose")


def fold_constants(graph: Any) -> None:
    """A Concat or a Transpose of constants becomes a constant: the quantizer would take what it computes for an
    activation, or quantize it anew in every run. What it was made of is left for `sweep`."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [each for each in graph.node if each.op_type in FOLDED and constants.keys() >= set(each.input)]:
        parts = [numpy_helper.to_array(constants[name]) for name in node.input]
        told = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Concat":
            whole = np.concatenate(parts, axis=told["axis"].i)
        else:
            whole = np.ascontiguousarray(parts[0].transpose(list(told["perm"].ints) if "perm" in told else None))
        graph.initializer.append(numpy_helper.from_array(whole, node.output[0]))
        graph.node.remove(node)


def sweep(model: Any) -> None:
    """Drop what no output needs (nodes, weights, the running sums some operators offer) and every note of where the
    graph was made: the bytes must not depend on that."""
    graph = model.graph
    used = _drop_dead(graph)
    for node in graph.node:
        if node.op_type == "SkipLayerNormalization":
            _drop_unused(node, used)
    for tensor in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(tensor)
    for noted in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del noted.metadata_props[:]
        noted.doc_string = ""


def _drop_dead(graph: Any) -> set[str]:
    """Drop nodes nobody reads; return the names that are read."""
    outputs = {value.name for value in graph.output}
    while True:
        used = outputs.union(*(node.input for node in graph.node))
        dead = [node for node in graph.node if not used & set(node.output)]
        if not dead:
            return used
        for node in dead:
            graph.node.remove(node)


def _drop_unused(node: Any, used: set[str]) -> None:
    """Optional outputs behind the first."""
    kept = [name if name in used else "" for name in node.output]
    while not kept[-1]:
        kept.pop()
    node.output[:] = kept

"""How much the answers change where one product is quantized, against the milliseconds that this saves: both are
measured, on the graph in which that product alone is one of integers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.quantizing.calibration import Doubles
from pipeline.quantizing.products import products_of
from pipeline.quantizing.profile import saved_ms
from serving.answers import Floats, probabilities

if TYPE_CHECKING:
    from pipeline.quantizing.given import Given
    from pipeline.quantizing.products import Product
    from pipeline.quantizing.static import Calibrated
    from serving.bundle import TaskKind

_SMALL = 1e-12


class Sensitivity(NamedTuple):
    """`divergence` of the answers where this product alone is quantized, `ms` that doing so saves at
    batch 1 and 128 tokens; negative where it costs time."""

    product: "Product"
    divergence: float
    ms: float

    @property
    def cost(self) -> float:
        """What a millisecond saved here costs: of what saves none, beyond all others."""
        return self.divergence / max(self.ms, _SMALL)


def divergence(wanted: Sequence[Floats], found: Sequence[Floats], *, task: "TaskKind") -> float:
    """Mean Kullback-Leibler divergence of the found distributions from the wanted ones, in nats; where labels are
    independent, summed over them; of numbers and vectors the mean squared error. Outputs (C,) or (L, C) an item."""
    wanted_NC, found_NC = (np.concatenate([np.atleast_2d(row) for row in rows]) for rows in (wanted, found))
    if task in ("regression", "embedding"):
        return float(np.square(wanted_NC.astype(np.float64) - found_NC).mean())
    p_NC, q_NC = (probabilities(rows, task=task).astype(np.float64) for rows in (wanted_NC, found_NC))
    each_NC = _surprise(p_NC, q_NC)
    if task == "multi-label":
        each_NC = each_NC + _surprise(1 - p_NC, 1 - q_NC)
    return float(each_NC.sum(axis=1).mean())


def _surprise(p: Doubles, q: Doubles) -> Doubles:
    found: Doubles = p * (np.log(np.maximum(p, _SMALL)) - np.log(np.maximum(q, _SMALL)))
    return found


def sensitivities(calibrated: "Calibrated", given: "Given", *, items: int) -> tuple[Sensitivity, ...]:
    """Every product alone quantized, over the first `items` of dev; the costliest first. Both sides are those of the
    graph in which the table of words alone is int8: no product is blamed for that, nor praised."""
    graph, found = given.scratch / "alone.onnx", []
    calibrated.write(graph, kept=calibrated.products)
    wanted, before = given.dev_logits(graph, limit=items), given.node_times(graph)
    for product in calibrated.products:
        others = tuple(other for other in calibrated.products if other != product)
        calibrated.write(graph, kept=others)
        answers = given.dev_logits(graph, limit=items)
        ms = saved_ms(before, given.node_times(graph))
        found.append(Sensitivity(product, divergence(wanted, answers, task=given.spec.task), ms))
    return tuple(sorted(found, key=lambda each: -each.cost))


def parameters_of(graph: Any) -> dict[str, str]:
    """By a product's output, the module of the model it comes from, as its bias is called (an export keeps no other
    name of it); its weight's name where it has none."""
    vectors = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 1}
    near = {node.output[0]: [*node.input[2:3]] for node in graph.node}
    for node in graph.node:
        for name in node.input if node.op_type == "Add" else ():
            near.setdefault(name, []).extend(node.input)
    found = {}
    for product in products_of(graph):
        bias = next((name for name in near[product.output] if name in vectors), product.weight)
        found[product.output] = bias.removesuffix(".bias")
    return found


class Point(NamedTuple):
    """One mix: how many products are back in fp32, and what it is like on dev."""

    kept: int
    metric: float
    divergence: float
    ms: float


def measured(graph: Path, wanted: Sequence[Floats], given: "Given", *, kept: int) -> Point:
    """The mix at `graph` against fp32's answers on all of dev."""
    found = given.dev_logits(graph)
    return Point(
        kept,
        metric=given.metric_of(found),
        divergence=divergence(wanted, found, task=given.spec.task),
        ms=given.milliseconds(graph),
    )

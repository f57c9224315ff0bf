"""Which modules of a torch model the products of its exported graph come from.

The export loses their names, so a product is known by its weights. Shapes: I and O input and output channels, V words,
D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import BadArtifact
from pipeline.quantizing.products import Product, quantized

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.quantizing.static import Calibrated

    Weights = Mapping[str, npt.NDArray[np.float32]]
    Owners = dict[tuple[Any, bytes], list[str]]

_REMEDY: Final = "its quantized values cannot be trained; use the recipe static"


@dataclass(frozen=True)
class Origins:
    """`reads`: of each Linear that is to be quantized, the tensor of the graph that it reads; `tables`: the Embeddings
    whose rows are to be."""

    reads: Mapping[str, str]
    tables: tuple[str, ...]


def origins_of(calibrated: "Calibrated", model: Any) -> Origins:
    """Find the products of the graph among the model's Linears, and the tables it looks up among its Embeddings.

    Raises:
        BadArtifact: one is none of the model's, or one of several of equal weights; or a Linear has become no product,
            or several. What is trained on the grid would then not be what is exported.
    """
    from onnx import numpy_helper
    from torch.nn import Embedding, Linear

    path, graph = calibrated.path, calibrated.model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    turned = {node.output[0] for node in graph.node for each in node.attribute if each.name == "transB" and each.i}
    linears, kept = _weights(model, Linear), {product.output for product in calibrated.excluded}
    owners, lost = _owners(linears), set(linears)
    reads: dict[str, str] = {}
    for product in (*calibrated.products, *calibrated.excluded):
        whole = constants[product.weight]
        for weight_OI in _parts(product, whole if product.output in turned else whole.T):
            owner = _owner(path, f"the product {product.name}", weight_OI, owners)
            lost.discard(owner)
            if reads.get(owner, product.activation) != product.activation:
                raise BadArtifact(f"{path}: {owner} of the model is several products of the graph, so {_REMEDY}")
            if product.output not in kept:
                reads[owner] = product.activation
    if lost:
        raise BadArtifact(f"{path}: {min(lost)} of the model is no product of the graph, so {_REMEDY}")
    return Origins(reads, _tables(calibrated, constants, model, Embedding))


def _tables(calibrated: "Calibrated", constants: Mapping[str, Any], model: Any, kind: type) -> tuple[str, ...]:
    """The Embeddings of which the quantized graph looks up rows of integers."""
    kept = {product.output for product in calibrated.excluded}
    written = quantized(calibrated.model, calibrated.ranges, kept=kept, bits=calibrated.bits).graph
    looked_up = {node.input[0] for node in written.node if node.op_type == "Gather"}
    names = [name for name in constants if f"{name}_quantized" in looked_up]
    owners = _owners(_weights(model, kind)) if names else {}
    return tuple(_owner(calibrated.path, f"the table {name}", constants[name], owners) for name in names)


def _weights(model: Any, kind: type) -> "Weights":
    modules: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    return {name: module.weight.detach().float().cpu().numpy() for name, module in modules.items()}


def _owners(weights: "Weights") -> "Owners":
    owners: Owners = {}
    for name, weight in weights.items():
        owners.setdefault((weight.shape, weight.tobytes()), []).append(name)
    return owners


def _parts(product: Product, weight_OI: Any) -> list[Any]:
    """A fused attention has the weights of three Linears, one under another."""
    count = 3 if product.kind == "Attention" else 1
    size = len(weight_OI) // count
    return [weight_OI[part * size : (part + 1) * size] for part in range(count)]


def _owner(path: Path, what: str, weight: Any, owners: "Owners") -> str:
    names = owners.get((weight.shape, weight.tobytes()), [])
    if len(names) == 1:
        return names[0]
    found = f"{' and '.join(names)} of the model, which have equal weights" if names else "no module of the model"
    raise BadArtifact(f"{path}: {what} has the weights of {found}, so {_REMEDY}")

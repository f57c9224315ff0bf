"""From the plain export of an encoder to the fused graph: one operator for each attention, normalisation, activation
and the embeddings, by onnxscript's rewriter for onnxruntime.

What the rewriter leaves would quantize wrongly in silence, so it is mended here:

- it gives Attention the mask as `attention_bias` and writes `qkv_hidden_sizes`: onnxruntime's quantizer drops the first
  (padded texts are then answered wrongly) and leaves a node with the second in fp32. Attention gets `mask_index`, the
  mask as it came in, once the bias is proven to say no more than that.
- it packs the weights of Q, K and V by a Concat at run time: the quantizer would then quantize them anew in every run.
- RoBERTa's embeddings stay as they are: their positions are computed from the ids, and the quantizer drops an
  EmbedLayerNormalization's `position_ids`.

How far it goes, by family (of each layer; E: of the embeddings, where there is one of them):

| family | Attention | SkipLayerNormalization | BiasGelu | E |
|---|---|---|---|---|
| BERT, DistilBERT | 1 | 2 | 1 | EmbedLayerNormalization |
| RoBERTa, XLM-R | 1 | 2 | 1 | SkipLayerNormalization |
| ELECTRA (embeddings narrower than the layers or not) | 1 | 2 | 1 | EmbedLayerNormalization |
| DeBERTa-v2 | none (2 FusedMatMul) | 2 | 1 | none |
| ModernBERT | MultiHeadAttention, behind its rotary turn | none | none | none |

onnxruntime gives QAttention's weights 7 bits on every CPU. Shapes: N texts, L tokens.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.errors import BadArtifact
from pipeline.fused_embeddings import fuse_embeddings
from pipeline.graph_checks import check_graph, label, require_same_answers, require_same_interface
from pipeline.graph_edits import fold_constants, sweep
from pipeline.quantizing.graphs import operators
from pipeline.quiet import below_error_muted

FUSED: Final = (
    *("Attention", "MultiHeadAttention", "SkipLayerNormalization", "EmbedLayerNormalization"),
    *("BiasGelu", "FastGelu", "RotaryEmbedding"),
)
MASK, MASK_INT32 = "attention_mask", "attention_mask_int32"
MASK_INDEX, BIAS = 3, 5  # inputs of Attention
BIAS_OF: Final = {"Attention": (MASK_INDEX, BIAS), "MultiHeadAttention": (4, BIAS)}
SAME_SHARE = 1e-4
FAR_BELOW = -1e3
PROBED_LENGTH = 600  # longer than any window a layer attends in
UNFUSED = "quantize it with fused: false"


def fuse(source: Path, target: Path) -> dict[str, int]:
    """Write the fused form of the graph at `source` to `target`; return how many operators of each kind it has.

    Raises:
        BadArtifact: nothing fuses, an attention would lose its mask, or the fused graph answers otherwise.
    """
    import onnx

    model = _rewritten(source)
    fold_constants(model.graph)
    _mask_by_index(source, model)
    fuse_embeddings(model.graph)
    del model.graph.value_info[:]
    sweep(model)
    onnx.save(model, target)
    _check(source, target)
    return operators(target)


def _rewritten(source: Path) -> Any:
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    with below_error_muted():
        rewritten = optimize_for_ort(onnx_ir.load(source), clear_metadata=True)
    model = rewritten[0] if isinstance(rewritten, tuple) else rewritten
    return onnx_ir.to_proto(model)


def _mask_by_index(source: Path, model: Any) -> None:
    """Every Attention with a bias gets the mask itself instead, (N, L) int32, and no redundant `qkv_hidden_sizes`."""
    from onnx import TensorProto, helper

    graph = model.graph
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    for bias in sorted({node.input[BIAS] for node in attentions if len(node.input) > BIAS and node.input[BIAS]}):
        if not _is_padding(model, bias):
            node = next(node for node in attentions if bias in node.input)
            raise BadArtifact(
                f"{source}: {label(node)} adds to its scores more than the mask of padding, and onnxruntime's "
                f"quantizer would drop that; {UNFUSED}"
            )
    for node in attentions:
        _drop_equal_sizes(node)
        if len(node.input) > BIAS and node.input[BIAS]:
            node.input[MASK_INDEX] = MASK_INT32
            del node.input[MASK_INDEX + 1 :]
    if any(MASK_INT32 in node.input for node in attentions):
        cast = helper.make_node("Cast", [MASK], [MASK_INT32], MASK_INT32, to=TensorProto.INT32)
        graph.node.insert(0, cast)


def _drop_equal_sizes(node: Any) -> None:
    for attribute in [each for each in node.attribute if each.name == "qkv_hidden_sizes"]:
        if len(set(attribute.ints)) == 1:
            node.attribute.remove(attribute)


def _is_padding(model: Any, bias: str) -> bool:
    """Whether the value `bias` (N, 1, L, L) is 0 at real tokens and far below at padding, for every query."""
    import onnxruntime

    if MASK not in {value.name for value in model.graph.input}:
        return False
    real_NL = np.arange(PROBED_LENGTH) < np.array([[PROBED_LENGTH], [PROBED_LENGTH // 3]])
    session = onnxruntime.InferenceSession(_only(model, bias).SerializeToString(), providers=["CPUExecutionProvider"])
    (bias_N1LL,) = session.run(None, {value.name: real_NL.astype(np.int64) for value in session.get_inputs()})
    kept = np.where(real_NL[:, None, None, :], bias_N1LL == 0, bias_N1LL < FAR_BELOW)
    return bool(kept.all())


def _only(model: Any, output: str) -> Any:
    """A model of what one value is computed from."""
    import onnx
    from onnx import helper

    graph = model.graph
    needed, nodes = {output}, []
    for node in reversed(graph.node):  # in topological order
        if needed & set(node.output):
            needed.update(node.input)
            nodes.append(node)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    part = helper.make_graph(nodes[::-1], "part", graph.input, [onnx.ValueInfoProto(name=output)], constants)
    return helper.make_model(part, ir_version=model.ir_version, opset_imports=model.opset_import)


def _check(source: Path, target: Path) -> None:
    import onnx

    graph = onnx.load(target, load_external_data=False).graph
    if not any(node.op_type in FUSED for node in graph.node):
        raise BadArtifact(f"{source}: nothing to fuse: no attention, normalisation or activation is known; {UNFUSED}")
    left = [node for node in graph.node if node.op_type == "Softmax"]
    if left and any(node.op_type in BIAS_OF for node in graph.node):
        raise BadArtifact(
            f"{source}: {label(left[0])} belongs to an attention that did not fuse as others did; {UNFUSED}"
        )
    reads_mask = MASK in {value.name for value in graph.input}
    for node in graph.node:
        places = BIAS_OF.get(node.op_type, ())
        if reads_mask and places and not any(node.input[place] for place in places if place < len(node.input)):
            raise BadArtifact(f"{source}: {label(node)} lost its attention mask when it was fused; {UNFUSED}")
    check_graph(target)
    require_same_interface(source, target)
    require_same_answers(source, target, share=SAME_SHARE, remedy=UNFUSED)

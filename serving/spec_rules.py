"""What a `ServingSpec` must not say: fields that contradict each other, each with what is said then."""

import re
from typing import TYPE_CHECKING, Final

from serving.long_texts import Windows

if TYPE_CHECKING:
    from serving.bundle import ServingSpec

ONNX_CPU: Final = ("CPUExecutionProvider",)
_TAG: Final = re.compile(r"O|[BI]-.+")


def spec_faults(spec: "ServingSpec") -> list[str]:
    rules = (*_label_rules(spec), *_threshold_rules(spec), *_tag_rules(spec), *_graph_rules(spec))
    return [fault for broken, fault in rules if broken]


def _label_rules(spec: "ServingSpec") -> list[tuple[bool, str]]:
    """Whether each rule is broken, and what is said then."""
    task, different = spec.task, len(set(spec.labels))
    embeds = task == "embedding"
    return [
        (task in ("classification", "token-classification") and different < 2, f"{task} needs two labels or more"),
        (task == "multi-label" and not spec.labels, "multi-label needs a label or more"),
        (different != len(spec.labels), "labels must differ from each other"),
        (task in ("regression", "embedding") and bool(spec.labels), f"{task} has no labels"),
        (embeds and not spec.dimensions, "embedding needs dimensions, the width of its vector"),
        (not embeds and spec.dimensions is not None, f"dimensions are for embedding; {task} has none"),
    ]


def _threshold_rules(spec: "ServingSpec") -> list[tuple[bool, str]]:
    task, found, wanted, refuse_below = spec.task, len(spec.thresholds), len(spec.labels), spec.refuse_below
    many, strange = task == "multi-label", [bound for bound in spec.thresholds if not 0 < bound < 1]
    outside = refuse_below is not None and not 0 < refuse_below < 1
    return [
        (not many and found > 0, f"thresholds are for multi-label; {task} has none"),
        (many and found != wanted, f"multi-label needs one threshold per label; {wanted} label(s) have {found}"),
        (bool(strange), f"thresholds must lie between 0 and 1, both excluded; found {strange}"),
        (task != "classification" and refuse_below is not None, f"refuse_below is for classification, not for {task}"),
        (outside, f"refuse_below must lie between 0 and 1, both excluded; found {refuse_below}"),
    ]


def _tag_rules(spec: "ServingSpec") -> list[tuple[bool, str]]:
    """IOB2: O is outside, B-x begins an entity of type x, I-x goes on with it."""
    if not spec.per_token:
        told = f"aggregation {spec.aggregation} is for token-classification; {spec.task} has none"
        return [(spec.aggregation != "first", told)]
    strange = [label for label in spec.labels if not _TAG.fullmatch(label)]
    orphans = [label for label in spec.labels if label[:2] == "I-" and f"B-{label[2:]}" not in spec.labels]
    return [
        (spec.texts_per_item != 1, f"{spec.task} reads one text per item; texts_per_item is {spec.texts_per_item}"),
        (bool(strange), f"labels of {spec.task} must be O, B-x or I-x; found {', '.join(strange)}"),
        (bool(orphans), f"a label I-x needs a B-x beside it; {', '.join(orphans)} have none"),
    ]


def _graph_rules(spec: "ServingSpec") -> list[tuple[bool, str]]:
    stride = spec.long_texts.stride if isinstance(spec.long_texts, Windows) else 0
    openvino, half = spec.runtime == "openvino", spec.inference_precision == "bf16"
    return [
        ("input_ids" not in spec.graph_inputs, "graph_inputs must name input_ids"),
        (len(set(spec.graph_inputs)) != len(spec.graph_inputs), "graph_inputs must differ from each other"),
        (not spec.buckets or list(spec.buckets) != sorted(set(spec.buckets)), "buckets must be ascending lengths"),
        (2 * stride > spec.max_length, f"windows of {spec.max_length} tokens may share half of them, not {stride}"),
        (any(bucket > spec.max_length for bucket in spec.buckets), "no bucket may exceed max_length"),
        (not spec.providers, "providers must name at least one"),
        (openvino and spec.providers != ONNX_CPU, f"providers are for onnxruntime; openvino takes {ONNX_CPU[0]} alone"),
        (half and not openvino, "inference_precision bf16 needs runtime openvino; onnxruntime has none"),
    ]

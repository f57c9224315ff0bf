"""The one place that knows how each family of encoders is built: where its layers, projections and hidden states are.

A *tap* names one tensor a layer computes: ("query" | "key" | "value" | "hidden", layer), layers 1-based.

- query, key, value: the projections of the layer's input with their bias, before heads are split and before any rotary
  turn (ModernBERT); of DeBERTa-v2 the content projections, not those of relative positions.
- hidden: the layer's output, which the next layer reads; of DeBERTa-v2's first layer behind the convolution where there
  is one. Of the last layer what the encoder ends with and a head reads: in ModernBERT behind the final normalisation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.errors import BadRequest

Kind = Literal["query", "key", "value", "hidden"]
Tap = tuple[Kind, int]
PROJECTIONS: tuple[Literal["query", "key", "value"], ...] = ("query", "key", "value")
FULL, SLIDING = "full_attention", "sliding_attention"  # as transformers calls them in `layer_types`


@dataclass(frozen=True)
class Family:
    """Attribute paths inside the base model (`layers`, `pooler`, `shared`, `first_output`, `last_output`), one layer
    (`query`, `key`, `value`, `before`, `stacked`) and the config (`feed_forward`, `dropouts`, `layer_count`)."""

    layers: str
    query: str
    key: str
    value: str
    feed_forward: str
    dropouts: tuple[str, ...]
    layer_count: str = "num_hidden_layers"
    before: str = ""  # what a layer runs before its projections
    stacked: Mapping[str, int] = field(default_factory=dict)  # projections that are several matrices, row under row
    pooler: str = ""  # what runs behind the layers and no tap reads
    shared: Mapping[str, Any] = field(default_factory=dict)  # what only whole layers read: what to put in its place
    first_output: str = ""  # what makes the first layer's hidden states, where that is not the layer
    last_output: str = ""  # the same of the last layer
    returns_tuple: bool = False  # a layer returns (hidden states, ...)
    sdpa: bool = True  # attention goes through transformers' attention functions
    windows: bool = False  # some layers attend within a sliding window
    head_multiple: int = 1  # a head's channels come in groups of so many
    positions_after_padding: bool = False  # position ids start behind the padding id

    def path(self, kind: Kind) -> str:
        """Where a layer keeps the projection of this kind."""
        paths = {"query": self.query, "key": self.key, "value": self.value}
        return paths[kind]

    def rows(self, kind: Kind, count: int) -> slice:
        """Which of the `count` output channels of `path(kind)` are of this kind: all, or its part of a fused one."""
        if self.path(kind) not in self.stacked:
            return slice(0, count)
        part, size = ("query", "key", "value").index(kind), count // 3
        return slice(part * size, (part + 1) * size)


_BERT = Family(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    feed_forward="intermediate_size",
    dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    pooler="pooler",
)
_ROBERTA = replace(_BERT, positions_after_padding=True)
_DISTILBERT = Family(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    feed_forward="hidden_dim",
    dropouts=("dropout", "attention_dropout"),
    layer_count="n_layers",
)
_DEBERTA_V2 = Family(
    layers="encoder.layer",
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    feed_forward="intermediate_size",
    dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    shared={
        "encoder.relative_attention": False,
        "encoder.rel_embeddings": None,
        "encoder.LayerNorm": None,
        "encoder.conv": None,
    },
    first_output="encoder.conv",
    returns_tuple=True,
    sdpa=False,
)
_MODERNBERT = Family(
    layers="layers",
    query="attn.Wqkv",
    key="attn.Wqkv",
    value="attn.Wqkv",
    feed_forward="intermediate_size",
    dropouts=("attention_dropout", "embedding_dropout", "mlp_dropout"),
    before="attn_norm",
    stacked={"attn.Wqkv": 3, "mlp.Wi": 2},
    last_output="final_norm",
    windows=True,
    head_multiple=2,
)
FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "deberta-v2": _DEBERTA_V2,
    "modernbert": _MODERNBERT,
}


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`; BadRequest with the list of known ones otherwise."""
    if model_type not in FAMILIES:
        raise BadRequest(
            f"{model_type!r} is not an encoder Retort knows; teachers may be of the families "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


@dataclass(frozen=True)
class Shape:
    """Size of an encoder: layers, width D, attention heads, feed-forward width."""

    layers: int
    width: int
    heads: int
    feed_forward: int


def shape_of(config: Any) -> Shape:
    """The shape written in a config (a transformers config, or config.json's fields), whatever the family calls
    them."""
    from optimum.utils import NormalizedConfigManager  # imports no torch: `retort plan` comes here

    family = family_of(config.model_type)
    normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    return Shape(
        layers=getattr(config, family.layer_count),
        width=normalized.hidden_size,
        heads=normalized.num_attention_heads,
        feed_forward=getattr(config, family.feed_forward),
    )


def reads_token_types(config: Any) -> bool:
    """Whether the encoder tells the texts of a pair apart by token types (RoBERTa's has the input and one type)."""
    return int(getattr(config, "type_vocab_size", 0)) > 1


def first_position(config: Any) -> int:
    """The position id of a document's first token: 0, or in RoBERTa's families the one behind the padding id."""
    if not family_of(config.model_type).positions_after_padding:
        return 0
    return int(getattr(config, "pad_token_id", None) or 0) + 1


def attention_kinds(config: Any) -> tuple[str, ...]:
    """FULL or SLIDING for every layer; the hub's ModernBERT configs give an interval instead of the list."""
    family = family_of(config.model_type)
    layers = range(getattr(config, family.layer_count))
    if not family.windows:
        return tuple(FULL for _ in layers)
    if given := getattr(config, "layer_types", None):
        return tuple(given)
    every = getattr(config, "global_attn_every_n_layers", 3)
    return tuple(SLIDING if layer % every else FULL for layer in layers)


def check_taps(config: Any, taps: Collection[Tap]) -> None:
    """BadRequest where a projection is read in a layer with a sliding window: its relations span a window, not the
    text."""
    kinds = attention_kinds(config)
    narrow = sorted({layer for kind, layer in taps if kind != "hidden" and kinds[layer - 1] == SLIDING})
    if narrow:
        allowed = ", ".join(str(number) for number, kind in enumerate(kinds, start=1) if kind == FULL)
        raise BadRequest(
            f"layer {narrow[0]} of this {config.model_type} encoder attends within a sliding window, so relations "
            f"between its queries, keys and values do not span the text; its full-attention layers are "
            f"{allowed or 'none'}"
        )

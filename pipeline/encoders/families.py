"""The one place that knows how each family of encoders is built: where its layers, projections and hidden states are.

A *tap* names one tensor a layer computes: ("query" | "key" | "value" | "hidden", layer), layers 1-based. `reading`
cuts a model to
what the wanted taps need, so that nothing is computed which no objective reads, and puts it back together afterwards.

Shapes: B batch, L tokens, D hidden.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import BadRequest

if TYPE_CHECKING:
    import torch

Tap = tuple[Literal["query", "key", "value", "hidden"], int]
PROJECTIONS: tuple[Literal["query", "key", "value"], ...] = ("query", "key", "value")


@dataclass(frozen=True)
class Family:
    """Attribute paths inside the base model (`layers`), one layer (`query`, `key`, `value`) and the config
    (`feed_forward`)."""

    layers: str
    query: str
    key: str
    value: str
    feed_forward: str
    dropouts: tuple[str, ...]
    layer_count: str = "num_hidden_layers"


_BERT = Family(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    feed_forward="intermediate_size",
    dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
)
_DISTILBERT = Family(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    feed_forward="hidden_dim",
    dropouts=("dropout", "attention_dropout"),
    layer_count="n_layers",
)
FAMILIES: dict[str, Family] = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "distilbert": _DISTILBERT}


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


@contextmanager
def reading(model: Any, taps: Collection[Tap]) -> "Iterator[Callable[[], dict[Tap, torch.Tensor]]]":
    """Cut `model` (a base encoder) above the highest layer read, and yield a function that hands over the last
    forward's taps.

    Where only projections of the highest layer are read, the rest of that layer is skipped too. On leaving, every
    layer and the pooler are back in place.
    """
    from torch import nn

    family = family_of(model.config.model_type)
    parent_path, _, name = family.layers.rpartition(".")
    parent = attrgetter(parent_path)(model)
    layers, pooler = getattr(parent, name), getattr(model, "pooler", None)
    highest = max(layer for _, layer in taps)
    kept: list[nn.Module] = list(layers)[:highest]
    if all(kind != "hidden" for kind, layer in taps if layer == highest):
        kept[-1] = _projections_only(kept[-1], family)
    seen: dict[Tap, torch.Tensor] = {}
    hooks = [_hook(layers[layer - 1], family, (kind, layer), seen) for kind, layer in taps]
    setattr(parent, name, nn.ModuleList(kept))
    if pooler is not None:
        model.pooler = None

    def take() -> "dict[Tap, torch.Tensor]":
        taken = dict(seen)
        seen.clear()
        return taken

    try:
        yield take
    finally:
        for hook in hooks:
            hook.remove()
        setattr(parent, name, layers)
        if pooler is not None:
            model.pooler = pooler


def _projections_only(layer: Any, family: Family) -> Any:
    """A layer that runs its Q, K and V projections (whose hooks see them) and nothing else."""
    from torch import nn

    class ProjectionsOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projections = nn.ModuleList([attrgetter(getattr(family, name))(layer) for name in PROJECTIONS])

        def forward(self, hidden_states_BLD: Any, *_: Any, **__: Any) -> Any:
            for projection in self.projections:
                projection(hidden_states_BLD)
            return hidden_states_BLD

    return ProjectionsOnly()


def _hook(layer: Any, family: Family, tap: Tap, seen: "dict[Tap, torch.Tensor]") -> Any:
    kind = tap[0]
    module = layer if kind == "hidden" else attrgetter(getattr(family, kind))(layer)

    def keep(_module: Any, _inputs: Any, output_BLD: Any) -> None:
        seen[tap] = output_BLD

    return module.register_forward_hook(keep)

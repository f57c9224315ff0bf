"""Read taps of an encoder that is cut to what they need, so that nothing is computed which no objective reads.

Shapes: B batch, L tokens, D width, R rows, C columns, N = R * C positions.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.layout import TextBatch
from pipeline.encoders.attention import inputs_of, isolating
from pipeline.encoders.families import PROJECTIONS, Family, Kind, Tap, check_taps, family_of

Taps = dict[Tap, Tensor]
Run = Callable[[TextBatch], Taps]


@contextmanager
def reading(model: Any, taps: Collection[Tap], *, compiled: bool = False) -> Iterator[Run]:
    """Cut `model` (a base encoder) to what `taps` need, and yield what runs a batch through it and hands over its taps,
    each flat: (N, width), at padded positions meaningless.

    The model ends with the highest layer read; where only projections are read of that one, it is only these. What runs
    behind the layers (pooler, final normalisation) runs only where it is read, and no parameter that is left goes
    without a gradient. On leaving everything is back in place. `compiled` hands the cut model to torch.compile with
    dynamic shapes. BadRequest where a tap cannot be read (`check_taps`).
    """
    check_taps(model.config, taps)
    family = family_of(model.config.model_type)
    seen: Taps = {}
    with ExitStack() as stack:
        _cut(model, family, taps, seen, stack)
        stack.enter_context(isolating(model.config))

        def forward(inputs: dict[str, Any]) -> Taps:
            seen.clear()
            model(**inputs)
            taken = {tap: seen[tap] for tap in taps}
            seen.clear()
            return taken

        run = torch.compile(forward, dynamic=True) if compiled else forward
        yield lambda batch: run(inputs_of(batch, model))


def _cut(model: Any, family: Family, taps: Collection[Tap], seen: Taps, stack: ExitStack) -> None:
    highest = max(layer for _, layer in taps)
    layers = attrgetter(family.layers)(model)
    kept: list[Any] = list(layers)[:highest]
    whole = highest
    if ("hidden", highest) not in taps:
        whole -= 1
        kept[-1] = _Projections(kept[-1], family, [tap for tap in taps if tap[1] == highest], seen)
    for tap in taps:
        if tap[1] <= whole:
            stack.callback(_hook(_source(model, layers, family, tap), family, tap, seen).remove)
    replaced = {family.layers: nn.ModuleList(kept), family.pooler: nn.Identity()}
    if ("hidden", len(layers)) not in taps:
        replaced[family.last_output] = nn.Identity()
    for path, value in {**replaced, **({} if whole else family.shared)}.items():
        if path:
            _replace(model, path, value, stack)


def _source(model: Any, layers: Any, family: Family, tap: Tap) -> Any:
    """The module whose output the tap is, in a layer that runs as a whole."""
    kind, number = tap
    layer = layers[number - 1]
    if kind != "hidden":
        return attrgetter(family.path(kind))(layer)
    elsewhere = {len(layers): family.last_output, 1: family.first_output}.get(number)
    return (attrgetter(elsewhere)(model) if elsewhere else None) or layer


def _replace(model: Any, path: str, value: Any, stack: ExitStack) -> None:
    """Put `value` in the place of what is at `path`, where there is anything, until the stack unwinds."""
    parent_path, _, name = path.rpartition(".")
    parent = attrgetter(parent_path)(model) if parent_path else model
    before = getattr(parent, name, None)
    if before is not None:
        setattr(parent, name, value)
        stack.callback(setattr, parent, name, before)


class _Projections(nn.Module):
    """A layer of which nothing runs but the projections that are read."""

    def __init__(self, layer: Any, family: Family, taps: Collection[Tap], seen: Taps) -> None:
        super().__init__()
        self.before = attrgetter(family.before)(layer) if family.before else nn.Identity()
        self.projections = nn.ModuleDict({kind: attrgetter(family.path(kind))(layer) for kind, _ in taps})
        self.attention_type = getattr(layer, "attention_type", None)  # by which the model chooses a layer's mask
        self._family, self._taps, self._seen = family, tuple(taps), seen

    def forward(self, states_BLD: Tensor, *_: Any, **__: Any) -> Any:
        read_BLD = self.before(states_BLD)
        for tap in self._taps:
            self._seen[tap] = self._project(tap[0], read_BLD).flatten(0, 1)
        return (states_BLD, None) if self._family.returns_tuple else states_BLD

    def _project(self, kind: Kind, states_BLD: Tensor) -> Tensor:
        linear: Any = self.projections[kind]
        rows = self._family.rows(kind, linear.out_features)
        if rows == slice(0, linear.out_features):
            return linear(states_BLD)  # type: ignore[no-any-return]
        bias = None if linear.bias is None else linear.bias[rows]
        return nn.functional.linear(states_BLD, linear.weight[rows], bias)


def _hook(source: Any, family: Family, tap: Tap, seen: Taps) -> Any:
    """Keep what a whole layer computes; the first call counts, since DeBERTa-v2 may project its relative positions by
    the same matrices afterwards."""

    def keep(module: Any, _inputs: Any, output: Any) -> None:
        values_BLX = output[0] if isinstance(output, tuple) else output
        if tap[0] in PROJECTIONS:
            values_BLX = values_BLX[..., family.rows(tap[0], module.out_features)]
        seen.setdefault(tap, values_BLX.flatten(0, 1))

    return source.register_forward_hook(keep)

"""What a loss hands to the training loop, and the watch over losses that are not finite."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import BadRequest
from pipeline.team import Team

if TYPE_CHECKING:
    import torch


class Terms(NamedTuple):
    """Losses, whose sum is minimised, and measures, which are only looked at."""

    losses: "Mapping[str, torch.Tensor]"
    measures: "Mapping[str, torch.Tensor]" = MappingProxyType({})


class _Watched(NamedTuple):
    step: int
    losses: "Mapping[str, Mapping[str, torch.Tensor]]"
    norms: "Sequence[torch.Tensor]"
    describe: Callable[[], str]


class Watch:
    """Remembers the losses of the last steps on the device and reads them all at once: waiting for a GPU at every step
    would cost more than it tells."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._steps: list[_Watched] = []

    def add(
        self,
        step: int,
        losses: "Mapping[str, Mapping[str, torch.Tensor]]",
        norms: "Sequence[torch.Tensor]",
        describe: Callable[[], str],
    ) -> None:
        """The loss terms of each part at a step, the parts' gradient norms, and what names the step's documents."""
        self._steps.append(_Watched(step, losses, norms, describe))

    def check(self, team: Team) -> None:
        """BadRequest for the first step since the last check that is not finite, in whichever process of the team."""
        steps, self._steps = self._steps, []
        found = [each for each in team.gather(self._first_fault(steps)) if each is not None]
        if found:
            raise BadRequest(min(found)[1])

    def _first_fault(self, steps: Sequence[_Watched]) -> tuple[int, str] | None:
        import torch

        values = [v for one in steps for terms in one.losses.values() for v in terms.values()]
        values += [norm for one in steps for norm in one.norms]
        if not values or bool(torch.stack(values).isfinite().all()):
            return None
        faults = ((one.step, told) for one in steps if (told := self._fault(one)))
        return next(faults, None)

    def _fault(self, one: _Watched) -> str:
        """What to say of a step that is not finite; of one that is, nothing. A loss that is infinite elsewhere in the
        team shows here by its gradient alone."""
        for part, terms in one.losses.items():
            values = {name: float(value) for name, value in terms.items()}
            if not math.isfinite(sum(values.values())):
                of = f" of {part}" if len(one.losses) > 1 else ""
                return self._told(one, f"the loss{of} is {sum(values.values())} at step {one.step} ({values})")
        norms = [float(norm) for norm in one.norms]
        if all(math.isfinite(norm) for norm in norms):
            return ""
        return self._told(one, f"the gradient's norm is {max(norms, key=abs)} at step {one.step}")

    def _told(self, one: _Watched, what: str) -> str:
        documents = one.describe()
        return (
            f"{self._title}: {what}; try a lower optimization.learning_rate or a longer optimization.warmup_share, and "
            "look for odd texts in the data" + (f"; the step read {documents}" if documents else "")
        )

"""A request that would hold an executor for long is computed in slices, and others take their turn between them."""

from collections.abc import Sequence

from serving.costs import Costs
from serving.engine import Answer, Given
from serving.models import Served
from serving.tallies import Cut, Part


def slices(items: Sequence[Given], *, costs: Costs, most_s: float) -> list[Sequence[Given]]:
    """The items in their order, cut so that each slice costs at most `most_s`, or is one item. Slices know their
    request, which a tally counts once."""
    if len(items) < 2 or costs.cost_of(items) <= most_s:
        return [items]
    begins, cost_s = [0], 0.0
    for index, item in enumerate(items):
        own_s = costs.cost_of([item])
        if index > begins[-1] and cost_s + own_s > most_s:
            begins.append(index)
            cost_s = 0.0
        cost_s += own_s
    if len(begins) == 1:
        return [items]
    request, ends = Cut(len(begins)), [*begins[1:], len(items)]
    return [
        Part(items[begin:end], request=request, place=place)
        for place, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]


def joined(parts: Sequence[Served]) -> Served:
    """The answers of slices as one; all are of one model."""
    answers = [part.answer for part in parts]
    answer = Answer(
        scores=[row for each in answers for row in each.scores],
        offsets=[row for each in answers for row in each.offsets],
        tokenize_ms=sum(each.tokenize_ms for each in answers),
        infer_ms=sum(each.infer_ms for each in answers),
    )
    return Served(answer=answer, results=[row for part in parts for row in part.results], live=parts[0].live)

"""The race against transformers.Trainer: both sides read the same."""

from benchmarks.finetune_bench import budget_for
from pipeline.data.batches import length_batches


def test_the_budget_makes_batches_of_as_many_texts_on_average_as_asked() -> None:
    lengths = [3 + n % 37 for n in range(4000)]

    budget = budget_for(lengths, texts=32)

    found = [len(lengths) / len(length_batches(lengths, token_budget=b, seed=0, epoch=0)) for b in (budget - 1, budget)]
    assert found[0] < 32 <= found[1] < 33

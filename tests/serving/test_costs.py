from pathlib import Path

import msgspec
import pytest
from fakes import tiny_bundle

from serving.costs import MOST, Costs, Sample, calibrated, fit
from serving.engine import Tokens
from serving.instances import open_instances
from serving.tuning import Alone, BatchPolicy, Together, WherePays, plain

SHAPES = [(items, length) for items in (1, 4, 16) for length in (16, 48, 128)]


def samples(call_s: float, token_s: float, pair_s: float) -> list[Sample]:
    return [Sample(b, n, call_s + token_s * b * n + pair_s * b * n * n) for b, n in SHAPES]


@pytest.mark.parametrize("terms", [(3e-4, 2e-5, 1e-8), (0.0, 1e-5, 0.0), (1e-3, 0.0, 2e-8)])
def test_a_fit_finds_the_terms_that_the_times_were_made_of(terms: tuple[float, float, float]) -> None:
    assert fit(samples(*terms)) == pytest.approx(terms, rel=1e-6, abs=1e-12)


def test_no_term_is_ever_negative_however_the_times_lie() -> None:
    falling = [Sample(b, n, 1e-3 / n) for b, n in SHAPES]
    assert min(fit(falling)) >= 0.0
    assert min(fit([Sample(1, 16, 1e-3)])) >= 0.0


def test_items_beyond_a_call_need_another_one() -> None:
    costs = Costs(call_s=1.0, token_s=0.1, most=4)
    assert costs.of(4, 10) == 1.0 + 4.0
    assert costs.of(5, 10) == 2.0 + 5.0


def test_joining_pays_where_a_call_costs_more_than_the_padding() -> None:
    costs = Costs(call_s=0.3e-3, token_s=20e-6, most=16)
    assert costs.pays(1, 20, more=1, of_length=20)
    assert costs.pays(1, 20, more=1, of_length=25)
    assert not costs.pays(1, 20, more=1, of_length=60), "40 padded tokens cost more than a call"
    assert not costs.pays(16, 20, more=1, of_length=20), "a call is full"


def test_each_alone_is_never_joined() -> None:
    assert not Costs(call_s=1.0, token_s=1e-9, most=1).pays(1, 8, more=1, of_length=8)


def test_lengths_are_told_by_characters_and_of_tokens_exactly() -> None:
    costs = Costs(call_s=0.0, token_s=1.0, tokens_per_character=0.25, max_length=32)
    assert costs.shape_of([("four words are here",)]) == (1, 2 + 5)
    assert costs.shape_of([("a" * 10, "b" * 10)]) == (1, 2 + 5)
    assert costs.shape_of([("a" * 1000,), ("a",)]) == (2, 32)
    assert costs.shape_of([Tokens(ids=[1, 2, 3], type_ids=[0, 0, 0])]) == (1, 3)


def test_a_text_that_is_read_in_windows_counts_as_that_many_items() -> None:
    costs = Costs(call_s=0.0, token_s=1.0, tokens_per_character=0.5, max_length=32, reach=200, shared=8)
    assert costs.shape_of([("a" * 60,)]) == (1, 32)
    assert costs.shape_of([("a" * 200,)]) == (5, 32), "102 tokens, 24 new ones a window"
    assert costs.shape_of([("a" * 100_000,)]) == (9, 32), "what is not read costs nothing"


def test_a_real_bundle_is_timed_and_its_texts_are_counted(tmp_path: Path) -> None:
    setting = msgspec.structs.replace(plain(1), batch=WherePays())
    instances = open_instances(tiny_bundle(tmp_path), setting=setting)
    costs = calibrated(instances)
    assert costs.of(1, costs.max_length) > 0.0
    assert costs.max_length == instances.bundle.spec.max_length
    golden = [item[0] for item in instances.bundle.golden.items]
    words = sum(len(text.split()) for text in golden)
    assert costs.tokens_per_character == pytest.approx(words / sum(map(len, golden)), rel=0.3)
    assert costs.most == MOST, "its answers do not depend on what is beside them"


@pytest.mark.parametrize(("batch", "most"), [(Alone(), 1), (Together(items=3), 3)])
def test_what_a_tuning_says_holds_whatever_the_costs_are(tmp_path: Path, batch: BatchPolicy, most: int) -> None:
    setting = msgspec.structs.replace(plain(1), batch=batch)
    assert calibrated(open_instances(tiny_bundle(tmp_path), setting=setting)).most == most


def test_a_request_costs_its_items_one_by_one_or_padded_whichever_is_less() -> None:
    alone = Costs(call_s=0.001, token_s=0.001, tokens_per_character=1.0)
    short, long = ("a" * 8,), ("a" * 98,)
    assert alone.cost_of([short, long]) == pytest.approx(0.011 + 0.101)
    together = Costs(call_s=0.5, token_s=0.001, tokens_per_character=1.0, most=4)
    assert together.cost_of([short, short]) == pytest.approx(0.5 + 2 * 0.01)
    assert together.cost_of([short, long]) == pytest.approx(0.5 + 2 * 0.1)

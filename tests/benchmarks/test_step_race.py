"""Racing whole steps: whose turn it is, what is timed, and what the figures say."""

from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.scoreboard import ratios
from benchmarks.step_race import Block, Phases, StepRace, blocks_of, figures_of
from serving.errors import BadRequest, Failure


def block(*lengths: int) -> Block:
    return Block(tuple("abc"[: len(lengths)]), tuple(np.zeros(length, np.int32) for length in lengths))


class World:
    """A clock in seconds, a feed that gives two documents a step, and what happened in which order."""

    def __init__(self) -> None:
        self.now_s, self.happened, self.closed = 0.0, list[str](), 0

    def clock(self) -> int:
        return round(self.now_s * 1e9)

    def passes(self, seconds: float, what: str) -> None:
        self.now_s += seconds
        self.happened.append(what)

    def open_feed(self, text: Block) -> Any:
        documents = iter(text.documents)

        def step_at(_step: int) -> Any:
            self.now_s += 0.25
            taken = [len(ids) for ids in islice(documents, 2)]
            return SimpleNamespace(tokens=float(sum(taken)), positions=float(len(taken) * max(taken)))

        def close() -> None:
            self.closed += 1

        self.passes(0.5, f"open {len(text.documents)}")
        return SimpleNamespace(step_at=step_at, close=close)


def raced(world: World, *blocks: Block, baseline: bool = True) -> Any:
    """The result of an engine that needs 1 s for the loss and 1.25 s for the rest of each step."""
    phases = Phases(world.clock)
    loss = phases.timed("relation loss", lambda: world.passes(1.0, "loss"))

    def run(block: Block) -> None:
        world.passes(10.0 * len(block.documents), "baseline")
        phases.timed("backward", world.clock)()  # what is patched is the baseline's, too: not to be counted
        phases.spent_ns["backward"] += 1_000_000_000

    race = StepRace(
        blocks, open_feed=world.open_feed, baseline=run if baseline else None, phases=phases, clock=world.clock
    )
    done = 0.0
    while done < race.tokens:
        done += race.step_at(0).tokens
        loss()
        world.passes(1.25, "rest")
    return race.finish()


STEP = ["loss", "rest"]


def test_the_sides_take_turns_on_the_same_documents_and_the_first_pair_does_not_count() -> None:
    world = World()
    result = raced(world, block(3, 2), block(5, 4, 1), block(2))

    # After 9 of the 10 tokens of its block the engine has another step to do, which is worth the third block as well.
    turns = [*STEP, "baseline"], [*STEP, *STEP, "baseline"], ["baseline"]
    assert world.happened == ["open 2", *turns[0], "open 4", *turns[1], *turns[2]]
    assert world.closed == 2
    (ours,), (first, second) = result.ours, result.baseline
    assert (ours.tokens, ours.steps, ours.positions) == (12, 2, 10 + 4)
    assert ours.seconds == pytest.approx(0.5 + 2 * (0.25 + 1.0 + 1.25))
    assert ours.phases_s == pytest.approx({"data": 1.0, "relation loss": 2.0})
    assert (first.tokens, second.tokens) == (10, 2)
    assert (first.seconds, second.seconds) == pytest.approx((30.0, 10.0))


def test_speeds_are_real_tokens_per_second_and_shares_are_of_our_time() -> None:
    result = raced(World(), block(1), block(5, 4), block(6, 2))
    slow, fast = 0.5 + 0.25 + 2.25, 0.25 + 2.25  # the first of the two opens the text
    assert result.tokens_per_s == pytest.approx((9 / slow + 8 / fast) / 2)
    assert result.baseline_tokens_per_s == pytest.approx((9 / 20 + 8 / 20) / 2)
    assert result.share("relation loss") == pytest.approx((1 / slow + 1 / fast) / 2)
    assert result.rest == pytest.approx(1 - result.share("relation loss"))
    assert result.padding == pytest.approx(1 - 17 / (10 + 12))

    figures = figures_of(result, length=512, at_least=6.0)
    assert ratios(figures) == {"step_512": 7.2941, "share_relation_512": 0.3667, "share_rest_512": 0.6333}
    assert [figure.reached for figure in figures] == [True, False, False]


def test_the_engine_may_run_alone() -> None:
    world = World()
    result = raced(world, block(1), block(5), baseline=False)
    assert ([turn.tokens for turn in result.ours], result.baseline) == ([5], ())
    assert "baseline" not in world.happened


def test_a_feed_that_gives_more_than_its_text_holds_is_found_out() -> None:
    world = World()
    race = StepRace([block(5, 4)], open_feed=lambda _: world.open_feed(block(5, 5)), baseline=None, phases=Phases())
    with pytest.raises(Failure) as refused:
        race.step_at(0)
    assert str(refused.value) == "the engine read more tokens than its text holds: its feed gives documents twice"


def test_blocks_follow_the_corpus_and_too_short_a_corpus_is_refused() -> None:
    documents = [np.full(n, n, np.int32) for n in range(1, 8)]
    blocks = blocks_of("abcdefg", documents, size=3, count=2)
    assert [(each.texts, each.tokens) for each in blocks] == [(("a", "b", "c"), 6), (("d", "e", "f"), 15)]
    with pytest.raises(BadRequest) as refused:
        blocks_of("abcdefg", documents, size=4, count=2)
    assert str(refused.value) == "the corpus has 7 documents, and 8 are needed: give more text"

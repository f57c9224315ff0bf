import logging
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import tiny_bundle
from live_versions import GOOD, Broken, again, loaded

from serving.bad_items import BadItem
from serving.choosing import where_pays
from serving.costs import Costs
from serving.engine import Answer, Tokens
from serving.errors import BadArtifact
from serving.instances import Varies
from serving.lanes import PROBE, SHADOW
from serving.models import Live, Models, NoMemory, Served, load
from serving.registry import Resolved
from serving.slicing import slices
from serving.tallies import Rate, Tally
from serving.tuning import Setting, Together, plain


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Live:
    bundle = tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return load(Resolved(path=bundle.path, name="m", version="1", digest=bundle.digest), threads=1)


def test_a_loaded_model_is_named_and_answers(first: Live) -> None:
    served = Models(first).answer([("good",)])
    assert served.live.identity() == {"name": "m", "version": "1", "digest": first.engine.bundle.digest}
    assert served.results[0]["label"] == "positive"
    assert served.answer.scores[0].argmax() == 1


def test_a_model_that_fails_its_golden_inputs_is_not_loaded(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, golden_error=1.0)
    with pytest.raises(BadArtifact, match=r"golden input \d is off by 1 on this machine"):
        load(Resolved(path=tmp_path, name="m", version="1", digest=bundle.digest), threads=1)


def test_a_bundle_that_was_replaced_since_it_was_verified_is_not_loaded(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    with pytest.raises(BadArtifact) as refused:
        load(Resolved(path=tmp_path, name="m", version="1", digest="0" * 64), threads=1)
    assert str(refused.value) == (
        f"{tmp_path}: the bundle is {bundle.digest[:12]}, not the 000000000000 that was verified: it was replaced "
        "meanwhile; load it again"
    )


def test_in_another_lane_a_model_is_the_same_and_its_requests_are_counted_apart(first: Live) -> None:
    models = Models(again(first, version="1"))
    models.put(SHADOW, models.current.in_another_lane())
    models.answer_jobs(SHADOW, [GOOD])
    shadow = models.at(SHADOW)
    assert shadow is not None
    assert shadow.engine is models.current.engine
    assert (models.current.tally.rate, shadow.tally.rate) == (Rate(0, 0), Rate(1, 0))


def test_a_request_in_slices_is_counted_once(first: Live) -> None:
    live = again(first, version="1")
    models = Models(live)
    parts = slices(GOOD * 3, costs=live.costs, most_s=0.0)
    for part in parts:
        models.answer_jobs("", [part])
    assert len(parts) == 3
    assert live.tally.rate == Rate(1, 0)


def test_a_model_is_run_as_it_is_chosen_to_be(first: Live) -> None:
    resolved, seen = resolved_of(first), []
    setting = Setting(sessions=2, threads=1, executors=2)
    live = load(resolved, choose=lambda bundle: (seen.append(bundle.digest), setting)[1])
    assert (live.setting, seen) == (setting, [first.digest])
    assert first.setting == where_pays(plain(1))


def test_items_together_are_left_alone_where_that_would_move_answers(
    first: Live, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moves(engine: object, *, most: int) -> None:
        raise Varies(f"{most} together move an answer")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("serving.instances.require_invariance", moves)
    live = load(resolved_of(first), choose=lambda _: Setting(executors=2, batch=Together(items=4)))
    assert live.setting == Setting(executors=2)
    assert caplog.messages == ["each item is computed alone: 4 together move an answer"]


def resolved_of(live: Live) -> Resolved:
    return Resolved(path=live.engine.bundle.path, name="m", version="1", digest=live.digest)


def written(root: Path, *, available_kb: int) -> Path:
    """A machine with that much memory left."""
    (root / "proc").mkdir()
    (root / "proc" / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available_kb} kB\n")
    return root


def test_a_model_that_is_larger_than_memory_is_not_loaded(first: Live, tmp_path: Path) -> None:
    path = first.engine.bundle.path
    with (path / "model.onnx").open("rb") as file:
        needed_kb = 2 * len(file.read()) // 1024
    with pytest.raises(NoMemory) as short:
        load(resolved_of(first), root=written(tmp_path, available_kb=needed_kb - 1))
    assert str(short.value) == (
        f"{path}: 1 session of this model needs about 0 MB of memory and 0 MB are free; give the process more, or "
        "serve a smaller variant"
    )
    assert short.value.exit_code == 65


def test_each_session_takes_memory(first: Live, tmp_path: Path) -> None:
    needed_kb = 2 * (first.engine.bundle.path / "model.onnx").stat().st_size // 1024
    root = written(tmp_path, available_kb=3 * needed_kb)
    setting = Setting(sessions=8, threads=1, executors=8)
    with pytest.raises(NoMemory, match="8 sessions of this model needs about"):
        load(resolved_of(first), choose=lambda _: setting, root=root)


def test_a_lane_without_a_model_is_answered_by_the_one_in_service(first: Live) -> None:
    models, canary = Models(first), again(first, version="2")
    assert (models.at(""), models.at("canary"), models.of("canary")) == (first, None, first)
    models.put("canary", canary)
    (served,) = models.answer_jobs("canary", [GOOD])
    assert isinstance(served, Served)
    assert served.live is canary
    models.put("canary", None)
    assert models.of("canary") is first


def test_a_version_counts_what_it_answered_what_it_failed_on_and_what_nobody_could_answer(tmp_path: Path) -> None:
    live = loaded(tmp_path)
    models, failed = Models(live), []
    models.on_failed = lambda live, jobs: failed.extend(jobs)
    outcomes = models.answer_jobs("", [GOOD, [("poison",)], [Tokens(ids=[10**9], type_ids=[0])]])
    assert [type(outcome) for outcome in outcomes] == [Served, BadArtifact, BadItem]
    told = live.tally.told()
    assert (told.rate, told.refused, failed) == (Rate(requests=2, errors=1), 1, [[("poison",)]])
    assert isinstance(outcomes[0], Served)
    assert told.p50_ms == outcomes[0].took_ms


def test_a_question_whether_it_lives_is_answered_by_the_model_in_service_and_in_no_tally(first: Live) -> None:
    models = Models(again(first, version="1"))
    models.put(SHADOW, again(first, version="2"))
    models.on_failed = lambda *_: pytest.fail("a probe raises no alarm")
    good, bad = models.answer_jobs(PROBE, [GOOD, [("poison",)]])
    assert isinstance(good, Served)
    assert good.live is models.current
    assert isinstance(bad, BadArtifact)
    told = models.current.tally.told()
    assert (told.rate, told.refused, told.p50_ms) == (Rate(0, 0), 0, None)


def test_items_of_unlike_lengths_are_computed_apart_where_padding_costs_more_than_a_call(
    first: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many fit in a call."""
    engine, ran = first.engine.first, []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda batch: (ran.append([len(one.ids) for one in batch]), run(batch))[1])
    job = [("good " * words,) for words in (10, 1, 1, 1)]
    for costs in (Costs(call_s=1e-3, token_s=1e-3, most=16), Costs(call_s=1.0, token_s=1e-3, most=16)):
        Models(replace(first, costs=costs, tally=Tally())).answer(job)
    assert ran == [[3, 3, 3], [12], [3, 3, 3, 12]]


def test_a_sweep_that_found_each_item_alone_best_is_followed_however_cheap_company_is(first: Live) -> None:
    live = load(resolved_of(first), choose=lambda _: Setting(executors=2))
    assert (live.costs.most, load(resolved_of(first)).costs.most) == (1, 16)


class Buggy(Broken):
    """Raises, as no engine should."""

    def answer_jobs(self, jobs: object, *, packing: object) -> list[Answer | Exception]:
        raise self.fault


def test_a_bug_fails_its_request_and_is_counted_once(first: Live) -> None:
    live = again(first, version="1")
    models = Models(replace(live, engine=Buggy(live.engine, ZeroDivisionError("a bug"))))
    with pytest.raises(ZeroDivisionError):
        models.answer_jobs("", [GOOD, GOOD])
    (outcome,) = models.answer_jobs("", [GOOD])
    assert isinstance(outcome, ZeroDivisionError)
    assert models.current.tally.rate == Rate(requests=1, errors=1)

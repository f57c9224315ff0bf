"""Several sessions behind one face, and a request's items together where that changes nothing."""

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from fakes import Clock, tiny_bundle
from onnx import helper

from serving.bundle import Bundle, TaskKind, read_bundle, seal_core
from serving.engine import Answer, Engine, Tokens
from serving.errors import BadArtifact
from serving.instances import Instances, Varies, open_instances
from serving.long_texts import Refuse
from serving.packing import Fixed
from serving.tuning import Setting, Together

TASKS: tuple[TaskKind, ...] = get_args(TaskKind)
ITEMS = [("good bad",), ("dull awful fine bright good",), ("bad",), ("fine",), ("bright dull",)]


def together(items: int) -> Setting:
    return Setting(batch=Together(items=items))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


class Held:
    """An engine whose answers wait until they are let go."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.asked, self.go = bundle, threading.Semaphore(0), threading.Semaphore(0)

    def answer(self, items: object, *, packing: object) -> str:
        self.asked.release()
        assert self.go.acquire(timeout=10)
        return f"answer of {id(self)}"


def test_as_many_sessions_are_opened_as_the_setting_says(bundle: Bundle) -> None:
    instances = open_instances(bundle, setting=Setting(sessions=3, threads=1, executors=3))
    assert len({id(engine) for engine in instances._engines}) == 3
    assert [engine.threads for engine in instances._engines] == [1, 1, 1]
    alone = Engine(bundle, threads=1).answer(ITEMS)
    np.testing.assert_array_equal(np.stack(instances.answer(ITEMS).scores), np.stack(alone.scores))


def test_calls_made_together_go_to_sessions_of_their_own(bundle: Bundle) -> None:
    first, second = Held(bundle), Held(bundle)
    instances = Instances([first, second], setting=Setting(sessions=2, executors=2))  # type: ignore[list-item]
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(instances.answer, ITEMS) for _ in range(2)]
        assert first.asked.acquire(timeout=10)
        assert second.asked.acquire(timeout=10)
        second.go.release()
        done, _ = wait(calls, timeout=10, return_when=FIRST_COMPLETED)
        assert [call.result() for call in done] == [f"answer of {id(second)}"]
        third = pool.submit(instances.answer, ITEMS)
        assert second.asked.acquire(timeout=10)  # the idle one, not the one at work
        second.go.release()
        first.go.release()
        assert third.result(10) == f"answer of {id(second)}"


def test_a_call_that_fails_gives_its_session_back(bundle: Bundle) -> None:
    instances = open_instances(bundle, setting=Setting(sessions=2, executors=2))
    with pytest.raises(BadArtifact, match="NaN"):
        instances.answer([("poison",)])
    assert instances._busy == [0, 0]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("most", [2, 3, 64])
def test_items_together_are_answered_in_order_and_as_alone(tmp_path: Path, task: TaskKind, most: int) -> None:
    bundle = tiny_bundle(tmp_path, task=task)
    alone = Engine(bundle, threads=1).answer(ITEMS)
    found = open_instances(bundle, setting=together(most)).answer(ITEMS)
    assert found.offsets == alone.offsets
    for one, other in zip(found.scores, alone.scores, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_items_of_like_lengths_share_a_call(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(bundle, threads=1)
    lengths: list[list[int]] = []
    run = engine.run

    def seen(batch: list) -> object:  # type: ignore[type-arg]
        lengths.append([len(one.ids) for one in batch])
        return run(batch)

    monkeypatch.setattr(engine, "run", seen)
    engine.outputs(engine.encode(ITEMS), packing=Fixed(2))
    assert lengths == [[3, 3], [4, 4], [7]]


def test_the_time_of_a_call_together_is_told_by_phase(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    engine = Engine(bundle, threads=1, clock=clock)
    encode, run = engine.encode, engine.run
    monkeypatch.setattr(engine, "encode", lambda items: (clock.advance(0.002), encode(items))[1])
    monkeypatch.setattr(engine, "run", lambda batch: (clock.advance(0.01), run(batch))[1])
    answer: Answer = Instances([engine], setting=together(64)).answer(ITEMS)
    assert (answer.tokenize_ms, answer.infer_ms) == pytest.approx((2.0, 10.0))


def jobs_of(*counts: int) -> list[list[tuple[str]]]:
    """Requests of so many items each, of ITEMS in turn."""
    items = iter(ITEMS)
    return [[next(items) for _ in range(count)] for count in counts]


def wrong(answer: Answer | Exception) -> str:
    """What a request failed with."""
    assert isinstance(answer, Exception)
    return f"{type(answer).__name__}: {answer}"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("most", [1, 2, 64])
def test_requests_together_are_answered_in_order_and_as_each_by_itself(
    tmp_path: Path, task: TaskKind, most: int
) -> None:
    bundle, jobs = tiny_bundle(tmp_path, task=task), jobs_of(1, 0, 3, 1)
    instances = open_instances(bundle, setting=Setting())
    found = instances.answer_jobs(jobs, packing=Fixed(most))
    assert [len(answer.scores) for answer in found if isinstance(answer, Answer)] == [1, 0, 3, 1]
    for job, answer in zip(jobs, found, strict=True):
        assert isinstance(answer, Answer)
        alone = instances.answer(job)
        assert answer.offsets == alone.offsets
        for one, other in zip(answer.scores, alone.scores, strict=True):
            np.testing.assert_allclose(one, other, atol=bundle.golden.tolerance)
            assert most > 1 or one.tobytes() == other.tobytes()


def test_no_requests_have_no_answers(bundle: Bundle) -> None:
    assert open_instances(bundle, setting=Setting()).answer_jobs([], packing=Fixed(8)) == []


def test_one_call_tokenizes_and_computes_all_requests(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(bundle, threads=1)
    encoded, ran, encode, run = [], [], engine.encode, engine.run
    monkeypatch.setattr(engine, "encode", lambda items: (encoded.append(len(items)), encode(items))[1])
    monkeypatch.setattr(engine, "run", lambda batch: (ran.append(len(batch)), run(batch))[1])
    Instances([engine], setting=Setting()).answer_jobs(jobs_of(2, 2, 1), packing=Fixed(3))
    assert (encoded, ran) == ([5], [3, 2])


def test_the_phases_of_a_call_are_those_of_every_request_in_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    engine = Engine(bundle, threads=1, clock=clock)
    encode, run = engine.encode, engine.run
    monkeypatch.setattr(engine, "encode", lambda items: (clock.advance(0.002), encode(items))[1])
    monkeypatch.setattr(engine, "run", lambda batch: (clock.advance(0.01), run(batch))[1])
    found = Instances([engine], setting=Setting()).answer_jobs(jobs_of(1, 2), packing=Fixed(4))
    assert [(one.tokenize_ms, one.infer_ms) for one in found if isinstance(one, Answer)] == [pytest.approx((2, 10))] * 2


@pytest.mark.parametrize("most", [1, 8])
def test_only_the_request_at_fault_fails(bundle: Bundle, most: int) -> None:
    jobs = [[("good",)], [("bad",), ("poison",)], [("fine", "pair")], [Tokens([99], [0])], [("dull",), ("bright",)]]
    instances = open_instances(bundle, setting=Setting())
    first, poison, pair, token, last = instances.answer_jobs(jobs, packing=Fixed(most))
    assert wrong(poison) == "BadArtifact: model tiny gave NaN or infinity for this input; its weights are unfit"
    assert wrong(pair) == "BadItem: item 0 has 2 text(s); this model takes 1 per item"
    assert wrong(token) == "BadItem: item 0 has the token id 99; this model's are 0 to 10"
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    np.testing.assert_allclose(first.scores, instances.answer(jobs[0]).scores, atol=1e-6)
    np.testing.assert_allclose(last.scores, instances.answer(jobs[4]).scores, atol=1e-6)
    assert instances._busy == [0]


@pytest.mark.parametrize("bad", [Tokens([99], [0]), ("good " * 20,)])
def test_one_request_that_cannot_be_read_leaves_the_others_in_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Tokens | tuple[str]
) -> None:
    engine = Engine(tiny_bundle(tmp_path, long_texts=Refuse()), threads=1)
    ran, run = [], engine.run
    monkeypatch.setattr(engine, "run", lambda batch: (ran.append(len(batch)), run(batch))[1])
    jobs = [[("good",)], [("bad",), bad], [("fine",), ("dull",)]]
    first, refused, last = Instances([engine], setting=Setting()).answer_jobs(jobs, packing=Fixed(8))
    assert wrong(refused).split(": ")[1].startswith("item 1 has ")
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert ran == [3]
    np.testing.assert_allclose(np.stack(last.scores), np.stack(engine.answer(jobs[2]).scores), atol=1e-6)


def test_a_request_that_fails_in_a_new_way_is_told_so_and_no_other(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(bundle, threads=1)
    run = engine.run

    def broken(batch: list[Tokens]) -> object:
        if any(len(one.ids) > 6 for one in batch):
            raise ZeroDivisionError("seven")
        return run(batch)

    monkeypatch.setattr(engine, "run", broken)
    short, long, other = Instances([engine], setting=Setting()).answer_jobs(jobs_of(1, 1, 1), packing=Fixed(8))
    assert wrong(long) == "ZeroDivisionError: seven"
    assert isinstance(short, Answer)
    assert isinstance(other, Answer)


def test_a_request_by_itself_that_fails_is_not_tried_twice(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(bundle, threads=1)
    asked, encode = [], engine.encode
    monkeypatch.setattr(engine, "encode", lambda items: (asked.append(items), encode(items))[1])
    Instances([engine], setting=Setting()).answer_jobs([[("poison",)]], packing=Fixed(8))
    assert asked == [[("poison",)]]


def neighbourly(path: Path) -> Bundle:
    """A bundle whose answers move with whoever is computed beside them, as dynamic int8's do."""
    bundle = tiny_bundle(path)
    model = onnx.load(path / "model.onnx")
    graph = model.graph
    graph.node[-1].output[0] = "own"
    graph.node.append(helper.make_node("ReduceMean", ["own"], ["all"], keepdims=0))
    graph.node.append(helper.make_node("Shape", ["own"], ["shape"]))
    graph.node.append(helper.make_node("Cast", ["shape"], ["shape_f"], to=onnx.TensorProto.FLOAT))
    graph.node.append(helper.make_node("ReduceSum", ["shape_f"], ["size"], keepdims=0))
    graph.node.append(helper.make_node("Sub", ["size", "size_alone"], ["others"]))
    graph.node.append(helper.make_node("Mul", ["others", "all"], ["moved"]))
    graph.node.append(helper.make_node("Add", ["own", "moved"], ["logits"]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(3.0, np.float32), "size_alone"))
    onnx.save(model, path / "model.onnx")
    seal_core(path, spec=bundle.spec, golden=bundle.golden)
    return read_bundle(path)


def test_items_together_are_refused_where_that_moves_an_answer(tmp_path: Path) -> None:
    bundle = neighbourly(tmp_path)
    assert open_instances(bundle, setting=Setting()).answer(ITEMS).scores
    with pytest.raises(Varies) as refused:
        open_instances(bundle, setting=together(2))
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}: computed beside another item, a golden input is off by ")
    assert message.endswith(" from its answer alone, more than 0.001; run this bundle with each item alone")

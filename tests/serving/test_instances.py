"""Several sessions behind one face, and a request's items together where that changes nothing."""

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import Clock, tiny_bundle
from onnx import helper

from serving.bundle import Bundle, TaskKind, read_bundle, seal_core
from serving.engine import Answer, Engine
from serving.errors import BadArtifact
from serving.instances import Instances, Varies, logits_together, open_instances
from serving.tuning import Setting, Together

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

    def answer(self, items: object) -> str:
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


@pytest.mark.parametrize("task", ["classification", "token-classification", "embedding", "regression"])
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
    logits_together(engine, engine.encode(ITEMS), most=2)
    assert lengths == [[3, 3], [4, 4], [7]]


def test_the_time_of_a_call_together_is_told_by_phase(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, engine = Clock(), Engine(bundle, threads=1)
    encode, run = engine.encode, engine.run
    monkeypatch.setattr(engine, "encode", lambda items: (clock.advance(0.002), encode(items))[1])
    monkeypatch.setattr(engine, "run", lambda batch: (clock.advance(0.01), run(batch))[1])
    answer: Answer = Instances([engine], setting=together(64), clock=clock).answer(ITEMS)
    assert (answer.tokenize_ms, answer.infer_ms) == pytest.approx((2.0, 10.0))


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

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from fakes import expected_logits, tiny_bundle, tiny_graph

from serving.bundle import Bundle, read_bundle, seal_core
from serving.engine import Engine, Tokens, check_golden
from serving.errors import BadArtifact, BadRequest


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tiny_bundle(tmp_path_factory.mktemp("bundle")), threads=1)


def refusal(bundle: Bundle) -> str:
    with pytest.raises(BadArtifact) as refused:
        Engine(bundle, threads=1)
    return str(refused.value)


def test_logits_are_those_of_the_closed_form(engine: Engine) -> None:
    items = [("good",), ("bad bad good",), ("an unknown word and a fine one",), ("",)]
    expected = [expected_logits(item, spec=engine.bundle.spec) for item in items]
    np.testing.assert_allclose(engine.logits(items), expected, rtol=1e-6)


def test_classification_scores_are_the_softmax_of_the_logits(engine: Engine) -> None:
    logits = engine.logits([("good",), ("dull",)])
    scores = engine.answer([("good",), ("dull",)]).scores
    np.testing.assert_allclose(scores, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-6)
    assert scores.dtype == np.float32


def test_regression_scores_are_the_raw_values(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, labels=()), threads=1)
    scores = engine.answer([("good bad",)]).scores
    np.testing.assert_allclose(scores, [[4.0]])


def test_pairs_are_read_with_their_segments(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, texts_per_item=2), threads=1)
    (tokens,) = engine.encode([("good", "bad day")])
    assert tokens.type_ids == [0, 0, 0, 1, 1, 1]
    expected = expected_logits(("good", "bad day"), spec=engine.bundle.spec)
    np.testing.assert_allclose(engine.logits([("good", "bad day")]), [expected], rtol=1e-6)


def test_no_items_give_no_rows(engine: Engine) -> None:
    assert engine.logits([]).shape == (0, 2)


def test_an_item_is_computed_alone_whatever_its_mates(engine: Engine) -> None:
    alone = engine.logits([("good",)])
    among = engine.logits([("bad " * 12,), ("good",), ("",)])
    assert alone[0].tobytes() == among[1].tobytes()


def test_a_padded_batch_agrees_with_single_items(engine: Engine) -> None:
    items = [("good",), ("bad bad good fine",)]
    np.testing.assert_allclose(engine.run(engine.encode(items)), engine.logits(items), rtol=1e-6)


def test_long_texts_are_cut_at_max_length(engine: Engine) -> None:
    (tokens,) = engine.encode([("good " * 100,)])
    assert len(tokens.ids) == 16


def test_of_a_pair_the_longer_text_is_cut_first(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, texts_per_item=2), threads=1)
    (tokens,) = engine.encode([("good " * 100, "bad")])
    assert len(tokens.ids) == 16
    assert tokens.type_ids == [0] * 14 + [1] * 2


def test_phases_are_timed_apart(tmp_path: Path) -> None:
    times = iter([0.0, 0.002, 0.007])
    engine = Engine(tiny_bundle(tmp_path), threads=1, clock=lambda: next(times))
    answer = engine.answer([("good",)])
    assert (answer.tokenize_ms, answer.infer_ms) == pytest.approx((2.0, 5.0))


@pytest.mark.parametrize("item", [(), ("a", "b")])
def test_a_wrong_number_of_texts_is_a_bad_request(engine: Engine, item: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest) as refused:
        engine.logits([("good",), item])
    assert str(refused.value) == f"item 1 has {len(item)} text(s); this model takes 1 per item"


def test_nan_from_the_model_is_an_error_and_not_an_answer(engine: Engine) -> None:
    with pytest.raises(BadArtifact) as refused:
        engine.answer([("poison",)])
    assert str(refused.value) == "model tiny gave NaN or infinity for this input; its weights are unfit"


def test_missing_cpu_features_are_all_named(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, cpu_features=("warp_drive", "amx_tile9"))
    assert refusal(bundle) == (
        f"{tmp_path} needs CPU features this machine lacks: amx_tile9, warp_drive; "
        "serve it on a CPU that has them or export a variant without"
    )


def test_a_provider_that_is_not_there_is_refused_instead_of_replaced(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, providers=("TensorrtExecutionProvider", "CPUExecutionProvider"))
    assert refusal(bundle) == f"{tmp_path} needs TensorrtExecutionProvider, which this onnxruntime does not have"


def test_a_graph_that_does_not_load_is_a_bad_artifact(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    assert refusal(read_bundle(tmp_path)).startswith(f"{tmp_path / 'model.onnx'} does not load: [ONNXRuntimeError]")


def test_a_tokenizer_that_does_not_load_is_a_bad_artifact(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    told = f"{tmp_path / 'tokenizer.json'} is no tokenizer this version reads: "
    assert refusal(read_bundle(tmp_path)).startswith(told)


def test_a_graph_with_other_inputs_than_the_spec_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    spec = msgspec.structs.replace(bundle.spec, graph_inputs=("input_ids", "token_type_ids"))
    seal_core(tmp_path, spec=spec, golden=bundle.golden)
    told = "the graph and serving.yaml disagree about attention_mask, token_type_ids"
    assert refusal(read_bundle(tmp_path)) == f"{tmp_path}: {told}"


def test_a_graph_with_another_width_than_the_labels_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    wide = msgspec.structs.replace(bundle.spec, labels=("a", "b", "c"))
    onnx.save(tiny_graph(wide), tmp_path / "model.onnx")
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    assert refusal(read_bundle(tmp_path)) == f"{tmp_path}: the graph gives 3 logit(s); serving.yaml says 2"


def test_golden_inputs_that_agree_pass(engine: Engine) -> None:
    check_golden(engine)


def test_a_golden_input_that_is_off_names_itself_and_by_how_much(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, golden_error=0.5), threads=1)
    with pytest.raises(BadArtifact) as refused:
        check_golden(engine)
    assert str(refused.value).startswith(f"{tmp_path}: golden input ")
    assert " is off by 0.5 on this machine, more than the 0.0001 allowed; " in str(refused.value)


def test_warming_runs_every_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_bundle(tmp_path), threads=1)
    lengths: list[int] = []
    monkeypatch.setattr(engine, "run", lambda batch: lengths.append(len(batch[0].ids)))
    engine.warm()
    assert lengths == [8, 16]


def test_many_threads_may_ask_one_engine(engine: Engine) -> None:
    together = threading.Barrier(4)

    def ask(word: str) -> list[bytes]:
        together.wait()
        return [engine.logits([(f"{word} " * length,)]).tobytes() for length in range(1, 30)]

    words = ["good", "bad", "fine", "dull"]
    alone = [[engine.logits([(f"{word} " * length,)]).tobytes() for length in range(1, 30)] for word in words]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, words)) == alone


def test_threads_come_from_the_argument_or_the_machine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.usable_threads", lambda: 3)
    assert engine.threads == 1
    assert Engine(engine.bundle).threads == 3


def test_tokens_made_by_hand_run_too(engine: Engine) -> None:
    assert engine.run([Tokens(ids=[2, 5, 3], type_ids=[0, 0, 0])]).shape == (1, 2)

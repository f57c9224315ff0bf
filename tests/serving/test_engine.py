import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from fakes import Clock, expected_logits, tiny_bundle, tiny_graph

from serving.bundle import Bundle, TaskKind, read_bundle, seal_core
from serving.engine import Engine, Tokens, check_golden
from serving.errors import BadArtifact, BadRequest


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tiny_bundle(tmp_path_factory.mktemp("bundle")), threads=1)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tiny_bundle(tmp_path_factory.mktemp("tagger"), task="token-classification"), threads=1)


def refusal(bundle: Bundle) -> str:
    with pytest.raises(BadArtifact) as refused:
        Engine(bundle, threads=1)
    return str(refused.value)


def test_logits_are_those_of_the_closed_form(engine: Engine) -> None:
    items = [("good",), ("bad bad good",), ("an unknown word and a fine one",), ("",)]
    expected = [expected_logits(item, spec=engine.bundle.spec) for item in items]
    np.testing.assert_allclose(engine.logits(items), expected, rtol=1e-6)


def test_classification_scores_are_the_softmax_of_the_logits(engine: Engine) -> None:
    logits = np.stack(engine.logits([("good",), ("dull",)]))
    scores = engine.answer([("good",), ("dull",)]).scores
    np.testing.assert_allclose(scores, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-6)
    assert [row.dtype for row in scores] == [np.float32] * 2


def test_multi_label_scores_are_a_sigmoid_each(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, task="multi-label"), threads=1)
    (logits,) = engine.logits([("good bad good",)])
    np.testing.assert_allclose(engine.answer([("good bad good",)]).scores, [1 / (1 + np.exp(-logits))], rtol=1e-6)


def test_the_scores_of_an_embedding_are_the_vector(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, task="embedding"), threads=1)
    expected = expected_logits(("good awful",), spec=engine.bundle.spec)
    np.testing.assert_allclose(engine.answer([("good awful",)]).scores, [expected], rtol=1e-6)


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
    assert engine.logits([]) == engine.answer([]).scores == []


def test_a_tagger_gives_every_token_of_an_item_its_outputs(tagger: Engine) -> None:
    items = [("good",), ("dull bright bad",), ("",)]
    found = tagger.logits(items)
    assert [row.shape for row in found] == [(3, 3), (5, 3), (2, 3)]
    expected = [expected_logits(item, spec=tagger.bundle.spec) for item in items]
    assert [row.ravel().tolist() for row in found] == expected


def test_a_tagger_s_scores_are_a_softmax_of_each_token(tagger: Engine) -> None:
    (scores,) = tagger.answer([("good day",)]).scores
    sure = np.exp(8.0) / (np.exp(8.0) + 2)
    expected = [[1 / 3] * 3, [(1 - sure) / 2, sure, (1 - sure) / 2], [1 / 3] * 3, [1 / 3] * 3]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_tagger_says_which_characters_each_token_came_from(tagger: Engine) -> None:
    answer = tagger.answer([("😀 good, e\u0301te\u0301",), ("好 dull",)])
    assert answer.offsets == [
        [(0, 0), (0, 1), (2, 6), (6, 7), (8, 13), (0, 0)],
        [(0, 0), (0, 1), (2, 6), (0, 0)],
    ]
    assert [len(row) for row in answer.scores] == [6, 4]


def test_where_tokens_have_no_outputs_nobody_pays_for_their_characters(engine: Engine) -> None:
    assert engine.answer([("good day",)]).offsets == [()]


def test_a_padded_batch_of_a_tagger_agrees_with_single_items(tagger: Engine) -> None:
    items = [("good",), ("bad bright dull fine",)]
    short, long = tagger.run(tagger.encode(items))
    np.testing.assert_array_equal(short[:3], tagger.logits(items)[0])
    np.testing.assert_array_equal(long, tagger.logits(items)[1])


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


def test_warming_beside_others_leaves_them_half_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = Clock(), []
    engine = Engine(tiny_bundle(tmp_path), threads=1, clock=clock)
    monkeypatch.setattr(engine, "run", lambda batch: clock.advance(0.001 * len(batch[0].ids)))
    monkeypatch.setattr("serving.engine.time.sleep", slept.append)
    engine.warm()
    assert slept == []
    engine.warm(gently=True)
    assert slept == pytest.approx([0.008, 0.016])


def test_phases_are_timed_apart(tmp_path: Path) -> None:
    times = iter([0.0, 0.002, 0.002, 0.007])
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


@pytest.mark.parametrize(
    ("task", "graph_of", "told"),
    [
        ("classification", "token-classification", "rank 3; classification needs (items, logits)"),
        ("token-classification", "embedding", "rank 2; token-classification needs (items, tokens, logits)"),
    ],
)
def test_a_graph_whose_output_has_another_rank_is_refused(
    tmp_path: Path, task: TaskKind, graph_of: TaskKind, told: str
) -> None:
    bundle = tiny_bundle(tmp_path, task=task)
    onnx.save(tiny_graph(tiny_bundle(tmp_path / "other", task=graph_of).spec), tmp_path / "model.onnx")
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    assert refusal(read_bundle(tmp_path)) == f"{tmp_path}: the graph's output has {told}; export it again"


def test_a_graph_whose_output_has_an_unknown_rank_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    graph = tiny_graph(bundle.spec)
    del graph.graph.node[:]
    graph.graph.node.append(onnx.helper.make_node("Cast", ["input_ids"], ["logits"], to=onnx.TensorProto.FLOAT))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.ClearField("shape")
    onnx.save(graph, tmp_path / "model.onnx")
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    told = "the graph's output has rank 0; classification needs (items, logits); export it again"
    assert refusal(read_bundle(tmp_path)) == f"{tmp_path}: {told}"


def test_a_graph_that_gives_another_shape_than_it_promised_is_found_when_it_runs(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, task="token-classification")
    graph = tiny_graph(bundle.spec)
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "some"
    graph.graph.node[-1].CopyFrom(onnx.helper.make_node("Concat", ["plain", "plain"], ["logits"], axis=1))
    onnx.save(graph, tmp_path / "model.onnx")
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    with pytest.raises(BadArtifact) as refused:
        Engine(read_bundle(tmp_path), threads=1).warm()
    assert str(refused.value) == "model tiny gave (1, 16, 3) for this input, not (1, 8, 3); export it again"


def test_golden_inputs_that_agree_pass(engine: Engine) -> None:
    check_golden(engine)


def test_a_golden_input_that_is_off_names_itself_and_by_how_much(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, golden_error=0.5), threads=1)
    with pytest.raises(BadArtifact) as refused:
        check_golden(engine)
    assert str(refused.value).startswith(f"{tmp_path}: golden input ")
    assert " is off by 0.5 on this machine, more than the 0.0001 allowed; " in str(refused.value)


def test_golden_rows_of_a_tagger_are_compared_token_by_token(tmp_path: Path, tagger: Engine) -> None:
    check_golden(tagger)
    engine = Engine(tiny_bundle(tmp_path, task="token-classification", golden_error=0.5), threads=1)
    with pytest.raises(BadArtifact, match=r"golden input 0 is off by 0\.5 on this machine"):
        check_golden(engine)


def test_a_golden_text_that_has_other_tokens_here_is_told_apart(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, task="token-classification")
    rows = [*bundle.golden.logits[:1], [*bundle.golden.logits[1], 0.0, 0.0, 0.0], *bundle.golden.logits[2:]]
    seal_core(tmp_path, spec=bundle.spec, golden=msgspec.structs.replace(bundle.golden, logits=rows))
    with pytest.raises(BadArtifact) as refused:
        check_golden(Engine(read_bundle(tmp_path), threads=1))
    assert str(refused.value) == (
        f"{tmp_path}: golden input 1 has 5 tokens on this machine, not the 6 measured; "
        "this version of tokenizers reads it otherwise: export it again"
    )


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
        return [engine.logits([(f"{word} " * length,)])[0].tobytes() for length in range(1, 30)]

    words = ["good", "bad", "fine", "dull"]
    alone = [[engine.logits([(f"{word} " * length,)])[0].tobytes() for length in range(1, 30)] for word in words]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, words)) == alone


def test_threads_come_from_the_argument_or_the_machine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.usable_threads", lambda: 3)
    assert engine.threads == 1
    assert Engine(engine.bundle).threads == 3


def test_tokens_made_by_hand_run_too(engine: Engine) -> None:
    assert engine.run([Tokens(ids=[2, 5, 3], type_ids=[0, 0, 0])]).shape == (1, 2)

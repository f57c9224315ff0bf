"""Export of tiny models: the graph answers as torch does at every shape, and what is not so is an error.

The cases are those of `models.exported_case`: with and without token types, and every kind of task.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import exports
import models
import numpy as np
import onnx
import pytest
import torch
from models import ITEMS, MAX_LENGTH, Exported, exported_case, sentences, task_of, tiny_config
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from pipeline import exporting
from pipeline.answerable import encode
from pipeline.encoders.heads import load_tuned
from pipeline.errors import BadArtifact
from serving.bundle import Item, TaskKind, read_bundle
from serving.engine import Engine, Tokens, check_golden

PER_TOKEN = "bert-tags"
PAIRS: list[Item] = list(zip(sentences(20, seed=1), sentences(20, seed=2), strict=True))


@pytest.fixture
def tagger(base: Path) -> Exported:
    return exported_case(PER_TOKEN, base)


@pytest.fixture
def vectors(base: Path) -> Exported:
    return exported_case("bert-vectors", base)


def loaded(folder: Path, exported: Exported) -> Any:
    return load_tuned(folder, task_of(exported.fitted.kind), exported.fitted.labels)


def reseal(bundle: Path, exported: Exported, graph: onnx.ModelProto) -> Engine:
    """The bundle with another graph, whole by its digests."""
    onnx.save(graph, bundle / "model.onnx")
    exporting.seal_bundle(bundle, model=exported.model, spec=exported.spec(), items=ITEMS)
    return Engine(read_bundle(bundle), threads=1)


def of_real_tokens(outputs: Any, lengths: Any) -> list[Any]:
    """One array an item: of a tagging those of its own tokens, of the others what there is."""
    return [row[:length] if row.ndim == 2 else row for row, length in zip(outputs, lengths, strict=True)]


# -- the graph equals torch --------------------------------------------------------------------------------------------


def test_the_graph_answers_as_torch_on_real_texts(exported: Exported) -> None:
    parity = exporting.check_parity(exported.engine(), exported.model, ITEMS)

    assert (parity.texts, parity.labels_differ) == (40, 0)
    assert 0 < parity.max_abs_difference <= 1e-4
    engine = exported.engine()
    outputs, lengths = engine.logits(ITEMS), [len(one.ids) for one in engine.encode(ITEMS)]
    width = exported.spec().outputs
    tagged = exported.fitted.kind == "token-classification"
    assert [row.shape for row in outputs] == [(length, width) if tagged else (width,) for length in lengths]
    spread_C = np.stack([row[0] if tagged else row for row in outputs]).std(axis=0)
    assert spread_C.min() > (0.01 if exported.fitted.kind == "embedding" else 0.1)  # different texts, different answers


def test_the_graph_answers_as_torch_on_pairs(bert: Exported, tmp_path: Path) -> None:
    bundle = bert.copy(tmp_path / "pairs")
    exporting.seal_bundle(bundle, model=bert.model, spec=bert.spec(texts_per_item=2), items=PAIRS)

    engine = Engine(read_bundle(bundle), threads=1)
    exporting.check_parity(engine, bert.model, PAIRS)

    tokens = engine.encode(PAIRS)
    one_text = [Tokens(one.ids, [0] * len(one.ids)) for one in tokens]
    assert max(np.abs(engine.run([a]) - engine.run([b])).max() for a, b in zip(tokens, one_text, strict=True)) > 0.1


def test_shapes_the_export_never_saw_are_answered_as_by_torch(exported: Exported) -> None:
    exporting.check_shapes(exported.engine(), exported.model, vocabulary=exported.model.config.vocab_size)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 1), (1, 64), (5, 16), (9, 33)])
def test_every_batch_and_length_is_answered_as_by_torch(exported: Exported, batch: int, length: int) -> None:
    generator = np.random.default_rng(batch * 100 + length)
    ids_BL = generator.integers(5, exported.model.config.vocab_size, (batch, length))
    mask_BL = np.ones((batch, length), np.int64)
    mask_BL[-1, (length + 1) // 2 :] = 0

    with torch.inference_mode():
        wanted = exported.model(
            input_ids=torch.from_numpy(np.where(mask_BL, ids_BL, exported.model.config.pad_token_id)),
            attention_mask=torch.from_numpy(mask_BL),
        ).logits.numpy()
    lengths = mask_BL.sum(axis=1)
    found = exported.engine().run([Tokens(ids_BL[i, :n].tolist(), [0] * n) for i, n in enumerate(lengths)])

    assert (len(found), found.shape[-1]) == (batch, exported.spec().outputs)
    for one, other in zip(of_real_tokens(found, lengths), of_real_tokens(wanted, lengths), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_golden_answers_are_torchs_own_and_hold(exported: Exported) -> None:
    bundle = read_bundle(exported.bundle)

    check_golden(exported.engine())

    assert bundle.golden.items == [list(item) for item in ITEMS[:8]]
    encodings = encode(exported.bundle, ITEMS[:8], spec=exported.spec())
    by_torch = exporting.torch_logits(exported.model, encodings, bundle.spec)
    assert bundle.golden.tolerance == exporting.tolerance_for(by_torch, task=exported.fitted.kind) <= 1e-4
    for row, wanted in zip(bundle.golden.logits, by_torch, strict=True):
        np.testing.assert_array_equal(np.asarray(row, np.float32), wanted.ravel())


def test_the_golden_rows_of_a_tagging_are_its_tokens_outputs_one_behind_the_other(tagger: Exported) -> None:
    bundle = read_bundle(tagger.bundle)
    tokens = tagger.engine().encode(ITEMS[:8])

    assert [len(row) for row in bundle.golden.logits] == [5 * len(one.ids) for one in tokens]
    third = np.reshape(bundle.golden.logits[2], (-1, 5))[4]  # the fifth token's five outputs
    np.testing.assert_allclose(third, tagger.engine().run([tokens[2]])[0, 4], atol=1e-4)


def test_pooling_and_normalisation_lie_inside_the_graph(vectors: Exported) -> None:
    """With padding beside it, against the plain formula over the encoder's own states."""
    from pipeline.encoders.teachers import load_encoder

    engine = vectors.engine()
    tokens = sorted(engine.encode(ITEMS[:3]), key=lambda one: len(one.ids))
    assert len(tokens[0].ids) < len(tokens[-1].ids)
    encoder = load_encoder(vectors.folder)

    found = engine.run(tokens)

    for one, vector in zip(tokens, found, strict=True):
        with torch.inference_mode():
            states_LD = encoder(input_ids=torch.tensor([one.ids])).last_hidden_state[0].numpy()
        mean_D = states_LD.mean(axis=0)
        np.testing.assert_allclose(vector, mean_D / np.linalg.norm(mean_D), atol=1e-5)
    assert [node.name for node in onnx.load(vectors.bundle / "model.onnx").graph.output] == ["sentence_embedding"]


def test_texts_are_cut_and_tokenized_alike_on_both_sides(exported: Exported) -> None:
    long = [("a good story " * 30,), ("bad",)]
    found = encode(exported.bundle, long, spec=exported.spec())
    assert found == [Tokens(one.ids, one.type_ids) for one in exported.engine().encode(long)]
    assert len(found[0].ids) == MAX_LENGTH


@pytest.mark.parametrize("family", exports.CASES)
def test_the_families_of_wider_make_answer_as_torch_too(family: str, base: Path) -> None:
    """Narrow embeddings, relative positions, and windows shorter than the texts: real texts, shapes, golden answers."""
    case = exports.family_export(family, base)
    engine = case.engine()

    parity = exporting.check_parity(engine, case.model, ITEMS)
    exporting.check_shapes(engine, case.model, vocabulary=case.model.config.vocab_size)
    check_golden(engine)

    assert (parity.texts, parity.labels_differ) == (40, 0)
    assert parity.max_abs_difference <= 1e-4
    assert max(len(one.ids) for one in engine.encode(ITEMS)) == MAX_LENGTH > 2 * 4  # ModernBERT's window to either side


# -- what the file is --------------------------------------------------------------------------------------------------


def test_the_inputs_are_those_the_family_makes_use_of(exported: Exported) -> None:
    names = [node.name for node in onnx.load(exported.bundle / "model.onnx").graph.input]
    types = ["token_type_ids"] if exported.family == "bert" else []
    assert names == ["input_ids", "attention_mask", *types] == list(read_bundle(exported.bundle).spec.graph_inputs)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_token_types_are_an_input_for_bert_alone(family: str) -> None:
    assert ("token_type_ids" in exporting.graph_inputs(tiny_config(family))) == (family == "bert")


def test_every_dimension_but_the_labels_is_a_symbol(exported: Exported) -> None:
    graph = onnx.load(exported.bundle / "model.onnx").graph
    shapes = {node.name: [d.dim_param or d.dim_value for d in node.type.tensor_type.shape.dim] for node in graph.input}
    assert set(map(tuple, shapes.values())) == {("batch", "length")}
    (output,) = graph.output
    assert output.name == ("sentence_embedding" if exported.fitted.kind == "embedding" else "logits")
    symbols = ["batch", "length"] if exported.fitted.kind == "token-classification" else ["batch"]
    width = exported.spec().outputs
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == [*symbols, width]


def test_the_model_is_one_file_the_runtime_loads(exported: Exported) -> None:
    graph = onnx.load(exported.bundle / "model.onnx", load_external_data=False)
    onnx.checker.check_model(graph)
    assert graph.ir_version == 10
    assert [(entry.domain, entry.version) for entry in graph.opset_import if not entry.domain] == [("", 20)]
    assert {file.suffix for file in exported.bundle.iterdir()} == {".onnx", ".json", ".yaml", ".sha256"}


def test_the_bytes_do_not_depend_on_when_and_where_they_were_made(bert: Exported, tmp_path: Path) -> None:
    again = loaded(shutil.copytree(bert.folder, tmp_path / "elsewhere"), bert)

    exporting.export_onnx(again, tmp_path / "again.onnx", inputs=exporting.graph_inputs(again.config))

    content = (tmp_path / "again.onnx").read_bytes()
    assert content == (bert.bundle / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path.cwd()).encode() not in content


def test_the_model_is_exported_in_fp32_whatever_it_was_stored_in(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "half"))
    weights = {name: weight.half() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    model = loaded(folder, exported)

    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "eager"
    assert not model.training


@pytest.mark.parametrize(
    ("max_length", "buckets"), [(8, (8,)), (16, (16,)), (128, (16, 32, 64, 128)), (100, (16, 32, 64, 100))]
)
def test_buckets_end_at_the_longest_input(max_length: int, buckets: tuple[int, ...]) -> None:
    assert exporting.buckets_up_to(max_length) == buckets


# -- what is wrong is an error -----------------------------------------------------------------------------------------


def test_a_graph_with_other_weights_is_refused_with_the_worst_text(bert: Exported, tmp_path: Path) -> None:
    graph = onnx.load(bert.bundle / "model.onnx")
    (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.array([0.5, 0], np.float32), bias.name))
    engine = reseal(tmp_path_copy(bert, tmp_path), bert, graph)

    with pytest.raises(BadArtifact) as refused:
        exporting.check_parity(engine, bert.model, ITEMS)

    wanted = re.compile(
        re.escape(f"{engine.bundle.path}: the ONNX graph differs from torch by 0.5 (allowed: 0.0001), ")
        + r"(\d+) of 40 labels differ; worst text: '(.{1,80})'"
    )
    match = wanted.fullmatch(str(refused.value))
    assert match
    assert any(item[0].startswith(match[2]) for item in ITEMS)


def test_tags_that_differ_are_counted_token_by_token(tagger: Exported, tmp_path: Path) -> None:
    graph = onnx.load(tagger.bundle / "model.onnx")
    (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name == "classifier.bias")
    more = numpy_helper.to_array(bias) + np.array([512, 0, 0, 0, 0], np.float32)  # everything becomes O
    bias.CopyFrom(numpy_helper.from_array(more, bias.name))
    engine = reseal(tmp_path_copy(tagger, tmp_path), tagger, graph)

    encodings = encode(tagger.bundle, ITEMS, spec=tagger.spec())
    outputs = exporting.torch_logits(tagger.model, encodings, tagger.spec())
    differ, tokens = sum(int((row.argmax(axis=1) != 0).sum()) for row in outputs), sum(map(len, outputs))
    assert 40 < differ < tokens
    with pytest.raises(BadArtifact, match=rf"differs from torch by 512 \(.*\), {differ} of {tokens} labels differ"):
        exporting.check_parity(engine, tagger.model, ITEMS)


def test_a_difference_just_above_the_bound_is_refused_and_one_below_is_not(bert: Exported, tmp_path: Path) -> None:
    def shifted(by: float) -> Engine:
        graph = onnx.load(bert.bundle / "model.onnx")
        (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name == "classifier.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(by), bias.name))
        return reseal(tmp_path_copy(bert, tmp_path), bert, graph)

    exporting.check_parity(shifted(0.5e-4), bert.model, ITEMS)
    with pytest.raises(
        BadArtifact, match=r"differs from torch by 0\.000\d+ \(allowed: 0\.0001\), 0 of 40 labels differ"
    ):
        exporting.check_parity(shifted(1.5e-4), bert.model, ITEMS)


def tmp_path_copy(exported: Exported, tmp_path: Path) -> Path:
    return exported.copy(tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}")


@pytest.mark.parametrize(
    ("wanted", "found", "differ"),
    [
        ([[1.0, 0.0]], [[0.0, 1.0]], 1),
        ([[1.0, 0.0]], [[0.9, 0.1]], 0),
        ([[0.0001, 0.0]], [[0.0, 0.0001]], 0),  # closer to each other than rounding: a tie
        ([[0.00021, 0.0]], [[0.0, 0.00021]], 1),
        ([1.0, 0.0, 0.5], [0.0, 0.1, 0.5], 1),  # a text's own
        ([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], 2),
    ],
)
def test_labels_differ_where_torch_was_clear(wanted: list[Any], found: list[Any], differ: int) -> None:
    assert exporting._labels_differ(np.array(wanted, np.float32), np.array(found, np.float32)) == differ


@pytest.mark.parametrize(
    ("task", "largest", "allowed"),
    [
        *(("classification", *pair) for pair in ((0.0, 1e-4), (3.0, 1e-4), (20.0, 1e-4), (200.0, 1e-3))),
        ("regression", 1000.0, 5e-3),
        ("token-classification", 200.0, 1e-3),
        ("embedding", 0.05, 5e-6),
        ("embedding", 300.0, 1e-4),
    ],
)
def test_large_outputs_may_differ_by_the_same_share_and_vectors_by_that_of_their_largest_number(
    task: TaskKind, largest: float, allowed: float
) -> None:
    outputs = [np.array([[0.01], [-largest]], np.float32), np.array([[0.02]], np.float32)]
    assert exporting.tolerance_for(outputs, task=task) == pytest.approx(allowed, rel=1e-5)


class Specialised:
    """An engine whose graph is wrong at one shape (or longer), as one is that remembers a dimension of its example."""

    def __init__(self, engine: Engine, *, batch: int, length: int) -> None:
        self._engine, self._batch, self._length = engine, batch, length
        self.bundle = engine.bundle

    def run(self, tokens: list[Tokens], *, length: int) -> Any:
        wrong = len(tokens) == self._batch and length >= self._length
        return self._engine.run(tokens, length=length) + (0.25 if wrong else 0)


@pytest.mark.parametrize("padding", exporting.PADDINGS)
@pytest.mark.parametrize(("batch", "length"), [(1, 3), (3, 13), (7, 13)])
def test_a_graph_that_is_wrong_at_one_shape_and_padding_only_is_refused(
    bert: Exported, batch: int, length: int, padding: int
) -> None:
    """Texts are no longer than the server's longest input, 24 with its padding."""
    wrong: Any = Specialised(bert.engine(), batch=batch, length=length + padding)
    with pytest.raises(BadArtifact) as refused:
        exporting.check_shapes(wrong, bert.model, vocabulary=bert.model.config.vocab_size)
    assert str(refused.value) == (
        f"{bert.bundle}: at batch {batch}, length {length + padding} with padding the graph differs from torch by 0.25 "
        "(allowed: 0.0001); a dimension was specialised in the export; look for a shape read as a number in the "
        "model's code"
    )


class Shifted:
    """A tagging engine that is off at one place of every text: its last token, not its first, or the padding behind."""

    def __init__(self, engine: Engine, *, behind: int) -> None:
        self._engine, self._behind = engine, behind
        self.bundle = engine.bundle

    def run(self, tokens: list[Tokens], *, length: int) -> Any:
        outputs_NLC = self._engine.run(tokens, length=length).copy()
        for row, one in ((row, one) for row, one in enumerate(tokens) if len(one.ids) > 1):
            outputs_NLC[row, len(one.ids) - 1 + self._behind :][:1] += 0.25
        return outputs_NLC


def test_every_real_token_of_a_tagging_is_compared_and_padding_is_not(tagger: Exported) -> None:
    vocabulary = tagger.model.config.vocab_size
    behind: Any = Shifted(tagger.engine(), behind=1)
    last: Any = Shifted(tagger.engine(), behind=0)

    exporting.check_shapes(behind, tagger.model, vocabulary=vocabulary)
    with pytest.raises(BadArtifact, match=r"the graph differs from torch by 0\.25 "):
        exporting.check_shapes(last, tagger.model, vocabulary=vocabulary)


def test_a_model_that_fixes_its_batch_is_caught_by_the_export_itself(tmp_path: Path) -> None:
    class TwoOnly(torch.nn.Module):
        """Its answer has two rows whatever it is asked."""

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return (input_ids * attention_mask).float().sum() * torch.ones(2, 2)

    with pytest.raises(BadArtifact, match="output logits has a fixed batch or length; the export specialised it"):
        exporting.export_onnx(TwoOnly().eval(), tmp_path / "model.onnx", inputs=("input_ids", "attention_mask"))


def test_a_model_torch_cannot_export_is_one_message(tmp_path: Path) -> None:
    class Unfit(torch.nn.Module):
        """Its two products do not fit, as where a config does not fit the weights."""

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return (input_ids * attention_mask).float().sum(dim=1, keepdim=True) @ torch.ones(2, 2)

    with pytest.raises(BadArtifact) as refused:
        exporting.export_onnx(Unfit().eval(), tmp_path / "model.onnx", inputs=("input_ids", "attention_mask"))
    assert re.fullmatch(
        re.escape(f"{tmp_path / 'model.onnx'}: torch cannot export this model: RuntimeError: ")
        + r"[^\n]*must have same reduction dim[^\n]*; the families that export are listed in "
        r"pipeline/encoders/families\.py, and their config must fit their weights",
        str(refused.value),
    )


def test_a_node_that_remembers_the_example_is_named(tmp_path: Path) -> None:
    class Remembers(torch.nn.Module):
        """Its answer is right at the example's length alone."""

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            rows = input_ids.shape[0]
            first = torch.ones(exporting.EXAMPLE[1]).expand(rows, exporting.EXAMPLE[1])
            return first.sum(dim=1, keepdim=True) * (input_ids * attention_mask).float().sum(dim=1, keepdim=True)

    path = tmp_path / "model.onnx"
    exporting.export_onnx(Remembers().eval(), path, inputs=("input_ids", "attention_mask"))
    (shape,) = (node for node in onnx.load(path).graph.node if node.op_type == "Concat")
    assert exporting.frozen_sizes(path, sizes=exporting.EXAMPLE) == shape.name


def test_no_weight_is_transposed_at_every_run(base: Path) -> None:
    """DeBERTa-v2 multiplies by the weights of its queries and keys twice, which the exporter stores as torch does."""
    graph = onnx.load(exports.family_export("deberta-v2", base).bundle / "model.onnx").graph
    stored = {tensor.name for tensor in graph.initializer}
    assert not [node.name for node in graph.node if node.op_type == "Transpose" and node.input[0] in stored]

"""Tokenizer and ONNX graph of one bundle, from texts to scores: the same code that is measured and that serves.

Shapes: N items, L tokens, C outputs (one per label or dimension; 1 for regression). The raw output of one item is (C,),
or (L, C) for token-classification.

Every item is computed alone, as a batch of one: with dynamic int8 the scale of the activations is taken over the
batch, so an answer would otherwise depend on who else asked.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from serving.answers import Floats, probabilities
from serving.bundle import Bundle, Item
from serving.cpu import cpu_features, usable_threads
from serving.errors import BadArtifact, BadRequest
from serving.runtimes import Runtime, open_runtime
from serving.spans import Span


class Tokens(NamedTuple):
    """One item as the graph reads it: ids and segment numbers, both of length L, special tokens included; and, where
    tokens have outputs of their own, the characters each came from (special ones: none)."""

    ids: list[int]
    type_ids: list[int]
    offsets: Sequence[Span] = ()


@dataclass(frozen=True)
class Answer:
    """What `serving.answers.results` reads, and the time each phase took.

    scores: an array per item, (C,) or (L, C); probabilities where the task has labels.
    offsets: the characters of each token of an item; () where tokens have no outputs of their own.
    """

    scores: list[Floats]
    offsets: list[Sequence[Span]]
    tokenize_ms: float
    infer_ms: float


class Engine:
    """One loaded bundle; safe to call from several threads at once.

    Raises:
        BadArtifact: the CPU lacks a required feature, the runtime or a provider is not there, or the graph does not
            load or match.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        _require_cpu(bundle)
        self.bundle = bundle
        self.threads = threads or usable_threads()
        self._clock = clock
        self._tokenizer = _load_tokenizer(bundle)
        self._runtime = open_runtime(bundle, threads=self.threads)
        _match_graph(bundle, self._runtime)

    @property
    def providers(self) -> tuple[str, ...]:
        """Who computes, as receipts name it."""
        return self._runtime.providers

    def answer(self, items: Sequence[Item]) -> Answer:
        started = self._clock()
        tokens = self.encode(items)
        encoded = self._clock()
        task = self.bundle.spec.task
        scores = [probabilities(row, task=task) for row in self._run_alone(tokens)]
        infer_ms = (self._clock() - encoded) * 1e3
        offsets = [one.offsets for one in tokens]
        return Answer(scores=scores, offsets=offsets, tokenize_ms=(encoded - started) * 1e3, infer_ms=infer_ms)

    def logits(self, items: Sequence[Item]) -> list[Floats]:
        """The raw output of every item, each computed alone."""
        return self._run_alone(self.encode(items))

    def encode(self, items: Sequence[Item]) -> list[Tokens]:
        """Tokenize, cut to `max_length`. A batch call is used for one item too: it lets other threads run.

        Raises:
            BadRequest: an item has the wrong number of texts, or gives no token at all.
        """
        count = self.bundle.spec.texts_per_item
        for index, item in enumerate(items):
            if len(item) != count:
                raise BadRequest(f"item {index} has {len(item)} text(s); this model takes {count} per item")
        texts = [item[0] if count == 1 else item for item in items]
        if self.bundle.spec.per_token:
            tokens = [Tokens(one.ids, one.type_ids, one.offsets) for one in self._tokenizer.encode_batch(texts)]
        else:  # faster, but without the characters
            tokens = [Tokens(one.ids, one.type_ids) for one in self._tokenizer.encode_batch_fast(texts)]
        for index, one in enumerate(tokens):
            if not one.ids:
                raise BadRequest(f"item {index} has no token this model can read; send some text")
        return tokens

    def run(self, batch: Sequence[Tokens], *, length: int = 0) -> Floats:
        """Raw outputs (N, C) of one batch padded to its longest item, and to `length` at least; (N, L, C) for
        token-classification.

        Raises:
            BadArtifact: the graph cannot compute this, gives another shape, or gives NaN or infinity: no such answer
                leaves this class.
        """
        name, feed = self.bundle.spec.name, self._feed(batch, length=length)
        outputs = self._runtime.run(feed)
        shape_NL = feed["input_ids"].shape
        wanted = (*(shape_NL if self.bundle.spec.per_token else shape_NL[:1]), self.bundle.spec.outputs)
        if outputs.shape != wanted:
            raise BadArtifact(f"model {name} gave {outputs.shape} for this input, not {wanted}; export it again")
        if not np.isfinite(outputs).all():
            raise BadArtifact(f"model {name} gave NaN or infinity for this input; its weights are unfit")
        found: Floats = outputs.astype(np.float32, copy=False)
        return found

    def warm(self) -> None:
        """Run once at every bucket's length, so that no request pays for first allocations."""
        for length in self.bundle.spec.buckets:
            self.run([Tokens(ids=[self.bundle.spec.pad_id] * length, type_ids=[0] * length)])

    def _run_alone(self, tokens: Sequence[Tokens]) -> list[Floats]:
        return [self.run([one])[0] for one in tokens]

    def _feed(self, batch: Sequence[Tokens], *, length: int) -> dict[str, npt.NDArray[np.int64]]:
        lengths = [len(one.ids) for one in batch]
        shape_NL = (len(batch), max(length, *lengths))
        feed = {
            "input_ids": np.full(shape_NL, self.bundle.spec.pad_id, np.int64),
            "attention_mask": np.zeros(shape_NL, np.int64),
            "token_type_ids": np.zeros(shape_NL, np.int64),
        }
        for row, (one, own) in enumerate(zip(batch, lengths, strict=True)):
            feed["input_ids"][row, :own] = one.ids
            feed["attention_mask"][row, :own] = 1
            feed["token_type_ids"][row, :own] = one.type_ids
        return {name: feed[name] for name in self.bundle.spec.graph_inputs}


def check_golden(engine: Engine) -> None:
    """Compute the golden inputs here and compare.

    Raises:
        BadArtifact: an output is further off than the bundle's tolerance, or a text has other tokens than it had.
    """
    golden, path = engine.bundle.golden, engine.bundle.path
    found = [row.ravel() for row in engine.logits([tuple(item) for item in golden.items])]
    measured = [np.asarray(row, np.float32) for row in golden.logits]
    outputs = engine.bundle.spec.outputs
    for index, (row, wanted) in enumerate(zip(found, measured, strict=True)):
        if row.size != wanted.size:
            raise BadArtifact(
                f"{path}: golden input {index} has {row.size // outputs} tokens on this machine, not the "
                f"{wanted.size // outputs} measured; this version of tokenizers reads it otherwise: export it again"
            )
    off = [float(np.abs(row - wanted).max()) for row, wanted in zip(found, measured, strict=True)]
    worst = int(np.argmax(off))
    if off[worst] > golden.tolerance:
        raise BadArtifact(
            f"{path}: golden input {worst} is off by {off[worst]:.4g} on this machine, more than the "
            f"{golden.tolerance:.4g} allowed; this CPU or runtime computes another model than the one measured"
        )


def _require_cpu(bundle: Bundle) -> None:
    missing = sorted(set(bundle.spec.cpu_features) - cpu_features())
    if missing:
        raise BadArtifact(
            f"{bundle.path} needs CPU features this machine lacks: {', '.join(missing)}; "
            "serve it on a CPU that has them or export a variant without"
        )


def _load_tokenizer(bundle: Bundle) -> Tokenizer:
    path = bundle.path / "tokenizer.json"
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BadArtifact(f"{path} is no tokenizer this version reads: {error}") from error
    # Once and never per call: changing it while another thread encodes fails with "Already borrowed".
    tokenizer.enable_truncation(max_length=bundle.spec.max_length, strategy="longest_first")
    tokenizer.no_padding()
    return tokenizer


def _match_graph(bundle: Bundle, runtime: Runtime) -> None:
    """Check that the graph is the one serving.yaml describes."""
    told, output = bundle.spec.graph_inputs, runtime.output
    if names := {node.name for node in runtime.inputs} ^ set(told):
        raise BadArtifact(f"{bundle.path}: the graph and serving.yaml disagree about {', '.join(sorted(names))}")
    if wrong := [f"{node.name} as {node.type}" for node in runtime.inputs if node.type != "tensor(int64)"]:
        raise BadArtifact(f"{bundle.path}: the graph reads {', '.join(wrong)}; export it with int64 inputs")
    axes = ("items", "tokens", "logits") if bundle.spec.per_token else ("items", "logits")
    if len(output.shape) != len(axes):
        raise BadArtifact(
            f"{bundle.path}: the graph's output has rank {len(output.shape)}; {bundle.spec.task} needs "
            f"({', '.join(axes)}); export it again"
        )
    width = output.shape[-1]
    if width is not None and width != bundle.spec.outputs:
        raise BadArtifact(f"{bundle.path}: the graph gives {width} logit(s); serving.yaml says {bundle.spec.outputs}")

"""Tokenizer and ONNX graph of one bundle, from texts to scores: the same code that is measured and that serves.

Shapes: N items, L tokens, C outputs (one per label or dimension; 1 for regression). The raw output of one item is (C,),
or (L, C) for token-classification.

Where nothing else is said every item is computed alone, as a batch of one: with dynamic int8 the scale of the
activations is taken over the batch, so an answer would otherwise depend on who else asked.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.answers import Floats, probabilities
from serving.bundle import Bundle
from serving.cpu import cpu_features, usable_threads
from serving.encoding import Encoder
from serving.errors import BadArtifact
from serving.packing import ALONE, Packing, packed
from serving.runtimes import Runtime, open_runtime
from serving.spans import Span
from serving.tokens import Given, Tokens
from serving.windows import TooLong, joined, pieces, units

__all__ = ["Answer", "Engine", "Given", "Tokens", "check_golden"]


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
        self.clock = clock
        self._encoder = Encoder(bundle.path, spec=bundle.spec)
        self._unit = units(bundle.golden.logits, task=bundle.spec.task)
        self._runtime = open_runtime(bundle, threads=self.threads)
        _match_graph(bundle, self._runtime)

    @property
    def providers(self) -> tuple[str, ...]:
        """Who computes, as receipts name it."""
        return self._runtime.providers

    def answer(self, items: Sequence[Given], *, packing: Packing = ALONE) -> Answer:
        """As `outputs`, in probabilities.

        Raises:
            BadRequest: as `Encoder.encode`.
            BadArtifact: as `run`.
        """
        started = self.clock()
        tokens = self.encode(items)
        return self.computed(tokens, packing=packing, tokenize_ms=(self.clock() - started) * 1e3)

    def computed(self, tokens: Sequence[Tokens], *, packing: Packing, tokenize_ms: float) -> Answer:
        """The answer to what took `tokenize_ms` to encode."""
        started = self.clock()
        scores = self._scores(self.outputs(tokens, packing=packing))
        infer_ms = (self.clock() - started) * 1e3
        offsets = [one.offsets for one in tokens]
        return Answer(scores=scores, offsets=offsets, tokenize_ms=tokenize_ms, infer_ms=infer_ms)

    def logits(self, items: Sequence[Given]) -> list[Floats]:
        """The raw output of every item, each computed alone."""
        return self.outputs(self.encode(items))

    def encode(self, items: Sequence[Given]) -> list[Tokens]:
        """As `Encoder.encode`."""
        return self._encoder.encode(items)

    def fed(self, items: Sequence[Given]) -> list[Tokens]:
        """What the graph reads of these items: each, or its windows; nothing of those that are refused as too long."""
        found: list[Tokens] = []
        for item in items:
            with contextlib.suppress(TooLong):
                found.extend(pieces(self.encode([item])))
        return found

    def outputs(self, tokens: Sequence[Tokens], *, packing: Packing = ALONE) -> list[Floats]:
        """The raw output of every item, (C,) or (L, C); `packing` says which items, and windows of long ones, share a
        call."""
        if not any(one.windows for one in tokens):
            return self._outputs(tokens, packing=packing)
        found = self._outputs(pieces(tokens), packing=packing)
        return joined(tokens, found, spec=self.bundle.spec, unit=self._unit)

    def _outputs(self, tokens: Sequence[Tokens], *, packing: Packing) -> list[Floats]:
        if packing.most == 1 or len(tokens) == 1:
            return [self.run([one])[0] for one in tokens]
        found: dict[int, Floats] = {}
        for group in packed([len(one.ids) for one in tokens], packing=packing):
            rows = self.run([tokens[index] for index in group])
            for index, row in zip(group, rows, strict=True):
                found[index] = row[: len(tokens[index].ids)] if row.ndim == 2 else row
        return [found[index] for index in range(len(tokens))]

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

    def warm(self, *, gently: bool = False) -> None:
        """Run once at every bucket's length, so that no request pays for first allocations. `gently`: beside requests
        that are answered, with a pause after each run as long as it took."""
        for length in self.bundle.spec.buckets:
            started = self.clock()
            self.run([Tokens(ids=[self.bundle.spec.pad_id] * length, type_ids=[0] * length)])
            if gently:
                time.sleep(self.clock() - started)

    def _scores(self, outputs: list[Floats]) -> list[Floats]:
        """Rows of one shape in one go: a call of numpy's costs the same for eight as for one."""
        task = self.bundle.spec.task
        if len(outputs) == 1 or self.bundle.spec.per_token or not outputs:
            return [probabilities(row, task=task) for row in outputs]
        return list(probabilities(np.stack(outputs), task=task))

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

"""Quantization-aware distillation: the student learns to give its own fp32 answers on the grid it will be served on.

What trains is the fine-tuned student with fake quantization in its Linears and its table of words (fake_quant.py), by
the loop, the epochs and the checkpoints of fine-tuning; who teaches is the student in fp32. Shapes: N items.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from pipeline.errors import BadArtifact
from pipeline.optimization import Optimization
from pipeline.precision import Precision
from pipeline.quantizing.base import Need
from pipeline.quantizing.static import StaticSettings, calibrate
from pipeline.schedule import Schedule

if TYPE_CHECKING:
    from pipeline.finetuning import Outcome
    from pipeline.quantizing.given import Given
    from pipeline.task_distillation import Lessons
    from pipeline.tasking.base import TaskData

COMPARED = 256  # dev items on which the graph is held against torch


class AwareRecipe(StaticSettings):
    """Static int8 after a short training on the grid: `epochs` over train (over `max_texts` of it), each in batches of
    `batch_tokens`; the epoch that is best on dev is kept, or none where nothing was gained.

    Ranges begin as the recipe static finds them, and are learned. The loss is t^2 KL (or the task's squared error) to
    the fp32 student's own answers, plus `hidden` times the mean squared error of its hidden states.
    """

    kind: Literal["aware"] = "aware"
    epochs: PositiveInt = 2
    patience: PositiveInt = 2
    batch_tokens: PositiveInt = 1024
    max_texts: PositiveInt | None = None
    temperature: float = Field(default=2.0, gt=0)
    hidden: float = Field(default=1.0, ge=0)
    precision: Precision = "fp32"
    seed: int = Field(default=0, ge=0)
    optimization: Optimization = Optimization(learning_rate=2e-5)

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration", "dev", "model"})

    def schedule(self, *, max_length: int) -> Schedule:
        """For how long, in fine-tuning's terms."""
        told = self.model_dump(include={*Schedule.model_fields} & {*type(self).model_fields})
        return Schedule(**told, max_length=max_length)

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Train on the grid, then export what was trained and put the graph on the same grid.

        Raises:
            BadArtifact: a product of the graph is not one of the model's Linears; or the graph does not answer as the
                model did on the grid.
        """
        from pipeline.quantizing.graphs import require_quantized

        training = _Training(self, given, source)
        figures = training.run()
        _export(training, target)
        return {
            "operators": require_quantized(target, excluded=self.exclude),
            **training.calibrated.facts,
            "agreement": asdict(_agreement(training, target)),
            "dev": {**figures.dev, "aware": given.dev_metric(target)},
            "dev_scores": figures.dev_scores,
            "best_epoch": figures.best_epoch,
            "texts": len(training.train.tokens),
        }


@dataclass(frozen=True)
class Agreement:
    """How far the graph's outputs are from the model's on the grid: over `texts` dev items, the largest difference that
    nine in ten stay within, that of all, and what is allowed of the first.

    Grids are equal to the bit; what differs is the order of fp32 sums, and what lies next to a rounding edge may fall
    to either side.
    """

    texts: int
    nine_in_ten: float
    largest: float
    allowed: float


@dataclass(frozen=True)
class _Figures:
    """The task's first metric on dev: in fp32 and at the start (`static`), and after each epoch, the start being epoch
    0; there thresholds are chosen anew, as fine-tuning does."""

    dev: dict[str, float]
    dev_scores: list[float]
    best_epoch: int


class _Training:
    """What is trained, on what, and who teaches."""

    def __init__(self, recipe: AwareRecipe, given: "Given", source: Path) -> None:
        from pipeline.encoders.teachers import load_tokenizer
        from pipeline.predicting import seen_by
        from pipeline.quantizing.fake_quant import without_dropout
        from pipeline.quantizing.origins import origins_of

        assert given.task is not None
        assert given.model is not None
        self.recipe, self.given, self.task, self.folder = recipe, given, given.task, given.model
        self.calibrated = calibrate(recipe, source, given)
        self.model = without_dropout(self.loaded("sdpa"))
        self.origins = origins_of(self.calibrated, self.model)
        tokenizer = load_tokenizer(self.folder)
        self.pad_id: int = tokenizer.pad_token_id
        self.data = _cut(given.data, most=recipe.max_texts, seed=recipe.seed)
        length = given.spec.max_length
        self.train, self.dev = (
            seen_by(self.task, part, tokenizer, max_length=length) for part in (self.data.train, self.data.dev)
        )

    def loaded(self, attention: str) -> Any:
        """The fp32 student as fine-tuning left it."""
        from pipeline.encoders.heads import load_tuned

        return load_tuned(self.folder, self.task, self.given.fitted.labels, attention=attention)

    def run(self) -> _Figures:
        """Train `self.model`: it then has the weights and ranges of the best epoch."""
        from pipeline.finetuning import as_it_is
        from pipeline.quantizing.fake_quant import insert

        lessons, dev = self._lessons(), {"fp32": self._metric()}
        insert(self.model, self.origins, self.calibrated.ranges, bits=self.calibrated.bits)
        dev["static"] = self._metric()
        (start,) = as_it_is(self.model, self.data, self.dev, pad_id=self.pad_id).dev_scores
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        outcome = self._trained(lessons)
        if outcome.dev_scores[outcome.best_epoch - 1] > start:
            return _Figures(dev, [start, *outcome.dev_scores], outcome.best_epoch)
        self.model.load_state_dict(before)
        return _Figures(dev, [start, *outcome.dev_scores], 0)

    def _trained(self, lessons: "Lessons") -> "Outcome":
        from pipeline.checkpoints import Checkpoints
        from pipeline.finetuning import finetune

        given, recipe = self.given, self.recipe
        return finetune(
            self.model,
            self.data,
            train=self.train,
            dev=self.dev,
            pad_id=self.pad_id,
            schedule=recipe.schedule(max_length=given.spec.max_length),
            optimization=recipe.optimization,
            checkpoints=Checkpoints(given.checkpoints or given.scratch / "checkpoints"),
            reporter=given.reporter,
            title="quantization-aware",
            lessons=lessons,
        )

    def _lessons(self) -> "Lessons":
        """What the student answers in fp32; beside it no label counts."""
        from pipeline.predicting import predict
        from pipeline.task_distillation import Lessons, TaskDistillation, by_word

        recipe = self.recipe
        settings = TaskDistillation(temperature=recipe.temperature, weight=1.0, hidden=recipe.hidden)
        outputs = by_word(predict(self.model, self.train.tokens, pad_id=self.pad_id), self.train.places)
        return Lessons(settings, outputs, self.loaded("sdpa") if recipe.hidden else None)

    def _metric(self) -> float:
        from pipeline.finetuning import finite
        from pipeline.predicting import predict

        return self.given.metric_of(finite(predict(self.model, self.dev.tokens, pad_id=self.pad_id)))


def _cut(data: "TaskData", *, most: int | None, seed: int) -> "TaskData":
    """At most so many of the train texts, drawn from all."""
    import numpy as np

    from pipeline.tasking.base import Split

    if most is None or most >= len(data.train.items):
        return data
    rows = sorted(np.random.default_rng(seed).permutation(len(data.train.items))[:most].tolist())
    items, labels = (tuple(each[row] for row in rows) for each in (data.train.items, data.train.labels))
    return replace(data, splits={**data.splits, "train": Split(items, labels)})


def _export(training: _Training, target: Path) -> None:
    """The trained weights in the graph of the plain model, its products on the trained grid."""
    from pipeline.exporting import export_onnx
    from pipeline.quantizing.calibration import Range
    from pipeline.quantizing.fake_quant import float_state, ranges_of
    from pipeline.quantizing.graphs import without_value_info
    from pipeline.quantizing.origins import origins_of
    from pipeline.quantizing.residuals import in_parts

    given, plain = training.given, training.given.scratch / "trained.onnx"
    model = training.loaded("eager")
    model.load_state_dict(float_state(training.model))
    head = training.task.head(given.fitted.labels)
    export_onnx(model, plain, inputs=given.spec.graph_inputs, output=head.output)
    prepared, found = training.recipe.prepared(plain, given.scratch), ranges_of(training.model)
    ranges = {tensor: Range(*found[linear]) for linear, tensor in training.origins.reads.items()}
    graph = without_value_info(prepared)
    in_parts(graph.graph)  # as calibrate does
    trained = training.calibrated._replace(path=prepared, model=graph, ranges=ranges)
    if origins_of(trained, model) != training.origins:
        raise BadArtifact(
            f"{plain}: the trained model became another graph than the one its ranges were found on; export it anew "
            "with the versions in use, or use the recipe static"
        )
    trained.write(target)


def _agreement(training: _Training, target: Path) -> Agreement:
    """BadArtifact where the graph does not answer as the model on the grid."""
    import numpy as np

    from pipeline.answerable import encode
    from pipeline.exporting import tolerance_for, torch_logits
    from pipeline.quantizing.building import INT8_OVER_FP32

    given = training.given
    items = given.data.dev.items[:COMPARED]
    encodings = encode(given.bundle.path, items, spec=given.spec)
    wanted = torch_logits(training.model, encodings, given.spec)
    found = given.dev_logits(target, COMPARED)
    off_N = [float(np.abs(one - other).max()) for one, other in zip(wanted, found, strict=True)]
    allowed = tolerance_for(wanted, task=given.spec.task) * INT8_OVER_FP32
    agreement = Agreement(len(items), float(np.quantile(off_N, 0.9)), max(off_N), allowed)
    if not agreement.nine_in_ten <= allowed:
        raise BadArtifact(
            f"{target}: of {len(items)} dev items one in ten differs by {agreement.nine_in_ten:.3g} or more from the "
            f"model as it was trained (allowed: {allowed:.3g}); use the recipe static"
        )
    return agreement

"""Masked language modelling with the same text, loop and output loss as distillation: it makes a teacher that has an
output distribution, or adapts one to a domain.

Shapes: N flat positions, M masked positions, D width.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.checkpoints import Checkpoints
from pipeline.data.layout import TextBatch
from pipeline.data.masking import Masking
from pipeline.distillation.output_kl import Head, Targets, output_loss
from pipeline.distillation.transfer import WATCHED_POSITIONS, guesses
from pipeline.encoders.attention import moved
from pipeline.encoders.families import Tap, shape_of
from pipeline.encoders.masked_lm import has_mlm_head, load_masked_lm, masked_lm_of, mlm_head_of
from pipeline.encoders.reading import reading
from pipeline.encoders.students import build_student
from pipeline.encoders.teachers import load_encoder, load_tokenizer
from pipeline.losses import Terms
from pipeline.precision import autocast
from pipeline.training import Part, Row, Work, fit

if TYPE_CHECKING:
    from pipeline.graph import Tools
    from pipeline.stages.pretrain import PretrainConfig


def starting_point(config: "PretrainConfig", folder: Path) -> tuple[Any, Any, bool]:
    """(masked language model, tokenizer, whether its head is drawn at random) where training begins."""
    tokenizer = load_tokenizer(folder)
    if config.start.kind == "scratch":
        teacher = load_encoder(folder)
        encoder = build_student(teacher, config.start.student(shape_of(teacher.config)), seed=config.seed)
        return masked_lm_of(encoder, seed=config.seed), tokenizer, True
    if has_mlm_head(folder):
        return load_masked_lm(folder), tokenizer, False
    return masked_lm_of(load_encoder(folder), seed=config.seed), tokenizer, True


def pretrain(model: Any, tokenizer: Any, config: "PretrainConfig", source: Any, tools: "Tools") -> list[Row]:
    """Train `model` in place: the mean negative log-likelihood of the tokens at masked positions. The rows of its loss
    curve; agreement/accuracy is how often its first guess is right."""
    device = tools.team.device
    masking = Masking(share=config.masked_share, whole_word=config.whole_words)
    packed = config.packs(model.config.model_type, device=device.type)
    model.to(device).eval()  # no dropout: text enough that nothing is read often
    with ExitStack() as stack:
        guess = Guess(model, config, stack)
        feed = stack.enter_context(
            config.feed(
                source,
                tokenizer,
                cache=tools.cache,
                team=tools.team,
                packed=packed,
                masking=masking,
                weight=masked_count,
            )
        )
        work = Work(
            title="pretrain",
            parts={"model": Part(model, config.optimization, config.tokens)},
            unit="tokens",
            step_at=feed.step_at,
            loss=guess,
            position=feed.position,
            seek=feed.seek,
        )
        return fit(work, checkpoints=Checkpoints(tools.checkpoints), reporter=tools.reporter, team=tools.team)["model"]


def masked_count(batch: TextBatch) -> float:
    """Positions to guess: what the summed loss is divided by."""
    return 0 if batch.masked is None else len(batch.masked.positions_M)


class Guess(nn.Module):
    """The loss of a masked language model on a batch."""

    def __init__(self, model: Any, config: "PretrainConfig", stack: ExitStack) -> None:
        super().__init__()
        self.model = model
        encoder = model.base_model
        self._last: Tap = ("hidden", shape_of(encoder.config).layers)
        self._precision = config.precision
        self._run = stack.enter_context(reading(encoder, [self._last], compiled=config.compiled))

    def forward(self, batch: TextBatch, _names: Sequence[str], watch: bool) -> dict[str, Terms]:
        """The summed negative log-likelihood at masked positions."""
        assert batch.masked is not None, "the feed masks"
        device = self.model.device
        positions_M, labels_M = moved(batch.masked.positions_M, device), moved(batch.masked.labels_M, device)
        with autocast(device.type, self._precision):
            head = mlm_head_of(self.model)
            of_model = Head(head.transform(self._run(batch)[self._last][positions_M]), head.weight_VE, head.bias_V)
            targets = Targets(labels_M, torch.ones_like(labels_M, dtype=torch.float32), likelihood=1.0)
            total, _ = output_loss(of_model, None, targets)
        if not watch:
            return {"model": Terms({"mlm": total})}
        with torch.no_grad():
            right_M = guesses(of_model) == labels_M[:WATCHED_POSITIONS]
            return {"model": Terms({"mlm": total}, {"accuracy": right_M.float().mean() * len(labels_M)})}

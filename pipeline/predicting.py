"""A model's raw outputs for tokenized items, each text's own rows of a padded batch. Shapes: B batch, L tokens, C
outputs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.batches import Tokens, length_batches, tokenize
from pipeline.encoders.families import reads_token_types
from pipeline.tasking.base import Places, Split
from pipeline.tasks import AnyTask

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
BATCH_TOKENS = 8192
BLANKS = ["▁", "Ġ"]  # how SentencePiece and byte-level BPE write the blank before a word


class Seen(NamedTuple):
    """A task's split as a model reads it."""

    task: AnyTask
    split: Split
    tokens: Tokens
    places: Places | None

    def cut(self, tokenizer: Any) -> int:
        """How many items lost tokens to the limit: of those that reach it, the ones that have a token more."""
        most = int(self.tokens.lengths.max(initial=0))
        full = [self.split.items[row] for row in np.flatnonzero(self.tokens.lengths == most)]
        return int((tokenize(full, tokenizer=tokenizer, max_length=most + 1).lengths > most).sum())


def seen_by(task: AnyTask, split: Split, tokenizer: Any, *, max_length: int) -> Seen:
    """The split tokenized; BadArtifact where an entity has no token."""
    tokens = tokenize(split.items, tokenizer=tokenizer, max_length=max_length)
    return Seen(task, split, tokens, task.places(split, tokenizer, max_length=max_length))


def inputs_for(model: Any, tokens: Tokens, rows: Sequence[int], *, pad_id: int) -> "dict[str, torch.Tensor]":
    """What `model` is called with: (B, L) each, token types only where it reads them."""
    import torch

    batch = tokens.batch(rows, pad_id=pad_id)
    fed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if reads_token_types(model.config):
        fed["token_type_ids"] = batch.token_type_ids
    return {name: torch.from_numpy(value) for name, value in fed.items()}


def unreadable(tokens: Tokens, tokenizer: Any) -> list[int]:
    """Items that are special tokens only, the unknown one among them, and blanks: nothing can be learned from them."""
    blank = [place for place in tokenizer.convert_tokens_to_ids(BLANKS) if place is not None]
    known_T = ~np.isin(tokens.flat_ids, [*tokenizer.all_special_ids, *blank])
    counts_N = np.add.reduceat(known_T.astype(np.int64), tokens.starts[:-1]) if len(tokens) else np.zeros(0)
    found: list[int] = np.flatnonzero(counts_N == 0).tolist()
    return found


def predict(model: Any, tokens: Tokens, *, pad_id: int) -> list[Floats]:
    """One array an item, in the order of the items: (C,), or (L, C) where the model answers token by token. In fp32."""
    import torch

    training = model.training
    model.eval()
    outputs: list[Any] = [None] * len(tokens)
    budget = max(BATCH_TOKENS, int(tokens.lengths.max(initial=0)))
    with torch.inference_mode():
        for rows in length_batches(tokens.lengths, token_budget=budget, seed=0, epoch=0):
            found = model(**inputs_for(model, tokens, rows, pad_id=pad_id)).logits.float().numpy()
            for row, output in zip(rows, found, strict=True):
                outputs[row] = output[: tokens.lengths[row]] if output.ndim == 2 else output
    model.train(training)
    return outputs

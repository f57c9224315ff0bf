"""Real text for the timed requests: cut to an exact number of tokens, so that "at 64 tokens" means 64 for every variant
and every sample, or as it comes."""

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from serving.bundle import Item
from serving.errors import BadArtifact, BadRequest

_TRIES = 4  # a cut can change how the last word is split; then the next tokens' ends are tried


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a bundle or model folder, without truncation or padding."""
    if not (path / "tokenizer.json").is_file():
        raise BadArtifact(f"{path} has no tokenizer.json: name a bundle or a folder saved by finetune")
    tokenizer: Tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def exact_length_items(items: Sequence[Item], tokenizer: Tokenizer, *, length: int, most: int) -> tuple[Item, ...]:
    """Up to `most` distinct items of exactly `length` tokens, special tokens included.

    A text that is too short goes on with the texts that follow it in the data; one that is too long is cut at a token's
    end. Of a pair, the first text keeps at most half of the tokens unless the second one is short.

    Raises:
        BadRequest: no item can be cut to this length.
    """
    found = dict.fromkeys(islice(_cut_items(items, tokenizer, length=length), 2 * most))
    if not found:
        raise BadRequest(
            f"none of {len(items)} items can be cut to exactly {length} tokens: choose another length or give more text"
        )
    return tuple(islice(found, most))


def real_items(items: Sequence[Item], *, most: int, seed: int = 0) -> tuple[Item, ...]:
    """Up to `most` distinct items as they come, drawn by the seed: their lengths are those of the data."""
    distinct = list(dict.fromkeys(items))
    return tuple(random.Random(seed).sample(distinct, min(most, len(distinct))))  # noqa: S311  (no secret)


def token_count(item: Item, tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(item[0], item[1] if len(item) > 1 else None).ids)


def _cut_items(items: Sequence[Item], tokenizer: Tokenizer, *, length: int) -> Iterator[Item]:
    for run in _long_enough(items, tokenizer, length=length):
        cut = _cut(run, tokenizer, length=length)
        if cut:
            yield cut


def _long_enough(items: Sequence[Item], tokenizer: Tokenizer, *, length: int) -> Iterator[Item]:
    """Items joined text by text with their successors until they have `length` tokens; what is left over is dropped."""
    run: Item = ()
    for item in items:
        run = tuple(f"{before} {text}" for before, text in zip(run, item, strict=True)) if run else item
        if token_count(run, tokenizer) >= length:
            yield run
            run = ()


def _cut(item: Item, tokenizer: Tokenizer, *, length: int) -> Item | None:
    """The item cut to `length` tokens; None where no cut near the right place gives exactly that."""
    budget = length - tokenizer.num_special_tokens_to_add(len(item) > 1)
    ends = [_token_ends(text, tokenizer) for text in item]
    if budget < len(item) or not all(ends):
        return None
    keep = _shares([len(each) for each in ends], budget=budget)
    for extra in range(_TRIES):
        wanted = [*keep[:-1], keep[-1] + extra]
        counts = [min(n, len(each)) for n, each in zip(wanted, ends, strict=True)]
        cut = tuple(text[: each[n - 1]] for text, each, n in zip(item, ends, counts, strict=True))
        if token_count(cut, tokenizer) == length:
            return cut
    return None


def _token_ends(text: str, tokenizer: Tokenizer) -> list[int]:
    """Where each token ends, in characters of the text."""
    return [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]


def _shares(counts: Sequence[int], *, budget: int) -> list[int]:
    """How many tokens each text keeps: one text keeps all; of two the first keeps half, or what the second leaves."""
    if len(counts) == 1:
        return [budget]
    first = max(min(counts[0], budget // 2), budget - counts[1], 1)
    return [first, budget - first]

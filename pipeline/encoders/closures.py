"""Which tokens a smaller vocabulary must hold, so that a text all of whose tokens are kept is cut into the same tokens
as before.

- WordPiece takes the longest piece at each place; a smaller vocabulary that holds that piece takes it too. (A word
  that was [UNK] stays so where each character of the vocabulary is also a piece of its own, as in every trained one.)
- BPE makes the first merge of its list that fits, until none does. A token's merges happen inside it alone, so with
  the tokens on the way to it kept, and merges only ever taken away, the same merge is always the first.
- Unigram takes the best sum of scores, and an unknown character costs 10 more than the piece of the lowest score.
  With that piece kept nothing becomes cheaper, and the best sum is still there.

Besides, the alphabet stays: the characters of everything seen, and all bytes where the tokenizer has bytes. So unseen
text falls apart into smaller pieces, and is unknown only where it holds a character that was never seen.

`state` is a fast tokenizer's tokenizer.json, `model` the part of it under that name.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from pipeline.errors import BadRequest


def own_tokens(model: Mapping[str, Any]) -> list[str]:
    """The model's own tokens, without those added beside it."""
    vocab = model["vocab"]
    return list(vocab) if isinstance(vocab, dict) else [piece for piece, _ in vocab]


def alphabet_of(state: Mapping[str, Any], seen: Iterable[str]) -> set[str]:
    """The tokens that every text may need: the characters of the tokens `seen`, bytes, and what is fallen back on."""
    model = state["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    characters = {character for token in seen for character in token.removeprefix(prefix)}
    alphabet = characters | {prefix + character for character in characters} | _bytes_of(state)
    if model["type"] == "Unigram":
        lowest = min(range(len(model["vocab"])), key=lambda number: model["vocab"][number][1])
        alphabet |= {model["vocab"][number][0] for number in (lowest, model["unk_id"]) if number is not None}
    elif model["unk_token"] is not None:
        alphabet.add(model["unk_token"])
    return alphabet & set(own_tokens(model))


def _bytes_of(state: Mapping[str, Any]) -> set[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    if "ByteLevel" in json.dumps([state["normalizer"], state["pre_tokenizer"]]):
        return set(ByteLevel.alphabet())
    return {f"<0x{byte:02X}>" for byte in range(256)} if state["model"].get("byte_fallback") else set()


def parts_of(model: Mapping[str, Any]) -> Callable[[str], set[str]]:
    """The function from a token to all the tokens that it takes to make it; BadRequest for a kind of tokenizer whose
    rules are not known here."""
    kind = model["type"]
    if kind in ("WordPiece", "Unigram"):
        return lambda token: {token}
    if kind != "BPE" or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        known = "WordPiece, Unigram, and BPE without word prefix or suffix can"
        raise BadRequest(f"vocabulary: a {kind} tokenizer of this kind cannot be pruned; {known}; give kind: teacher")
    ranks = {tuple(merge): rank for rank, merge in enumerate(model["merges"])}
    own = model["vocab"].keys()
    return lambda token: on_the_way(token, ranks) & own


def on_the_way(token: str, ranks: Mapping[tuple[str, ...], int]) -> set[str]:
    """The token, its characters, and what BPE merges on the way from these to it."""
    symbols, found = list(token), {token, *token}
    while fitting := [(ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in ranks]:
        _, at = min(fitting)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        found.add(symbols[at])
    return found

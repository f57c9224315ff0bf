"""Which tokens of a document a masked language model has to guess, and what stands in their place.

Devlin et al. 2018 and Sanh et al. 2019: 15 % of the content is hidden; of that 80 % becomes the mask token, 10 % a
random token, 10 % stays. Every draw comes from a generator (SplitMix64: Steele, Lea, Flood 2014) keyed by (seed, epoch,
the document's number) and counted by the token's place in it, so how documents are batched, packed or spread over
ranks changes nothing, and all documents of a batch are drawn at once.

Shapes: T tokens of a batch's documents end to end, B documents, M hidden tokens, W words.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.layout import Masked
from pipeline.errors import BadRequest

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
# What one token may have to draw: its turn, what happens to it, which random token it becomes.
DRAWS = 3
GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Masking:
    """`share` of the content tokens, at least one a document; with `whole_word`, words until so many are reached."""

    share: float = 0.15
    whole_word: bool = False
    seed: int = 0


class Masker:
    """A `Masking` for one tokenizer.

    Raises BadRequest for a tokenizer without a mask token, and for whole words with one that does not part text into
    words.
    """

    def __init__(self, masking: Masking, tokenizer: Any) -> None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if tokenizer.mask_token_id is None:
            raise BadRequest(
                f"the tokenizer {name} names no mask token; take a teacher that was trained as a masked language "
                "model, or an objective that hides no tokens"
            )
        if masking.whole_word and not _parts_words(tokenizer):
            raise BadRequest(
                f"the tokenizer {name} does not part text into words, so whole words cannot be hidden; "
                "set whole_words to false"
            )
        self.masking = masking
        self._mask_id: int = tokenizer.mask_token_id
        self._special_V = special_table(tokenizer)
        vocabulary_V = np.unique(np.fromiter(tokenizer.get_vocab().values(), np.int64))
        self._random_ids = vocabulary_V[~self._special_V[vocabulary_V]]

    def hide(
        self,
        ids_T: Ints,
        *,
        lengths_B: Ints,
        numbers_B: Ints,
        epoch: int,
        word_starts_T: Bools | None = None,
    ) -> tuple[Ints, Masked]:
        """The ids with what is hidden replaced, and the places, tokens and documents of it (places within T).

        `numbers_B` are the documents' numbers in the corpus; `word_starts_T` says where words begin (every document
        begins one) if whole words are hidden.
        """
        document_T = np.repeat(np.arange(len(lengths_B)), lengths_B)
        within_T = np.arange(len(ids_T)) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B)
        keys_T = _keys(self.masking.seed, epoch, numbers_B)[document_T]
        content_C = np.flatnonzero(~self._special_V[ids_T])
        word_C: Ints = content_C if word_starts_T is None else np.cumsum(word_starts_T, dtype=np.int64)[content_C]
        turns_C = _draw(keys_T[content_C], within_T[content_C], 0)
        hidden_M = content_C[_chosen(turns_C, document_T[content_C], word_C, self.masking.share)]
        labels_M = ids_T[hidden_M]
        replaced_T = ids_T.copy()
        replaced_T[hidden_M] = self._replacements(labels_M, keys_T[hidden_M], within_T[hidden_M])
        return replaced_T, Masked(hidden_M, labels_M, document_T[hidden_M])

    def _replacements(self, labels_M: Ints, keys_M: Bits, within_M: Ints) -> Ints:
        fate_M = (_draw(keys_M, within_M, 1) >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
        random_M = self._random_ids[_draw(keys_M, within_M, 2) % np.uint64(len(self._random_ids))]
        kept_or_random_M = np.where(fate_M < MASKED_SHARE + RANDOM_SHARE, random_M, labels_M)
        return np.where(fate_M < MASKED_SHARE, self._mask_id, kept_or_random_M)


def _chosen(turns_C: Bits, document_C: Ints, word_C: Ints, share: float) -> Bools:
    """Which of the C content tokens are hidden: in each document, words by turn until there are enough tokens."""
    starts_C = np.diff(word_C, prepend=-1) != 0
    word_C = np.cumsum(starts_C) - 1
    document_W, size_W = document_C[starts_C], np.bincount(word_C)
    order_W = np.lexsort((turns_C[starts_C], document_W))  # document_W ascends, and so is the same in this order
    content_B = np.bincount(document_C)
    before_W = np.cumsum(size_W[order_W]) - size_W[order_W] - (np.cumsum(content_B) - content_B)[document_W]
    wanted_B = np.maximum(1, np.rint(share * content_B))
    taken_W = np.empty(len(order_W), np.bool_)
    taken_W[order_W] = before_W < wanted_B[document_W]
    chosen_C: Bools = taken_W[word_C]
    return chosen_C


def _keys(seed: int, epoch: int, numbers_B: Ints) -> Bits:
    key_B = np.full(len(numbers_B), seed, np.uint64)
    for part in (np.full(len(numbers_B), epoch, np.uint64), numbers_B.astype(np.uint64)):
        key_B = _mixed(key_B + GAMMA) ^ part
    return _mixed(key_B + GAMMA)


def _draw(keys: Bits, within: Ints, which: int) -> Bits:
    """64 random bits: number `DRAWS * within + which` of the sequence that each key begins."""
    return _mixed(keys + GAMMA * (within.astype(np.uint64) * np.uint64(DRAWS) + np.uint64(which + 1)))


def _mixed(bits: Bits) -> Bits:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def special_table(tokenizer: Any) -> Bools:
    """Whether each id is a special token (the unknown token is one: nothing can be learned from it)."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    special = {*tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}
    table_V = np.zeros(max([*tokenizer.get_vocab().values(), *special]) + 1, np.bool_)
    table_V[sorted(special)] = True
    return table_V


def _parts_words(tokenizer: Any) -> bool:
    words = tokenizer.backend_tokenizer.encode("a b", add_special_tokens=False).word_ids
    return len(set(words)) > 1

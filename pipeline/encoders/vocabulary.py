"""Vocabulary pruning: a tokenizer, and the embeddings of a model, cut to the tokens that a corpus uses.

In a small student most parameters are word embeddings, most of them of words its texts never hold. A text all of whose
tokens are kept is cut into the same tokens as before (`closures` says why), and the pruned model answers it the same.

Kept tokens stay in their order. So the special tokens at the head of a vocabulary keep their ids, which some tokenizer
classes write into their code (XLM-R's unknown token is 3), and which RoBERTa's positions are counted from (padding).
Shapes: V tokens of the vocabulary.
"""

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.data.batches import tokenize
from pipeline.data.progress import Progress, silent
from pipeline.encoders.closures import alphabet_of, own_tokens, parts_of
from pipeline.errors import BadArtifact, BadRequest
from pipeline.records import Record

Counts = npt.NDArray[np.int64]
TEXTS_AT_ONCE = 16_384  # tokenize copies the tokenizer every time, up to a second for 250,000 tokens


class TeacherVocabulary(Record):
    """The teacher's tokenizer and every word it knows."""

    kind: Literal["teacher"] = "teacher"


class CorpusVocabulary(Record):
    """What occurs at least `min_count` times in the text that is distilled on, the most frequent first, and what they
    need; at most `max_size` tokens in all."""

    kind: Literal["corpus"] = "corpus"
    min_count: int = Field(default=1, ge=1)
    max_size: int | None = Field(default=None, ge=1)


VocabularyConfig = Annotated[TeacherVocabulary | CorpusVocabulary, Field(discriminator="kind")]


@dataclass(frozen=True)
class PrunedVocabulary:
    """A smaller tokenizer, and the old id of each of its tokens: `kept_ids[new] == old`."""

    tokenizer: Any
    kept_ids: tuple[int, ...]


def count_tokens(
    texts: Iterable[str], tokenizer: Any, *, max_length: int, progress: Progress = silent
) -> npt.NDArray[np.int64]:
    """How often each token id occurs in `texts`, each cut to `max_length` tokens, special tokens counted too."""
    counts_V = np.zeros(max(tokenizer.get_vocab().values()) + 1, np.int64)
    remaining = iter(progress(texts, "count the tokens", None))
    while chunk := list(islice(remaining, TEXTS_AT_ONCE)):
        tokens = tokenize(((text,) for text in chunk), tokenizer=tokenizer, max_length=max_length)
        counts_V += np.bincount(tokens.flat_ids, minlength=len(counts_V))
    return counts_V


def prune_tokenizer(
    tokenizer: Any, counts: Mapping[int, int] | Counts, *, min_count: int = 1, max_size: int | None = None
) -> PrunedVocabulary:
    """A tokenizer of the same class that holds the tokens counted at least `min_count` times, the special and added
    ones, the alphabet, and what they are made of; with `max_size`, the most frequent for which there is room.

    `tokenizer` is a transformers fast tokenizer and is not changed; `counts` is by id. Raises BadRequest when
    `max_size` is too small for what must stay, or the tokenizer is of a kind that cannot be pruned; BadArtifact when
    the counts are of another tokenizer.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    id_of = tokenizer.get_vocab()
    counted = _counted(counts, {number: token for token, number in id_of.items()})
    added = {token["content"] for token in state["added_tokens"]}
    must_stay = added | alphabet_of(state, [token for token in counted if token not in added])
    if max_size is not None and max_size < len(must_stay):
        raise BadRequest(
            f"vocabulary.max_size: {max_size} is too small for the {len(added)} special and added tokens and the "
            f"alphabet of {len(must_stay) - len(added)}; give at least {len(must_stay)}"
        )
    wanted = [token for token, count in counted.items() if count >= min_count]
    kept = _closed(must_stay, wanted, parts_of(state["model"]), max_size=max_size)
    own = set(own_tokens(state["model"]))
    # The tokenizer numbers added tokens after its own, whatever their ids were.
    kept_ids = tuple(id_of[token] for token in sorted(kept, key=lambda token: (token not in own, id_of[token])))
    _renumber_state(state, kept, new_id={old: new for new, old in enumerate(kept_ids)})
    return PrunedVocabulary(_rebuilt(tokenizer, state), kept_ids)


def _counted(counts: Mapping[int, int] | Counts, token_of: Mapping[int, str]) -> dict[str, int]:
    """Every token seen and how often, falling; of equals the lower id first, as it was learned first."""
    pairs = counts.items() if isinstance(counts, Mapping) else enumerate(counts.tolist())
    seen = sorted((-count, number) for number, count in pairs if count)
    for _, number in seen:
        if number not in token_of:
            raise BadArtifact(
                f"token id {number} was counted, but the tokenizer has no such token; count with the tokenizer "
                "that is pruned"
            )
    return {token_of[number]: -count for count, number in seen}


def _closed(
    must_stay: set[str], wanted: Iterable[str], parts: Callable[[str], set[str]], *, max_size: int | None
) -> set[str]:
    """`must_stay` and each wanted token with its parts; one for which there is no more room is passed over."""
    kept = set(must_stay)
    for token in wanted:
        more = parts(token) - kept
        if max_size is None or len(kept) + len(more) <= max_size:
            kept |= more
    return kept


def _renumber_state(state: dict[str, Any], kept: set[str], *, new_id: Mapping[int, int]) -> None:
    """Cut the tokenizer's state to `kept`, and write the new id wherever it names one."""
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: new_id[old] for token, old in model["vocab"].items() if token in kept}
    else:
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] in kept]
        model["unk_id"] = None if model["unk_id"] is None else new_id[model["unk_id"]]
    if "merges" in model:
        model["merges"] = [(a, b) for a, b in model["merges"] if {a, b, a + b} <= kept]
    for token in state["added_tokens"]:
        token["id"] = new_id[token["id"]]
    if state["padding"]:
        state["padding"]["pad_id"] = new_id[state["padding"]["pad_id"]]
    if state["post_processor"]:
        _renumber_template(state["post_processor"], new_id)


def _renumber_template(processor: dict[str, Any], new_id: Mapping[int, int]) -> None:
    for inner in processor.get("processors", ()):
        _renumber_template(inner, new_id)
    for special in processor["special_tokens"].values() if "special_tokens" in processor else ():
        special["ids"] = [new_id[old] for old in special["ids"]]
    for name in ("sep", "cls"):  # of BERT's and RoBERTa's own processors: [token, id]
        if name in processor:
            processor[name] = [processor[name][0], new_id[processor[name][1]]]


def _rebuilt(tokenizer: Any, state: Mapping[str, Any]) -> Any:
    """A copy of the transformers tokenizer around another state."""
    from tokenizers import Tokenizer

    fast = Tokenizer.from_str(json.dumps(state))
    rebuilt = copy.deepcopy(tokenizer, {id(tokenizer.backend_tokenizer): fast})  # in the old one's stead
    if "unk_id" in rebuilt.init_kwargs:  # DeBERTa-v2's, saved beside the state
        rebuilt.init_kwargs["unk_id"] = state["model"]["unk_id"]
    return rebuilt


def renumber_config(config: Any, kept_ids: Sequence[int]) -> None:
    """Set the size and every `*_token_id` of a model's config, in place; one not kept (a default that names no special
    token) becomes None."""
    new_id = {old: new for new, old in enumerate(kept_ids)}
    if config.pad_token_id not in new_id:
        raise BadArtifact(
            f"config.json: pad_token_id {config.pad_token_id} is not among the tokens kept, as the tokenizer does not "
            "call it special; set it to the tokenizer's padding id"
        )
    for name, old in config.to_dict().items():
        if name.endswith("_token_id") and old is not None:
            setattr(config, name, new_id.get(old))
    config.vocab_size = len(kept_ids)


def prune_embeddings(model: Any, kept_ids: Sequence[int]) -> None:
    """Cut a model's word embeddings, and a masked language model's decoder and its bias, to the rows `kept_ids`, and
    renumber its config, all in place: then it answers `new` as it answered `kept_ids[new]`.

    Raises BadArtifact when the tokenizer has tokens that the model has no embedding for, or when the padding id of a
    family that counts its positions from it would move.
    """
    words = model.get_input_embeddings()
    rows = words.num_embeddings
    if max(kept_ids) >= rows:
        raise BadArtifact(f"the tokenizer's token {max(kept_ids)} has no embedding: the model has {rows}")
    _refuse_to_move_positions(model, kept_ids)
    renumber_config(model.config, kept_ids)
    _cut(model, kept_ids, rows=rows)
    words.num_embeddings = len(kept_ids)
    words.padding_idx = model.config.pad_token_id if words.padding_idx is not None else None


def _refuse_to_move_positions(model: Any, kept_ids: Sequence[int]) -> None:
    """RoBERTa's position table has a padding row too, and begins after it."""
    for module in model.modules():
        padding = getattr(getattr(module, "position_embeddings", None), "padding_idx", None)
        if padding is not None and list(kept_ids[: padding + 1]) != list(range(padding + 1)):
            raise BadArtifact(
                f"{model.config.model_type} counts positions from the padding id {padding}, which must not move: "
                f"keep the tokens 0 to {padding} in their places"
            )


def _cut(model: Any, kept_ids: Sequence[int], *, rows: int) -> None:
    """The word embeddings, and what has as many rows outside the encoder (decoder, biases); tied ones stay tied."""
    import torch

    words = model.get_input_embeddings().weight
    index_V = torch.tensor(kept_ids, device=words.device)
    inside = {id(parameter) for parameter in model.base_model.parameters()} - {id(words)}
    whole = [parameter for parameter in model.parameters() if id(parameter) not in inside and len(parameter) == rows]
    smaller = {
        id(one): torch.nn.Parameter(one.detach()[index_V].clone(), requires_grad=one.requires_grad) for one in whole
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in smaller:
                setattr(module, name, smaller[id(parameter)])
                if isinstance(module, torch.nn.Linear):
                    module.out_features = len(kept_ids)

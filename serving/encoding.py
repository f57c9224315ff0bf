"""From what a client gives to what a graph reads: texts through the bundle's tokenizer, those that are too long as
serving.yaml says, and token ids as they are, once they are known to be in bounds.

A graph does not say so where an id has no embedding: OpenVINO answers, and onnxruntime names a node. So it is said
here, before anything is computed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from serving.bad_items import BadItem
from serving.bundle import ServingSpec
from serving.errors import BadArtifact
from serving.long_texts import Truncate, Windows
from serving.tokens import Given, Tokens
from serving.windows import TooLong, cut


class Encoder:
    """The tokenizer of the bundle in `folder`; safe to call from several threads at once.

    Raises:
        BadArtifact: this version of tokenizers does not read it, or leaves windows no room.
    """

    def __init__(self, folder: Path, *, spec: ServingSpec) -> None:
        self._spec = spec
        self._tokenizer = _load_tokenizer(folder, spec)
        self._rows = _embedded(folder) or self._tokenizer.get_vocab_size()

    def encode(self, items: Sequence[Given]) -> list[Tokens]:
        """Texts tokenized, and cut, refused or made windows where they are too long; token ids checked. A batch call is
        used for one item too: it lets other threads run.

        Raises:
            TooLong: an item has more tokens than the bundle allows.
            BadItem: an item has the wrong number of texts, gives no token at all, or has ids that the model has not.
        """
        count = self._spec.texts_per_item
        texts: list[Any] = []
        places: list[int] = []
        found: list[Any] = list(items)
        for index, item in enumerate(items):
            if isinstance(item, Tokens):
                self._check_ids(item, index=index)
            elif len(item) != count:
                raise BadItem(index, f"has {len(item)} text(s); this model takes {count} per item")
            else:
                texts.append(item[0] if count == 1 else item)
                places.append(index)
        for index, one in zip(places, self._tokenized(texts), strict=True):
            found[index] = tokens = self._read(one, index=index)
            if not tokens.ids:
                raise BadItem(index, "has no token this model can read; send some text")
        return found

    def _tokenized(self, texts: list[Any]) -> list[Any]:
        """Encodings; without characters, which is faster, where nobody asks for them."""
        if self._spec.per_token:
            return self._tokenizer.encode_batch(texts)
        return self._tokenizer.encode_batch_fast(texts)

    def _read(self, one: Any, *, index: int) -> Tokens:
        offsets = one.offsets if self._spec.per_token else ()
        if len(one) <= self._spec.max_length:  # always, where the tokenizer cuts
            return Tokens(one.ids, one.type_ids, offsets)
        if isinstance(self._spec.long_texts, Windows):
            windows = cut(one, index=index, spec=self._spec, windows=self._spec.long_texts)
            return Tokens(one.ids, one.type_ids, offsets, windows)
        most = self._spec.max_length
        raise TooLong(index, f"has {len(one)} tokens, more than the {most} this model reads; shorten it")

    def _check_ids(self, item: Tokens, *, index: int) -> None:
        most, last = self._spec.max_length, self._rows - 1
        if not 1 <= len(item.ids) <= most:
            raise BadItem(index, f"has {len(item.ids)} token id(s); this model takes 1 to {most}")
        if min(item.ids) < 0 or max(item.ids) > last:
            wrong = next(one for one in item.ids if not 0 <= one <= last)
            raise BadItem(index, f"has the token id {wrong}; this model's are 0 to {last}")
        if len(item.type_ids) != len(item.ids):
            counted = f"{len(item.ids)} token id(s) and {len(item.type_ids)} type id(s)"
            raise BadItem(index, f"has {counted}; send one for each")
        if min(item.type_ids) < 0 or max(item.type_ids) > 1:
            wrong = next(one for one in item.type_ids if not 0 <= one <= 1)
            raise BadItem(index, f"has the type id {wrong}; a type id is 0 or 1")


def _embedded(folder: Path) -> int | None:
    """How many tokens the model has embeddings for, where config.json says so: as many as the tokenizer's or more. A
    graph that is not sealed yet may be tried without one."""

    class Config(msgspec.Struct):
        vocab_size: int | None = None

    path = folder / "config.json"
    try:
        return msgspec.json.decode(path.read_bytes() if path.is_file() else b"{}", type=Config).vocab_size
    except msgspec.MsgspecError as error:
        raise BadArtifact(f"{path}: {error}; export it again") from error


def _load_tokenizer(folder: Path, spec: ServingSpec) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BadArtifact(f"{path} is no tokenizer this version reads: {error}") from error
    # Once and never per call: changing it while another thread encodes fails with "Already borrowed".
    tokenizer.no_padding()
    if isinstance(spec.long_texts, Truncate):
        tokenizer.enable_truncation(max_length=spec.max_length, strategy="longest_first")
        return tokenizer
    tokenizer.no_truncation()
    special = tokenizer.num_special_tokens_to_add(spec.texts_per_item == 2)
    if isinstance(spec.long_texts, Windows) and spec.max_length - special <= spec.long_texts.stride:
        raise BadArtifact(
            f"{folder}: windows that share {spec.long_texts.stride} tokens hold none of their own: the model reads "
            f"{spec.max_length}, {special} of them special; export it with a smaller stride"
        )
    return tokenizer

"""Which texts a bundle answers, and the tokens it answers them from: what an export is proven on."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from pipeline.data.batches import tokenize
from pipeline.errors import BadArtifact
from serving.bundle import Item, ServingSpec
from serving.encoding import Encoder
from serving.tokens import Tokens
from serving.windows import TooLong


def encode(folder: Path, items: Sequence[Item], *, spec: ServingSpec) -> list[Tokens]:
    """Items as the training half tokenizes them: parity then covers the tokenizer that ships too. What is computed in
    windows is cut into them by the half that ships."""
    tokens = tokenize(items, tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")), max_length=spec.reach)
    ids, types, encoder = tokens.ids, tokens.type_ids, Encoder(folder, spec=spec)
    return [
        Tokens(ids(i).tolist(), types(i).tolist()) if len(ids(i)) <= spec.max_length else encoder.encode([item])[0]
        for i, item in enumerate(items)
    ]


def answered(
    folder: Path, train: Sequence[Item], dev: Sequence[Item], *, spec: ServingSpec, most: int
) -> tuple[Item, ...]:
    """The first `most` of train's and dev's items that the server answers; BadArtifact where there are fewer, or where
    it refuses one of dev, by which variants are judged."""
    encoder = Encoder(folder, spec=spec)
    refused = [item for item in dev if not _answers(encoder, item)]
    if refused:
        raise BadArtifact(
            f"export.long_texts: {spec.long_texts.told(reads=spec.max_length)}, and {len(refused)} of dev's {len(dev)} "
            f"texts would be refused; take them out of the data, or choose another kind; the first: {refused[0]!r:.80}"
        )
    found = tuple(islice((item for item in (*train, *dev) if _answers(encoder, item)), most))
    if len(found) < most:
        raise BadArtifact(
            f"export proves parity on {most} real texts; only {len(found)} of train and dev are not refused: add texts"
        )
    return found


def _answers(encoder: Encoder, item: Item) -> bool:
    try:
        encoder.encode([item])
    except TooLong:
        return False
    return True

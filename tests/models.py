"""Tiny encoders of every family as folders in the hub's format: random weights, real fast tokenizers.

The weights are drawn wide (`initializer_range` 0.5), so that attention is not uniform and a wrong layer shows; biases
and normalisation are drawn too, so that none is forgotten unseen.
"""

import shutil
import string
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import exporting
from serving.bundle import Item, ServingSpec, read_bundle
from serving.engine import Engine

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")
WORDS = [
    "a",
    "and",
    "actor",
    "awful",
    "bad",
    "boring",
    "brave",
    "bright",
    "calm",
    "clever",
    "cold",
    "dull",
    "empty",
    "fast",
    "fine",
    "flat",
    "fresh",
    "funny",
    "good",
    "grand",
    "great",
    "happy",
    "heavy",
    "light",
    "loud",
    "lovely",
    "not",
    "plain",
    "plot",
    "proud",
    "quiet",
    "rich",
    "sad",
    "sharp",
    "short",
    "slow",
    "soft",
    "story",
    "strange",
    "strong",
    "sweet",
    "the",
    "very",
    "warm",
    "weak",
]
GOOD, BAD = ("bright", "good", "great", "lovely"), ("awful", "bad", "boring", "dull")
LABELS = ("bad", "good")
MAX_LENGTH = 24
# What is exported: a classifier with token types, one without whose positions depend on padding, and a regression.
EXPORTED = {"bert": LABELS, "roberta": ("sad", "so-so", "happy"), "distilbert": ()}


def sentences(count: int, *, seed: int = 0, shortest: int = 2, longest: int = 9) -> list[str]:
    """Distinct random sentences over WORDS."""
    generator = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(generator.choice(WORDS, generator.integers(shortest, longest + 1)))] = None
    return list(found)


def tiny_tokenizer(family: str) -> Any:
    """The family's own fast tokenizer over WORDS and single letters."""
    from transformers import BertTokenizer, DistilBertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

    letters = string.ascii_lowercase
    if family in ("bert", "distilbert"):
        pieces = (
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            *WORDS,
            *letters,
            *(f"##{letter}" for letter in letters),
        )
        wordpiece = BertTokenizer if family == "bert" else DistilBertTokenizer
        return wordpiece(vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))})
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    if family == "roberta":
        spaced = [f"Ġ{word}" for word in WORDS]
        merges = list(dict.fromkeys((word[:end], word[end]) for word in spaced for end in range(1, len(word))))
        bytelevel = (*special, "Ġ", *letters, *("".join(pair) for pair in merges))
        return RobertaTokenizer(vocab={piece: index for index, piece in enumerate(bytelevel)}, merges=merges)
    spelled = ("▁", *(f"▁{word}" for word in WORDS if len(word) > 1), *letters)
    return XLMRobertaTokenizer(vocab=[(piece, -float(index)) for index, piece in enumerate((*special, *spelled))])


def tiny_config(family: str, *, layers: int = 2, width: int = 48, heads: int = 4, **changes: Any) -> Any:
    """A config of the family that fits `tiny_tokenizer`."""
    from transformers import AutoConfig

    tokenizer = tiny_tokenizer(family)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    config.num_hidden_layers, config.hidden_size, config.num_attention_heads = layers, width, heads
    config.max_position_embeddings = 80
    config.initializer_range = 0.5
    setattr(config, "hidden_dim" if family == "distilbert" else "intermediate_size", 2 * width)
    if family in ("roberta", "xlm-roberta"):
        config.type_vocab_size = 1
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def tiny_encoder(family: str = "bert", *, seed: int = 0, **changes: Any) -> Any:
    """A random base encoder in eval mode."""
    import torch
    from transformers import AutoModel

    torch.manual_seed(seed)
    return _stirred(AutoModel.from_config(tiny_config(family, **changes))).eval()


def _stirred(model: Any) -> Any:
    """With vectors that are not all zeros or ones."""
    import torch

    for weight in model.parameters():
        if weight.ndim == 1:
            weight.data += 0.1 * torch.randn_like(weight)
    return model


def encoder_folder(folder: Path, family: str = "bert", *, seed: int = 0, **changes: Any) -> Path:
    """The random base encoder with its tokenizer, saved as the hub would hold it."""
    tiny_encoder(family, seed=seed, **changes).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


def classifier_folder(
    folder: Path,
    family: str = "bert",
    *,
    labels: tuple[str, ...] = LABELS,
    max_length: int = MAX_LENGTH,
    **changes: Any,
) -> Path:
    """A random sequence classifier with labels and tokenizer, as fine-tuning leaves one; no labels: regression."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = tiny_config(family, **changes)
    config.id2label = dict(enumerate(labels)) or {0: "score"}
    config.label2id = {name: index for index, name in config.id2label.items()}
    torch.manual_seed(0)
    _stirred(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    tokenizer = tiny_tokenizer(family)
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
    return folder


ITEMS: list[Item] = [(text,) for text in sentences(40, longest=30)]


@dataclass(frozen=True)
class Exported:
    """A sealed bundle and the torch model it came from."""

    family: str
    folder: Path
    model: Any
    bundle: Path

    def engine(self) -> Engine:
        return Engine(read_bundle(self.bundle), threads=1)

    def copy(self, path: Path) -> Path:
        return Path(shutil.copytree(self.bundle, path))


def spec_of(model: Any, labels: tuple[str, ...], *, texts_per_item: int = 1) -> ServingSpec:
    return ServingSpec(
        name="tiny",
        task="classification" if labels else "regression",
        labels=labels,
        texts_per_item=texts_per_item,
        max_length=MAX_LENGTH,
        pad_id=model.config.pad_token_id,
        graph_inputs=exporting.graph_inputs(model.config),
        buckets=exporting.buckets_up_to(MAX_LENGTH),
        parameters=1,
    )


@cache
def exported_case(family: str, base: Path) -> Exported:
    """A case of EXPORTED; an export takes seconds, so each is made once under a session's `base`."""
    root = base / f"exported-{family}"
    folder = classifier_folder(root / "model", family, labels=EXPORTED[family])
    model, bundle = exporting.load_model(folder), root / "bundle"
    bundle.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, bundle / name)
    exporting.export_onnx(model, bundle / "model.onnx", inputs=exporting.graph_inputs(model.config))
    exporting.seal_bundle(bundle, model=model, spec=spec_of(model, EXPORTED[family]), items=ITEMS)
    return Exported(family, folder, model, bundle)

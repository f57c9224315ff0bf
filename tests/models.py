"""Tiny encoders of every family as folders in the hub's format: random weights, real fast tokenizers.

The weights are drawn wide (`initializer_range` 0.5), so that attention is not uniform and a wrong layer shows; biases
and normalisation are drawn too, so that none is forgotten unseen.
"""

import shutil
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from pipeline import exporting
from pipeline.data.layout import Layout, TextBatch
from pipeline.tasking.fitted import Fitted
from pipeline.tasks import AnyTask, Task
from serving.bundle import Item, ServingSpec, read_bundle
from serving.engine import Engine

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")  # what is fine-tuned and exported
ENCODERS = (*FAMILIES, "electra", "deberta-v2", "modernbert")  # what is distilled
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
TAGS = ("O", "B-mood", "I-mood", "B-thing", "I-thing")
# What is exported, by family: a classifier with token types, one without whose positions depend on padding, and a
# number; several labels, a tag a token, and a vector.
EXPORTED = {
    "bert": Fitted("classification", LABELS),
    "roberta": Fitted("classification", ("sad", "so-so", "happy")),
    "distilbert": Fitted("regression"),
    "xlm-roberta": Fitted("multi-label", LABELS, thresholds=(0.4, 0.6)),
    "bert-tags": Fitted("token-classification", TAGS),
    "bert-vectors": Fitted("embedding", dimensions=48),
}


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
    if family in ("deberta-v2", "modernbert"):
        return _unigram(letters) if family == "deberta-v2" else _byte_level(letters)
    if family in ("bert", "distilbert", "electra"):
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
        wordpiece = DistilBertTokenizer if family == "distilbert" else BertTokenizer
        return wordpiece(vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))})
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    if family == "roberta":
        spaced = [f"Ġ{word}" for word in WORDS]
        merges = list(dict.fromkeys((word[:end], word[end]) for word in spaced for end in range(1, len(word))))
        bytelevel = (*special, "Ġ", *letters, *("".join(pair) for pair in merges))
        return RobertaTokenizer(vocab={piece: index for index, piece in enumerate(bytelevel)}, merges=merges)
    spelled = ("▁", *(f"▁{word}" for word in WORDS if len(word) > 1), *letters)
    return XLMRobertaTokenizer(vocab=[(piece, -float(index)) for index, piece in enumerate((*special, *spelled))])


def _unigram(letters: str) -> Any:
    from transformers import DebertaV2Tokenizer

    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    scored = [(f"▁{word}", -float(index)) for index, word in enumerate(WORDS, start=1) if len(word) > 1]
    spelled = [(piece, -100.0) for piece in ("▁", *letters)]
    return DebertaV2Tokenizer(vocab=[*((piece, 0.0) for piece in special), *scored, *spelled])


def _byte_level(letters: str) -> Any:
    """As ModernBERT's: no class of its own, and a first word without a space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    merges = list(dict.fromkeys((f"Ġ{word}"[:end], word[end - 1]) for word in WORDS for end in range(1, len(word) + 1)))
    pieces = (*special, "Ġ", *letters, *("".join(pair) for pair in merges))
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.BPE(vocab=ids, merges=merges))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(piece, ids[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("unk_token", "cls_token", "sep_token", "pad_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=["input_ids", "attention_mask"], **names)


# What makes a tiny encoder of these families behave as the published ones: DeBERTa-v3's relative positions, an ELECTRA
# with narrow embeddings, and a ModernBERT whose windows are shorter than the texts.
_OF_FAMILY: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "electra": {"embedding_size": 32},
    "modernbert": {"local_attention": 8},
}


def text_batch(family: str, texts: Sequence[str], *, packed: bool = False) -> TextBatch:
    """The texts as one batch of unlabelled text: padded (no mask where all are of one length), or end to end."""
    tokenizer = tiny_tokenizer(family)
    rows = [np.array(row) for row in tokenizer(list(texts)).input_ids]
    lengths, documents = tuple(len(row) for row in rows), tuple(range(len(rows)))
    if packed:
        positions = np.concatenate([np.arange(length) for length in lengths])
        return TextBatch(np.concatenate(rows)[None], None, positions[None], Layout.packed(lengths), documents)
    longest = max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.stack([np.pad(row, (0, longest - len(row)), constant_values=tokenizer.pad_token_id) for row in rows])
    layout = Layout.padded(lengths, columns=longest)
    return TextBatch(ids, None if mask.all() else mask, None, layout, documents)


def tiny_config(family: str, *, layers: int = 2, width: int = 48, heads: int = 4, **changes: Any) -> Any:
    """A config of the family that fits `tiny_tokenizer`."""
    from transformers import AutoConfig

    tokenizer = tiny_tokenizer(family)
    fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **_OF_FAMILY.get(family, {})}
    if family == "modernbert":  # which works out at once which of its layers have windows
        fields = {**fields, "num_hidden_layers": layers, "layer_types": changes.pop("layer_types", None)}
        fields |= {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **fields)
    config.num_hidden_layers, config.hidden_size, config.num_attention_heads = layers, width, heads
    config.max_position_embeddings = 80
    config.initializer_range = 0.5
    setattr(config, "hidden_dim" if family == "distilbert" else "intermediate_size", 2 * width)
    if hasattr(config, "pooler_hidden_size"):
        config.pooler_hidden_size = width
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


def tiny_masked_lm(family: str = "bert", *, seed: int = 0, **changes: Any) -> Any:
    """A random masked language model in eval mode."""
    import torch
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(seed)
    return _stirred(AutoModelForMaskedLM.from_config(tiny_config(family, **changes))).eval()


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


def masked_lm_folder(folder: Path, family: str = "bert", *, seed: int = 0, **changes: Any) -> Path:
    """The random masked language model with its tokenizer, saved as the hub would hold it."""
    tiny_masked_lm(family, seed=seed, **changes).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


def classifier_folder(folder: Path, family: str = "bert", *, labels: tuple[str, ...] = LABELS, **changes: Any) -> Path:
    """A random sequence classifier with labels and tokenizer, as fine-tuning leaves one; no labels: regression."""
    return tuned_folder(folder, family, Fitted("classification" if labels else "regression", labels), **changes)


def tuned_folder(
    folder: Path, family: str, fitted: Fitted, *, max_length: int = MAX_LENGTH, pooling: str = "mean", **changes: Any
) -> Path:
    """A random model for a task with its tokenizer, as fine-tuning leaves one; vectors are of length 1."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    if fitted.kind == "embedding":
        _sentence_encoder(family, pooling=pooling, **changes).save_pretrained(folder)
    else:
        tags = fitted.kind == "token-classification"
        kind = AutoModelForTokenClassification if tags else AutoModelForSequenceClassification
        _with_head(kind, tiny_config(family, **changes), fitted.labels).save_pretrained(folder)
    tokenizer = tiny_tokenizer(family)
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
    fitted.write(folder)
    return folder


def _with_head(kind: Any, config: Any, labels: tuple[str, ...]) -> Any:
    import torch

    config.id2label = dict(enumerate(labels)) or {0: "score"}
    config.label2id = {name: index for index, name in config.id2label.items()}
    torch.manual_seed(0)
    return _stirred(kind.from_config(config))


def _sentence_encoder(family: str, *, pooling: Any, **changes: Any) -> Any:
    from pipeline.encoders.sentences import Pooled, SentenceEncoder

    return SentenceEncoder(tiny_encoder(family, **changes), Pooled(pooling, normalize=True))


ITEMS: list[Item] = [(text,) for text in sentences(40, longest=30)]


@dataclass(frozen=True)
class Exported:
    """A sealed bundle and the torch model it came from."""

    family: str
    fitted: Fitted
    folder: Path
    model: Any
    bundle: Path

    @property
    def graph(self) -> Path:
        return self.bundle / "model.onnx"

    def engine(self) -> Engine:
        return Engine(read_bundle(self.bundle), threads=1)

    def copy(self, path: Path) -> Path:
        return Path(shutil.copytree(self.bundle, path))

    def spec(self, *, texts_per_item: int = 1) -> ServingSpec:
        return spec_of(self.model, self.fitted, texts_per_item=texts_per_item)


def task_of(kind: str, **settings: Any) -> AnyTask:
    """A task whose data is not there: for what reads none."""
    told = {"kind": kind, "data": {"kind": "files", "train": "nowhere.jsonl"}, **settings}
    task: AnyTask = TypeAdapter(Task).validate_python(told)
    return task


def spec_of(model: Any, fitted: Fitted, *, texts_per_item: int = 1) -> ServingSpec:
    return ServingSpec(
        name="tiny",
        task=fitted.kind,
        labels=fitted.labels,
        thresholds=fitted.thresholds,
        dimensions=fitted.dimensions,
        texts_per_item=texts_per_item,
        max_length=MAX_LENGTH,
        pad_id=model.config.pad_token_id,
        graph_inputs=exporting.graph_inputs(model.config),
        buckets=exporting.buckets_up_to(MAX_LENGTH),
        parameters=1,
    )


@cache
def exported_case(name: str, base: Path) -> Exported:
    """A case of EXPORTED; an export takes seconds, so each is made once under a session's `base`."""
    root, fitted, family = (
        base / f"exported-{name}",
        EXPORTED[name],
        name.removesuffix("-tags").removesuffix("-vectors"),
    )
    return sealed(tuned_folder(root / "model", family, fitted), family, fitted, root / "bundle")


def sealed(folder: Path, family: str, fitted: Fitted, bundle: Path) -> Exported:
    """The model of a folder as the stage exports it."""
    from pipeline.encoders.heads import load_tuned

    task = task_of(fitted.kind)
    model, output = load_tuned(folder, task, fitted.labels), task.head(fitted.labels).output
    bundle.mkdir(parents=True)
    exporting.copy_files(folder, bundle)
    exporting.export_onnx(model, bundle / "model.onnx", inputs=exporting.graph_inputs(model.config), output=output)
    exporting.seal_bundle(bundle, model=model, spec=spec_of(model, fitted), items=ITEMS)
    return Exported(family, fitted, folder, model, bundle)

"""Masked language models: an encoder, and the head that makes logits over the vocabulary of its last hidden states.

Shapes: M masked positions, D hidden, E embedding (D in most families), V tokens of the vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encoders.families import family_of
from pipeline.encoders.teachers import load_weights, read_config, stored_weights
from pipeline.errors import BadRequest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MlmHead:
    """logits_MV = transform(hidden_MD) @ weight_VE.T + bias_V, of the encoder's last hidden states. The parameters are
    the model's own; V may be large: multiply in chunks."""

    transform: Callable[["Tensor"], "Tensor"]  # (M, D) -> (M, E)
    weight_VE: "Tensor"
    bias_V: "Tensor"


@dataclass(frozen=True)
class _Form:
    """Where a masked language model keeps its head: the modules run one after the other before the vocabulary, the
    linear map to it, its bias, and the weights by which a stored head is known."""

    transform: tuple[str, ...]
    decoder: str
    bias: str
    stored: tuple[str, ...]


_BERT = _Form(
    transform=("cls.predictions.transform",),
    decoder="cls.predictions.decoder",
    bias="cls.predictions.decoder.bias",
    stored=("cls.predictions.transform.dense.weight",),
)
_ROBERTA = _Form(
    transform=("lm_head.dense", "gelu", "lm_head.layer_norm"),
    decoder="lm_head.decoder",
    bias="lm_head.decoder.bias",
    stored=("lm_head.dense.weight",),
)
_DISTILBERT = _Form(
    transform=("vocab_transform", "activation", "vocab_layer_norm"),
    decoder="vocab_projector",
    bias="vocab_projector.bias",
    stored=("vocab_transform.weight",),
)
_ELECTRA = _Form(  # the generator's; a discriminator has none
    transform=("generator_predictions",),
    decoder="generator_lm_head",
    bias="generator_lm_head.bias",
    stored=("generator_predictions.dense.weight",),
)
_DEBERTA_V3 = _Form(
    transform=(
        "lm_predictions.lm_head.dense",
        "lm_predictions.lm_head.transform_act_fn",
        "lm_predictions.lm_head.LayerNorm",
    ),
    decoder="deberta.embeddings.word_embeddings",
    bias="lm_predictions.lm_head.bias",
    stored=("lm_predictions.lm_head.dense.weight",),
)
_MODERNBERT = _Form(  # classifiers have a `head` too, but no decoder
    transform=("head",), decoder="decoder", bias="decoder.bias", stored=("head.dense.weight", "decoder.bias")
)
FORMS: dict[str, tuple[_Form, ...]] = {
    "bert": (_BERT,),
    "roberta": (_ROBERTA,),
    "xlm-roberta": (_ROBERTA,),
    "distilbert": (_DISTILBERT,),
    "electra": (_ELECTRA,),
    "deberta-v2": (_BERT, _DEBERTA_V3),
    "modernbert": (_MODERNBERT,),
}


def has_mlm_head(folder: Path) -> bool:
    """Whether the weights in a model folder have a masked-language-model head; reads their headers alone."""
    names = stored_weights(folder)
    return any(names.issuperset(form.stored) for form in _forms_of(str(read_config(folder).get("model_type"))))


def no_mlm_head(teacher: str, model_type: str | None = None) -> BadRequest:
    """What to say of a teacher (of this family, where it is known) that has no head and needs one."""
    forms = " or ".join(", ".join(form.stored) for form in _forms_of(model_type)) if model_type else ""
    missing = f": weights named {forms} are missing" if forms else ""
    return BadRequest(
        f"teacher {teacher!r} has no masked-language-model head{missing}. Output distribution transfer compares the "
        "distributions over the vocabulary that such a head gives; `retort pretrain CONFIG` with a `pretrain:` section "
        "gives the teacher one, or set the objective's kind to relation or hidden, which need none"
    )


def load_masked_lm(folder: Path) -> Any:
    """The masked language model in fp32, in eval mode, with `load_weights`' checks; BadRequest where the folder holds
    no head."""
    from transformers import AutoModelForMaskedLM

    if not has_mlm_head(folder):
        raise no_mlm_head(str(folder), str(read_config(folder).get("model_type")))
    return load_weights(folder, AutoModelForMaskedLM)


def masked_lm_of(encoder: Any, *, seed: int, source: Any = None) -> Any:
    """A masked language model around this encoder itself (not a copy), in eval mode where it is.

    The head is drawn from `seed`, or copied from the masked language model `source` as far as shapes go: the leading
    channels of each matrix, and nothing that belongs to another vocabulary. Where the family ties the decoder to the
    word embeddings, it is tied to this encoder's.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(encoder.config)
    setattr(model, model.base_model_prefix, encoder)
    model.tie_weights()
    if source is not None:
        _copy_head(source, model)
    return model.to(encoder.device).train(encoder.training)


def mlm_head_of(model: Any) -> MlmHead:
    """The parts of a masked language model's head; cheap, and the same while its encoder is being read."""
    import torch
    from torch import nn

    forms = _forms_of(model.config.model_type)
    form = next(form for form in forms if hasattr(model, form.transform[0].partition(".")[0]))
    steps = [nn.GELU() if path == "gelu" else attrgetter(path)(model) for path in form.transform]
    weight_VE, bias_V = attrgetter(form.decoder)(model).weight, attrgetter(form.bias)(model)
    if bias_V is None:
        bias_V = torch.zeros(len(weight_VE), device=weight_VE.device)
    return MlmHead(nn.Sequential(*steps), weight_VE, bias_V)


def _forms_of(model_type: str) -> tuple[_Form, ...]:
    family_of(model_type)  # which refuses an unknown one
    return FORMS[model_type]


def _copy_head(source: Any, target: Any) -> None:
    from pipeline.encoders.students import copy_leading

    vocabularies = source.config.vocab_size, target.config.vocab_size
    encoder = {id(weight) for weight in target.base_model.parameters()}
    weights = dict(source.named_parameters(remove_duplicate=False))
    for name, weight in target.named_parameters():
        theirs = weights.get(name)
        if id(weight) in encoder or theirs is None:
            continue
        if vocabularies[0] == vocabularies[1] or len(theirs) != vocabularies[0]:
            copy_leading(theirs, weight)

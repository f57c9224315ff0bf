"""An encoder with pooling: one vector a text. Its folder is in sentence-transformers' format beside the hub's, so that
library reads it too. Shapes: B batch, L tokens, D width."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from pipeline.errors import BadArtifact, BadRequest

Pooling = Literal["mean", "cls"]
POOLING_FILE = Path("1_Pooling") / "config.json"
SWITCHES: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
MODES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", **SWITCHES}
_MODULES = ("Transformer", "Pooling", "Normalize")


class Pooled(NamedTuple):
    """How token states become a vector."""

    pooling: Pooling
    normalize: bool


class SentenceEncoder(nn.Module):
    """`logits` (B, D): the mean of the real tokens' last states or the first token's, of length 1 if normalized."""

    def __init__(self, encoder: Any, pooled: Pooled) -> None:
        super().__init__()
        self.encoder, self.pooled = encoder, pooled
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # a classifier's, of the first token; no vector goes through it

    @property
    def config(self) -> Any:
        """The encoder's."""
        return self.encoder.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> SequenceClassifierOutput:
        """Every argument is (B, L)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        asked = {"output_hidden_states": True} if output_hidden_states else {}
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types, **asked)
        states_BLD = output.last_hidden_state
        if self.pooled.pooling == "cls":
            vectors_BD = states_BLD[:, 0]
        else:
            mask_BL1 = attention_mask[:, :, None].to(states_BLD.dtype)
            vectors_BD = (states_BLD * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)
        if self.pooled.normalize:
            vectors_BD = nn.functional.normalize(vectors_BD.float(), dim=1)
        return SequenceClassifierOutput(logits=vectors_BD, hidden_states=output.hidden_states)

    def save_pretrained(self, folder: Path) -> None:
        """Weights and config as any encoder's, with what sentence-transformers reads."""
        self.encoder.save_pretrained(folder)
        write_pooled(folder, self.pooled, width=self.config.hidden_size)


def write_pooled(folder: Path, pooled: Pooled, *, width: int) -> None:
    """`modules.json`, `1_Pooling/config.json` and, if normalized, `2_Normalize`."""
    names = _MODULES if pooled.normalize else _MODULES[:-1]
    paths = ["" if place == 0 else f"{place}_{name}" for place, name in enumerate(names)]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
        for place, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    for path in filter(None, paths):
        (folder / path).mkdir(exist_ok=True)
    settings: dict[str, Any] = {switch: mode == pooled.pooling for switch, mode in SWITCHES.items()}
    settings["word_embedding_dimension"] = width
    for name, content in (("modules.json", modules), (str(POOLING_FILE), settings)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if pooled.normalize:
        (folder / "2_Normalize" / "config.json").write_text("{}\n", encoding="utf-8")


def carry_pooling(source: Path, target: Path, *, width: int) -> None:
    """Give an encoder of this width, made from the one in `source`, its `1_Pooling`; nothing where it has none."""
    path = target / POOLING_FILE
    if (source / POOLING_FILE).is_file():
        path.parent.mkdir(exist_ok=True)
        settings = _settings(source / POOLING_FILE) | {"word_embedding_dimension": width}
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_pooling(folder: Path) -> Pooling | None:
    """What a folder's `1_Pooling` says, in the older form (a switch for each mode) or the newer (a name, or several);
    None where it has none.

    Raises:
        BadArtifact: it is not a JSON object.
        BadRequest: it pools in a way that is not among MODES.
    """
    path = folder / POOLING_FILE
    if not path.is_file():
        return None
    settings = _settings(path)
    switched_on = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value]
    named = settings.get("pooling_mode", switched_on)
    asked = [named] if isinstance(named, str) else named
    if len(asked) != 1 or asked[0] not in MODES:
        raise BadRequest(
            f"{path} pools by {', '.join(asked) or 'nothing'}, and Retort by the mean or the first token: set "
            "task.pooling to mean or cls"
        )
    return MODES[asked[0]]


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadArtifact(f"{path} does not say how to pool: {error}") from error
    if not isinstance(settings, dict):
        raise BadArtifact(f"{path} does not say how to pool: it holds {type(settings).__name__}, not an object")
    return settings

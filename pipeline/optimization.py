"""How a model is optimized: AdamW and its schedule."""

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.records import Record

if TYPE_CHECKING:
    import torch


class Optimization(Record):
    """AdamW with warm-up and linear decay to zero (the published settings of MiniLMv2 but for the rate)."""

    learning_rate: float = Field(default=6e-4, gt=0)
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    adam_eps: float = Field(default=1e-6, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)

    def rate_at(self, before: float, after: float) -> float:
        """The learning rate of a step that takes training from `before` to `after`, both shares of the whole."""
        climb = after / self.warmup_share if self.warmup_share else 1.0
        return self.learning_rate * min(1.0, climb, (1.0 - before) / (1.0 - self.warmup_share))

    def optimizer(self, module: "torch.nn.Module") -> "torch.optim.AdamW":
        """AdamW over what is trained of `module`; biases and normalisation weights are not decayed."""
        import torch

        trained = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups,
            lr=self.learning_rate,
            betas=(0.9, self.adam_beta2),
            eps=self.adam_eps,
            fused=True,  # eight times faster on the embedding matrix of a small encoder
        )

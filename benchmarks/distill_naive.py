"""The baseline of `distill_bench`: MiniLMv2 distillation as one writes it in plain PyTorch.

The relations of both models are stored whole and autograd keeps what it wants of them; both models run to the end, with
eager attention, in fp32, on batches padded to their longest document; AdamW is torch's default. It is written plainly,
not slowly: of three ways to write the divergence the fastest was taken, and the teacher keeps nothing for a backward.

Shapes: B documents, L tokens, D and E student and teacher width, A relation heads, d = D / A.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import kl_div

RELATIONS = ("query", "key", "value")
MOST_BYTES = 1 << 29  # of one B x A x L x L; autograd keeps six of them, and as many again come and go
CLIP_NORM = 1.0
Ids = npt.NDArray[np.int32]


def materialised_kl(student_BLD: Tensor, teacher_BLE: Tensor, *, lengths_B: Tensor, relation_heads: int) -> Tensor:
    """Sum over documents of 1/(A*len) * sum KL(R_teacher || R_student), R = softmax(X X^T / sqrt(d)) (2012.15828,
    eq. 4-6); padding enters neither rows nor columns. Softmax in fp32, as autocast has it."""
    real_BL = torch.arange(student_BLD.shape[1], device=student_BLD.device) < lengths_B[:, None]
    with torch.no_grad():
        log_teacher_BALL = _log_relations(teacher_BLE, real_BL, relation_heads)
    log_student_BALL = _log_relations(student_BLD, real_BL, relation_heads)
    kl_BAL = kl_div(log_student_BALL, log_teacher_BALL, reduction="none", log_target=True).sum(-1)
    return ((kl_BAL * real_BL[:, None]).sum((1, 2)) / (relation_heads * lengths_B)).sum()


def _log_relations(x_BLD: Tensor, real_BL: Tensor, relation_heads: int) -> Tensor:
    x_BALd = x_BLD.view(*x_BLD.shape[:2], relation_heads, -1).transpose(1, 2)
    logits_BALL = (x_BALd @ x_BALd.transpose(-1, -2)) / x_BALd.shape[-1] ** 0.5
    hidden = torch.finfo(logits_BALL.dtype).min
    return torch.log_softmax(logits_BALL.masked_fill(~real_BL[:, None, None, :], hidden), dim=-1, dtype=torch.float32)


class NaiveDistillation:
    """Q-Q, K-K and V-V of the last layers of two BERTs. `step` takes documents as token ids; the given models are
    copied, not changed. Dropout is off, and gradients are clipped, as in what it is compared with."""

    def __init__(self, teacher: Any, student: Any, *, pad_id: int, relation_heads: int, learning_rate: float) -> None:
        self._teacher, self._of_teacher = _tapped(teacher)
        self.student, self._of_student = _tapped(student)
        self._teacher.requires_grad_(requires_grad=False)
        self.student.requires_grad_(requires_grad=True)
        self._pad_id, self._relation_heads = pad_id, relation_heads
        self._optimizer = torch.optim.AdamW(self.student.parameters(), lr=learning_rate)

    def train(self, documents: Sequence[Ids], *, size: int) -> None:
        """Steps of `size` documents, in their order."""
        for start in range(0, len(documents), size):
            self.step(documents[start : start + size])

    def step(self, documents: Sequence[Ids]) -> None:
        """One optimizer step on the mean loss of these documents."""
        self._optimizer.zero_grad()
        self.backward(documents)
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP_NORM)
        self._optimizer.step()

    def backward(self, documents: Sequence[Ids]) -> float:
        """Add the gradient of the mean loss, and return that loss.

        What would not fit into a small machine's memory at once (above 295 tokens at 32 documents and 48 heads) is done
        in parts, each padded like the whole: that is no more work, and what does not fit the caches did not before.
        """
        total = 0.0
        for ids_BL, lengths_B in self._padded_parts(documents):
            loss = self._summed_loss(ids_BL, lengths_B) / len(documents)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _summed_loss(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        mask_BL = (torch.arange(ids_BL.shape[1]) < lengths_B[:, None]).long()
        with torch.no_grad():
            self._teacher(input_ids=ids_BL, attention_mask=mask_BL)
        self.student(input_ids=ids_BL, attention_mask=mask_BL)
        terms = [
            materialised_kl(
                self._of_student[name], self._of_teacher[name], lengths_B=lengths_B, relation_heads=self._relation_heads
            )
            for name in RELATIONS
        ]
        return torch.stack(terms).sum()

    def _padded_parts(self, documents: Sequence[Ids]) -> Iterator[tuple[Tensor, Tensor]]:
        lengths_B = torch.tensor([len(ids) for ids in documents])
        longest = int(lengths_B.max())
        ids_BL = torch.full((len(documents), longest), self._pad_id)
        for row, ids in enumerate(documents):
            ids_BL[row, : len(ids)] = torch.from_numpy(ids)
        rows = max(1, MOST_BYTES // (4 * self._relation_heads * longest * longest))
        yield from zip(torch.split(ids_BL, rows), torch.split(lengths_B, rows), strict=True)


def gradient_of(model: Any) -> Tensor:
    """All of a model's gradients as one vector, by the names of the parameters."""
    return torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])


def _tapped(model: Any) -> tuple[Any, Mapping[str, Tensor]]:
    """A copy with eager attention, and where the Q, K and V of its last layer are found after a forward."""
    whole = copy.deepcopy(model).eval()
    whole.set_attn_implementation("eager")
    seen: dict[str, Tensor] = {}
    attention = whole.encoder.layer[-1].attention.self
    for name in RELATIONS:
        getattr(attention, name).register_forward_hook(_keep(seen, name))
    return whole, seen


def _keep(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: Any, _inputs: Any, output_BLD: Tensor) -> None:
        seen[name] = output_BLD

    return hook

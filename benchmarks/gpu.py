"""What is asked of a GPU, and how much it could do: the figures to reach, a step's arithmetic, the device's peak.

Counted are the products a step cannot do without, 2 FLOPs a multiplication and addition, for each token:
    a layer, forward         2 * (4 D^2 + 2 D F) + 4 L D      projections, feed-forward; Q K^T and P V
    a model cut for MHA      its layers but the last, and 6 D^2 for the last one's Q, K and V
    backward                 twice the forward, of the student alone
    relation loss            3 * (2 L E + 4 L D)              logits of both models, the gradient's product
Not counted: embeddings, softmax, normalisation, optimizer, and whatever an implementation computes twice.
"""

from typing import NamedTuple

from benchmarks.scoreboard import Figure

EAGER, COMPILED = "eager", "compiled"
TARGETS = {EAGER: 8.0, COMPILED: 2.5}  # relation loss, stored whole, over ours
# Dense bf16 with fp32 sums, from the makers' data sheets.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


class Size(NamedTuple):
    """Of an encoder."""

    layers: int
    width: int
    feed_forward: int


def forward_flops(size: Size, *, length: int) -> float:
    """Of one token through a model that ends with the Q, K and V of its last layer."""
    layers, D, F = size
    return (layers - 1) * (2 * (4 * D * D + 2 * D * F) + 4 * length * D) + 6 * D * D


def step_flops(teacher: Size, student: Size, *, length: int) -> float:
    """Of one token through a whole step."""
    loss = 3 * (2 * length * teacher.width + 4 * length * student.width)
    return forward_flops(teacher, length=length) + 3 * forward_flops(student, length=length) + loss


def peak_flops(device_name: str) -> float | None:
    """The data sheet's bf16 peak; None for a device that is not listed."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


def not_measured(why: str) -> list[Figure]:
    """The figures there would be."""
    loss = [
        Figure(key=f"gpu_relation_{name}", name=f"relation loss on a GPU, over {name}", at_least=goal, note=why)
        for name, goal in TARGETS.items()
    ]
    return [*loss, Figure(key="gpu_step", name="whole step on a GPU, 12x768 -> 6x384", note=why)]

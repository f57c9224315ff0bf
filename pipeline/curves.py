"""Loss curves as evidence: the rows as JSON lines, and a picture for people."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipeline.artifact import EVIDENCE

NOT_TERMS = {"step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_s"}


def save_curve(rows: Sequence[dict[str, float]], out: Path, *, title: str) -> None:
    """Write evidence/curve.jsonl and evidence/curve.png under `out`."""
    folder = out / EVIDENCE
    folder.mkdir(exist_ok=True)
    (folder / "curve.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    _draw(rows, folder / "curve.png", title=title)


def _draw(rows: Sequence[dict[str, float]], path: Path, *, title: str) -> None:
    from matplotlib.figure import Figure  # the object interface: no global state, no display
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [row["step"] for row in rows]
    terms = [name for name in rows[0] if name not in NOT_TERMS]
    axes.plot(steps, [row["loss"] for row in rows], label="loss", color="black")
    for name in terms if len(terms) > 1 else ():
        axes.plot(steps, [row[name] for row in rows], label=name, linewidth=1, alpha=0.8)
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(steps, [row["learning_rate"] for row in rows], color="tab:gray", linestyle=":", label="learning rate")
    rate.set_ylabel("learning rate")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    figure.savefig(path, dpi=110)

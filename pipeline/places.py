"""What the machine adds to a stage's key: an artifact that depends on where it was made is not taken for one that was
made elsewhere."""

from typing import Any


def instructions(config: Any) -> str:
    """What int8 and bf16 are computed with here; of a search, which measures, the whole machine and its threads."""
    from pipeline.quantizing.features import computes_with
    from serving.cpu import usable_threads

    return f"{machine()},{usable_threads()}" if config.kind == "search" else ",".join(computes_with())


def target(config: Any) -> str:
    """The machine, and what it lacks for the target: a session that was skipped is held once nothing is missing."""
    missing: str = config.target.missing()
    return f"{machine()}, without {missing}" if missing else machine()


def machine() -> str:
    from serving.machine import machine_identity

    return machine_identity()

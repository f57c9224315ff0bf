"""What the bench of servers is asked."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PARTS: Final = ("peak", "half", "overhead", "idle", "overload", "start", "soak")
USUAL: Final = PARTS[:-1]  # memory is known after an hour
CACHE: Final = Path("~/.cache/retort/peers")


def parsed(arguments: Sequence[str] | None, *, description: str | None = None) -> argparse.Namespace:
    """Ends the process where it is told something that it does not know."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--texts", type=Path, help="default: the bundle's golden ones")
    parser.add_argument("--slow-bundle", type=Path, help="for overload")
    parser.add_argument("--only", default=",".join(USUAL), help="parts, apart by commas; default: all but soak")
    parser.add_argument("--peers", default=None, help="names, apart by commas; '' for none")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    for name, value in (("bound-ms", 25.0), ("overload-bound-ms", 25.0), ("seconds", 5.0), ("half-rps", None)):
        parser.add_argument(f"--{name}", type=float, default=value)
    for name, value in (("half-s", 20.0), ("idle-s", 20.0), ("flood-s", 60.0), ("soak-s", 3600.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    asked = parser.parse_args(arguments)
    asked.only = [part for part in asked.only.split(",") if part]
    if strange := [part for part in asked.only if part not in PARTS]:
        parser.error(f"--only {', '.join(strange)}: parts are {', '.join(PARTS)}")
    if asked.rounds < 1:
        parser.error("--rounds must be above 0")
    return asked

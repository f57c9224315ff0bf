"""What is called how by all who measure, judge and register. A file of its own: who only needs a name is not to be run
again because the gate's language was edited (keys.py)."""

from typing import Final

CHAMPION: Final = "champion"  # what the run's alias names now, measured again beside the challengers: champion.py
HERE: Final = "here"  # the target of a run that names none; benchmarks.receipt.Receipt.target by default
TUNING: Final = "tuning"  # of a session the folder with each variant's tuning, and the fact that tells of them
BENCHMARK: Final = "benchmark"  # a run's one session, or by role the one that rules without `at` speak of

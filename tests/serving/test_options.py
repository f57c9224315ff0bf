"""What is refused of an option before anything is loaded."""

import subprocess
import sys

import pytest

WAIT_S = 60
BESIDES = "; see python -m serving --help"


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--rollback-share", "100", "more than 100 % never fail; give less than 100, or 0 to take no version back"),
        ("--rollback-share", "-1", "Input should be greater than or equal to 0"),
        ("--rollback-requests", "9", "Input should be greater than or equal to 10"),
        ("--rollback-window-s", "301", "Input should be less than or equal to 300"),
    ],
)
def test_an_alarm_that_could_not_be_is_refused_by_its_option(option: str, value: str, why: str) -> None:
    command = [sys.executable, "-m", "serving", "none", option, value]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (ended.returncode, ended.stderr) == (64, f"error: Invalid value for '{option}': {why}{BESIDES}\n")


def test_an_alarm_at_its_bounds_is_none_of_the_options_faults() -> None:
    told = ["--rollback-share", "99.9", "--rollback-requests", "10", "--rollback-window-s", "300"]
    command = [sys.executable, "-m", "serving", "none", *told]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (
        ended.stderr == "error: none is no folder; name a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION\n"
    )

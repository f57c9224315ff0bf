"""NNCF is used without a word, and without its reports to its makers."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import BadRequest
from pipeline.quantizing import silent_nncf
from pipeline.quantizing.silent_nncf import silent_nncf as silenced

ROOT = Path(__file__).resolve().parents[3]
USE = """
import sys
from pipeline.quantizing.silent_nncf import silent_nncf
with silent_nncf() as nncf:
    from nncf.common.logging import nncf_logger
    from nncf.common.logging.track_progress import track
    from nncf.telemetry import wrapper
    nncf_logger.warning("advice")
    list(track(range(3), description="bar"))
    sender = type(wrapper.telemetry).__name__
print(sender, "openvino_telemetry" in sys.modules)
"""


def test_it_neither_speaks_nor_reports() -> None:
    """In a process of its own: within pytest it would not report in any case."""
    done = subprocess.run([sys.executable, "-c", USE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("MagicMock False\n", 0), done.stderr


def test_where_another_was_first_its_sender_is_replaced() -> None:
    first = "import nncf\n" + USE.replace("wrapper.telemetry", "decorator.telemetry").replace(
        "import wrapper", "import decorator"
    )
    done = subprocess.run([sys.executable, "-c", first], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1].startswith("MagicMock"), done.stderr


def test_handlers_that_others_put_on_its_logger_keep_their_level() -> None:
    """pytest puts the one that caplog reads there: with NNCF's set_log_level, warnings of later tests were not seen."""
    theirs = logging.NullHandler()
    logging.getLogger("nncf").addHandler(theirs)
    try:
        with silenced():
            assert logging.getLogger("nncf").getEffectiveLevel() == logging.ERROR
        assert theirs.level == logging.NOTSET
    finally:
        logging.getLogger("nncf").removeHandler(theirs)


def test_where_it_is_not_installed_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silent_nncf, "find_spec", lambda _: None)
    with pytest.raises(BadRequest) as refused, silenced():
        pass
    assert str(refused.value) == "NNCF is not installed here: pip install 'retort[quantization]'"

"""The real server follows a real registry while clients ask; the long form is benchmarks/serving/flips.py with 100."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from live_versions import again, loaded
from offers import offer_of, version_folder

from benchmarks.serving.flips import TOLERANCE, alike, flip
from pipeline.tracking.registering import register
from serving.bundle import read_bundle
from serving.models import Models, load
from serving.registry import Resolved

FLIPS = 10
START_S = 60
POLL_S = 0.2
SERVER = (
    f"import serving.following as following; following.POLL_S = {POLL_S}; from serving.__main__ import main; main()"
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::ResourceWarning")
def test_an_alias_that_flips_under_load_is_noticed_by_nobody(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    expected: dict[str, list[Any]] = {}
    for version, bias in (("1", 0.0), ("2", 20.0)):
        folder = version_folder(tmp_path / f"version-{version}", bias=bias)
        register(offer_of(folder, name="m", key=f"register-{version}"), uri=uri, workspace=tmp_path)
        live = load(Resolved(folder / "bundle", "m", version, read_bundle(folder / "bundle").digest), threads=1)
        expected[version] = Models(live).answer([("good",)]).results
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.set_registered_model_alias("m", "champion", "1")

    command = [sys.executable, "-c", SERVER, "models:/m@champion", "--tracking-uri", uri, "--port", "0"]
    options = ["--cache", str(tmp_path / "cache"), "--threads", "1"]
    with (
        (tmp_path / "server.err").open("w") as errors,
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (tmp_path / "server.err").read_text()
            found = flip(
                f"{line.split(' on ')[1].strip()}/classify",
                body='{"texts": ["good"]}',
                expected=expected,
                move=lambda version: client.set_registered_model_alias("m", "champion", version),
                flips=FLIPS,
            )
        finally:
            process.terminate()
    assert (found.moved, found.failures, found.told) == (FLIPS, 0, ())
    assert found.answers.keys() == {"1", "2"}
    assert found.turned_away < 0.05 * sum(found.answers.values())
    assert max(found.seconds[1:]) < 1.2 * POLL_S + 1.0  # the first one had to be fetched and loaded
    assert "Traceback" not in (tmp_path / "server.err").read_text()


def test_an_answer_of_another_version_s_under_this_one_s_name_is_seen(tmp_path: Path) -> None:
    first = loaded(tmp_path / "1")
    other = loaded(tmp_path / "2", version="2", bias=1.0)
    results = Models(first).answer([("good",)]).results
    assert alike(Models(again(first, version="3")).answer([("good",)]).results, results)
    assert not alike(Models(other).answer([("good",)]).results, results)
    assert alike([{"score": 0.5, "label": "x"}], [{"score": 0.5 + TOLERANCE / 2, "label": "x"}])
    for wrong in ([{"score": 0.6, "label": "x"}], [{"score": 0.5, "label": "y"}], [{"score": 0.5}], [], None):
        assert not alike(wrong, [{"score": 0.5, "label": "x"}])


def test_a_server_that_answers_nothing_is_a_failure_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serving.flips.GIVEN_UP_S", 0.3)
    begun = time.monotonic()
    found = flip("http://127.0.0.1:9/classify", body="{}", expected={"1": [], "2": []}, move=lambda _: None, flips=3)
    assert time.monotonic() - begun < 10
    assert (found.moved, found.answers, found.turned_away) == (0, {}, 0)
    assert found.failures > 1
    assert "Connection refused" in found.told[0]

"""What it takes to register and promote a version, and to take it back, beside what MLflow alone takes.

    python -m benchmarks.registry_bench [--bundle FOLDER] [--repeats 5] [--out FILE.json]
        [--postgres --tracking-uri URI [--at-once 50]]

register and promote    seconds from a bundle to a version that @champion names, and its parts: the version's folder is
                        built, its files are uploaded, fetched back and compared, the version is made, the alias moved
roll back               seconds until @champion names the version before: in a process that has MLflow in memory, and
                        the whole command line with its start
MLflow                  the same model, in the same process and registry, by mlflow.onnx.log_model with
                        registered_model_name, and its alias: once as it comes, where MLflow finds out the requirements
                        by itself, and once with requirements given

The registry is a fresh sqlite file. Sides take turns, after a round that warms up and is told apart. The bundle is the
one given, or one of 20 MB that is made for this (made_bundle.py). --postgres adds registrations at once, by a thread
each, of one model, on the server at --tracking-uri, which should keep its tables in PostgreSQL. The last line is JSON.
Ends with 66 where a median does not keep its bound, or a registration of many is lost.
"""

import argparse
import hashlib
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console as Screen

from benchmarks.crowd import all_at_once, counted, lost_of
from benchmarks.machine import disturbance, read
from benchmarks.made_bundle import facts_without_a_run, made_bundle, size_of
from benchmarks.repeats import Repeats, Seconds, build_table, process_time, timed, timing, told, unkept
from pipeline.artifact import write_json
from pipeline.build import ROOT, git_state
from pipeline.card import CARD, card_head
from pipeline.errors import Failure, GateFailed
from pipeline.moves import Move
from pipeline.progress import Console
from pipeline.promotion import move, rollback
from pipeline.tracking import registering
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.experiments import experiment_id
from pipeline.tracking.registering import KEY_TAG, Offer, register
from pipeline.tracking.versions import aliases_of, versions_of
from pipeline.version_folder import build_version
from pipeline.version_records import VersionFacts
from serving.bundle import Bundle, read_bundle
from serving.registry import DIGEST_TAG
from serving.registry_failures import shown
from serving.signatures import FILES, FILES_TAG

MADE_BYTES, SMALL_BYTES = 20_000_000, 1_000_000  # the small one is registered many times at once
NAME, CHAMPION, WHO, WHY = "measured", "champion", "registry_bench", "measured"
WHOLE, BUILD, REGISTER, PROMOTE = "register and promote", "build the version's folder", "register", "promote"
UPLOAD, COMPARE, VERSION = "upload", "fetch back and compare", "make the version"
MLFLOW, GIVEN = "MLflow, as it comes", "MLflow, requirements given"
BACK, COMMAND = "roll back, warm", "roll back, the whole command line"
ALIAS, ALIAS_COMMAND = "MLflow sets an alias, warm", "MLflow sets an alias, a whole process"
CPU, ALIAS_CPU = f"{COMMAND}: CPU", f"{ALIAS_COMMAND}: CPU"
OURS: Final = (WHOLE, BUILD, REGISTER, UPLOAD, COMPARE, VERSION, PROMOTE)
OTHERS: Final = (MLFLOW, GIVEN, BACK, ALIAS, COMMAND, CPU, ALIAS_COMMAND, ALIAS_CPU)
DEPTHS = dict.fromkeys((BUILD, REGISTER, PROMOTE, CPU, ALIAS_CPU), 1) | dict.fromkeys((UPLOAD, COMPARE, VERSION), 2)
AT_MOST_S: Final = {WHOLE: 10.0, BACK: 2.0, COMMAND: 2.0}


class Desk:
    """One bundle and one registry, and what is measured with them; the first ones make a version each."""

    def __init__(self, bundle: Bundle, workspace: Path) -> None:
        self.bundle, self.workspace, self.uri = bundle, workspace, default_uri(workspace)
        self.version, self.version_bytes = "", 0
        self.sides: tuple[Callable[[], Seconds], ...] = (
            *(self.ours, partial(self.mlflow, MLFLOW), partial(self.mlflow, GIVEN, pip_requirements=["onnxruntime"])),
            *(self.back, self.alias, self.back_by_command, self.alias_by_process),
        )

    def ours(self) -> Seconds:
        """Register and promote, with its parts."""
        seconds: Seconds = {}
        with tempfile.TemporaryDirectory(dir=self.workspace) as out, parts_of_register(seconds), timed(seconds, WHOLE):
            with timed(seconds, BUILD):
                offer = offered(self.bundle, Path(out), key=f"register-{uuid.uuid4().hex}")
            with timed(seconds, REGISTER):
                self.version = register(offer, uri=self.uri, workspace=self.workspace).version
            with timed(seconds, PROMOTE):
                self._promote()
            self.version_bytes = size_of(offer.folder)
        return seconds

    def mlflow(self, called: str, **settings: Any) -> Seconds:
        """MLflow alone, from the same file."""
        import onnx

        seconds: Seconds = {}
        with mlflow_alone(self.uri, self.workspace) as (mlflow, client, experiment), timed(seconds, called):
            with mlflow.start_run(experiment_id=experiment):
                model = onnx.load(str(self.bundle.path / "model.onnx"))
                made = mlflow.onnx.log_model(model, name="model", registered_model_name="beside", **settings)
            client.set_registered_model_alias("beside", CHAMPION, str(made.registered_model_version))
        return seconds

    def back(self) -> Seconds:
        """A rollback in this process."""
        self._promote()
        seconds: Seconds = {}
        with timed(seconds, BACK), talking_to(self.uri) as client:
            rollback(client, NAME, to=None, alias=CHAMPION, why=WHY, who=WHO)
        return seconds

    def alias(self) -> Seconds:
        """The alias alone, by MLflow, in this process."""
        seconds: Seconds = {}
        with timed(seconds, ALIAS), talking_to(self.uri) as client:
            client.set_registered_model_alias("beside", CHAMPION, "1")
        return seconds

    def back_by_command(self) -> Seconds:
        """A rollback from the command line."""
        self._promote()
        asked = ["rollback", NAME, "--why", WHY, "--who", WHO, "--tracking-uri", self.uri, "--json"]
        return process_time(COMMAND, [sys.executable, "-m", "pipeline.cli", *asked], folder=ROOT)

    def alias_by_process(self) -> Seconds:
        """The alias alone, by MLflow, in a process of its own."""
        client = f"MlflowClient({self.uri!r}, {self.uri!r})"
        text = f"from mlflow import MlflowClient; {client}.set_registered_model_alias('beside', {CHAMPION!r}, '1')"
        return process_time(ALIAS_COMMAND, [sys.executable, "-c", text], folder=ROOT)

    def _promote(self) -> None:
        with talking_to(self.uri) as client:
            if (aliases_of(client, NAME) or {}).get(CHAMPION) != self.version:
                move(client, NAME, Move(CHAMPION, self.version, WHY, WHO))


@contextmanager
def parts_of_register(seconds: Seconds) -> Iterator[None]:
    """What of `register` is upload, reading back, and making the version; its other requests are the rest."""
    from mlflow import MlflowClient

    with (
        timing(seconds, UPLOAD, MlflowClient, "log_model_artifacts"),
        timing(seconds, COMPARE, registering, "_require_same"),
        timing(seconds, VERSION, registering, "create_version"),
    ):
        yield


@contextmanager
def mlflow_alone(uri: str, workspace: Path) -> Iterator[tuple[Any, Any, str]]:
    """MLflow, its own client, and an experiment whose files lie in the workspace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        mlflow.set_tracking_uri(uri)
        try:
            client = mlflow.MlflowClient()
            yield mlflow, client, experiment_id(client, "beside", uri=uri, workspace=workspace)
        finally:
            mlflow.set_tracking_uri(None)


def measured(desk: Desk, *, repeats: int) -> tuple[list[Repeats], Seconds]:
    """All sides in turn, and what the first round took, which has MLflow's imports and its tables to make. Before it a
    version is made that can be gone back to."""
    rounds: list[Seconds] = []
    with Console().bar("registry", total=(1 + repeats) * len(desk.sides), unit="timings") as bar:
        first = desk.ours()
        for _ in range(1 + repeats):
            rounds.append({})
            for side in desk.sides:
                rounds[-1] |= side()
                bar.advance()
    times = {name: tuple(each[name] for each in rounds[1:]) for name in (*OURS, *OTHERS)}
    found = [Repeats(name, each, AT_MOST_S.get(name), DEPTHS.get(name, 0)) for name, each in times.items()]
    return found, rounds[0] | first


def register_at_once(uri: str, workspace: Path, *, count: int) -> dict[str, Any]:
    """Register that many versions of one model that nobody made before, all begun at the same moment, and look at what
    the registry has then."""
    name = f"crowd-{uuid.uuid4().hex[:8]}"
    bundle = made_bundle(workspace / "small", size_bytes=SMALL_BYTES)
    offers = [offered(bundle, workspace / str(i), name=name, key=f"register-{i}") for i in range(count)]

    def one(offer: Offer) -> str:
        return register(offer, uri=uri, workspace=workspace).version

    answers = all_at_once([partial(one, offer) for offer in offers], expected=Failure)
    with talking_to(uri) as client:
        kept = {str(version.number): version.tags for version in versions_of(client, name)}
    found = counted(answers, [{**offer.tags, KEY_TAG: offer.key} for offer in offers], kept)
    return {"registry": shown(uri), "version_bytes": size_of(offers[0].folder), **found}


def offered(bundle: Bundle, out: Path, *, key: str, name: str = NAME) -> Offer:
    """What the register stage would offer of the bundle: its version's folder, with card and bill of materials."""
    facts = msgspec.convert(facts_without_a_run(bundle, name), VersionFacts)
    folder = build_version(out, bundle=bundle.path, manifests={}, facts=facts, key=None)
    tags = {DIGEST_TAG: bundle.digest, FILES_TAG: hashlib.sha256((folder / FILES).read_bytes()).hexdigest()}
    told_of_it = card_head((folder / CARD).read_text(encoding="utf-8"))
    return Offer(name=name, key=key, folder=folder, tags=tags, experiment=name, run_id=None, description=told_of_it)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: one that is made for this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--postgres", action="store_true", help="also register many at once at --tracking-uri")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--out", type=Path)
    asked, before, screen = parser.parse_args(), disturbance(), Screen(width=150)
    if min(asked.repeats, asked.at_once) < 1:
        parser.error("--repeats and --at-once must be above 0")
    if asked.postgres and not asked.tracking_uri:
        parser.error("--postgres needs --tracking-uri, a server that keeps its tables in PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="retort-registry-") as folder:
        work = Path(folder)
        bundle = read_bundle(asked.bundle) if asked.bundle else made_bundle(work / "made", size_bytes=MADE_BYTES)
        desk = Desk(bundle, work)
        found, first = measured(desk, repeats=asked.repeats)
        crowd = register_at_once(asked.tracking_uri, work, count=asked.at_once) if asked.postgres else None
        of_bundle = {"made_for_this": asked.bundle is None, "name": bundle.spec.name, "digest": bundle.digest}
        sizes = {"bytes": size_of(bundle.path), "version_bytes": desk.version_bytes}
    short = {"figures": {each.name: told(each) for each in found}, "bundle": of_bundle | sizes, "at_once": crowd}
    short |= {"first_round": {name: round(seconds, 4) for name, seconds in first.items()}, "machine": read()}
    if asked.out:
        raw = {"git": git_state(), "disturbance": disturbance().since(before), "raw": found}
        write_json(asked.out, short | raw)
    title = f"{bundle.spec.name}, {sizes['bytes'] / 1e6:.1f} MB, {read().cpu_model}"
    screen.print(build_table(found, title=title))
    if crowd:
        screen.print(f"{asked.at_once} registrations at once, at {crowd['registry']}: {crowd}", markup=False)
    print(msgspec.json.encode(short).decode())
    if faults := [*unkept(found), *(lost_of(crowd) if crowd else ())]:
        print(f"registry_bench: {'; '.join(faults)}", file=sys.stderr)
        sys.exit(GateFailed.exit_code)


if __name__ == "__main__":
    main()

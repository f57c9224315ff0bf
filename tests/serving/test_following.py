"""Real registries and real loads: MLflow over sqlite, and a server of it behind a door that can be shut."""

import asyncio
import gc
import itertools
import logging
import math
import shutil
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import VOCABULARY, tiny_bundle
from forwarding import Door, door
from live_versions import GOOD, until
from offers import MLMODEL, offer_of, version_folder
from registries import migrated, or_absent, small_disk, sqlite_server

from pipeline.signing import sign
from pipeline.tracking.registering import register
from serving.alarm import Thresholds
from serving.batcher import Batcher
from serving.bundle import read_bundle, seal_core
from serving.choosing import where_pays
from serving.costs import calibrated
from serving.desk import Desk
from serving.errors import BadArtifact, BadRequest, Failure, Transient
from serving.following import Followed, Following, build_following
from serving.lanes import CANARY, MAIN, SHADOW
from serving.metrics import Metrics
from serving.models import Served, load
from serving.signatures import FILES, files_listing
from serving.tickets import Ticket
from serving.tuning import Setting

if TYPE_CHECKING:
    pass

# Raised inside MLflow's own models of its tables.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

_numbers = itertools.count(1)
BIASES = {"1": 0.0, "2": 20.0, "3": -20.0}  # what "good" is to each: positive, negative, positive


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated(tmp_path_factory.mktemp("registry") / "mlflow.db")


class Registry:
    """One with a model of three versions; `champion` is the first."""

    def __init__(self, uri: str, place: Path) -> None:
        from mlflow import MlflowClient

        self.uri, self.place, self.name = uri, place, f"m{next(_numbers)}"
        for version, bias in BIASES.items():
            self.add(version_folder(place / f"version-{version}", bias=bias))
        self.client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.move("1")

    def add(self, folder: Path) -> None:
        """The next version."""
        key = f"register-{next(_numbers)}"
        register(offer_of(folder, name=self.name, key=key), uri=self.uri, workspace=self.place)

    def move(self, version: str, alias: str = "champion") -> None:
        self.client.set_registered_model_alias(self.name, alias, version)

    def remove(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.name, alias)

    def followed(self, uri: str | None = None, **options: Any) -> Followed:
        plain = {"source": f"models:/{self.name}@champion", "tracking_uri": uri or self.uri, "threads": 1}
        return Followed(**{"cache": self.place / "cache", "interval_s": 0.05, **plain, **options})

    def kept(self, version: str) -> Path:
        """The folder of a version in the cache."""
        (found,) = (self.place / "cache" / self.name).glob(f"{version}-*")
        return found


class World:
    """What a server makes of a registry; nothing polls unless `start` is called."""

    def __init__(self, followed: Followed) -> None:
        self.metrics = Metrics()
        self.following: Following = build_following(followed, metrics=self.metrics)
        live = self.following.models.current
        self.batcher: Batcher[Served] = Batcher(
            self.following.models.answer_jobs, executors=1, limit=1000, costs=live.costs, max_wait_s=60.0
        )
        router = self.following.join(self.batcher)
        self.desk = Desk(self.following.models, self.batcher, self.metrics, router=router)

    def poll(self, lane: str = MAIN) -> str | None:
        self.following.followers[lane].poll()
        live = self.following.models.at(lane)
        return live.version if live else None

    def ask(self, count: int = 1, job: Sequence[tuple[str, ...]] = tuple(GOOD)) -> Counter[str]:
        """How often each version answered."""

        async def run() -> Counter[str]:
            return Counter([(await self.desk.ask(job)).result.live.version for _ in range(count)])

        return asyncio.run(run())

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def end(self) -> None:
        self.following.stop()
        self.batcher.close()


Make = Callable[..., World]


@pytest.fixture
def registry(database: Path, tmp_path: Path) -> Registry:
    file = Path(shutil.copy(database, tmp_path / "mlflow.db"))
    return Registry(f"sqlite:///{file}", tmp_path)


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[World] = []

    def make(followed: Followed) -> World:
        made.append(World(followed))
        return made[-1]

    yield make
    for world in made:
        world.end()


def refusal(kind: type[Failure], followed: Followed) -> str:
    with pytest.raises(kind) as refused:
        build_following(followed, metrics=Metrics())
    return str(refused.value)


# -- the model in service ----------------------------------------------------------------------------------------------


def test_a_rollback_is_at_once_and_needs_neither_files_nor_a_load(registry: Registry, make: Make) -> None:
    world = make(registry.followed())
    registry.move("2")
    assert world.poll() == "2"
    shutil.rmtree(registry.place / "cache")
    shutil.rmtree(registry.place / "mlartifacts")
    registry.move("1")
    before = time.monotonic()
    assert world.poll() == "1"
    assert time.monotonic() - before < 1.0
    assert world.ask() == {"1": 1}
    assert world.value("retort_model_swaps_total") == 2
    assert world.batcher.queue.costs is world.following.models.current.costs


def test_only_what_is_loaded_beside_others_is_loaded_gently(
    registry: Registry, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(
        "serving.models.calibrated",
        lambda instances, *, gently: (seen.append(gently), calibrated(instances, gently=gently))[1],
    )
    registry.move("2", "challenger")
    world = make(registry.followed(canary="@challenger=5%"))
    registry.move("3")
    world.poll()
    world.poll(CANARY)
    assert seen == [False, True, True]


def test_a_version_that_left_the_service_leaves_the_memory(registry: Registry, make: Make) -> None:
    registry.move("2", "challenger")
    world = make(registry.followed(shadow="@challenger", canary="@challenger=50%"))
    gone = []
    for version, beside in (("3", "1"), ("2", "3"), ("1", "2"), ("3", "2"), ("1", "3")):
        gone += [weakref.ref(live.engine.first) for live in world.following.loaded()]
        registry.move(version)
        registry.move(beside, "challenger")
        for lane in (MAIN, CANARY, SHADOW):
            world.poll(lane)
            world.ask(4)
    gc.collect()
    kept = [live.engine.first for live in world.following.loaded()]
    assert {id(each()) for each in gone if each() is not None} <= {id(engine) for engine in kept}
    assert len(kept) <= 3


def test_the_threads_follow_by_themselves(registry: Registry, make: Make) -> None:
    world = make(registry.followed())
    world.following.start()
    registry.move("2")
    until(lambda: world.following.models.current.version == "2")
    assert world.ask() == {"2": 1}


def test_a_version_whose_files_were_altered_is_refused_at_the_start_and_quarantined_later(
    registry: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    world = make(registry.followed())
    for model in (registry.place / "mlartifacts").rglob("model.onnx"):
        model.write_bytes(b"half")
    registry.move("2")
    assert [world.poll(), world.poll()] == ["1", "1"]
    (told,) = [message for message in caplog.messages if message.startswith("keeping")]
    assert "version 2 is refused" in told
    assert "bundle/model.onnx is not as files.sha256 lists it: it was altered" in told
    assert world.value("retort_version_refused", lane="", version="2") == 1
    shutil.rmtree(registry.place / "cache")
    assert "bundle/model.onnx is not as files.sha256" in refusal(BadArtifact, registry.followed())


def test_a_version_that_needs_another_cpu_is_refused_at_the_start_and_quarantined_later(
    registry: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = registry.place / "version-4"
    tiny_bundle(folder / "bundle", cpu_features=["no_such_feature"])
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / FILES).write_text(files_listing(folder))
    registry.add(folder)
    world = make(registry.followed())
    registry.move("4")
    assert [world.poll(), world.poll()] == ["1", "1"]
    place = registry.kept("4") / "bundle"
    told = (
        f"{place} needs CPU features this machine lacks: no_such_feature; serve it on a CPU that has them or export a "
        "variant without"
    )
    assert [message for message in caplog.messages if message.startswith("keeping")] == [
        f"keeping version 1; version 4 is refused: {told}"
    ]
    assert refusal(BadArtifact, registry.followed()) == told


def test_where_a_signature_is_asked_for_an_unsigned_version_is_refused_and_quarantined(
    registry: Registry, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sign(tmp_path / "version-1", private := private_key(tmp_path / "private.pem"))
    registry.add(tmp_path / "version-1")
    registry.move("4")
    world = make(registry.followed(key=private.with_suffix(".pub")))
    registry.move("2")
    assert [world.poll(), world.poll()] == ["4", "4"]
    (told,) = [message for message in caplog.messages if message.startswith("keeping")]
    unsigned = " is not signed: it has no model.sig; verify it without a key, or sign it"
    assert told.startswith("keeping version 4; version 2 is refused: file:///")
    assert told.endswith(unsigned)
    assert refusal(BadArtifact, registry.followed(key=private.with_suffix(".pub"))).endswith(unsigned)


def private_key(path: Path) -> Path:
    """A key that signs, and beside it its public half."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    made = generate_private_key(SECP256R1())
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


def test_an_alias_that_vanishes_is_told_and_changes_nothing(registry: Registry, make: Make) -> None:
    world = make(registry.followed())
    registry.remove("champion")
    assert world.poll() == "1"
    assert (world.value("retort_alias_found", lane=""), world.value("retort_registry_up")) == (0, 1)
    registry.move("2")
    assert world.poll() == "2"
    assert world.value("retort_alias_found", lane="") == 1


def test_a_model_that_was_registered_anew_is_another_though_its_number_is_the_same(
    registry: Registry, make: Make
) -> None:
    world = make(registry.followed())
    registry.client.delete_registered_model(registry.name)
    registry.add(registry.place / "version-2")
    registry.move("1")
    before = world.following.models.current.digest
    assert world.poll() == "1"
    served = world.following.models.current
    assert (served.digest, served.engine.bundle.digest) == (
        read_bundle(registry.place / "version-2" / "bundle").digest,
    ) * 2
    assert served.digest != before


def test_a_canary_whose_model_is_deleted_is_off(registry: Registry, make: Make) -> None:
    other = Registry(registry.uri, registry.place / "other")
    world = make(registry.followed(canary=f"models:/{other.name}@champion=50%"))
    assert world.poll(CANARY) == "1"
    other.client.delete_registered_model(other.name)
    assert world.poll(CANARY) is None
    assert world.value("retort_registry_up") == 1
    assert world.value("retort_alias_found", lane="canary") == 0


def test_the_cache_keeps_what_is_in_memory_and_two_versions_before(registry: Registry, make: Make) -> None:
    world = make(registry.followed())
    for version in ("2", "3", "1", "2", "3"):
        registry.move(version)
        assert world.poll() == version
    assert versions_in(registry) == ["1", "2", "3"]
    for number in range(4, 7):
        registry.add(version_folder(registry.place / f"version-{number}", bias=float(number)))
        registry.move(str(number))
        assert world.poll() == str(number)
    assert versions_in(registry) == ["3", "4", "5", "6"]


def versions_in(registry: Registry) -> list[str]:
    """What the cache holds."""
    return sorted(path.name.partition("-")[0] for path in (registry.place / "cache" / registry.name).glob("[0-9]*"))


def test_a_full_disk_keeps_the_version_until_there_is_room(
    registry: Registry, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with or_absent(), small_disk(tmp_path / "small", size_kib=2048) as resize:
        world = make(registry.followed(cache=tmp_path / "small"))
        (tmp_path / "small" / "ballast").write_bytes(bytes(shutil.disk_usage(tmp_path / "small").free - 8192))
        registry.move("2")
        assert [world.poll(), world.poll()] == ["1", "1"]
        place = tmp_path / "small" / registry.name
        told = f"keeping version 1: no space left for the model in {place}; free some or use another --cache"
        assert [message for message in caplog.messages if message.startswith("keeping")] == [told]
        assert world.value("retort_registry_up") == 1
        resize(4096)
        assert world.poll() == "2"
        world.end()


def test_the_alarm_goes_back_and_stays_there_until_the_alias_moves(registry: Registry, make: Make) -> None:
    registry.add(brittle(version_folder(registry.place / "version-4", bias=1.0), word="dull"))
    world = make(registry.followed(alarm=Thresholds(requests=10)))
    registry.move("4")
    assert world.poll() == "4"
    assert world.ask(5) == {"4": 5}
    for _ in range(5):
        with pytest.raises(BadArtifact):
            world.ask(job=[("dull",)])
    assert world.following.followers[MAIN]._alarmed.is_set()
    world.following.lanes[MAIN].check()
    assert (world.ask(job=[("dull",)]), world.poll()) == ({"1": 1}, "1")
    assert world.value("retort_model_rollbacks_total", lane="") == 1
    (quarantined,) = world.following.state()["quarantined"]  # type: ignore[misc]
    assert quarantined["version"] == "4"
    registry.move("3")
    assert world.poll() == "3"


def brittle(folder: Path, *, word: str) -> Path:
    """A version that computes its golden inputs and has no answer to one word."""
    import onnx
    from onnx import numpy_helper

    bundle = read_bundle(folder / "bundle")
    graph = onnx.load(bundle.path / "model.onnx")
    (votes,) = (each for each in graph.graph.initializer if each.name == "votes")
    values = numpy_helper.to_array(votes).copy()
    values[VOCABULARY.index(word)] = float("nan")
    votes.CopyFrom(numpy_helper.from_array(values, "votes"))
    onnx.save(graph, bundle.path / "model.onnx")
    seal_core(bundle.path, spec=bundle.spec, golden=bundle.golden)
    (folder / FILES).write_text(files_listing(folder))
    return folder


# -- canary and shadow -------------------------------------------------------------------------------------------------


def test_a_canary_answers_its_share_and_leaves_with_its_alias(registry: Registry, make: Make) -> None:
    registry.move("2", "challenger")
    world = make(registry.followed(canary="@challenger=25%"))
    assert world.poll(CANARY) == "2"
    assert world.ask(400)["2"] == pytest.approx(100, abs=2)
    assert world.value("retort_version_requests_total", lane="canary", version="2") == pytest.approx(100, abs=2)
    registry.remove("challenger")
    assert world.poll(CANARY) is None
    assert world.ask(40) == {"1": 40}


def test_a_canary_that_is_promoted_is_not_loaded_again(registry: Registry, make: Make) -> None:
    registry.move("2", "challenger")
    world = make(registry.followed(canary="@challenger=50%"))
    world.poll(CANARY)
    canary = world.following.models.at(CANARY)
    registry.move("2")
    assert (world.poll(), world.poll(CANARY)) == ("2", None)
    assert canary is not None
    assert world.following.models.current.engine is canary.engine


def test_a_promoted_version_begins_its_figures_anew(registry: Registry, make: Make) -> None:
    registry.move("2", "challenger")
    world = make(registry.followed(canary="@challenger=100%"))
    world.poll(CANARY)
    world.ask(3)
    registry.move("2")
    world.poll()
    assert world.value("retort_version_requests_total", lane="", version="2") == 0
    world.ask(2)
    assert world.value("retort_version_requests_total", lane="", version="2") == 2


def test_a_version_of_two_lanes_is_loaded_once_and_counted_in_each(
    registry: Registry, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both look at once, as at the start."""
    loads: list[str] = []
    monkeypatch.setattr(
        "serving.following.load", lambda found, **how: (loads.append(found.version), load(found, **how))[1]
    )
    registry.move("2", "challenger")
    world = make(registry.followed(canary="@challenger=50%", shadow="@challenger"))
    threads = [threading.Thread(target=world.poll, args=(lane,)) for lane in (CANARY, SHADOW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["1", "2"]
    world.ask(10)
    until(lambda: world.value("retort_shadow_compared") == 5)
    counted = [world.value("retort_version_requests_total", lane=lane, version="2") for lane in (CANARY, SHADOW)]
    assert counted == [5, 5]


def test_a_failing_shadow_takes_no_canary_out(registry: Registry, make: Make) -> None:
    """They may be one model in memory."""
    registry.add(brittle(version_folder(registry.place / "version-4", bias=1.0), word="dull"))
    registry.move("4", "challenger")
    world = make(registry.followed(canary="@challenger=1%", shadow="@challenger", alarm=Thresholds(requests=10)))
    world.poll(CANARY)
    world.poll(SHADOW)
    world.ask(20, job=[("dull",)])
    until(lambda: world.value("retort_version_errors_total", lane="shadow", version="4") == 20)
    assert world.value("retort_version_errors_total", lane="canary", version="4") == 0
    assert not world.following.followers[CANARY]._alarmed.is_set()


def test_a_version_that_the_alarm_took_out_does_not_come_back_as_the_canary(
    registry: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Both aliases name a version that passed its gate."""
    registry.add(brittle(version_folder(registry.place / "version-4", bias=1.0), word="dull"))
    world = make(registry.followed(canary="@challenger=50%", alarm=Thresholds(requests=10)))
    registry.move("4")
    registry.move("4", "challenger")
    assert (world.poll(), world.poll(CANARY)) == ("4", None)
    for _ in range(10):
        with pytest.raises(BadArtifact):
            world.ask(job=[("dull",)])
    world.following.lanes[MAIN].check()
    assert (world.poll(), world.poll(CANARY), world.ask(4)) == ("1", None, {"1": 4})
    assert caplog.messages[-1].startswith("no canary: version 4 is quarantined: version 4 failed on 10 of its last 10")
    registry.move("1")
    assert (world.poll(), world.poll(CANARY)) == ("1", "4")


def test_a_shadow_has_one_session_and_is_loaded_anew_for_the_service(
    registry: Registry, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Setting(sessions=2, threads=1, executors=2)
    monkeypatch.setattr("serving.following.choose_setting", lambda bundle, *, threads: two)
    registry.move("2", "challenger")
    world = make(registry.followed(shadow="@challenger", threads=None))
    world.poll(SHADOW)
    shadow = world.following.models.at(SHADOW)
    assert shadow is not None
    assert shadow.setting == where_pays(Setting(sessions=1, threads=1, executors=1))
    registry.move("2")
    assert (world.poll(), world.following.models.current.setting) == ("2", where_pays(two))


@pytest.mark.parametrize("swapped", [MAIN, SHADOW])
def test_what_waits_for_the_shadow_is_forgotten_when_either_model_leaves(
    registry: Registry, make: Make, swapped: str
) -> None:
    registry.move("2", "challenger")
    world = make(registry.followed(shadow="@challenger"))
    world.poll(SHADOW)
    registry.move("3", {MAIN: "champion", SHADOW: "challenger"}[swapped])
    world.batcher.close()
    queue = world.batcher.queue
    queue._closed = False  # nobody takes anything any more
    for _ in range(3):
        queue.put_aside(Ticket(GOOD, done=lambda _: None, expires_s=math.inf, lane=SHADOW))
    assert world.poll(swapped) == "3"
    assert queue.clear_aside() == 0


def test_a_shadow_appears_with_its_alias_and_agrees_or_not(
    registry: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    world = make(registry.followed(shadow="@challenger"))
    assert world.poll(SHADOW) is None
    assert caplog.messages == [f"no shadow: model {registry.name} has no alias challenger; it has: champion"]
    registry.move("2", "challenger")
    assert world.poll(SHADOW) == "2"
    assert world.ask(10) == {"1": 10}
    until(lambda: world.value("retort_shadow_compared") == 10)
    assert world.value("retort_shadow_agreed") == 0
    assert (world.value("retort_shadow_distance", measure="kl") or 0) > 1
    assert world.value("retort_version_requests_total", lane="shadow", version="2") == 10


def test_the_state_says_who_answers_and_how_it_goes(registry: Registry, make: Make) -> None:
    registry.move("2", "challenger")
    source = f"models:/{registry.name}@challenger"
    world = make(registry.followed(canary=f"{source}=50%", shadow="@challenger"))
    before = world.following.state()
    assert (before["polled_s_ago"], before["alias_found"], before["registry_up"]) == (None, None, True)
    registry.move("3")
    for lane in (MAIN, CANARY, SHADOW):
        world.poll(lane)
    world.ask(10)
    until(lambda: world.value("retort_shadow_compared") == 5)
    state: Any = world.following.state()
    assert [(each["lane"], each["role"], each["version"]) for each in state["versions"]] == [
        ("", "serving", "3"),
        ("", "hot", "1"),
        ("canary", "serving", "2"),
        ("shadow", "serving", "2"),
    ]
    assert [each["errors"] for each in state["versions"]] == [0] * 4
    assert state["versions"][0]["requests"] == 5
    assert state["versions"][0]["p50_ms"] <= state["versions"][0]["p99_ms"]
    assert (state["source"], state["rollbacks"], state["quarantined"]) == (f"models:/{registry.name}@champion", 0, [])
    assert state["canary"]["source"] == state["shadow"]["source"] == source
    assert (state["canary"]["share"], state["shadow"]["compared"]) == (0.5, 5)
    assert 0 <= state["polled_s_ago"] < 60


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shadow": "challenger"}, "--shadow challenger is no alias that can be followed; "),
        ({"shadow": "models:/m/2"}, "--shadow models:/m/2 is no alias that can be followed; "),
        ({"canary": "@challenger"}, "--canary @challenger is no share of the requests; "),
        ({"canary": "@challenger=5%", "source": "a/folder"}, "--canary @challenger is no alias that can be followed; "),
        (
            {"shadow": "models:/m@a", "source": "a/folder", "tracking_uri": None},
            "--shadow models:/m@a needs a registry; say where with --tracking-uri, e.g. sqlite:///mlflow.db",
        ),
    ],
)
def test_what_is_no_canary_or_shadow_is_refused_before_anything_is_read(
    tmp_path: Path, options: dict[str, str], told: str
) -> None:
    plain = {"source": "models:/m@champion", "tracking_uri": "http://unused", "cache": tmp_path}
    assert refusal(BadRequest, Followed(**{**plain, **options})).startswith(told)  # type: ignore[arg-type]


def test_a_folder_is_served_and_followed_by_nobody(tmp_path: Path, make: Make) -> None:
    folder = version_folder(tmp_path / "version")
    world = make(Followed(source=str(folder), tracking_uri=None, cache=tmp_path / "cache", threads=1))
    assert world.ask() == {"local": 1}
    state = world.following.state()
    assert (world.following.followers, state["registry_up"], state["canary"], state["shadow"]) == ({}, None, None, None)
    assert not (tmp_path / "cache").exists()


# -- a registry that is away -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with sqlite_server(folder, Path(shutil.copy(database, folder))) as (uri, _):
        yield uri


@pytest.fixture
def entrance(server: str) -> Iterator[Door]:
    with door(int(server.rpartition(":")[2])) as entrance:
        yield entrance


@pytest.fixture
def remote(server: str, entrance: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Registry(server, tmp_path)


def test_a_registry_that_goes_and_comes_back_is_followed_again(
    remote: Registry, entrance: Door, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    world = make(remote.followed(uri=f"http://127.0.0.1:{entrance.port}"))
    entrance.close()
    remote.move("2")
    assert (world.poll(), world.value("retort_registry_up"), world.ask()) == ("1", 0, {"1": 1})
    entrance.shut = False
    assert (world.poll(), world.value("retort_registry_up"), world.ask()) == ("2", 1, {"2": 1})


def test_a_start_without_the_registry_serves_what_the_alias_named_last(
    remote: Registry, entrance: Door, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    followed = remote.followed(uri=f"http://127.0.0.1:{entrance.port}")
    remote.move("2")
    world = make(followed)
    remote.move("3")
    world.poll()
    entrance.close()
    caplog.clear()

    again = make(followed)
    assert again.ask() == {"3": 1}
    assert (again.value("retort_registry_up"), again.following.state()["from_cache"]) == (0, True)
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told.getMessage().startswith(f"the registry http://127.0.0.1:{entrance.port} cannot be reached (")
    end = f"serving version 3 of the cache, which answered for {followed.source} last, until the registry names another"
    assert told.getMessage().endswith(end)

    remote.move("1")
    entrance.shut = False
    assert (again.poll(), again.value("retort_registry_up"), again.following.state()["from_cache"]) == ("1", 1, False)


def test_a_registry_that_was_away_at_the_start_and_later_again_left_no_version_of_the_cache(
    remote: Registry, entrance: Door, make: Make
) -> None:
    followed = remote.followed(uri=f"http://127.0.0.1:{entrance.port}")
    make(followed)
    entrance.close()
    world = make(followed)
    seen = []
    for shut in (True, False, True):
        if shut:
            entrance.close()
        entrance.shut = shut
        world.poll()
        seen.append(world.following.from_cache)
    assert seen == [True, False, False]


def test_a_start_without_the_file_of_the_registry_serves_what_the_alias_named_last(
    registry: Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Its volume is not mounted yet."""
    followed = registry.followed()
    make(followed)
    file = registry.place / "mlflow.db"
    file.rename(registry.place / "away.db")
    world = make(followed)
    assert (world.ask(), world.value("retort_registry_up")) == ({"1": 1}, 0)
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told.startswith(f"there is no registry at {registry.uri}; ")
    assert (world.poll(), world.following.state()["alias_found"]) == ("1", None)
    (registry.place / "away.db").rename(file)
    registry.move("2")
    assert (world.poll(), world.value("retort_registry_up")) == ("2", 1)


def test_a_start_without_the_file_and_without_a_cache_says_that_it_is_not_there(registry: Registry) -> None:
    (registry.place / "mlflow.db").unlink()
    told = refusal(BadRequest, registry.followed())
    assert told == f"there is no registry at {registry.uri}; name a file that `retort run` made"


def test_the_registry_is_up_where_every_lane_s_last_poll_was_answered(registry: Registry, make: Make) -> None:
    registry.move("2", "challenger")
    world = make(registry.followed(canary="@challenger=5%"))
    followers = world.following.followers
    seen = []
    for lane, up in ((MAIN, False), (CANARY, True), (MAIN, True), (CANARY, False), (MAIN, True)):
        followers[lane]._is_up(up)
        seen.append(world.value("retort_registry_up"))
    assert seen == [0, 0, 1, 0, 0]


def test_without_the_registry_only_a_version_that_is_whole_is_served(
    remote: Registry, entrance: Door, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    followed = remote.followed(uri=f"http://127.0.0.1:{entrance.port}")
    make(followed)
    entrance.close()
    (remote.kept("1") / "bundle" / "model.onnx").write_bytes(b"half")
    assert "cannot be reached" in refusal(Transient, followed)
    assert [message.partition(" of the cache")[0] for message in caplog.messages] == ["version 1"]


def test_without_the_registry_a_version_of_another_one_is_not_served(
    remote: Registry, entrance: Door, make: Make
) -> None:
    make(remote.followed())
    entrance.close()
    assert "cannot be reached" in refusal(Transient, remote.followed(uri=f"http://127.0.0.1:{entrance.port}"))


# -- many moves --------------------------------------------------------------------------------------------------------


def test_an_alias_that_flips_under_load_fails_nobody_and_mixes_no_versions(registry: Registry, make: Make) -> None:
    world = make(registry.followed(interval_s=0.01))
    labels = {"1": "positive", "2": "negative"}
    world.following.start()
    seen: Counter[str] = Counter()
    ended = False

    async def client() -> None:
        while not ended:
            done = await world.desk.ask(GOOD)
            served = done.result
            seen[served.live.version] += 1
            assert served.results[0]["label"] == labels[served.live.version]

    async def run() -> None:
        nonlocal ended
        clients = [asyncio.ensure_future(client()) for _ in range(8)]
        for flip in range(20):
            wanted = "2" if flip % 2 == 0 else "1"
            await asyncio.to_thread(registry.move, wanted)
            await asyncio.to_thread(until, lambda wanted=wanted: world.following.models.current.version == wanted)
        ended = True
        await asyncio.gather(*clients)

    asyncio.run(run())
    assert set(seen) == {"1", "2"}
    assert world.value("retort_model_swaps_total") == 20
    assert [live.tally.rate.errors for live in world.following.loaded()] == [0, 0]

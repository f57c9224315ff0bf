"""Against a real MLflow sqlite store; its migration takes seconds, so one store is shared."""

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import tiny_bundle
from offers import bytes_of, offer_of, version_folder

from pipeline.tracking.registering import Offer, register
from serving.bundle import Bundle
from serving.cache import NoSpace, prune
from serving.errors import BadArtifact, BadRequest, Failure, Transient
from serving.reaching import fetch_files
from serving.registry import Named, NoAlias, Resolved, find_version, is_followed, name_and_alias, resolve
from serving.registry_failures import NoAnswer, NotThere, one_message
from serving.signatures import FILES_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Raised inside MLflow's own models of its tables.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


_numbers = itertools.count(1)


@dataclass(frozen=True)
class Store:
    """A registry with a model "m" of an older Retort: version 1 (alias champion), version 2 (not Retort's), version 3
    (another digest), version 4 (its files are gone)."""

    uri: str
    client: "MlflowClient"
    bundle: Bundle


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    bundle = tiny_bundle(root / "bundle")
    experiment = client.create_experiment("e", artifact_location=(root / "artifacts").as_uri())
    run = client.create_run(experiment)
    for folder in ("bundle", "lost"):
        client.log_artifacts(run.info.run_id, str(bundle.path), folder)
    client.create_registered_model("m")
    source = f"{run.info.artifact_uri}/bundle"
    tags = {"retort.digest": bundle.digest}
    client.create_model_version("m", source, run.info.run_id, tags=tags)
    client.create_model_version("m", source, run.info.run_id)
    client.create_model_version("m", source, run.info.run_id, tags={"retort.digest": "0" * 64})
    client.create_model_version("m", f"{run.info.artifact_uri}/lost", run.info.run_id, tags=tags)
    shutil.rmtree(root / "artifacts" / run.info.run_id / "artifacts" / "lost")
    client.set_registered_model_alias("m", "champion", "1")
    client.set_registered_model_alias("m", "challenger", "2")
    return Store(uri=uri, client=client, bundle=bundle)


def refusal(kind: type[Failure], source: str, *, tracking_uri: str | None, cache: Path) -> str:
    with pytest.raises(kind) as refused:
        resolve(source, tracking_uri=tracking_uri, cache=cache)
    return str(refused.value)


@pytest.mark.parametrize("source", ["models:/m@champion", "models:/m/1"])
def test_an_alias_or_version_becomes_a_verified_folder(store: Store, tmp_path: Path, source: str) -> None:
    resolved = resolve(source, tracking_uri=store.uri, cache=tmp_path)
    path = tmp_path / "m" / f"1-{store.bundle.digest[:16]}"
    assert resolved == Resolved(path=path, name="m", version="1", digest=store.bundle.digest)
    assert (path / "model.onnx").read_bytes() == (store.bundle.path / "model.onnx").read_bytes()
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == [path.name]


def test_a_version_in_the_cache_is_not_fetched_again(store: Store, tmp_path: Path) -> None:
    path = resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path).path
    before = (path / "model.onnx").stat().st_ino
    resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path)
    assert (path / "model.onnx").stat().st_ino == before


def test_a_damaged_version_in_the_cache_is_fetched_again(store: Store, tmp_path: Path) -> None:
    path = resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path).path
    (path / "model.onnx").write_bytes(b"half")
    assert resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path).path == path
    assert (path / "model.onnx").read_bytes() == (store.bundle.path / "model.onnx").read_bytes()


def test_an_alias_names_its_version(store: Store) -> None:
    """And its digest: the number may come to mean another bundle."""
    found = [find_version(f"models:/m@{alias}", tracking_uri=store.uri) for alias in ("champion", "challenger")]
    assert found == [Named("1", store.bundle.digest), Named("2", "")]


@pytest.mark.parametrize("name", ["m@winner", "nobody@champion"])
def test_an_alias_that_is_not_there_is_told_apart_from_a_registry_that_does_not_answer(store: Store, name: str) -> None:
    with pytest.raises(NoAlias):
        find_version(f"models:/{name}", tracking_uri=store.uri)


NO_MODEL = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=m not found"}'


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, NO_MODEL, NoAlias),
        (404, b"<html>default backend - 404</html>", NoAnswer),
        (404, b'{"message": "no Route matched with those values"}', Transient),
        (404, b'{"error_code": "404", "message": "gone"}', NoAnswer),
        (200, b"<html>maintenance</html>", NoAnswer),
        (200, b"", NoAnswer),
        (200, b"{}", NoAnswer),
        (200, b'{"registered_model": {"name": 5}}', Transient),
        (200, b'{"registered_model": {"name": "another"}}', NoAnswer),
        (401, b"You are not authenticated", NoAnswer),
        (401, b'{"error": "token expired"}', Transient),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}', NoAnswer),
        (500, b"oh", Transient),
        (502, b"<html>Bad Gateway</html>", Transient),
    ],
)
def test_only_mlflow_s_own_word_says_that_an_alias_is_gone(
    status: int, body: bytes, kind: type[Failure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status, body) as uri, pytest.raises(Failure) as told:
        find_version("models:/m@champion", tracking_uri=uri)
    assert type(told.value) is kind


NO_FILE = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No such artifact: bundle"}'


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, NO_FILE, BadArtifact),
        (404, b"<html>default backend - 404</html>", NoAnswer),
        (404, b'{"message": "no Route matched with those values"}', NoAnswer),
        (503, b"<html>maintenance</html>", Transient),
    ],
)
def test_only_the_store_s_own_word_says_that_a_version_s_files_are_gone(
    status: int, body: bytes, kind: type[Failure], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A version without files is not tried again; one behind a proxy that lost its way is."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status, body) as uri, pytest.raises(Failure) as told, one_message(uri):
        fetch_files("mlflow-artifacts:/1/bundle", to=tmp_path, tracking_uri=uri)
    assert type(told.value) is kind


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """What stands where a registry stood and says the same to all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_two_that_want_one_version_fetch_it_once_and_neither_takes_it_from_the_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import artifacts

    begun: list[float] = []
    download = artifacts.download_artifacts

    def slow(**options: Any) -> str:
        begun.append(time.monotonic())
        time.sleep(0.3)
        return str(download(**options))

    monkeypatch.setattr(artifacts, "download_artifacts", slow)
    inodes: list[int] = []

    def fetch() -> None:
        inodes.append(resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path).path.stat().st_ino)

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(begun), len(inodes), len(set(inodes))) == (1, 3, 1)


def test_what_is_resolved_stays_in_the_cache_as_long_as_it_is_referred_to(store: Store, tmp_path: Path) -> None:
    resolved = resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path)
    newer = [tmp_path / "m" / f"{version}-{'0' * 16}" for version in (2, 3, 4)]
    for place in newer:
        place.mkdir()
    assert prune(tmp_path / "m", in_use=newer[-1:]) == []
    place = resolved.path
    del resolved
    assert prune(tmp_path / "m", in_use=newer[-1:]) == [place]


def test_an_unknown_alias_is_told_which_there_are(store: Store, tmp_path: Path) -> None:
    told = refusal(NoAlias, "models:/m@winner", tracking_uri=store.uri, cache=tmp_path)
    assert told == "model m has no alias winner; it has: challenger, champion"


@pytest.mark.parametrize("source", ["models:/nobody@champion", "models:/nobody/1", "models:/m/77"])
def test_an_unknown_name_or_version_is_a_bad_request(store: Store, tmp_path: Path, source: str) -> None:
    told = refusal(NotThere, source, tracking_uri=store.uri, cache=tmp_path)
    missing = "Model Version (name=m, version=77)" if "77" in source else "Registered Model with name=nobody"
    missing = "Model Version (name=nobody, version=1)" if source.endswith("nobody/1") else missing
    assert told.removesuffix(".") == f"the registry {store.uri} refused: {missing} not found"


def test_a_version_that_retort_did_not_register_is_refused(store: Store, tmp_path: Path) -> None:
    told = refusal(BadArtifact, "models:/m@challenger", tracking_uri=store.uri, cache=tmp_path)
    assert told == (
        "model m version 2 has no tag retort.digest: it was registered by something else than Retort, so nothing says "
        "what its files must be; register it with `retort run`"
    )


def test_files_with_another_digest_than_registered_are_refused_and_not_kept(store: Store, tmp_path: Path) -> None:
    told = refusal(BadArtifact, "models:/m/3", tracking_uri=store.uri, cache=tmp_path)
    place = f"{store.bundle.path.parent.as_uri()}/artifacts"
    assert told.startswith(f"{place}/")
    assert told.endswith(
        f"/bundle: its bundle is {store.bundle.digest[:12]}, not the 000000000000 registered; register it again"
    )
    assert list((tmp_path / "m").iterdir()) == []


def test_a_version_whose_files_are_gone_is_a_failure_with_a_message(store: Store, tmp_path: Path) -> None:
    told = refusal(BadArtifact, "models:/m/4", tracking_uri=store.uri, cache=tmp_path)
    assert "/lost does not hold the registered files: " in told
    assert "No such artifact: 'lost'" in told
    assert list((tmp_path / "m").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_a_bad_request(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = refusal(BadRequest, "models:/m/1", tracking_uri=store.uri, cache=tmp_path / "file")
    assert told == f"{tmp_path / 'file' / 'm'} cannot be written; choose another with --cache"


def test_a_full_disk_is_transient(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    told = refusal(NoSpace, "models:/m/1", tracking_uri=store.uri, cache=tmp_path)
    assert told == f"no space left for the model in {tmp_path / 'm'}; free some or use another --cache"


@pytest.mark.parametrize(("free", "kind"), [(100, NoSpace), (10**9, Transient)])
def test_a_download_that_failed_on_a_full_disk_is_told_as_that_and_not_as_the_registry_s_fault(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kind: type[Transient]
) -> None:
    """MLflow hands on what a full disk said as text of its own; on a disk with room it was another's disk."""

    def cut_short(**_: object) -> str:
        raise MlflowException("failed to download: [Errno 28] No space left on device")

    from mlflow.exceptions import MlflowException

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", cut_short)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free))
    with pytest.raises(Transient) as refused:
        resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path)
    assert type(refused.value) is kind
    assert str(refused.value).startswith("no space left for the model in") is (kind is NoSpace)


def test_a_registry_nobody_answers_for_is_transient_and_named_without_its_password(tmp_path: Path) -> None:
    asking = (
        "import sys; from pathlib import Path\n"
        "from serving.errors import Transient; from serving.registry import resolve\n"
        "try: resolve('models:/m@a', tracking_uri='http://user:secret@127.0.0.1:1', cache=Path(sys.argv[1]))\n"
        "except Transient as away: print(away)"
    )
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", asking, str(tmp_path)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert told == (
        "the registry http://127.0.0.1:1 cannot be reached (Connection refused); start it, or name another with "
        "register.tracking_uri or --tracking-uri, then run again: finished work is kept\n"
    )


def test_a_registry_file_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    told = refusal(NoAnswer, "models:/m@champion", tracking_uri=uri, cache=tmp_path)
    assert told == f"there is no registry at {uri}; name a file that `retort run` made"
    assert list(tmp_path.iterdir()) == []


def test_a_registry_file_that_is_named_as_sqlite_names_files_is_not_created_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///file:{tmp_path / 'none.db'}?uri=true"
    told = refusal(NoAnswer, "models:/m@champion", tracking_uri=uri, cache=tmp_path)
    assert told == f"there is no registry at {uri}; name a file that `retort run` made"
    assert list(tmp_path.iterdir()) == []


def test_a_registered_source_needs_a_registry(tmp_path: Path) -> None:
    told = refusal(BadRequest, "models:/m@champion", tracking_uri=None, cache=tmp_path)
    assert told == "a models:/ source needs a registry; say where with --tracking-uri, e.g. sqlite:///mlflow.db"


@pytest.mark.parametrize(
    "source", ["models:/", "models:/m", "models:/m@", "models:/m/last", "models:m@a", "models:/a/b@c"]
)
def test_a_source_that_names_no_version_is_refused(tmp_path: Path, source: str) -> None:
    told = refusal(BadRequest, source, tracking_uri="http://unused", cache=tmp_path)
    assert told == f"{source} names no model; write models:/NAME@ALIAS or models:/NAME/VERSION"


def test_a_folder_needs_no_registry(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    resolved = resolve(str(bundle.path), tracking_uri=None, cache=tmp_path)
    assert resolved == Resolved(path=bundle.path, name="tiny", version="local", digest=bundle.digest)


def test_a_folder_that_does_not_exist_is_a_bad_request(tmp_path: Path) -> None:
    told = refusal(BadRequest, str(tmp_path / "none"), tracking_uri=None, cache=tmp_path)
    way_out = "name a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION"
    assert told == f"{tmp_path / 'none'} is no folder; {way_out}"


def test_a_version_s_folder_is_served_with_or_without_a_key(tmp_path: Path) -> None:
    folder = version_folder(tmp_path / "version")
    resolved = resolve(str(folder), tracking_uri=None, cache=tmp_path)
    assert (resolved.path, resolved.version) == (folder / "bundle", "local")

    (folder / "MLmodel").write_text("another")
    assert refusal(BadArtifact, str(folder), tracking_uri=None, cache=tmp_path) == (
        f"{folder}: MLmodel is not as files.sha256 lists it: it was altered; fetch the version again, or register it "
        "again"
    )


def test_a_source_is_a_name_and_perhaps_an_alias() -> None:
    assert name_and_alias("models:/m@champion") == ("m", "champion")
    assert name_and_alias("models:/m/1") == ("m", None)


def test_only_an_alias_is_followed() -> None:
    sources = ("models:/m@champion", "models:/m/1", "/a/folder@home")
    assert [is_followed(source) for source in sources] == [True, False, False]


# -- versions that hold their bundle beside what verifies it -----------------------------------------------------------


@pytest.fixture
def offer(store: Store, tmp_path: Path) -> Offer:
    """Registered as version 1 of a model that no other test has; its files lie in `stored`."""
    offer = offer_of(version_folder(tmp_path / "version"), name=f"whole-{next(_numbers)}")
    register(offer, uri=store.uri, workspace=tmp_path)
    return offer


@pytest.fixture
def stored(offer: Offer, tmp_path: Path) -> Path:
    """Where the registry keeps the files."""
    (model,) = (tmp_path / "mlartifacts" / offer.name / "models").iterdir()
    return model / "artifacts"


def test_a_version_is_kept_whole_and_its_bundle_is_handed_out(store: Store, offer: Offer, tmp_path: Path) -> None:
    digest = offer.tags["retort.digest"]
    resolved = resolve(f"models:/{offer.name}/1", tracking_uri=store.uri, cache=tmp_path / "cache")

    kept = tmp_path / "cache" / offer.name / f"1-{digest[:16]}"
    assert resolved == Resolved(path=kept / "bundle", name=offer.name, version="1", digest=digest)
    assert resolved.files == offer.tags[FILES_TAG]
    assert bytes_of(kept) == bytes_of(offer.folder)
    assert [entry.name for entry in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize("name", ["bundle/model.onnx", "MLmodel", "bundle/receipts/latency@here.json"])
def test_any_damaged_file_in_the_cache_is_fetched_again(store: Store, offer: Offer, tmp_path: Path, name: str) -> None:
    source, where = f"models:/{offer.name}/1", {"tracking_uri": store.uri, "cache": tmp_path / "cache"}
    kept = resolve(source, **where).path.parent
    before = (kept / "MLmodel").stat().st_ino
    assert resolve(source, **where).path.parent == kept
    assert (kept / "MLmodel").stat().st_ino == before

    (kept / name).write_bytes(b"half")
    resolve(source, **where)
    assert bytes_of(kept) == bytes_of(offer.folder)


def altered(store: Store, offer: Offer, tmp_path: Path, stored: Path) -> str:
    told = refusal(BadArtifact, f"models:/{offer.name}/1", tracking_uri=store.uri, cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / offer.name).iterdir()) == []
    start = f"{stored.as_uri()}: "
    assert told.startswith(start)
    return told.removeprefix(start)


def test_a_version_whose_files_were_altered_is_refused(
    store: Store, offer: Offer, tmp_path: Path, stored: Path
) -> None:
    (stored / "bundle" / "receipts" / "latency@here.json").write_text('{"p95_ms": 0.1}')
    assert altered(store, offer, tmp_path, stored) == (
        "bundle/receipts/latency@here.json is not as files.sha256 lists it: it was altered; fetch the version again, "
        "or register it again"
    )


def test_a_version_that_lost_a_file_is_refused(store: Store, offer: Offer, tmp_path: Path, stored: Path) -> None:
    (stored / "MLmodel").unlink()
    assert altered(store, offer, tmp_path, stored).startswith("MLmodel is missing; ")


def test_a_version_that_gained_a_file_is_refused(store: Store, offer: Offer, tmp_path: Path, stored: Path) -> None:
    (stored / "bundle" / "more.py").write_text("import os")
    assert altered(store, offer, tmp_path, stored).startswith("bundle/more.py is not listed in files.sha256; ")


def test_a_version_whose_list_was_rewritten_with_its_files_is_refused(
    store: Store, offer: Offer, tmp_path: Path, stored: Path
) -> None:
    from serving.signatures import files_listing

    (stored / "MLmodel").write_text("another")
    (stored / "files.sha256").write_text(files_listing(stored))
    assert altered(store, offer, tmp_path, stored).startswith("files.sha256 is ")


def test_a_version_whose_files_are_all_gone_is_refused(
    store: Store, offer: Offer, tmp_path: Path, stored: Path
) -> None:
    shutil.rmtree(stored)
    told = refusal(BadArtifact, f"models:/{offer.name}/1", tracking_uri=store.uri, cache=tmp_path / "cache")
    assert told.startswith(f"{stored.as_uri()} does not hold the registered files: ")


def test_another_digest_of_the_bundle_than_registered_is_refused(store: Store, offer: Offer, tmp_path: Path) -> None:
    store.client.set_model_version_tag(offer.name, "1", "retort.digest", "0" * 64)
    told = refusal(BadArtifact, f"models:/{offer.name}/1", tracking_uri=store.uri, cache=tmp_path / "cache")
    assert told.endswith(f" is {offer.tags['retort.digest'][:12]}, not the 000000000000 registered; register it again")


def test_a_logged_model_without_the_digest_of_its_files_is_not_taken_for_an_older_version(
    store: Store, offer: Offer, tmp_path: Path
) -> None:
    store.client.delete_model_version_tag(offer.name, "1", FILES_TAG)
    assert refusal(BadArtifact, f"models:/{offer.name}/1", tracking_uri=store.uri, cache=tmp_path) == (
        f"model {offer.name} version 1 has no tag retort.files: it was registered by something else than Retort, so "
        "nothing says what its files must be; register it with `retort run`"
    )


def test_an_alias_of_such_a_version_that_does_not_exist_is_told(store: Store, offer: Offer, tmp_path: Path) -> None:
    told = refusal(BadRequest, f"models:/{offer.name}@champion", tracking_uri=store.uri, cache=tmp_path)
    assert told == f"model {offer.name} has no alias champion; it has: none"


# -- with a key --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that signs."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    path = tmp_path_factory.mktemp("keys") / "private.pem"
    made = generate_private_key(SECP256R1())
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_name("public.pem").write_bytes(public)
    return path


@pytest.fixture
def key(private: Path) -> Path:
    """Its public half."""
    return private.with_name("public.pem")


def test_with_a_key_what_its_owner_signed_is_let_through_and_what_another_signed_is_not(
    store: Store, tmp_path: Path, private: Path, key: Path
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from pipeline.signing import sign

    folder = version_folder(tmp_path / "version")
    sign(folder, private)
    offer = offer_of(folder, name=f"whole-{next(_numbers)}")
    register(offer, uri=store.uri, workspace=tmp_path)
    (tmp_path / "another.pem").write_bytes(
        generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    source, where = f"models:/{offer.name}/1", {"tracking_uri": store.uri, "cache": tmp_path / "cache"}

    assert bytes_of(resolve(source, **where, key=key).path) == bytes_of(folder / "bundle")
    with pytest.raises(BadArtifact, match=r"model\.sig does not fit these files"):
        resolve(source, **where, key=tmp_path / "another.pem")


def test_with_a_key_an_unsigned_version_is_refused_even_from_the_cache(
    store: Store, offer: Offer, tmp_path: Path, stored: Path, key: Path
) -> None:
    source, where = f"models:/{offer.name}/1", {"tracking_uri": store.uri, "cache": tmp_path / "cache"}
    resolve(source, **where)
    with pytest.raises(BadArtifact) as refused:
        resolve(source, **where, key=key)
    assert str(refused.value) == (
        f"{stored.as_uri()} is not signed: it has no model.sig; verify it without a key, or sign it"
    )


def test_with_a_key_a_version_of_an_older_retort_is_refused(store: Store, tmp_path: Path, key: Path) -> None:
    with pytest.raises(BadArtifact) as refused:
        resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path, key=key)
    assert str(refused.value).endswith(
        "/bundle was registered by an older Retort, which signed nothing; go on without a key, or register it again"
    )


def test_with_a_key_a_folder_must_be_a_whole_version(tmp_path: Path, key: Path) -> None:
    folder = version_folder(tmp_path / "version")
    for place, told in ((folder, f"{folder} is not signed: "), (folder / "bundle", f"{folder / 'bundle'} is no ")):
        with pytest.raises(BadArtifact) as refused:
            resolve(str(place), tracking_uri=None, cache=tmp_path, key=key)
        assert str(refused.value).startswith(told)


def test_a_key_that_cannot_be_read_is_a_bad_request(store: Store, offer: Offer, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        resolve(f"models:/{offer.name}/1", tracking_uri=store.uri, cache=tmp_path, key=tmp_path / "none.pem")
    assert str(refused.value) == (
        f"key {tmp_path / 'none.pem'} cannot be read: No such file or directory; name the public key, a PEM file"
    )

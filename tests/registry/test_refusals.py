"""What a registry refuses, or cannot do now: one message each, with the way out; nothing half is left behind."""

import itertools
import re
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from faults import Answer, through
from offers import bytes_of, client_of, faults_in, leftovers_in, offer_of, version_folder, versions_in
from registries import (
    ADMIN,
    PASSWORD,
    Registry,
    execute,
    free_port,
    or_absent,
    small_disk,
    sqlite_server,
    without_root_s_powers,
)
from registry.moving import moving

from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.tracking.registering import Offer, register
from serving.registry import resolve

# Raised inside MLflow's own models of its tables.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"), pytest.mark.timeout(120)]
ANOTHER = "name another with register.tracking_uri or --tracking-uri"
AGAIN = "run again: finished work is kept"
_numbers = itertools.count(1)


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    """Of a name that no other test has: the servers are shared."""
    return offer_of(version_folder(tmp_path / "offered"), name=f"refused-{next(_numbers)}")


def refusal(kind: type[Failure], offer: Offer, uri: str, workspace: Path) -> str:
    with pytest.raises(kind) as refused:
        register(offer, uri=uri, workspace=workspace)
    return str(refused.value)


# -- away --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:{}", "postgresql+psycopg2://mlflow@127.0.0.1:{}/served"])
def test_a_registry_that_is_not_there(offer: Offer, workspace: Path, scheme: str) -> None:
    uri = scheme.format(free_port())
    assert refusal(Transient, offer, uri, workspace) == (
        f"the registry {uri.replace('mlflow@', '')} cannot be reached (Connection refused); start it, or {ANOTHER}, "
        f"then {AGAIN}"
    )


def test_a_database_that_is_not_there(cluster: str, offer: Offer, workspace: Path) -> None:
    assert refusal(BadRequest, offer, f"{cluster}/nothing", workspace) == (
        f'the registry {cluster.replace("mlflow@", "")}/nothing is not there (database "nothing" does not exist); make '
        f"it (createdb), or {ANOTHER}"
    )


# -- read-only ---------------------------------------------------------------------------------------------------------


def test_a_sqlite_file_that_may_only_be_read(embedded: Registry, offer: Offer, workspace: Path) -> None:
    (workspace / "mlflow.db").chmod(stat.S_IRUSR)
    with ThreadPoolExecutor(1, initializer=without_root_s_powers) as bound:
        said = bound.submit(refusal, BadRequest, offer, embedded.uri, workspace).result()
    assert said == (
        f"the registry {embedded.uri} cannot be written (readonly database); use an account that may write, or "
        f"{ANOTHER}"
    )


def test_a_folder_of_artifacts_that_may_only_be_read(embedded: Registry, offer: Offer, workspace: Path) -> None:
    (workspace / "mlartifacts").mkdir(mode=0o500)
    with ThreadPoolExecutor(1, initializer=without_root_s_powers) as bound:
        said = bound.submit(refusal, BadRequest, offer, embedded.uri, workspace).result()
    assert said == (
        f"{workspace}/mlartifacts/{offer.name} cannot be written (Permission denied); choose a place that can"
    )
    assert versions_in(embedded, offer.name) == []


@pytest.fixture
def reader(postgres_s3: Registry, cluster: str) -> Iterator[str]:
    """PostgreSQL itself as a registry, for a role that may only read."""
    execute(cluster, "CREATE ROLE reader LOGIN", "GRANT pg_read_all_data TO reader", database="served")
    yield f"{cluster.replace('mlflow@', 'reader@')}/served"
    execute(cluster, "REVOKE pg_read_all_data FROM reader", "DROP ROLE reader", database="served")


def test_a_role_that_may_only_read(reader: str, postgres_s3: Registry, offer: Offer, workspace: Path) -> None:
    assert refusal(BadRequest, offer, reader, workspace) == (
        f"the registry {reader.replace('reader@', '')} cannot be written (permission denied for table "
        f"registered_models); use an account that may write, or {ANOTHER}"
    )
    assert versions_in(postgres_s3, offer.name) == []


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_server_that_wants_a_password_refuses_none_and_a_wrong_one(
    guarded: Registry, offer: Offer, workspace: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    assert refusal(BadRequest, offer, guarded.uri, workspace) == (
        f"the registry {guarded.uri} refuses these credentials (HTTP 401); set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    )


def test_a_server_that_wants_a_password_takes_the_right_one(
    guarded: Registry, offer: Offer, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    found = register(offer, uri=guarded.uri, workspace=workspace)
    resolved = resolve(found.model_uri, tracking_uri=guarded.uri, cache=tmp_path / "cache")
    assert bytes_of(resolved.path) == bytes_of(offer.folder / "bundle")


def test_an_account_that_may_only_read_another_s_model(
    guarded: Registry, offer: Offer, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    register(offer, uri=guarded.uri, workspace=workspace)
    user = {"username": "reader", "password": "another password"}
    httpx.post(f"{guarded.uri}/api/2.0/mlflow/users/create", json=user, auth=(ADMIN, PASSWORD)).raise_for_status()

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user["password"])
    another = offer_of(offer.folder, name=offer.name, key="register-2")
    assert refusal(BadRequest, another, guarded.uri, workspace) == (
        f"the registry {guarded.uri} forbids this (HTTP 403): these credentials may only read, or are wrong; set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of an account that may write"
    )


def test_an_account_that_may_edit_a_model_and_not_its_ledger_moves_nothing_and_is_told_which_model_it_is(
    guarded: Registry, offer: Offer, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    register(offer, uri=guarded.uri, workspace=workspace)
    register(offer_of(offer.folder, name=offer.name, key="register-2"), uri=guarded.uri, workspace=workspace)
    moving(guarded.uri, offer.name, "1")
    user = {"username": "editor", "password": "another password"}
    httpx.post(f"{guarded.uri}/api/2.0/mlflow/users/create", json=user, auth=(ADMIN, PASSWORD)).raise_for_status()
    granting = f"{guarded.uri}/api/3.0/mlflow/users/permissions/grant"
    granted = {"username": "editor", "resource_type": "registered_model", "permission": "EDIT"}
    model, ledger = ({**granted, "resource_id": each} for each in (offer.name, f"{offer.name}.ledger"))
    httpx.post(granting, json=model, auth=(ADMIN, PASSWORD)).raise_for_status()

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user["password"])
    with pytest.raises(BadRequest) as refused:
        moving(guarded.uri, offer.name, "2")
    assert str(refused.value) == (
        f"the registry {guarded.uri} forbids to write the model {offer.name}.ledger, where the moves of {offer.name} "
        "are kept (HTTP 403), so nothing was moved; who moves its aliases must be allowed to edit both models"
    )
    httpx.post(granting, json=ledger, auth=(ADMIN, PASSWORD)).raise_for_status()
    assert moving(guarded.uri, offer.name, "2") == 2


def test_a_store_that_refuses_the_client_s_keys(
    postgres_direct_s3: Registry, offer: Offer, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "<Error><Code>InvalidAccessKeyId</Code><Message>The key is not in our records.</Message></Error>"
    with through(postgres_direct_s3) as (registry, line):
        use(registry, monkeypatch)
        line.clear(Answer("PUT /models/", 403, said))
        assert refusal(BadRequest, offer, registry.uri, workspace) == (
            f"the artifact store of the registry {registry.uri} refuses these credentials (InvalidAccessKeyId); set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and MLFLOW_S3_ENDPOINT_URL where it is not Amazon's, here "
            "or, where the server serves artifacts, there"
        )
    assert versions_in(postgres_direct_s3, offer.name) == []


def use(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in registry.environment.items():
        monkeypatch.setenv(name, value)


# -- full --------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_and_has_room_the_next_time(embedded: Registry, offer: Offer, workspace: Path) -> None:
    with or_absent(), small_disk(workspace / "mlartifacts", size_kib=16) as resize:
        said = refusal(Transient, offer, embedded.uri, workspace)
        assert versions_in(embedded, offer.name) == []
        resize(4096)
        register(offer, uri=embedded.uri, workspace=workspace)
        assert faults_in(embedded, offer) + leftovers_in(embedded, offer) == []
    assert re.sub(r"mlartifacts/\S+;", "mlartifacts/...;", said) == (
        f"no space left for {workspace}/mlartifacts/...; make room there, then {AGAIN}"
    )


def test_a_server_s_disk_that_is_full_and_has_room_the_next_time(
    empty_database: Path, offer: Offer, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    database = Path(shutil.copy(empty_database, tmp_path))
    with (
        or_absent(),
        small_disk(tmp_path / "artifacts", size_kib=16) as resize,
        sqlite_server(tmp_path, database) as (uri, _),
    ):
        said = refusal(Transient, offer, uri, workspace)
        assert versions_in(Registry(uri), offer.name) == []
        resize(4096)
        register(offer, uri=uri, workspace=workspace)
        assert faults_in(Registry(uri), offer) + leftovers_in(Registry(uri), offer) == []
    assert said == f"the registry {uri} failed: HTTP 500, again and again; {AGAIN}"  # its server keeps why to itself


@pytest.mark.parametrize(("kind", "put"), [("served", "PUT /api/.*/artifacts/"), ("postgres_direct_s3", "PUT /models")])
def test_a_store_that_says_it_is_full(
    request: pytest.FixtureRequest,
    offer: Offer,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    put: str,
) -> None:
    there: Registry = request.getfixturevalue(kind)
    with through(there) as (registry, line):
        use(registry, monkeypatch)
        line.clear(Answer(put, 507, "Insufficient Storage"))
        assert refusal(Transient, offer, registry.uri, workspace) == (
            f"the registry {registry.uri} or its artifact store is full (HTTP 507); make room there, then {AGAIN}"
        )
        line.clear()
        assert versions_in(registry, offer.name) == []
        register(offer, uri=registry.uri, workspace=workspace)
        assert faults_in(registry, offer) + leftovers_in(registry, offer) == []


# -- wrong -------------------------------------------------------------------------------------------------------------


def test_a_store_that_gives_other_bytes_back_makes_no_version(served: Registry, offer: Offer, workspace: Path) -> None:
    with through(served) as (registry, line):
        line.clear(Answer("GET /api/.*/artifacts/bundle/serving.yaml", 200, "other bytes"))
        assert refusal(BadArtifact, offer, registry.uri, workspace) == (
            f"the artifact store of the registry {registry.uri} gave back other files than it was given "
            "(bundle/serving.yaml is not as files.sha256 lists it: it was altered); nothing was registered: look at "
            "the store, then run again"
        )
    assert versions_in(served, offer.name) == []


def test_a_version_whose_files_were_altered_is_not_served(
    served: Registry, offer: Offer, workspace: Path, tmp_path: Path
) -> None:
    found = register(offer, uri=served.uri, workspace=workspace)
    place = client_of(served).get_logged_model(found.model_id).artifact_location.removeprefix("mlflow-artifacts:")
    altered = f"{served.uri}/api/2.0/mlflow-artifacts/artifacts{place}/bundle/receipts/latency@here.json"
    httpx.put(altered, content=b'{"p95_ms": 0.1}').raise_for_status()
    with pytest.raises(BadArtifact) as refused:
        resolve(found.model_uri, tracking_uri=served.uri, cache=tmp_path / "cache")
    assert "bundle/receipts/latency@here.json is not as files.sha256 lists it: it was altered" in str(refused.value)


@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_a_name_that_mlflow_refuses_costs_no_upload(served: Registry, offer: Offer, workspace: Path, name: str) -> None:
    with through(served) as (registry, line):
        said = refusal(BadRequest, offer_of(offer.folder, name=name), registry.uri, workspace)
        assert said.startswith(f"the registry {registry.uri} refused: ")
        assert [request for request in line.seen if request.startswith("PUT")] == []
        assert not any("logged-models" in request for request in line.seen)


def test_a_model_that_something_else_registered_is_left_alone(
    registry: Registry, offer: Offer, workspace: Path
) -> None:
    client = client_of(registry)
    client.create_registered_model(offer.name)
    client.create_model_version(offer.name, "s3://models/other")
    assert refusal(BadRequest, offer, registry.uri, workspace) == (
        f"the model {offer.name} in the registry {registry.uri} was registered by something else than Retort (its "
        "version 1 has no tag retort.digest); choose another name (register.name)"
    )
    assert [version.source for version in versions_in(registry, offer.name)] == ["s3://models/other"]

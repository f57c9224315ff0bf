"""Against a real MLflow sqlite store, each test with a model of its own."""

import itertools
import json
import logging
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from offers import bytes_of, offer_of, version_folder

from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.tracking import leftovers, registering
from pipeline.tracking.leftovers import BY_TAG
from pipeline.tracking.registering import KEY_TAG, MODEL_TAG, Offer, Registered, register
from pipeline.tracking.versions import create_version, version_by_key
from serving.registry import DIGEST_TAG, resolve
from serving.signatures import FILES, FILES_TAG

# Raised inside MLflow's own models of its tables.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's folder, not to be changed."""
    return version_folder(tmp_path_factory.mktemp("made") / "version")


@pytest.fixture
def offer(folder: Path) -> Offer:
    """Of a name that no other test has."""
    return offer_of(folder, name=f"registering-{next(_numbers)}")


def registered(offer: Offer, root: Path, **changes: Any) -> Registered:
    return register(replace(offer, **changes), uri=f"sqlite:///{root / 'mlflow.db'}", workspace=root)


def refusal(kind: type[Failure], offer: Offer, root: Path, **changes: Any) -> str:
    with pytest.raises(kind) as refused:
        registered(offer, root, **changes)
    return str(refused.value)


def logged(client: Any, offer: Offer) -> list[Any]:
    """The LoggedModels of the offer's experiment."""
    experiment = client.get_experiment_by_name(offer.experiment)
    return list(client.search_logged_models([experiment.experiment_id])) if experiment else []


def numbers(client: Any, offer: Offer) -> list[int]:
    return sorted(int(version.version) for version in client.search_model_versions(f"name='{offer.name}'"))


def shown_versions(client: Any, offer: Offer) -> list[Any]:
    """Of each LoggedModel, what MLflow's own pages say that it became."""
    return [json.loads(model.tags.get("mlflow.modelVersions", "null")) for model in logged(client, offer)]


# -- what is registered ------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_version_with_all_its_tags_and_no_alias(offer: Offer, root: Path, client: Any) -> None:
    found = registered(offer, root)

    version = client.get_model_version(offer.name, "1")
    (model,) = logged(client, offer)
    assert found == Registered(offer.name, "1", None, model.model_id, f"sqlite:///{root / 'mlflow.db'}", new=True)
    assert found.model_uri == f"models:/{offer.name}/1"
    assert version.tags == {**offer.tags, KEY_TAG: offer.key}
    assert version.source == f"models:/{model.model_id}"
    assert version.description == offer.description
    assert model.status.value == "READY"
    assert client.get_registered_model(offer.name).tags == {MODEL_TAG: "1"}
    assert client.get_registered_model(offer.name).aliases == {}


def test_the_digest_of_the_list_of_files_is_recorded_even_where_the_offer_forgot_it(
    offer: Offer, root: Path, client: Any
) -> None:
    found = registered(offer, root, tags={DIGEST_TAG: offer.tags[DIGEST_TAG]})
    assert client.get_model_version(offer.name, found.version).tags[FILES_TAG] == offer.tags[FILES_TAG]


def test_a_version_belongs_to_the_run_that_made_it(offer: Offer, root: Path, client: Any) -> None:
    experiment = client.create_experiment(offer.name, artifact_location=(root / "elsewhere").as_uri())
    run = client.create_run(experiment).info.run_id
    found = registered(offer, root, run_id=run)

    assert found.run_id == run
    assert client.get_model_version(offer.name, "1").run_id == run
    assert logged(client, offer)[0].source_run_id == run


def test_the_registered_bytes_are_the_bytes_of_the_folder_and_lie_in_the_workspace(
    offer: Offer, root: Path, folder: Path
) -> None:
    found = registered(offer, root)
    there = root / "mlartifacts" / offer.name / "models" / str(found.model_id) / "artifacts"
    assert bytes_of(there) == bytes_of(folder)


@pytest.mark.parametrize("name", ["with space", "with.dots_and-more"])
def test_what_was_registered_is_what_the_server_resolves(
    offer: Offer, root: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    """Both halves of MLflow agree."""
    found = registered(offer, root, name=name, experiment=name)
    resolved = resolve(found.model_uri, tracking_uri=found.tracking_uri, cache=tmp_path)

    assert (resolved.name, resolved.version, resolved.digest) == (name, "1", offer.tags[DIGEST_TAG])
    assert bytes_of(resolved.path) == bytes_of(folder / "bundle")


def test_another_step_makes_another_version(offer: Offer, root: Path) -> None:
    assert [registered(offer, root, key=key).version for key in ("register-1", "register-2")] == ["1", "2"]


def test_the_same_step_makes_one_version_however_often_it_is_run(offer: Offer, root: Path, client: Any) -> None:
    first, again = (registered(offer, root) for _ in range(2))

    assert again == replace(first, new=False)
    assert numbers(client, offer) == [1]
    assert len(logged(client, offer)) == 1


def test_mlflow_s_page_of_the_logged_model_shows_the_version_that_it_became(
    offer: Offer, root: Path, client: Any
) -> None:
    registered(offer, root)
    assert shown_versions(client, offer) == [[{"name": offer.name, "version": 1}]]


def test_what_a_killed_try_could_not_say_on_that_page_the_next_one_says(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.set_logged_model_tags", killed)
        with pytest.raises(KeyboardInterrupt):
            registered(offer, root)
    assert shown_versions(client, offer) == [None]
    assert not registered(offer, root).new
    assert shown_versions(client, offer) == [[{"name": offer.name, "version": 1}]]


def test_versions_that_others_made_of_the_same_logged_model_stay_on_that_page(
    offer: Offer, root: Path, client: Any
) -> None:
    found = registered(offer, root)
    both = [{"name": offer.name, "version": 1}, {"name": "elsewhere", "version": 7}]
    client.set_logged_model_tags(found.model_id, {"mlflow.modelVersions": json.dumps(both)})
    registered(offer, root)
    assert shown_versions(client, offer) == [both]


def test_a_logged_model_that_somebody_deleted_fails_no_version(
    offer: Offer, root: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = registered(offer, root)
    client.delete_logged_model(first.model_id)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        assert registered(offer, root) == replace(first, new=False)
    (told,) = caplog.messages
    assert told.startswith(f"the logged model of version 1 of {offer.name} does not name it: ")


def test_more_of_a_description_than_a_database_takes_is_cut(offer: Offer, root: Path, client: Any) -> None:
    registered(offer, root, description="x" * 6000)
    assert client.get_model_version(offer.name, "1").description == "x" * 5000


def test_no_other_store_is_made_or_left_as_the_process_s_own(
    offer: Offer, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would make one in the current folder to look a LoggedModel up in."""
    from mlflow.tracking._tracking_service import utils

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = utils._tracking_uri
    registered(offer, root)

    assert list(tmp_path.iterdir()) == []
    assert utils._tracking_uri == before


# -- what was cut off --------------------------------------------------------------------------------------------------

STEPS = (
    "create_registered_model",
    "create_experiment",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_model_version",
)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_killed_at_any_request_leaves_no_version_or_a_whole_one_and_finishes_when_run_again(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    done = getattr(type(client), step)

    def killed(*arguments: Any, **named: Any) -> None:
        if when == "after":
            done(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"mlflow.MlflowClient.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            registered(offer, root)
    left = version_by_key(client, offer.name, offer.key)
    found = registered(offer, root)

    made_before = (step, when) == ("create_model_version", "after")
    assert (left is not None, found.new) == (made_before, not made_before)
    assert numbers(client, offer) == [1]
    assert [model.model_id for model in logged(client, offer)] == [found.model_id]
    assert [each.name for each in (root / "mlartifacts" / offer.name / "models").iterdir()] == [found.model_id]


def leave(offer: Offer, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a try leaves that was killed before its version was made."""
    with monkeypatch.context() as patch:
        patch.setattr(registering, "create_version", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            registered(offer, root)


@pytest.mark.parametrize("by", ["another-machine 1", f"{socket.gethostname()} 1"])
def test_what_another_process_may_still_be_making_is_left_to_it(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Process 1 lives on any machine."""
    leave(offer, root, monkeypatch)
    (model,) = logged(client, offer)
    client.set_logged_model_tags(model.model_id, {BY_TAG: by})

    registered(offer, root)

    assert model.model_id in {each.model_id for each in logged(client, offer)}


def test_what_another_machine_began_long_ago_is_removed(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(offer, root, monkeypatch)
    (model,) = logged(client, offer)
    client.set_logged_model_tags(model.model_id, {BY_TAG: "another-machine 1"})
    monkeypatch.setattr(leftovers, "LEFT_AFTER_S", -time.time())

    found = registered(offer, root)

    assert [each.model_id for each in logged(client, offer)] == [found.model_id]


def test_what_may_not_be_removed_is_told_and_in_nobody_s_way(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/kept")

    leave(offer, root, monkeypatch)
    (model,) = logged(client, offer)
    monkeypatch.setattr("mlflow.MlflowClient.delete_logged_model", forbidden)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        found = registered(offer, root)

    assert found.version == "1"
    assert set(caplog.messages) == {
        f"the logged model {model.model_id}, which a killed try left, stays: /kept cannot be written (Permission "
        "denied); choose a place that can"
    }


def test_a_request_that_was_sent_twice_makes_one_version(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an answer is lost: MLflow's client sends the request again."""
    create = type(client).create_model_version

    def twice(*arguments: Any, **named: Any) -> Any:
        create(*arguments, **named)
        return create(*arguments, **named)

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", twice)
    found = registered(offer, root)

    assert (found.version, found.new) == ("1", True)
    assert numbers(client, offer) == [1]
    assert [model.model_id for model in logged(client, offer)] == [found.model_id]


def test_what_a_request_sent_twice_left_goes_with_the_next_try_but_what_somebody_gave_an_alias(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(client).create_model_version

    def lost(*arguments: Any, **named: Any) -> None:
        for _ in range(3):
            create(*arguments, **named)
        raise ConnectionResetError(104, "Connection reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.create_model_version", lost)
        refusal(Transient, offer, root)
    client.set_registered_model_alias(offer.name, "kept", "2")
    found = registered(offer, root)

    assert (found.version, found.new) == ("1", False)
    assert numbers(client, offer) == [1, 2]
    assert [model.model_id for model in logged(client, offer)] == [found.model_id]


def test_a_step_that_two_machines_run_at_once_makes_one_version(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(registering, "create_version", create_version)
        registered(offer, root)
        return create_version(*arguments, **named)

    monkeypatch.setattr(registering, "create_version", overtaken)
    found = registered(offer, root)

    assert (found.version, found.new) == ("1", False)
    assert numbers(client, offer) == [1]
    assert [model.model_id for model in logged(client, offer)] == [found.model_id]


def ended(client: Any, model_id: str | None) -> None:
    """As if the process that made the model had ended."""
    client.set_logged_model_tags(str(model_id), {BY_TAG: f"{socket.gethostname()} 999999999 its-try"})


def test_a_version_that_another_process_made_after_it_was_looked_for_keeps_its_files(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    look, made = registering.versions_by_key, []

    def overtaken(*asked: Any) -> Any:
        found = look(*asked)
        if not made:
            made.append(None)
            made.append(registered(offer, root))
            ended(client, made[-1].model_id)
        return found

    monkeypatch.setattr(registering, "versions_by_key", overtaken)
    found = registered(offer, root)

    assert found == replace(made[-1], new=False)
    assert numbers(client, offer) == [1]
    assert [model.model_id for model in logged(client, offer)] == [found.model_id]
    resolved = resolve(found.model_uri, tracking_uri=found.tracking_uri, cache=tmp_path)
    assert bytes_of(resolved.path) == bytes_of(offer.folder / "bundle")


def test_a_process_that_makes_its_version_and_ends_while_leftovers_are_looked_at_keeps_its_files(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(offer, root, monkeypatch)
    (model,) = logged(client, offer)
    client.set_logged_model_tags(model.model_id, {BY_TAG: f"{socket.gethostname()} 1 its-try"})

    def ends(_: int) -> bool:
        source = f"models:/{model.model_id}"
        create_version(client, offer.name, source=source, tags={KEY_TAG: offer.key}, model_id=model.model_id)
        monkeypatch.undo()
        return False

    monkeypatch.setattr("psutil.pid_exists", ends)
    leftovers.remove_leftovers(client, model.experiment_id, offer.name, key=offer.key)

    assert [each.model_id for each in logged(client, offer)] == [model.model_id]


def test_a_step_that_two_threads_run_at_once_makes_one_version(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one looks for leftovers when the first one's model has only just been made."""
    create, asked = type(client).create_logged_model, []

    def overtaken(*arguments: Any, **named: Any) -> Any:
        model = create(*arguments, **named)
        asked.append(model.model_id)
        if len(asked) == 1:
            registered(offer, root)
        return model

    monkeypatch.setattr("mlflow.MlflowClient.create_logged_model", overtaken)
    found = registered(offer, root)

    assert (found.version, found.new, found.model_id) == ("1", False, asked[1])
    assert numbers(client, offer) == [1]
    assert [model.model_id for model in logged(client, offer)] == [found.model_id]


def test_a_second_version_that_may_not_be_withdrawn_stays_is_told_and_fails_nothing(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    def forbidden(*_: Any) -> None:
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    first = registered(offer, root)
    source = registered(offer, root, key="register-2")
    model = f"models:/{source.model_id}"
    create_version(client, offer.name, source=model, tags={KEY_TAG: offer.key}, model_id=source.model_id)
    monkeypatch.setattr("mlflow.MlflowClient.delete_model_version", forbidden)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        assert registered(offer, root) == replace(first, new=False)

    assert numbers(client, offer) == [1, 2, 3]
    assert caplog.messages == [
        f"version 3 of {offer.name}, which one step made twice, stays: the registry sqlite:///{root / 'mlflow.db'} "
        "forbids this (HTTP 403): these credentials may only read, or are wrong; set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD of an account that may write"
    ]


def test_a_registry_where_others_were_faster_is_asked_again(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    create, refused = type(client).create_model_version, []

    def busy(*arguments: Any, **named: Any) -> Any:
        if len(refused) < 2:
            refused.append(1)
            raise MlflowException("Model Version creation error (name=m). Giving up after 3 attempts.")
        return create(*arguments, **named)

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", busy)
    assert registered(offer, root).version == "1"
    assert len(refused) == 2


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_store_that_gives_other_bytes_back_registers_nothing(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upload, altered = type(client).log_model_artifacts, Path(shutil.copytree(offer.folder, tmp_path / "altered"))
    (altered / "bundle" / "model.onnx").write_bytes(b"other bytes")
    monkeypatch.setattr(
        "mlflow.MlflowClient.log_model_artifacts", lambda self, model_id, _: upload(self, model_id, str(altered))
    )

    assert refusal(BadArtifact, offer, root) == (
        f"the artifact store of the registry sqlite:///{root / 'mlflow.db'} gave back other files than it was given "
        "(bundle/model.onnx is not as files.sha256 lists it: it was altered); nothing was registered: look at the "
        "store, then run again"
    )
    assert numbers(client, offer) == []


def test_a_store_that_lost_the_files_registers_nothing(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.MlflowClient.log_model_artifacts", lambda *_: None)
    told = refusal(BadArtifact, offer, root)
    assert told.startswith(f"the artifact store of the registry sqlite:///{root / 'mlflow.db'} gave back other files ")
    assert " does not hold the registered files: " in told
    assert numbers(client, offer) == []


def test_a_folder_that_is_not_whole_is_not_offered_to_any_registry(offer: Offer, root: Path, tmp_path: Path) -> None:
    half = Path(shutil.copytree(offer.folder, tmp_path / "half"))
    (half / "MLmodel").unlink()
    told = refusal(BadArtifact, replace(offer, folder=half), root, name="half")
    assert told == f"{half}: MLmodel is missing; fetch the version again, or register it again"
    (half / FILES).unlink()
    assert refusal(BadArtifact, replace(offer, folder=half), root, name="half").startswith(f"{half} is no version's ")


def test_a_bundle_that_is_not_the_measured_one_is_not_registered(offer: Offer, root: Path, client: Any) -> None:
    assert refusal(BadArtifact, offer, root, tags={**offer.tags, DIGEST_TAG: "0" * 64}) == (
        f"the bundle to register is {offer.tags[DIGEST_TAG][:12]}, not the 000000000000 that was measured; run again"
    )
    assert numbers(client, offer) == []


def test_a_name_the_registry_does_not_take_is_a_bad_request_and_uploads_nothing(
    offer: Offer, root: Path, client: Any
) -> None:
    assert refusal(BadRequest, offer, root, name="a/b") == (
        f"the registry sqlite:///{root / 'mlflow.db'} refused: Invalid model name 'a/b'. Names cannot contain '/' or "
        "':'."
    )
    assert client.get_experiment_by_name(offer.experiment) is None


def test_a_model_that_something_else_registered_is_not_added_to(offer: Offer, root: Path, client: Any) -> None:
    client.create_registered_model(offer.name)
    client.create_model_version(offer.name, "file:///somewhere")
    assert refusal(BadRequest, offer, root) == (
        f"the model {offer.name} in the registry sqlite:///{root / 'mlflow.db'} was registered by something else than "
        "Retort (its version 1 has no tag retort.digest); choose another name (register.name)"
    )
    assert client.get_experiment_by_name(offer.experiment) is None


def test_a_prompt_is_no_model_to_add_to(offer: Offer, root: Path, client: Any) -> None:
    client.register_prompt(offer.name, "Say {{this}}.")
    assert refusal(BadRequest, offer, root) == (
        f"the registry sqlite:///{root / 'mlflow.db'} refused: Tried to create a registered model with name "
        f"'{offer.name}', but the name is already taken by a prompt. MLflow does not allow creating a model and a "
        "prompt with the same name."
    )


def test_a_model_of_an_older_retort_is_gone_on_with(offer: Offer, root: Path, client: Any) -> None:
    client.create_registered_model(offer.name)
    client.create_model_version(offer.name, "file:///somewhere", tags={DIGEST_TAG: "d" * 64, KEY_TAG: "register-0"})

    assert registered(offer, root).version == "2"
    assert client.get_registered_model(offer.name).tags == {MODEL_TAG: "1"}
    old = registered(offer, root, key="register-0")
    assert (old.version, old.model_id, old.new) == ("1", None, False)


def test_a_model_that_another_process_creates_meanwhile_is_gone_on_with(
    offer: Offer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(offer, root)
    known = registering.model_called
    answers = iter([lambda *_: None, known])
    monkeypatch.setattr(registering, "model_called", lambda *asked: next(answers)(*asked))
    assert registered(offer, root, key="register-2").version == "2"


def test_an_experiment_that_was_deleted_is_said_so(offer: Offer, root: Path, client: Any) -> None:
    deleted = client.create_experiment(offer.experiment)
    client.delete_experiment(deleted)
    assert refusal(BadRequest, offer, root) == (
        f"the experiment {offer.experiment} was deleted in the registry sqlite:///{root / 'mlflow.db'}; restore it "
        f"with `mlflow experiments restore --experiment-id {deleted}`, or register under another name (register.name)"
    )


def test_an_experiment_that_another_process_creates_meanwhile_is_used(
    offer: Offer, root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, asked = type(client).get_experiment_by_name, []
    client.create_experiment(offer.experiment, artifact_location=(root / "elsewhere").as_uri())

    def late(self: Any, name: str) -> Any:
        asked.append(name)
        return None if len(asked) == 1 else get(self, name)

    monkeypatch.setattr("mlflow.MlflowClient.get_experiment_by_name", late)
    assert registered(offer, root).new


def test_a_registry_that_fails_inside_is_transient(offer: Offer, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def fails(*_: Any, **__: Any) -> None:
        raise MlflowException("the disk is gone\nand a stack trace")

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", fails)
    assert refusal(Transient, offer, root) == (
        f"the registry sqlite:///{root / 'mlflow.db'} failed: the disk is gone; run again: finished work is kept"
    )

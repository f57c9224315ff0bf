"""What a registry has: models, their versions and aliases, read whole, however many pages it gives them in; and the one
way to make another version.

Every function takes a client from `talking_to`, which turns what fails into one message.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final

from pipeline.errors import BadRequest
from serving.reaching import fetch_files, is_server

KEY_TAG: Final = "retort.key"  # of a version: the step that made it
VERSIONS_A_PAGE: Final = 1000
MODELS_A_PAGE: Final = 100
CREATE_TRIES: Final = 12
_PAUSE_S: Final = 0.05
_LOGGED_MODEL: Final = "models:/m-"
_STORE = Lock()


@dataclass(frozen=True)
class Version:
    """A version of a registered model; `source` is models:/m-... or, of older ones, the bundle's own place."""

    name: str
    number: int
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    created_at: datetime
    run_id: str | None
    source: str

    @property
    def model_id(self) -> str | None:
        """The LoggedModel that holds the files; None of a version that an older Retort registered."""
        return self.source.removeprefix("models:/") if self.source.startswith(_LOGGED_MODEL) else None


def version_by_key(client: Any, name: str, key: str) -> Version | None:
    """The version that the step with this key made; the first one, where a request was sent twice. None where there is
    no such version or model."""
    return next(iter(versions_by_key(client, name, key)), None)


def versions_by_key(client: Any, name: str, key: str) -> list[Version]:
    """All that the step with this key made, the first one first and without aliases: more than one only where an answer
    was lost and the request was sent again, or where two machines ran the step at once."""
    return _in_order(client, f"name={_quoted(name)} AND tags.`{KEY_TAG}`={_quoted(key)}")


def versions_of(client: Any, name: str) -> list[Version]:
    """All versions with their aliases, the first one first; empty where there is no such model."""
    return _in_order(client, f"name={_quoted(name)}", aliases_of(client, name) or {})


def versions_without_aliases(client: Any, name: str) -> list[Version]:
    """`versions_of`, of a model whose versions nobody gives aliases: one question less to the registry."""
    return _in_order(client, f"name={_quoted(name)}")


def aliases_of(client: Any, name: str) -> dict[str, str] | None:
    """Alias -> version; None where there is no such model."""
    model = model_called(client, name)
    return None if model is None else {str(alias): str(number) for alias, number in model.aliases.items()}


def model_called(client: Any, name: str) -> Any | None:
    """MLflow's record of a registered model. A search: the answer that a registry does not know a name could not be
    told from other refusals."""
    return next((model for model in _models(client, f"name={_quoted(name)}") if model.name == name), None)


def model_names(client: Any) -> list[str]:
    """Every registered model's name, whoever registered it."""
    return sorted(str(model.name) for model in _models(client, None))


def download(client: Any, version: Version, to: Path) -> Path:
    """Fetch a version's files into the folder `to`; return where they lie in it.

    Raises:
        BadArtifact: the registry has no such files any more.
    """
    place = client.get_model_version_download_uri(version.name, str(version.number))
    return fetch_files(str(place), to=to, tracking_uri=client.tracking_uri)


def create_version(
    client: Any,
    name: str,
    *,
    source: str,
    tags: Mapping[str, str],
    run_id: str | None = None,
    model_id: str | None = None,
    description: str | None = None,
) -> Version:
    """Create a version with all its tags at once, so that a version that can be seen is complete.

    MLflow counts versions by asking for the highest number and gives up where others were faster three times in a row;
    here that is tried again.
    """
    from mlflow.exceptions import MlflowException

    told = {"run_id": run_id, "model_id": model_id, "description": description}
    for attempt in range(CREATE_TRIES):
        try:
            with _looked_up_in(client.tracking_uri):
                made = client.create_model_version(name, source, tags=dict(tags), await_creation_for=0, **told)
            return _version(made, {})
        except MlflowException as error:
            if "Giving up after" not in str(error) or attempt + 1 == CREATE_TRIES:
                raise
            time.sleep(_PAUSE_S * (1 + attempt))
    raise AssertionError("unreachable: the last attempt returns or raises")


def all_pages(page: Callable[[str | None], Any]) -> Iterator[Any]:
    """All that a search of MLflow's finds; `page` takes the token of the page before."""
    token: str | None = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return


@contextmanager
def _looked_up_in(uri: str) -> Iterator[None]:
    """MLflow's SQL registry looks a LoggedModel up in the process's default store, whichever it was opened with. Its
    setter for that would write the environment, which child processes would take for the user's wish."""
    if is_server(uri):
        yield
        return
    from mlflow.tracking._tracking_service import utils

    with _STORE:
        before, utils._tracking_uri = utils._tracking_uri, uri
        try:
            yield
        finally:
            utils._tracking_uri = before


def _version(found: Any, aliases: Mapping[str, str]) -> Version:
    return Version(
        name=str(found.name),
        number=int(found.version),
        tags={str(name): str(value) for name, value in found.tags.items()},
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == str(found.version))),
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, tz=UTC),
        run_id=found.run_id or None,
        source=str(found.source),
    )


def _in_order(client: Any, wanted: str, aliases: Mapping[str, str] = {}) -> list[Version]:
    pages = all_pages(lambda token: client.search_model_versions(wanted, max_results=VERSIONS_A_PAGE, page_token=token))
    return sorted((_version(each, aliases) for each in pages), key=lambda each: each.number)


def _models(client: Any, wanted: str | None) -> Iterator[Any]:
    return all_pages(lambda token: client.search_registered_models(wanted, max_results=MODELS_A_PAGE, page_token=token))


def _quoted(text: str) -> str:
    """As MLflow's filters want it; they know no escape."""
    quote = '"' if "'" in text else "'"
    if quote in text:
        raise BadRequest(f"{text!a} cannot be looked for: MLflow takes no text with both kinds of quotes; name another")
    return f"{quote}{text}{quote}"

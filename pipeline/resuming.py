"""`retort run --resume`: go on with what was left unfinished, and begin nothing. A run goes on by itself; this is for
scripts that must not start an hour of work anew because a setting or a workspace was not given again."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import BadRequest
from pipeline.workspace import RECORD, Workspace, read_record

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.runner import Planned

EVENTS = "events.jsonl"


class _Event(msgspec.Struct):
    event: str
    key: str


def require_unfinished(config: "RunConfig", planned: "Sequence[Planned]", workspace: Workspace) -> None:
    """Raise BadRequest unless an earlier run of this very config was left unfinished: a step of it was begun and not
    sealed, or some of its steps are made and others not."""
    folder = workspace.run_folder(config.name)
    left = [one for one in planned if one.state != "done"]
    made = _made(folder, config)
    if any(one.key is not None and _last_event(folder, one.key) == "started" for one in left):
        return
    if made and any(one.step.label not in made for one in left):
        return
    if made or not left:
        raise BadRequest(
            f"--resume: the last run of {config.name} with these settings came to its end in {workspace.root}; "
            "`retort show` shows it, and `retort run` without --resume measures again what is too old"
        )
    raise BadRequest(
        f"--resume: no run of {config.name} with these settings was begun in {workspace.root}; give the --set and "
        "--workspace of the one to go on with, or leave --resume out to begin"
    )


def _made(folder: Path, config: "RunConfig") -> set[str]:
    """The steps that runs of this very config came to the end of."""
    path = folder / RECORD
    record = read_record(path) if path.is_file() else {}
    return {*record["steps"]} if record.get("config") == config.model_dump(mode="json") else set()


def _last_event(folder: Path, key: str) -> str:
    """What the run last told of a key: "started", or "step" once it was there. A torn line is passed over."""
    path, last = folder / EVENTS, ""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            event = msgspec.json.decode(line, type=_Event)
            last = event.event if event.key == key else last
    return last

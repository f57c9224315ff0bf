"""The commands about a registry: `retort promote`, `rollback`, `history`, `models`, `verify`."""

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.opening import opened_registry
from pipeline.commands.options import (
    WORKSPACE,
    Json,
    Key,
    Root,
    Settings,
    StoreUrl,
    TrackingUri,
    Who,
    echo,
    with_registry,
)
from pipeline.errors import BadArtifact, BadRequest
from pipeline.progress import summary_console

if TYPE_CHECKING:
    from pipeline.model_verification import Findings
    from pipeline.moves import Moved
    from pipeline.workspace import Workspace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*(?<!\.yaml)(?<!\.yml)")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")]
Why = Annotated[str | None, typer.Option("--why", metavar="TEXT", help="The reason; the ledger keeps it.")]
Resume = Annotated[bool, typer.Option("--resume", help="Only finish what an interrupted move left.")]


def promote(
    name: Name,
    version: Annotated[str | None, typer.Option("--version", metavar="V", help="The version.")] = None,
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="The alias that is to name it.")] = "champion",
    why: Why = None,
    who: Who = None,
    resume: Resume = False,
    tracking_uri: TrackingUri = None,
    workspace: Root = WORKSPACE,
    json_only: Json = False,
) -> None:
    """Let an alias name a version: servers that follow it load that version. The move is kept in the model's ledger.

    Example:  retort promote retort-demo --version 4 --why "5 % faster, as accurate; approved in review 17"
    """
    from pipeline.moves import Move, this_user
    from pipeline.promotion import move

    def act(client: Any) -> "Moved":
        chosen = _given(version, "--version is missing: say which version; `retort models NAME` lists them")
        return move(client, name, Move(to, chosen, _reason(why), who or this_user()))

    _move(name, act, resume=resume, uri=_uri(tracking_uri, workspace), json_only=json_only)


def rollback(
    name: Name,
    to: Annotated[str | None, typer.Option("--to", metavar="V", help="Default: what the alias named before.")] = None,
    alias: Annotated[str, typer.Option("--alias", metavar="ALIAS", help="The alias that goes back.")] = "champion",
    why: Why = None,
    who: Who = None,
    resume: Resume = False,
    tracking_uri: TrackingUri = None,
    workspace: Root = WORKSPACE,
    json_only: Json = False,
) -> None:
    """Let an alias name again what it named before; done twice, it goes back by two.

    Example:  retort rollback retort-demo --why "wrong answers to long texts since this morning"
    """
    from pipeline.moves import this_user
    from pipeline.promotion import rollback as go_back

    def act(client: Any) -> "Moved":
        return go_back(client, name, to=to, alias=alias, why=_reason(why), who=who or this_user())

    _move(name, act, resume=resume, uri=_uri(tracking_uri, workspace), json_only=json_only)


def history(
    name: Name,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="2026-11-17, or 2026-11-17T14:30.")] = None,
    tracking_uri: TrackingUri = None,
    workspace: Root = WORKSPACE,
    json_only: Json = False,
) -> None:
    """Show who moved a model's aliases, when, from, to and why; with --at, what they named then (UTC).

    Examples:  retort history retort-demo      retort history retort-demo --at 2026-11-17
    """
    from pipeline.alias_history import named_at
    from pipeline.kept_ledger import read_state_at_rest
    from pipeline.registry_tables import doubts_lines, history_table, history_told, spans_table, spans_told

    with opened_registry(_uri(tracking_uri, workspace)) as client:
        state = read_state_at_rest(client, name)
    found = None if at is None else named_at(state.chain, at, state.named)
    if not json_only:
        _show(history_table(state.chain) if found is None else spans_table(found), *doubts_lines(state))
    echo(history_told(state) if at is None or found is None else spans_told(state, at, found))


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show the versions of this one.")] = None,
    tracking_uri: TrackingUri = None,
    workspace: Root = WORKSPACE,
    json_only: Json = False,
) -> None:
    """Show the registered models and what their aliases name, or the versions of one.

    Examples:  retort models      retort models retort-demo --json
    """
    from pipeline.kept_ledger import own_models, read_versions
    from pipeline.registry_tables import model_told, models_table, versions_table

    with opened_registry(_uri(tracking_uri, workspace)) as client:
        found = own_models(client) if name is None else {name: read_versions(client, name)}
    if not json_only:
        _show(models_table(found) if name is None else versions_table(found[name]))
    if name is None:
        echo({"models": [model_told(*each) for each in found.items()]})
    else:
        echo({"model": name, "versions": found[name]})


def verify(
    targets: Annotated[
        list[str], typer.Argument(metavar="CONFIG|FOLDER|NAME...", help="A run, a folder or a registered model.")
    ],
    settings: Settings = None,
    key: Key = None,
    every: Annotated[bool, typer.Option("--all", help="Every version of a model, not only those in use.")] = False,
    tracking_uri: TrackingUri = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
    json_only: Json = False,
) -> None:
    """Read every sealed file again and compare it with its digest; of a registered model its ledger as well.

    An alias that lags behind the ledger, as a move was interrupted, is repaired. NAME is what is no path here.

    Examples:  retort verify configs/demo.yaml      retort verify path/to/bundle

      retort verify retort-demo --key signer.pub
    """
    from pipeline.registry_tables import findings_lines
    from pipeline.workspace import Workspace

    place, uri = Workspace.open(workspace, store_url=store), _uri(tracking_uri, workspace)
    verified: list[str] = []
    found: list[Findings] = []
    for target in targets:
        if Path(target).exists() or not _NAME.fullmatch(target):
            verified += _sealed(Path(target), settings, tracking_uri, place, key=key)
        else:
            found.append(_verified(target, uri=uri, cache=place.cache, key=key, every=every))
    if not json_only:
        _show(*(line for each in found for line in findings_lines(each)))
    echo({"verified": verified} | ({"models": [asdict(each) | {"ok": each.ok} for each in found]} if found else {}))
    _require_faultless(found)


def _sealed(
    path: Path, settings: Settings, tracking_uri: str | None, place: "Workspace", *, key: Path | None
) -> list[str]:
    """A config's run is the one with this registry, where the config names none."""
    from pipeline.verification import verify_target

    is_config = path.suffix in (".yaml", ".yml")
    asked = with_registry(path, settings, tracking_uri) if is_config else tuple(settings or ())
    return list(verify_target(path, asked, place, key=key))


def _uri(tracking_uri: str | None, workspace: Path) -> str:
    from pipeline.tracking.client import default_uri

    return tracking_uri or default_uri(workspace.resolve())


def _given(value: str | None, otherwise: str) -> str:
    if value is None:
        raise BadRequest(otherwise)
    return value


def _reason(why: str | None) -> str:
    return _given(why, "--why is missing: say why this is moved; the ledger keeps it")


def _move(name: str, act: Callable[[Any], "Moved"], *, resume: bool, uri: str, json_only: bool) -> None:
    """Make a move, or only finish one, and say what came of it; BadRequest where that was refused."""
    from pipeline.registry_tables import moved_lines, moved_told, settled_lines, settled_told
    from pipeline.settling import settled

    after = None
    with opened_registry(uri) as client:
        if resume:
            after = settled(client, name)
            lines, told = settled_lines(after), settled_told(after)
        else:
            moved = act(client)
            lines, told = moved_lines(moved, uri), moved_told(moved)
    if not json_only:
        _show(*lines)
    echo(told)
    if after is not None:
        after.require_written()


def _verified(name: str, **how: Any) -> "Findings":
    from pipeline.kept_ledger import NoSuchModel
    from pipeline.model_verification import verify_model

    try:
        return verify_model(name, **how)
    except NoSuchModel as error:
        raise BadRequest(f"{name} is no path here, and no registered model: {error}") from error


def _require_faultless(found: "list[Findings]") -> None:
    faults = [fault for each in found for fault in each.faults]
    if faults:
        names = ", ".join(each.name for each in found if not each.ok)
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise BadArtifact(f"{names}: {faults[0]}{more}")


def _show(*told: Any) -> None:
    """Tables, and lines that are not wrapped."""
    console = summary_console()
    for each in told:
        console.print(each, soft_wrap=isinstance(each, str), markup=False)

"""The commands `retort runs` and `retort sync`: what runs there are, and the sending of what waits of them."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.options import WORKSPACE, Json, Root, TrackingUri, echo
from pipeline.progress import summary_console

if TYPE_CHECKING:
    from pipeline.tracking.runs import Runs, Seen


def runs(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only runs of configs of this name.")] = None,
    workspace: Root = WORKSPACE,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """List the runs that this workspace and its MLflow servers know, the newest first.

    Example:  retort runs demo
    """
    from pipeline.tracking.runs import runs_of

    found = runs_of(workspace.resolve(), name=name, uris=(tracking_uri,) if tracking_uri else ())
    if not json:
        _show(found)
    echo({"runs": found.found, "away": found.away, "unreadable": found.unreadable})


def sync(workspace: Root = WORKSPACE, json: Json = False) -> None:
    """Send what waits of all runs of this workspace to their MLflow servers.

    Ends with 75 where a server is away; what it was not told waits on. Ends with 65 where an outbox cannot be read.

    Example:  retort sync --workspace .retort
    """
    from pipeline.tracking.syncing import require_sent, sync_all

    console = summary_console()
    synced = sync_all(workspace.resolve())
    for one in () if json else synced:
        told = f"{one.run}: {one.sent} events sent, {one.waiting} wait" + (f" ({one.why})" if one.why else "")
        console.print(told, soft_wrap=True, markup=False)
        if one.refused:
            console.print(f"{one.run}: {one.refused} were refused; see {one.refusals}", soft_wrap=True, markup=False)
    sums = {name: sum(getattr(one, name) for one in synced) for name in ("sent", "waiting", "refused")}
    echo({**sums, "runs": synced})
    require_sent(synced)


def _show(found: "Runs") -> None:
    from rich.table import Table

    console = summary_console()
    table = Table(title="runs", title_justify="left")
    for heading in ("name", "began", "status", "seconds", "verdict", "registered", "where"):
        table.add_column(heading, overflow="fold")
    for seen in found.found:
        table.add_row(*_cells(seen))
    console.print(table)
    for label, reasons in (("not asked:", found.away), ("not read:", found.unreadable)):
        for why in reasons.values():
            console.print(label.ljust(12) + why, soft_wrap=True, markup=False)


def _cells(seen: "Seen") -> tuple[Any, ...]:
    began = datetime.fromtimestamp(seen.at / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    registered = f"{seen.model}/{seen.version}" if seen.version else ""
    place = f"{seen.uri} run {seen.run_id}" if seen.run_id else seen.uri
    left = f"; {seen.waiting} events wait here" if seen.waiting else ""
    seconds = "" if seen.seconds is None else f"{seen.seconds:.1f}"
    return seen.name, began, seen.status, seconds, seen.verdict or "", registered, place + left

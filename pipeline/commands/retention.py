"""The command `retort gc`: it parses, calls what judges and removes, and prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from pipeline.commands.options import WORKSPACE, Json, Root, StoreUrl, TrackingUri, echo
from pipeline.progress import summary_console

if TYPE_CHECKING:
    from pipeline.retention import Found, Item

Forget = Annotated[
    list[str] | None,
    typer.Option(metavar="URI", help="A registry that is gone for good: what it needed may go. Repeatable."),
]


def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without this nothing is changed.")] = False,
    keep_days: Annotated[float, typer.Option(min=0, help="Keep what runs of so many last days used.")] = 14.0,
    keep_runs: Annotated[int, typer.Option(min=0, help="Keep what the newest runs used, whatever their age.")] = 3,
    tracking_uri: TrackingUri = None,
    forget: Forget = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
    json_only: Json = False,
) -> None:
    """Say which local artifacts no registered version and no recent run needs; with --apply, remove them.

    A version needs its own artifacts and all that these were made from. The registries asked are the workspace's own,
    those that its runs name, and --tracking-uri; where one cannot be reached nothing is removed. Checkpoints, what
    killed runs left, sent outboxes and served versions that no alias names go too. A shared store is left alone.

    Examples:  retort gc      retort gc --apply --keep-days 30
    """
    from pipeline.needs import Keep
    from pipeline.retention import plan, remove

    planned = plan(workspace, keep=Keep(keep_days, keep_runs), registry=tracking_uri, forget=forget or ())
    found = remove(planned) if apply else planned.told()
    if not json_only:
        _show(found, applied=apply, root=planned.scene.root, store=store)
    told: dict[str, Any] = {"workspace": str(planned.scene.root), "applied": apply, "size_bytes": found.size_bytes}
    echo(told | msgspec.to_builtins(found))


def _show(found: "Found", *, applied: bool, root: Path, store: str | None) -> None:
    """What goes, what is kept, what was left alone, and the total."""
    console = summary_console()
    for title, items in (
        ("removed" if applied else "would go", found.goes),
        ("kept", found.kept),
        ("left", found.left),
    ):
        if items:
            console.print(_table(title, items))
    asked = ", ".join(found.registries) or "none"
    console.print(f"workspace:  {root}", soft_wrap=True, markup=False)
    console.print(f"registries: {asked}", soft_wrap=True, markup=False)
    if store:
        console.print(
            f"store:      {store} is left alone: what is removed here is fetched from there",
            soft_wrap=True,
            markup=False,
        )
    done = "removed" if applied else "would go"
    more = "" if applied else "; nothing is changed: --apply removes them"
    console.print(f"total:      {len(found.goes)} {done}, {told_size(found.size_bytes)}{more}", soft_wrap=True)


def _table(title: str, items: "tuple[Item, ...]") -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for item in sorted(items, key=lambda item: -item.size_bytes):
        table.add_row(Text(item.path), told_size(item.size_bytes), Text(item.why))
    return table


def told_size(size_bytes: int) -> str:
    """In the unit that suits it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= size:
            return f"{size_bytes / size:,.1f} {unit}"
    return f"{size_bytes} B"

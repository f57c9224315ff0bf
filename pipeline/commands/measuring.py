"""The commands `retort compare` and `tune`: they parse, call what measures or compares, and print."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pipeline.commands.bench import require_bound
from pipeline.commands.options import Json, echo, for_people
from pipeline.errors import BadRequest
from pipeline.progress import Console, summary_console


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="receipt.json, its folder, or runs/NAME: its first target.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is held against A.")],
    pair: Annotated[
        list[str] | None, typer.Option("--pair", metavar="A_NAME=B_NAME", help="Variants of other names. Repeatable.")
    ] = None,
    across_machines: Annotated[bool, typer.Option("--across-machines", help="Compare other machines' times.")] = False,
    json_only: Json = False,
) -> None:
    """Say in plain sentences how B differs from A: times with their intervals, and quality.

    Example:  retort compare .retort/bench-monday .retort/bench
    """
    from benchmarks.comparison import build_table
    from pipeline.comparing import compare_places

    comparison = compare_places(a, b, pairs=[_pair(each) for each in pair or ()], across_machines=across_machines)
    console = summary_console()
    with for_people(unless=json_only):
        console.print(build_table(comparison))
        for told in (*comparison.sentences, *comparison.notes):
            console.print(told, soft_wrap=True, markup=False)
    echo(comparison)


def tune(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    texts: Annotated[
        Path, typer.Option(help="A text a line, as requests hold them; of pairs two, with a tab between.")
    ],
    bound_ms: Annotated[float | None, typer.Option(help="What p99 must keep; default: 25.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Texts in each request.")] = 1,
    target: Annotated[str, typer.Option(help="What this kind of machine is called.")] = "here",
    out: Annotated[Path | None, typer.Option(help="Folder for the tuning; default: the bundle's.")] = None,
    json_only: Json = False,
) -> None:
    """Find how a server here runs a bundle to answer most requests: sessions, threads, executors, items together.

    Every setting is loaded in a process of its own with requests that arrive at random, at rising rates, until p99
    breaks the bound: minutes, in which the machine should do nothing else. The winner is kept as tuning@TARGET.json
    beside the bundle, whose digest stays as it is; a server on this kind of machine follows it, and calibrates for two
    seconds where there is none.

    Example:  retort tune path/to/bundle --texts texts.txt --bound-ms 20
    """
    from benchmarks.tune import PLAN, build_table, read_requests, told, told_left_out
    from benchmarks.tune import tune as find
    from serving.tuning import tuning_file

    reporter = Console()
    found = find(
        bundle,
        read_requests(texts, items=items),
        plan=PLAN if bound_ms is None else msgspec.structs.replace(PLAN, bound_ms=require_bound(bound_ms)),
        target=target,
        out=out,
        tell=lambda earned: reporter.line(told(earned)),
        left_out=lambda setting, why: reporter.line(told_left_out(setting, why)),
    )
    console = summary_console()
    with for_people(unless=json_only):
        console.print(build_table(found))
        console.print(f"server:     {found.setting.told()} ({found.told()})", soft_wrap=True, markup=False)
        console.print(f"tuning:     {(out or bundle) / tuning_file(target)}", soft_wrap=True, markup=False)
    echo(found)


def _pair(text: str) -> tuple[str, str]:
    one, equals, other = text.partition("=")
    if not (one and equals and other):
        raise BadRequest(f"--pair {text}: expected A_NAME=B_NAME, a variant of A and one of B")
    return one, other

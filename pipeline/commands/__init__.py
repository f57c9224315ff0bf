"""Commands of `retort` that cli.py has no room for, by what they are about."""

import typer

from pipeline.commands.bench import bench
from pipeline.commands.keeping import runs, sync
from pipeline.commands.load import load
from pipeline.commands.measuring import compare, tune
from pipeline.commands.registry import history, models, promote, rollback, verify
from pipeline.commands.retention import gc
from pipeline.commands.serving import serve


def add_commands(app: typer.Typer) -> None:
    """Make them commands of `retort`."""
    for command in (  # a line a module
        serve,
        *(bench, load),
        *(compare, tune),
        *(promote, rollback, history, models, verify),
        *(runs, sync),
        gc,
    ):
        app.command()(command)

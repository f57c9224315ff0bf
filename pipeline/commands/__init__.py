"""Commands of `retort` that cli.py has no room for, by what they are about."""

import typer

from pipeline.commands.bench import bench
from pipeline.commands.measuring import compare, tune


def add_commands(app: typer.Typer) -> None:
    """Make them commands of `retort`."""
    for command in (bench, compare, tune):
        app.command()(command)

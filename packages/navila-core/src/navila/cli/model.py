"""`navila model`: everything that is done with a checkpoint besides training and running it."""

from __future__ import annotations

import click

from navila.cli.subcommands import Subcommands

#: Name to (target, summary); each command is a module of its own in `navila.cli.models`.
_COMMANDS: dict[str, tuple[str, str]] = {}


@click.group(cls=Subcommands, targets=_COMMANDS)
def model() -> None:
    """Build, inspect, compare and convert checkpoints."""

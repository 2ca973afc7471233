"""A command group whose commands are imported when they are run: its help shows summaries and imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from navila.registry import import_target


class Subcommands(click.Group):
    """A group of commands given as `{name: (target, summary)}`, a target being `"package.module:Attribute"`."""

    def __init__(self, *args: Any, targets: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._targets = dict(targets)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self._targets, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._targets:
            return super().get_command(ctx, cmd_name)
        return import_target(self._targets[cmd_name][0], f"command {ctx.command_path} {cmd_name}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and summaries without importing a command."""
        rows = {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        rows |= {name: summary for name, (_, summary) in self._targets.items()}
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(sorted(rows.items()))

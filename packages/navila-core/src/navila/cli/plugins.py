"""`navila plugins`: what is installed and whether it works."""

from __future__ import annotations

import json

import click

from navila.cli.tables import table
from navila.plugins import installed_plugins


@click.group(invoke_without_command=True)
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """List, inspect and check plugins.

    `list` and `info` read metadata only, so that they work whatever is broken.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool = False) -> None:
    """Installed plugins, from metadata alone."""
    found = installed_plugins()
    if as_json:
        rows = [{"name": p.name, "dist": p.dist, "version": p.version, "module": p.module} for p in found]
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(table(("PLUGIN", "FROM", "MODULE"), [(p.name, f"{p.dist} {p.version}", p.module) for p in found]))

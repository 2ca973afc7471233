"""`navila simulator list`, `navila encoder info NAME`, … : one command group a kind."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from navila.cli.tables import table
from navila.kinds import KINDS, Kind
from navila.plugins import default_host
from navila.registry import Entry, missing_requirements


def _group(kind: Kind) -> click.Group:
    json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

    @click.group(
        name=kind.command,
        help=f"List and describe the installed {kind.label}s; without a command, list them.",
        invoke_without_command=True,
    )
    @json_option
    @click.pass_context
    def group(ctx: click.Context, as_json: bool) -> None:
        if ctx.invoked_subcommand is None:
            ctx.invoke(list_, as_json=as_json)

    @group.command("list")
    @json_option
    def list_(as_json: bool) -> None:
        """Names, summaries and owners; imports none of them."""
        registry = default_host().registry(kind.name)
        if as_json:
            click.echo(json.dumps([facts(entry) for entry in registry.entries], indent=2))
            return
        rows = [
            (name, ", ".join(entry.spec.aliases), str(entry.origin), entry.spec.summary)
            for name, entry in sorted(zip(registry.names(), registry.entries, strict=True), key=lambda pair: pair[0])
        ]
        click.echo(table(("NAME", "ALIASES", "FROM", "SUMMARY"), rows))

    @group.command("info")
    @click.argument("name")
    @json_option
    def info(name: str, as_json: bool) -> None:
        """All that is declared about one of them, without importing it."""
        described = facts(default_host().registry(kind.name).entry(name))
        if as_json:
            click.echo(json.dumps(described, indent=2))
            return
        click.echo(table(("FIELD", "VALUE"), [(key, _text(value)) for key, value in described.items() if value != ""]))

    return group


def facts(entry: Entry[Any]) -> dict[str, Any]:
    """A description and its origin as plain data."""
    return {
        **dataclasses.asdict(entry.spec),
        "dist": entry.origin.dist,
        "version": entry.origin.version,
        "plugin": entry.origin.plugin,
        "missing": list(missing_requirements(entry.spec)),
    }


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    if isinstance(value, dict):
        return str(value.get("name", value))
    return str(value)


llm = _group(KINDS["llm"])
encoder = _group(KINDS["vision-encoder"])
projector = _group(KINDS["projector"])
conversation = _group(KINDS["conversation"])
dataset = _group(KINDS["dataset"])
benchmark = _group(KINDS["benchmark"])
simulator = _group(KINDS["simulator"])
callback = _group(KINDS["callback"])
command = _group(KINDS["command"])

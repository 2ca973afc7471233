"""`navila plugins`: what is installed, and whether it works."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import click

from navila.catalogue import CATALOGUE
from navila.cli.tables import table
from navila.errors import UnknownComponentError
from navila.plugins import InstalledPlugin, PluginHost, default_host, installed_plugins
from navila.registry import missing_requirements, normalise, one_line, suggestion

#: Distributions whose versions a bug report needs.
KEY_PACKAGES = (
    "navila-core",
    "pluggy",
    "click",
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
)

_METADATA_FIELDS = ("Summary", "License-Expression", "License", "Home-page", "Project-URL")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List, inspect and check plugins.

    `list` (the default) and `info` read metadata only, so they work whatever is broken.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, as_json=as_json)


@plugins.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Installed plugins, without importing any."""
    rows = [facts(plugin) for plugin in installed_plugins(on_error=_unreadable)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        header = ("PLUGIN", "FROM", "VERSION", "SUMMARY")
        click.echo(table(header, [(row["name"], row["dist"], row["version"], row["summary"]) for row in rows]))


@plugins.command(short_help="What the metadata of one plugin say.")
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> None:
    """What the metadata of the plugin or distribution NAME say, without importing it."""
    found = [facts(p) | {"requires": p.metadata.requires or []} for p in _called(name)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for plugin in found:
        plugin["requires"] = ", ".join(plugin["requires"])
        click.echo("\n".join(f"{key + ':':<10}{value}" for key, value in plugin.items() if value))


@plugins.command(short_help="Import everything of one distribution and check it.")
@click.argument("dist")
@json_option
@click.pass_context
def check(ctx: click.Context, dist: str, as_json: bool) -> None:
    """Import everything of DIST and check it; exit code 1 if something is wrong.

    DIST is a distribution, a plugin, or a plugin's file.
    """
    from navila.checks import component_problems, heavy_imports
    from navila.errors import NavilaError
    from navila.kinds import KINDS

    modules = [dist] if dist.endswith(".py") else [plugin.module for plugin in _called(dist)]
    host = PluginHost(["no:*", dist], report=_silent)
    rows: list[dict[str, Any]] = [
        {"kind": "plugin", "name": failure.plugin, "problems": [str(failure)]} for failure in host.failures
    ]
    if not rows:
        try:
            heavy = heavy_imports(modules)
        except NavilaError as error:
            rows.append({"kind": "plugin", "name": dist, "problems": [str(error)]})
        else:
            # One's own file is named when it is wanted: it may be one file with everything in it.
            slow = heavy and not dist.endswith(".py")
            problems = [f"listing its components imports {', '.join(heavy)}: import them on use"] if slow else []
            rows.append({"kind": "plugin", "name": dist, "problems": problems})
    for kind in KINDS:
        registry = host.registry(kind)
        rows += [
            {"kind": kind, "name": e.spec.name, "problems": component_problems(registry, e.full_name)}
            for e in registry.entries
            if normalise(e.origin.dist) != "navila-core"
        ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        cells = [(row["kind"], row["name"], "; ".join(row["problems"]) or "ok") for row in rows]
        click.echo(table(("KIND", "NAME", "RESULT"), cells))
    if any(row["problems"] for row in rows):
        ctx.exit(1)


@plugins.command(short_help="What is broken, claimed twice or missing.")
@json_option
def doctor(as_json: bool) -> None:
    """Broken plugins, names claimed twice, missing packages and versions."""
    report = diagnosis(default_host())
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for title, lines in _sections(report):
        click.echo(f"{title}\n" + "\n".join(f"  {line}" for line in lines or ["none"]))


def diagnosis(host: PluginHost) -> dict[str, Any]:
    """What `navila plugins doctor` reports, as plain data; imports plugins but no component."""
    from navila.kinds import KINDS

    with _quiet():
        failures = host.failures
    duplicates, missing = [], []
    for kind in KINDS:
        entries = host.registry(kind).entries
        claims = Counter(entry.spec.name for entry in entries)
        for name in sorted(name for name, count in claims.items() if count > 1):
            owners = [entry.full_name for entry in entries if entry.spec.name == name]
            duplicates.append({"kind": kind, "name": name, "use": owners})
        for entry in entries:
            needed = missing_requirements(entry.spec)
            if needed:
                missing.append({"kind": kind, "name": entry.full_name, "install": list(needed)})
    return {
        "failures": [
            {
                "dist": f.dist,
                "version": f.version,
                "plugin": f.plugin,
                "stage": f.stage,
                "error": f.error,
                "traceback": f.traceback,
            }
            for f in failures
        ],
        "duplicates": duplicates,
        "missing": missing,
        "left_out": [f"{origin.dist}:{origin.plugin}" for origin in host.left_out],
        "versions": {"python": sys.version.split()[0]} | _versions(),
    }


def facts(plugin: InstalledPlugin) -> dict[str, Any]:
    """One plugin's metadata as plain data."""
    fields = {name: plugin.metadata.metadata.get_all(name) or [] for name in _METADATA_FIELDS}
    return {
        "name": plugin.name,
        "dist": plugin.dist,
        "version": plugin.version,
        "summary": "".join(fields["Summary"]),
        "module": plugin.module,
        "licence": "".join(fields["License-Expression"] or fields["License"]),
        "url": ", ".join(fields["Home-page"] or fields["Project-URL"]),
    }


def _called(name: str) -> list[InstalledPlugin]:
    """Installed plugins of that name, or of the distribution of that name.

    Raises:
        UnknownComponentError: there are none.
    """
    installed = installed_plugins(on_error=_unreadable)
    found = [p for p in installed if p.name == name or normalise(p.dist) == normalise(name)]
    if not found:
        for dist in sorted({entry.dist for entry in CATALOGUE}):
            if normalise(name) in (dist, dist.removeprefix("navila-")):
                raise UnknownComponentError(f"The plugin {name!r} is not installed: run `pip install {dist}`.")
        known = sorted({word for p in installed for word in (p.name, p.dist)})
        advice = suggestion(name, known) or "`navila plugins list` shows what is installed."
        raise UnknownComponentError(f"No plugin or distribution {name!r} is installed; {advice}")
    return found


def _sections(report: dict[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    failures = []
    for f in report["failures"]:
        failures.append(f"{f['plugin']} of {f['dist']} {f['version']}".rstrip() + f", {f['stage']}: {f['error']}")
        failures += [f"  | {line}" for line in f["traceback"].splitlines()]
    yield "Broken plugins", failures
    yield "Names claimed twice", [f"{d['kind']} {d['name']}: use {' or '.join(d['use'])}" for d in report["duplicates"]]
    yield (
        "Components that lack a package",
        [f"{m['kind']} {m['name']}: run pip install {' '.join(m['install'])}" for m in report["missing"]],
    )
    yield "Plugins left out by choice", report["left_out"]
    yield "Versions", [f"{name} {version}" for name, version in report["versions"].items()]


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in KEY_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _unreadable(dist: str, error: Exception) -> None:
    click.echo(f"navila: the metadata of {dist} cannot be read ({one_line(error)}): reinstall it", err=True)


def _silent(_line: str) -> None:
    """Drop a failure's line: the table has it."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop the lines about failures that are about to be printed in full."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield

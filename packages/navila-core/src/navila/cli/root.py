"""The root command group: commands come from plugins and are imported when invoked."""

from __future__ import annotations

from typing import Any

import click

from navila import __version__, builtin
from navila.errors import NavilaError
from navila.kinds import KINDS
from navila.plugins import default_host
from navila.registry import import_target


class PluginGroup(click.Group):
    """A group whose commands are the `command` components of the installed plugins.

    Core's own commands are looked up first and without any plugin, so that no plugin can take `navila plugins` away.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_own_commands(), *default_host().registry("command").names()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = _own_commands().get(cmd_name)
        if own is not None:
            return import_target(own.target, f"command {cmd_name!r} of navila-core")
        registry = default_host().registry("command")
        if ctx.resilient_parsing and cmd_name not in registry:
            return None
        command: Any = registry.load(cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # `navila dist/name`: usage lines show the name as typed.
        name, command, rest = super().resolve_command(ctx, args)
        return args[0] if command is not None else name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and summaries without importing a command."""
        own = {name: spec.summary for name, spec in _own_commands().items()}
        lists = {kind.command: own.pop(kind.command) for kind in KINDS.values()}
        try:
            registry = default_host().registry("command")
            offered = {
                name: entry.spec.summary
                for name, entry in zip(registry.names(), registry.entries, strict=True)
                if entry.origin.dist != "navila-core"
            }
        except NavilaError as error:
            # A wrong --plugin must not cost the user the help that explains it.
            click.echo(f"navila: {error}", err=True)
            offered = {}
        for title, rows in (("Commands", own | offered), ("Components", lists)):
            with formatter.section(title):
                formatter.write_dl(sorted(rows.items()))


def _own_commands() -> dict[str, Any]:
    return {spec.name: spec for spec in builtin.navila_commands()}


# --plugin and --no-plugins are taken out of the arguments before click sees them (`take_plugin_options`), so that they
# work after any sub-command too; here they are declared for the help text.
@click.group(
    cls=PluginGroup,
    epilog="`navila COMMAND --help` explains a command; a name that two packages claim is written PACKAGE/NAME.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--plugin",
    multiple=True,
    expose_value=False,
    metavar="NAME",
    help="Use a plugin (NAME, ./file.py or pkg.mod) or leave one out (no:NAME); works after any command.",
)
@click.option(
    "--no-plugins",
    is_flag=True,
    expose_value=False,
    help="Leave all plugins out but those that a later --plugin names.",
)
@click.version_option(__version__, prog_name="navila")
def navila() -> None:
    """Compose, train, score and drive vision-language navigation models."""


@navila.result_callback()
def _forget(*_results: object) -> None:
    """Drop a command's return value, so that only exit codes come back from `main`."""

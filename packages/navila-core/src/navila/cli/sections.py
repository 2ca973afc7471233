"""Help of commands with many options: under headings, those of one's own first. Light."""

from __future__ import annotations

from typing import Any

import click

#: The heading of options that name none.
OPTIONS = "Options"


class Option(click.Option):
    """An option that stands under a heading of the help."""

    def __init__(self, *words: Any, section: str = OPTIONS, **facts: Any) -> None:
        super().__init__(*words, **facts)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help shows options by heading: first those without one, the others in their order."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and the sub-commands of a group."""
        sections: dict[str, list[tuple[str, str]]] = {OPTIONS: []}
        for option in self.get_params(ctx):
            # The help's text tells of arguments.
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(option, "section", OPTIONS), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class SectionedGroup(SectionedCommand, click.Group):
    """A group whose help does so."""

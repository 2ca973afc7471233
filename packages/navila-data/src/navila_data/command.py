"""`navila data`: make, convert and inspect training data."""

from __future__ import annotations

import click
from navila.cli.subcommands import Subcommands

#: Name to (target, summary); each command is a module of its own in `navila_data.commands`.
_COMMANDS: dict[str, tuple[str, str]] = {
    "augment": ("navila_data.commands.augment:augment", "Write questions and captions with a model"),
    "add": ("navila_data.commands.add:add", "Call data by a name of your own"),
    "check": ("navila_data.commands.check:check", "Find what is broken, doubtful or there twice"),
    "convert": ("navila_data.commands.convert:convert", "Walk VLN-CE episodes, or write data in another format"),
    "extract-frames": ("navila_data.commands.extract_frames:extract_frames", "Write frames of videos as images"),
    "index-shards": ("navila_data.commands.index_shards:index_shards", "Index tar shards for random access"),
    "list": ("navila_data.commands.list:list_", "List datasets, and whether they are there"),
    "preview": ("navila_data.commands.preview:preview", "Show samples with prompts and what is learned of them"),
    "record": ("navila_data.commands.record:record", "Record training data in a simulator"),
    "stats": ("navila_data.commands.stats:stats", "Count what data are made of"),
}


@click.group(cls=Subcommands, targets=_COMMANDS)
def data() -> None:
    """Make, convert and inspect training data."""

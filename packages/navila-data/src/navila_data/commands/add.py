"""`navila data add`: a name of one's own for data."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.argument("name")
@click.argument("data")
@click.option("--annotations", metavar="FILE", help="Annotation file, relative to the folder, if not the usual one.")
@click.option("--media", metavar="FOLDER", help="What media paths are relative to, if not the usual folder.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("datasets.yaml"),
    show_default=True,
    help="File that gets the name.",
)
def add(name: str, data: str, annotations: str | None, media: str | None, file: Path) -> None:
    """Call DATA by NAME in mixtures from now on; DATA is FORMAT:FOLDER, or a mixture.

    The name is written to datasets.yaml of this folder, or to --file, with the folder relative to that file.
    """
    from navila.errors import ConfigError
    from navila.plugins import default_host

    from navila_data.datasets_file import add as write
    from navila_data.datasets_file import named_datasets
    from navila_data.mixture import MixtureItem, parse_mixture

    items = parse_mixture(data)
    registry, named = default_host().registry("dataset"), named_datasets()
    for item in items:
        if item.folder is None and item.name == name:
            raise ConfigError(f"{data!r} contains {name!r} itself: choose another name.")
        if item.name and (item.folder is not None or item.name not in named):
            # An unknown name is told now, not when a training asks for it.
            registry.spec(item.name)
    first = items[0]
    plain = len(items) == 1 and first == MixtureItem(name=first.name, folder=first.folder)
    if not (plain and first.name and first.folder is not None):
        if annotations or media:
            raise ConfigError("--annotations and --media belong to one folder: write FORMAT:FOLDER.")
        write(file, name, data)
        click.echo(f"{name} stands for {data} ({file})")
        return
    spec = registry.spec(first.name)
    folder = first.folder.expanduser()
    for place in (folder, *(folder / Path(each).expanduser() for each in (annotations, media) if each)):
        if not place.exists():
            raise ConfigError(f"{place} does not exist: check the path.")
    # Paths of the file are relative to it.
    kept = folder if folder.is_absolute() else Path(os.path.relpath(folder, file.parent))
    entry = {"format": spec.name, "folder": str(kept)}
    entry |= {key: each for key, each in (("annotations", annotations), ("media", media)) if each}
    write(file, name, entry)
    click.echo(f"{name} is {folder}, read as {spec.name} ({file})")

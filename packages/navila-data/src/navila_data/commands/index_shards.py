"""`navila data index-shards`: where the samples of tar shards begin."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("index-shards")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--keys",
    type=click.Choice(["auto", "first-dot", "last-dot"]),
    default="auto",
    show_default=True,
    help="Where a file name is cut into key and extension; auto is last-dot where VILA wrote wids-meta.json.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
def index_shards(folder: Path, keys: str, workers: int) -> None:
    """Index the tar shards below FOLDER, so that training reads any sample at once.

    The index lies in FOLDER/.navila-shards, or in the cache where that cannot be written. Shards that did not change
    are not read again, and an interrupted run goes on. Ends with an error when a shard is broken; the others are
    indexed.
    """
    from navila.errors import DataError, Interrupted
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from navila_data.shard_indexing import differences, index_folder
    from navila_data.shards import find_shards

    files = find_shards(folder, None if keys == "auto" else keys)  # type: ignore[arg-type]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("shards", total=len(files.names))
        try:
            shards = index_folder(
                files, workers=workers, progress=lambda done, total: bar.update(row, completed=done, total=total)
            )
        except KeyboardInterrupt:
            raise Interrupted("Stopped; run the same command again to go on.") from None
    for note in [*files.notes, *differences(files, shards)]:
        click.echo(f"Note: {note}", err=True)
    samples = len(shards) - len(shards.broken)
    click.echo(f"{samples} samples in {len(shards.names)} shards, keys up to the {files.keys.replace('-', ' ')}")
    click.echo(f"index: {shards.index_file}")
    if shards.ignored:
        click.echo(f"{shards.ignored} files are in no sample: hidden, without extension, links, or replaced", err=True)
    if shards.broken:
        for reason in list(shards.broken.values())[1:]:
            click.echo(f"Error: {reason}", err=True)
        first = next(iter(shards.broken.values()))
        raise DataError(f"{len(shards.broken)} of {len(shards.names)} shards are broken: {first}")

"""`navila data check`: what is broken, doubtful or there twice in training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from navila_data.check import CheckResult
    from navila_data.media_check import Depth

#: Exit code when there are errors.
EXIT_ERRORS = 1
#: Findings of a kind that the terminal shows.
SHOWN = 3


@click.command()
@click.argument("mixture")
@click.option("--data_path", "--data-path", type=click.Path(path_type=Path), help="Folder of registered datasets.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--limit", type=click.IntRange(min=1), help="Records of each dataset at most, from the first on.")
@click.option(
    "--media",
    "depth",
    type=click.Choice(["decode", "header", "exists"]),
    default="decode",
    show_default=True,
    help="How closely files are looked at; `exists` opens none but the frames of turns.",
)
@click.option(
    "--num_video_frames",
    "--num-video-frames",
    "--num-frames",
    "num_frames",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="Frames shown of each sample.",
)
@click.option("--against", metavar="MIXTURE", help="Another split, which must have no frames in common with this one.")
@click.option("-m", "--model", metavar="PATH", help="Count the tokens that samples take for a checkpoint.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html and .json.")
def check(
    mixture: str,
    data_path: Path | None,
    workers: int,
    limit: int | None,
    depth: Depth,
    num_frames: int,
    against: str | None,
    model: str | None,
    output: Path | None,
) -> None:
    """Look at every record and every file of MIXTURE.

    Found are records that are malformed, files that are missing or damaged, answers that are no action, turns whose
    next frame shows the opposite turn, samples that occur twice, and, with --against, frames that another split has
    too. --output gets report.html, report.json and findings.jsonl. The exit code is 1 when there are errors, and 0 when
    there are warnings alone.
    """
    from navila.errors import Interrupted

    from navila_data.check import CheckSettings
    from navila_data.check import check as run
    from navila_data.commands.progress import progress_bars

    settings = CheckSettings(
        mixture=mixture,
        root=data_path,
        num_frames=num_frames,
        limit=limit,
        depth=depth,
        against=against,
        model=model,
        workers=workers,
    )
    with progress_bars() as progress:
        try:
            result = run(settings, output, progress)
        except KeyboardInterrupt:
            raise Interrupted("Stopped before the end: run the same command again.") from None
    _summarise(result)
    if output is not None:
        click.echo(f"{output / 'report.html'}")
    if result.errors:
        raise click.exceptions.Exit(EXIT_ERRORS)


def _summarise(result: CheckResult) -> None:
    from navila_data.findings import KINDS

    for kind, told in KINDS.items():
        if not result.counts[kind]:
            continue
        click.echo(f"{told.severity}: {told.title}: {result.counts[kind]}")
        shown = [each for each in result.findings if each.kind == kind][:SHOWN]
        for each in shown:
            place = "" if each.record is None else f"record {each.record}, "
            place += "" if each.line is None else f"line {each.line}, "
            click.echo(f"  {each.source}, {place}{each.reason}" if place else f"  {each.source}: {each.reason}")
        if result.counts[kind] > len(shown):
            click.echo(f"  and {result.counts[kind] - len(shown)} more")
    click.echo(
        f"{result.records} records, {result.files} files, {result.turns} turns compared: "
        f"{result.errors} errors, {result.warnings} warnings"
    )

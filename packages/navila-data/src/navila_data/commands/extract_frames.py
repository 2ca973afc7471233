"""`navila data extract-frames`: folders of frames of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for a folder of frames of each video.",
)
@click.option("--fps", type=float, help="Frames a second, as ffmpeg's filter of that name.  [default: 1]")
@click.option("--num-frames", type=int, help="So many frames of each video instead, spread evenly.")
@click.option("--every", type=int, help="Every N-th frame instead.")
@click.option("--size", type=click.IntRange(min=1), help="Shrink to so many pixels of the shorter side.")
@click.option("--format", "image_format", type=click.Choice(["jpg", "png"]), default="jpg", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Videos at a time.")
@click.option("--overwrite", is_flag=True, help="Replace frames that were extracted in another way.")
@click.pass_context
def extract_frames(
    ctx: click.Context, source: Path, output: Path, workers: int, overwrite: bool, **choice: Any
) -> None:
    """Write the frames of a video, or of all videos of a folder, to OUTPUT/NAME/0001.jpg and on.

    Videos that were done before are skipped, half-done ones done again; those that fail are told, with exit code 1.
    """
    from navila_data.commands.progress import progress_bar
    from navila_data.extraction import FrameChoice, extract_all, find_videos

    if choice["num_frames"] is None and choice["every"] is None and choice["fps"] is None:
        choice["fps"] = 1.0
    settings = FrameChoice(**choice)
    folders = find_videos(source, output)
    outcomes = []
    with progress_bar("videos", "finished videos") as progress:
        for outcome in extract_all(folders, settings, workers=workers, overwrite=overwrite):
            outcomes.append(outcome)
            progress(len(outcomes), len(folders))
    failed = [outcome for outcome in outcomes if outcome.problem]
    found = sum(outcome.found for outcome in outcomes)
    for outcome in sorted(failed, key=lambda outcome: outcome.video):
        click.echo(outcome.problem, err=True)
    frames = sum(outcome.frames for outcome in outcomes)
    click.echo(
        f"{frames} frames of {len(outcomes) - len(failed)} videos in {output} ({found} were there already); "
        f"{len(failed)} videos failed"
    )
    if failed:
        ctx.exit(1)

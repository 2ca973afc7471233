"""`navila data stats`: what training data are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from navila_data.statistics import Statistics


@click.command()
@click.argument("mixture")
@click.option("--data_path", "--data-path", type=click.Path(path_type=Path), help="Folder of registered datasets.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--limit", type=click.IntRange(min=1), help="Records of each dataset at most, from the first on.")
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
@click.option("-m", "--model", metavar="PATH", help="Count the tokens that samples take for a checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(
    mixture: str,
    data_path: Path | None,
    workers: int,
    limit: int | None,
    num_frames: int,
    model: str | None,
    as_json: bool,
) -> None:
    """Count what MIXTURE is made of: samples, turns, media, answers, words and frames of episodes.

    Every record is read and counted once, however often the mixture repeats it; broken ones are left out and counted.
    """
    from navila.cli.tables import table
    from navila.errors import DataError, Interrupted

    from navila_data.commands.progress import progress_bars
    from navila_data.dataset import LoadOptions
    from navila_data.inspection import Job, chunks, inspect_chunk, open_sources, run_all
    from navila_data.statistics import Statistics

    if model is not None:
        from navila_data.tokens import processors_of

        processors_of(model)
    job = Job(mixture=mixture, root=data_path, options=LoadOptions(num_frames=num_frames), limit=limit, model=model)
    sources = open_sources(job)
    if sources.findings:
        raise DataError(sources.findings[0].reason)
    counted, broken, done = Statistics(), 0, 0
    with progress_bars() as progress:
        progress("records", 0, len(sources))
        try:
            for seen in run_all(inspect_chunk, job, chunks(sources), workers):
                counted += seen.statistics
                broken += sum(found.kind in ("json", "record") for found in seen.findings)
                done += len(seen.keys)
                progress("records", done, len(sources))
        except KeyboardInterrupt:
            raise Interrupted("Stopped before all was counted: run the same command again.") from None
    if as_json:
        click.echo(json.dumps(counted.to_dict() | {"broken": broken}, indent=2, ensure_ascii=False))
        return
    click.echo(table(("DATASET", "SAMPLES"), [(name, f"{count}") for name, count in counted.samples.items()]))
    for title, rows in _tables(counted):
        click.echo(f"\n{title}")
        click.echo(table(*rows))
    click.echo(f"\n{len(counted.vocabulary)} different words, {broken} broken records")


def _tables(counted: Statistics) -> list[tuple[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]]:
    """Titles, headers and rows."""
    from navila.pages import median

    told: list[tuple[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]] = []
    if counted.answers:
        total = sum(counted.answers.values())
        rows = [(answer, f"{n}", f"{100 * n / total:.1f} %") for answer, n in counted.balance().items()]
        told.append(("Answers of navigation steps", (("ANSWER", "STEPS", "SHARE"), rows)))
    counts = (
        ("answers per sample", counted.turns),
        ("media per sample", counted.media),
        ("words of an instruction or first question", counted.words),
        ("frames of an episode or video", counted.frames),
        ("tokens per sample, images expanded", counted.tokens),
    )
    rows = [(name, f"{min(c)}", f"{median(c)}", f"{max(c)}", f"{sum(c.values())}") for name, c in counts if c]
    told.append(("Distributions", (("OF", "LEAST", "MEDIAN", "MOST", "COUNTED"), rows)))
    return told

"""`navila data preview`: samples on a page, as a model learns them."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("mixture")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The page, FILE.html.")
@click.option("--count", type=click.IntRange(min=1), default=12, show_default=True, help="Samples shown.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides which.")
@click.option("-m", "--model", metavar="PATH", help="Checkpoint whose template and tokens are shown.")
@click.option("--conversation", metavar="NAME", help="Template, without a checkpoint.  [default: llama_3]")
@click.option("--data_path", "--data-path", type=click.Path(path_type=Path), help="Folder of registered datasets.")
@click.option(
    "--num_video_frames",
    "--num-video-frames",
    "--num-frames",
    "num_frames",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Frames shown of each sample.",
)
def preview(
    mixture: str,
    output: Path,
    count: int,
    seed: int,
    model: str | None,
    conversation: str | None,
    data_path: Path | None,
    num_frames: int,
) -> None:
    """Write a page with samples of MIXTURE: their frames, the exact prompt, and what of it is learned."""
    from navila.errors import ConfigError

    from navila_data.dataset import LoadOptions
    from navila_data.mixture import Mixture
    from navila_data.preview import write_preview

    if model and conversation:
        raise ConfigError("--model and --conversation each name a template: give one of them.")
    processors = None
    if model:
        from navila_data.tokens import processors_of

        processors = processors_of(model)
    opened = Mixture.open(mixture, data_path, LoadOptions(num_frames=num_frames))
    shown = write_preview(
        output,
        opened,
        title=f"Data preview: {mixture}",
        count=count,
        seed=seed,
        conversation=conversation or "llama_3",
        processors=processors,
    )
    click.echo(f"{shown} samples in {output}")

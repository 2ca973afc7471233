"""`navila model consolidate`: what a training leaves in, one checkpoint out."""

from __future__ import annotations

from pathlib import Path

import click

from navila.cli.models.build import refuse_to_overwrite
from navila.errors import CheckpointError


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to write it.")
@click.option(
    "--model-base", "--model_base", "base", metavar="PATH", help="Where configs come from; the run by default."
)
@click.option("--dtype", metavar="NAME", help="float32, float16 or bfloat16; as the weights were kept by default.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def consolidate(source: Path, output: Path, base: str | None, dtype: str | None, force: bool) -> None:
    """Write the newest checkpoint of SOURCE, a training run or one of its checkpoints, in the released layout.

    Weights that DeepSpeed (ZeRO) or FSDP divided among processes are put together, from their float32 masters; the
    state of the optimizer is left out.

    \b
        navila model consolidate runs/r2r --output r2r
        navila model consolidate runs/r2r/checkpoint-400 --dtype bfloat16 --output r2r-400
    """
    refuse_to_overwrite(output, force)
    if not source.is_dir():
        raise CheckpointError(f"{source} is no folder here: give that of a training run or of one of its checkpoints.")

    from navila.model.consolidate import consolidate as run

    run(source, output, model_base=base, dtype=dtype, report=lambda line: click.echo(line, err=True))

"""`navila model make-delta` and `apply-delta`: a checkpoint as its difference from another, and back."""

from __future__ import annotations

from pathlib import Path

import click

from navila.cli.models.build import refuse_to_overwrite
from navila.errors import ConfigError

_OUTPUT = click.option(
    "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to write it."
)


@click.command()
@click.argument("target")
@click.option("--base", required=True, metavar="PATH", help="Folder or Hub id of the checkpoint it was trained from.")
@_OUTPUT
@click.option("--force", is_flag=True, help="Replace a delta or checkpoint that is there.")
def make_delta(target: str, base: str, output: Path, force: bool) -> None:
    """Write what makes TARGET different from its base, without the base's weights.

    \b
        navila model make-delta runs/finetuned --base CKPT --output delta
    """
    from navila.model.location import checkpoint_folder

    refuse_to_overwrite(output, force)
    if (output / "delta.json").exists() and not force:
        raise ConfigError(f"{output} holds a delta: give another --output, or --force to replace it.")
    ours, theirs = checkpoint_folder(target), checkpoint_folder(base)

    from navila.model import delta

    delta.make_delta(ours, theirs, output, _tell)


@click.command()
@click.argument("delta")
@click.option(
    "--base", required=True, metavar="PATH", help="Folder or Hub id of the base that the delta was made with."
)
@_OUTPUT
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def apply_delta(delta: str, base: str, output: Path, force: bool) -> None:
    """Restore the checkpoint that DELTA was made of, byte for byte.

    \b
        navila model apply-delta delta --base CKPT --output finetuned
    """
    from navila.model.location import checkpoint_folder

    refuse_to_overwrite(output, force)
    source, theirs = checkpoint_folder(delta), checkpoint_folder(base)

    from navila.model import delta as deltas

    deltas.apply_delta(source, theirs, output, _tell)


def _tell(line: str) -> None:
    click.echo(line, err=True)

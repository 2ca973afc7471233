"""`navila model merge-lora`: an adapter and its base in, a whole model out."""

from __future__ import annotations

from pathlib import Path

import click

from navila.cli.models.build import refuse_to_overwrite
from navila.errors import CheckpointError


@click.command()
@click.argument("adapter")
@click.option("--model-base", "--model_base", "base", help="Folder or Hub id; what the adapter names by default.")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to write it.")
@click.option("--dtype", metavar="NAME", help="float32, float16 or bfloat16; that of the base's weights by default.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def merge_lora(adapter: str, base: str | None, output: Path, dtype: str | None, force: bool) -> None:
    """Merge a LoRA or DoRA ADAPTER into its base and write the released layout.

    \b
        navila model merge-lora runs/lora --model-base CKPT --output merged
    """
    from navila.model.location import ADAPTER_CONFIG, checkpoint_folder, read_root, split_adapter

    refuse_to_overwrite(output, force)
    whole, folder = split_adapter(checkpoint_folder(adapter), base)
    if folder is None:
        raise CheckpointError(f"{whole} has no {ADAPTER_CONFIG}, so there is no adapter to merge.")
    read_root(whole)

    from navila.model.headers import stored_tensors
    from navila.model.load import load

    if dtype is None and (whole / "llm").is_dir():
        stored = {tensor.dtype for tensor in stored_tensors(whole / "llm")}
        dtype = next((kind for kind in ("float32", "bfloat16", "float16") if kind in stored), None)
    click.echo(f"Merging {folder} into {whole} …", err=True)
    model = load(folder, model_base=whole, device="cpu", dtype=dtype)
    click.echo(f"Writing {output} …", err=True)
    model.save_pretrained(output)

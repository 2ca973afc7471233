"""`navila model info`: what a checkpoint is, without loading it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from navila.cli.tables import table

if TYPE_CHECKING:
    from navila.model.inspect import CheckpointFacts, PartFacts

UNKNOWN = "unknown"


@click.command()
@click.argument("checkpoint")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def info(ctx: click.Context, checkpoint: str, as_json: bool) -> None:
    """Parts, parameters, tokens and memory of CHECKPOINT, a folder or Hub id, without loading its weights.

    What is wrong with it goes to stderr, a sentence each, and makes the exit code 2.
    """
    from navila.model.location import checkpoint_folder

    folder = checkpoint_folder(checkpoint)

    from navila.model.inspect import inspect_checkpoint

    facts = inspect_checkpoint(folder)
    click.echo(json.dumps(facts.to_dict(), indent=2) if as_json else describe(facts))
    for problem in facts.problems:
        click.echo(f"Error: {problem}", err=True)
    if facts.problems:
        ctx.exit(2)


def describe(facts: CheckpointFacts) -> str:
    """The facts for people: a table of parts, then a line each."""
    rows = [_part_row(part) for part in facts.parts]
    if facts.parameters is not None:
        rows.append(("in all", "", count(facts.parameters), "", "", ""))
    header = ("PART", "MODEL TYPE", "PARAMETERS", "ON DISK", "CLASS", "LOADED BY")
    lines = [f"{label + ':':<20}{text}" for label, text in _lines(facts)]
    files = [f"{size(of):>9}  {name}" for name, of in facts.files.items()]
    return "\n".join((table(header, rows), "", *lines, *files))


def _part_row(part: PartFacts) -> tuple[str, ...]:
    held = UNKNOWN if part.parameters is None else count(part.parameters)
    types = ", ".join(part.dtypes) + f" {size(part.size)}" if part.size else ("-" if part.size == 0 else UNKNOWN)
    owner = (part.loaded_by or "no installed plugin") if part.model_type else UNKNOWN
    class_name = part.target.rpartition(":")[2] if part.target else UNKNOWN
    return part.part, part.model_type or UNKNOWN, held, types, class_name, owner


def _lines(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    """Labels and what to say; nothing where it is unknown and matters only in detail."""
    order = {"column": ", column by column", "row": ", row by row"}.get(facts.token_order or "", "")
    yield "Tokens per image", UNKNOWN if facts.tokens_per_image is None else f"{facts.tokens_per_image}{order}"
    if facts.tokens_per_video is not None:
        yield "Video prompt", f"{facts.num_video_frames} frames, {facts.tokens_per_video} tokens"
    if facts.image_size is not None:
        mode = facts.image_aspect_ratio or "as the image processor says"
        yield "Images", f"{facts.image_size} x {facts.image_size} pixels, aspect ratio: {mode}"
        yield "Features", f"layer {facts.select_layer}, {facts.select_feature}"
    lengths = ((facts.context_length, "tokens trained with"), (facts.max_positions, "positions"))
    yield "Context", ", ".join(f"{number} {what}" for number, what in lengths if number) or UNKNOWN
    yield "Vocabulary", f"{facts.vocabulary} tokens" if facts.vocabulary else UNKNOWN
    yield "Template", facts.template or UNKNOWN
    yield (
        "Memory of weights",
        ", ".join(f"{size(of)} in {dtype}" for dtype, of in facts.weight_memory.items()) or UNKNOWN,
    )
    if facts.kv_cache is not None:
        yield "KV cache", f"{size(facts.kv_cache)} for 1000 tokens in float16"
    # A file names every plugin that was installed; those of its parts are what matters, where they are known.
    unknown = any(part.loaded_by is None for part in facts.parts)
    owners = {"navila-core", *((part.loaded_by or "").partition(" ")[0] for part in facts.parts)}
    writers = [f"{dist} {version}" for dist, version in facts.made_by.items() if unknown or dist in owners]
    yield "Written by", ", ".join(writers) or "not on record"
    yield "Files", f"{len(facts.files)}, {size(sum(facts.files.values()))}"


def count(number: int) -> str:
    """A number of parameters in three figures: 342, 342K, 8.03B."""
    return _scaled(number, ("", "K", "M", "B", "T"))


def size(of: int) -> str:
    """Bytes in three figures, in powers of 1000."""
    return _scaled(of, (" B", " kB", " MB", " GB", " TB"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g}{units[power]}"

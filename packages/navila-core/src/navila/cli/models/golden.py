"""`navila model freeze-golden` and `navila model verify`: record what a checkpoint computes, and compare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from navila.cli.loading import loading_options
from navila.cli.sections import SectionedCommand
from navila.cli.tables import table
from navila.errors import ConfigError, DataError

if TYPE_CHECKING:
    from navila.model.verify import Comparison

_FILE = click.Path(path_type=Path)


@click.command(cls=SectionedCommand, short_help="Record what a checkpoint computes, stage by stage.")
@click.argument("checkpoint")
@click.option("--output", required=True, type=_FILE, metavar="DIR", help="Folder of the bundle.")
@click.option("--prompt", metavar="TEXT", help="What to ask; a text, an image and a navigation prompt by default.")
@click.option(
    "--image", "images", multiple=True, type=_FILE, metavar="FILE", help="Image of the prompt; may be repeated."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the pictures that are made up.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=32, show_default=True, help="Of each answer.")
@click.option("--logits", type=click.IntRange(min=1), default=64, show_default=True, help="Positions kept, at most.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@loading_options
def freeze_golden(
    checkpoint: str,
    output: Path,
    prompt: str | None,
    images: tuple[Path, ...],
    seed: int,
    max_new_tokens: int,
    logits: int,
    force: bool,
    **loading: Any,
) -> None:
    """Record what CHECKPOINT computes: prompt, ids, pixels, features, embeddings, logits and answer.

    It is loaded in float32 unless --dtype says otherwise. `navila model verify` compares a checkpoint, a version of
    navila or a machine with the record.
    """
    if images and prompt is None:
        raise ConfigError("--image needs a question: give --prompt.")
    if (output / "bundle.json").exists() and not force:
        raise ConfigError(f"{output} holds a bundle: give another --output, or --force to replace it.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is no folder: give another place as --output.")

    folder = _folder(checkpoint, loading["model_base"])

    from navila.images import read_image
    from navila.model.golden import ask, default_requests, freeze
    from navila.model.load import load

    asked = None if prompt is None else (ask("prompt", prompt, [read_image(path) for path in images]),)
    model = load(folder, **{**loading, "dtype": loading["dtype"] or "float32"})
    requests = asked or default_requests(model.config.num_video_frames, seed)
    freeze(
        model,
        requests,
        output,
        checkpoint=folder,
        seed=seed,
        max_new_tokens=max_new_tokens,
        keep_logits=logits,
        report=lambda line: click.echo(line, err=True),
    )
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    click.echo(f"{output}: {len(requests)} cases, {size / 1e6:.1f} MB; compare with `navila model verify`.")


@click.command(cls=SectionedCommand, short_help="Compare a checkpoint with a record, stage by stage.")
@click.argument("checkpoint")
@click.option("--golden", required=True, type=_FILE, metavar="DIR", help="A bundle, or a recording of NaVILA's code.")
@click.option(
    "--atol", type=click.FloatRange(min=0), metavar="X", help="Largest difference; 1e-4 in float32 by default."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@loading_options
@click.pass_context
def verify(
    ctx: click.Context, checkpoint: str, golden: Path, atol: float | None, as_json: bool, **loading: Any
) -> None:
    """Compute a golden's stages with CHECKPOINT, and name the first that differs.

    It is loaded in the golden's dtype unless --dtype says otherwise. Exit code 0 when all are equal, 1 when one
    differs, 2 when the comparison cannot be made.
    """
    if not golden.is_dir():
        raise DataError(f"{golden} is no folder: give that of a golden bundle.")

    folder = _folder(checkpoint, loading["model_base"])

    from navila.model import verify as library
    from navila.model.fingerprint import differences, fingerprint
    from navila.model.golden import read_golden
    from navila.model.load import load

    record = read_golden(golden)
    model = load(folder, **{**loading, "dtype": loading["dtype"] or record.dtype})
    running = str(model.llm.dtype).removeprefix("torch.")
    allowed = library.tolerance(record.dtype, running) if atol is None else atol
    found = library.verify(model, record, atol=allowed, report=lambda line: click.echo(line, err=True))
    first = library.first_difference(found)
    others = differences(record.fingerprint, fingerprint(folder)) if record.fingerprint else []
    if as_json:
        result = {
            "equal": first is None,
            "first_difference": None if first is None else dataclasses.asdict(first),
            "atol": allowed,
            "dtype": {"golden": record.dtype, "checkpoint": running},
            "other_files": others,
            "comparisons": [dataclasses.asdict(comparison) for comparison in found],
        }
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"Golden in {record.dtype}, checkpoint in {running}; tensors may differ by {allowed:g}.\n")
        click.echo(_report(found))
        if others:
            click.echo(f"\nThe checkpoint's files are not those recorded: {', '.join(others)}.")
        click.echo(f"\n{_verdict(found, first)}")
    if first is not None:
        ctx.exit(1)


def _folder(checkpoint: str, model_base: str | None) -> Path:
    """The checkpoint's folder, once it is known to hold a model, or an adapter of one."""
    from navila.model.location import checkpoint_folder, read_root, split_adapter

    folder = checkpoint_folder(checkpoint)
    read_root(split_adapter(folder, model_base)[0])
    return folder


def _report(found: Sequence[Comparison]) -> str:
    """A row a stage, and a line on each that differs."""
    from navila.model.stages import STAGES

    rows, lines = [], []
    for stage in STAGES:
        here = [comparison for comparison in found if comparison.stage == stage]
        wrong = [comparison for comparison in here if not comparison.equal]
        result = ("differs" if wrong else "equal") if here else "not recorded"
        largest = max((comparison.largest for comparison in here if comparison.largest is not None), default=None)
        cases = f"{len(here) - len(wrong)} of {len(here)}" if here else "-"
        rows.append((stage, result, cases, "-" if largest is None else f"{largest:.2g}"))
        remarks = wrong[:1] or [comparison for comparison in here if comparison.detail]
        lines += [f"{comparison.stage} ({comparison.case}): {comparison.detail}." for comparison in remarks]
    text = table(("STAGE", "RESULT", "CASES EQUAL", "LARGEST DIFFERENCE"), rows)
    return "\n".join([text, *([""] if lines else []), *lines])


def _verdict(found: Sequence[Comparison], first: Comparison | None) -> str:
    if first is not None:
        return f"The first stage that differs is {first.stage}, in the case {first.case}: {first.detail}."
    cases, compared = {comparison.case for comparison in found}, {comparison.stage for comparison in found}
    return f"All {len(compared)} stages recorded are equal in {len(cases)} cases."

"""`navila train`. Light: the Trainer is imported when training starts."""

from __future__ import annotations

import dataclasses
import time

import click

from navila_train.arguments import COMMON_TRAINER_FLAGS, GROUPS


class TrainCommand(click.Command):
    """A command whose flags are parsed by transformers' argument parser, but described without importing it."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags by group."""
        with formatter.section("Recipe"):
            formatter.write_dl(
                [
                    ("--config FILE", "YAML file of these flags without dashes; flags on the command line win."),
                    ("-h, --help", "Show this message and exit."),
                ]
            )
        for title, group in GROUPS:
            with formatter.section(title):
                formatter.write_dl([(f"--{f.name}", _text(f)) for f in dataclasses.fields(group)])
        with formatter.section("Trainer (every flag of transformers.TrainingArguments works)"):
            formatter.write_dl([(f"--{name}", text) for name, text in COMMON_TRAINER_FLAGS])


def _text(field: dataclasses.Field[object]) -> str:
    text = field.metadata["help"]
    known = field.default is None or "[default" in text
    return text if known else f"{text} [default: {field.default}]"


@click.command(
    cls=TrainCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]},
    add_help_option=True,
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def train(flags: tuple[str, ...]) -> None:
    """Train a vision-language model.

    From parts: `navila train --llm CONFIG --vision_tower siglip-so400m-384 --mm_projector mlp_downsample …`; from a
    checkpoint: `--model_name_or_path FOLDER`; from a recipe: `--config recipe.yaml`. Run the same command again to
    resume an interrupted training.
    """
    started = time.time()
    from navila_train.parse import parse_flags
    from navila_train.run import run

    run(parse_flags(flags), started)

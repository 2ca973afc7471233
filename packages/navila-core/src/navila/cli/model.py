"""`navila model`: everything that is done with a checkpoint besides training and running it."""

from __future__ import annotations

import click

from navila.cli.subcommands import Subcommands

#: Name to (target, summary); each command is a module of its own in `navila.cli.models`.
_COMMANDS: dict[str, tuple[str, str]] = {
    "apply-delta": ("navila.cli.models.delta:apply_delta", "Restore a checkpoint from a delta and its base"),
    "bench": ("navila.cli.models.bench:bench", "Measure what a decision costs on this machine, by stage"),
    "build": ("navila.cli.models.build:build", "Compose a model from parts and write it"),
    "consolidate": ("navila.cli.models.consolidate:consolidate", "Write one checkpoint of what a training left"),
    "freeze-golden": ("navila.cli.models.golden:freeze_golden", "Record what a checkpoint computes, stage by stage"),
    "info": ("navila.cli.models.info:info", "Parts, parameters, tokens and memory, without loading"),
    "make-delta": ("navila.cli.models.delta:make_delta", "Write a checkpoint as its difference from another"),
    "merge-lora": ("navila.cli.models.merge:merge_lora", "Merge a LoRA or DoRA adapter into its base"),
    "verify": ("navila.cli.models.golden:verify", "Compare a checkpoint with a record, stage by stage"),
}


@click.group(cls=Subcommands, targets=_COMMANDS)
def model() -> None:
    """Build, inspect, compare and convert checkpoints."""

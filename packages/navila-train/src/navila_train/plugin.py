"""Registers `navila train`."""

from __future__ import annotations

from collections.abc import Iterable

from navila.hookspecs import hookimpl
from navila.specs import CommandSpec


@hookimpl
def navila_commands() -> Iterable[CommandSpec]:
    """Training."""
    yield CommandSpec(
        name="train", target="navila_train.command:train", summary="Train a model from parts or a checkpoint"
    )

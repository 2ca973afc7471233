"""Registers `navila demo`."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import CommandSpec


@hookimpl
def navila_commands() -> Iterable[CommandSpec]:
    """The demonstration."""
    yield CommandSpec(
        name="demo",
        target="navila_demo.command:demo",
        summary="Watch a small trained model walk through unseen houses; no download",
    )

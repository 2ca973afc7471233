"""Registers `navila data`."""

from __future__ import annotations

from collections.abc import Iterable

from navila.hookspecs import hookimpl
from navila.specs import CommandSpec


@hookimpl
def navila_commands() -> Iterable[CommandSpec]:
    """Data tools."""
    yield CommandSpec(name="data", target="navila_data.command:data", summary="Make, convert and inspect training data")

"""What navila-eval offers: the command `navila eval`."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import CommandSpec


@hookimpl
def navila_commands() -> Iterable[CommandSpec]:
    """The `eval` command."""
    yield CommandSpec(
        name="eval",
        target="navila_eval.command:evaluate",
        summary="Score a model on the installed benchmarks, or list them",
    )

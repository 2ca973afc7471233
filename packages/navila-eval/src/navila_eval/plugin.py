"""What navila-eval offers: the command `navila eval` and its tasks during training."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import CallbackSpec, CommandSpec


@hookimpl
def navila_commands() -> Iterable[CommandSpec]:
    """The `eval` command."""
    yield CommandSpec(
        name="eval",
        target="navila_eval.command:evaluate",
        summary="Score a model on the installed benchmarks, or list them",
    )


@hookimpl
def navila_callbacks() -> Iterable[CallbackSpec]:
    """Tasks during training."""
    yield CallbackSpec(
        name="benchmark",
        target="navila_eval.callback:BenchmarkCallback",
        summary="Score the model in training on a task: benchmark:task=houses,level=0,limit=4",
    )

"""Core's own components, offered through the hooks an outsider uses."""

from __future__ import annotations

from collections.abc import Iterable

from navila.hookspecs import hookimpl
from navila.kinds import KINDS
from navila.specs import CommandSpec, ConversationSpec


@hookimpl
def navila_commands() -> Iterable[CommandSpec]:
    """`plugins`, `infer`, `chat`, `model`, `navigate`, `run` and one command a kind."""
    yield CommandSpec(name="plugins", target="navila.cli.plugins:plugins", summary="List, inspect and check plugins")
    yield CommandSpec(name="infer", target="navila.cli.infer:infer", summary="Ask a model about images or a video")
    yield CommandSpec(name="chat", target="navila.cli.chat:chat", summary="Talk with a model about images and videos")
    yield CommandSpec(
        name="model", target="navila.cli.model:model", summary="Build, inspect, compare and convert checkpoints"
    )
    yield CommandSpec(
        name="navigate",
        target="navila.cli.navigate:navigate",
        summary="Follow an instruction through a recorded walk or before a camera, and show the decisions",
    )
    yield CommandSpec(
        name="run", target="navila.cli.run:run", summary="Start a command on one machine, several, or a SLURM cluster"
    )
    for kind in KINDS.values():
        yield CommandSpec(
            name=kind.command,
            target=f"navila.cli.components:{kind.command}",
            summary=f"List the installed {kind.label}s",
        )


@hookimpl
def navila_conversations() -> Iterable[ConversationSpec]:
    """The templates of released checkpoints."""
    from navila.templates import TEMPLATES

    for template in TEMPLATES:
        yield ConversationSpec(
            name=template.name,
            aliases=template.aliases,
            target=f"navila.templates:{template.name.replace('-', '_')}",
            summary=template.style.value,
        )

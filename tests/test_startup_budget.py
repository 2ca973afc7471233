"""What starting up may cost: modules loaded in a fresh interpreter, a number that only goes down."""

from __future__ import annotations

import subprocess
import sys

import pytest
from navila.checks import HEAVY

#: Command to the modules it may load.
COMMANDS = {
    "--help": 260,
    "--version": 260,
    "plugins": 260,
    "plugins list --json": 260,
    "plugins info sim-mesh": 260,
    "llm list": 260,
    "encoder list": 260,
    "projector list": 260,
    "conversation list": 260,
    "dataset list": 260,
    "benchmark list": 260,
    "simulator list": 260,
    "callback list": 260,
    "command list": 260,
    "encoder info siglip-so400m-384": 260,
    "eval --list": 260,
    "train --help": 260,
    "eval --help": 260,
    "data --help": 260,
    "infer --help": 260,
    "model --help": 260,
    "demo --help": 260,
}

#: Light modules of core: whoever imports one does not pay for torch.
LIGHT = (
    "navila",
    "navila.actions",
    "navila.builtin",
    "navila.catalogue",
    "navila.checks",
    "navila.cli",
    "navila.conversation",
    "navila.discovery",
    "navila.episodes",
    "navila.errors",
    "navila.frames",
    "navila.hookspecs",
    "navila.kinds",
    "navila.plugins",
    "navila.prompts",
    "navila.registry",
    "navila.simulation",
    "navila.specs",
    "navila.templates",
)


def loaded_modules(program: str, *arguments: str) -> list[str]:
    """Names in `sys.modules` after a program ran in a fresh interpreter; it has to succeed."""
    program += "; print('\\nLOADED', *sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("LOADED\n")[2].split()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_only_tells_starts_within_its_budget(command: str) -> None:
    program = "import sys; from navila.cli import main; code = main(sys.argv[1:]); assert code == 0, code"
    modules = loaded_modules(program, *command.split())
    print(f"navila {command}: {len(modules)} modules")
    assert [name for name in HEAVY if name in modules] == []
    assert len(modules) <= COMMANDS[command]


def test_importing_navila_stays_small() -> None:
    modules = loaded_modules("import sys, navila")
    assert len(modules) <= 110
    assert not {"click", "importlib.metadata", *HEAVY} & set(modules)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_bring_nothing_heavy(module: str) -> None:
    modules = loaded_modules(f"import sys, {module}")
    assert [name for name in HEAVY if name in modules] == []


def test_public_modules_are_there_after_importing_navila_alone() -> None:
    names = "actions", "conversation", "episodes", "frames", "prompts", "simulation"
    modules = loaded_modules(f"import sys, navila; {'; '.join(f'navila.{name}.__doc__' for name in names)}")
    assert {f"navila.{name}" for name in names} <= set(modules)
    assert [name for name in HEAVY if name in modules] == []

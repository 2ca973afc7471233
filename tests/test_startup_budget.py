"""What starting up may cost: modules loaded in a fresh interpreter, a number that only goes down."""

from __future__ import annotations

import subprocess
import sys

import pytest
from navila.checks import HEAVY

#: Command to the modules it may load.
COMMANDS = {
    "--help": 220,
    "--version": 220,
    "plugins": 220,
    "plugins list --json": 220,
    "plugins info sim-mesh": 220,
    "llm list": 220,
    "encoder list": 220,
    "projector list": 220,
    "conversation list": 220,
    "dataset list": 220,
    "benchmark list": 220,
    "simulator list": 220,
    "callback list": 220,
    "command list": 220,
    "encoder info siglip-so400m-384": 220,
    "eval --list": 220,
    "train --help": 220,
    "eval --help": 220,
    "data --help": 220,
    "data add --help": 220,
    "data check --help": 220,
    "data list --help": 220,
    "data preview --help": 220,
    "data record --help": 220,
    "data stats --help": 220,
    "data convert --help": 220,
    "data augment --help": 220,
    "data augment caption2qa --help": 220,
    "data index-shards --help": 220,
    "infer --help": 220,
    "chat --help": 220,
    "model --help": 220,
    "model build --help": 220,
    "model freeze-golden --help": 220,
    "model info --help": 220,
    "model verify --help": 220,
    "demo --help": 220,
    "navigate --help": 220,
    "serve --help": 220,
    "sim-remote check --help": 220,
    "run --help": 220,
    "run -J x --dry-run true": 220,
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
    "navila.endpoint",
    "navila.episodes",
    "navila.errors",
    "navila.frames",
    "navila.hookspecs",
    "navila.kinds",
    "navila.launch.node",
    "navila.launch.start",
    "navila.pages",
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

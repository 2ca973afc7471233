"""Fixtures of the tests across members: real wheels, built and installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def workspace() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def build_wheel() -> Callable[[Path, Path], Path]:
    """Builds the wheel of a project folder into an output folder and returns its path."""

    def build(project: Path, output: Path) -> Path:
        output.mkdir(parents=True, exist_ok=True)
        before = set(output.glob("*.whl"))
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(output)], cwd=project)
        (wheel,) = set(output.glob("*.whl")) - before
        return wheel

    return build


@pytest.fixture(scope="session")
def install() -> Callable[..., None]:
    """Installs wheels into a folder, without their dependencies and without an index."""

    def install(target: Path, *wheels: Path) -> None:
        command = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--no-index", "--target", str(target)]
        run([*command, *map(str, wheels)])

    return install


@pytest.fixture(scope="session")
def make_plugin(
    tmp_path_factory: pytest.TempPathFactory, build_wheel: Callable[[Path, Path], Path]
) -> Callable[[str, str], Path]:
    """Builds the wheel of a plugin from its name and the source of its plugin module."""
    folder = tmp_path_factory.mktemp("plugins")

    def make(name: str, source: str) -> Path:
        module = "navila_" + name.replace("-", "_")
        project = folder / name
        package = project / "src" / module
        package.mkdir(parents=True)
        (project / "pyproject.toml").write_text(PROJECT.format(name=name, module=module))
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(source)
        return build_wheel(project, folder / "wheels")

    return make


PROJECT = """
[project]
name = "navila-{name}"
version = "1.2.3"
description = "A plugin of a test."
requires-python = ">=3.11"
dependencies = ["navila-core"]

[project.entry-points.navila]
{name} = "{module}.plugin"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["src/{module}"]
"""


def run(
    command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done

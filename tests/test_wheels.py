"""Every member is a distribution of its own: built, installed with what it declares and nothing else, and used."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MEMBERS = sorted(
    path.parent for path in [*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
)

#: Imports every module of a package: one that needs an undeclared package does not import. Then checks the plugin.
IMPORT_ALL = """
import importlib, pkgutil, sys
from navila.cli import main
package = importlib.import_module(sys.argv[1])
assert package.__path__[0].startswith(sys.prefix), package.__path__
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
sys.exit(main(["plugins", "check", sys.argv[2]]))
"""

each_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)

#: One of each kind: an environment takes seconds, and what a member declares is held against its sources for all.
SAMPLE = (
    "navila-core",
    "navila-data",
    "navila-eval",
    "navila-train",
    "navila-bench-vln",
    "navila-dataset-webdataset",
    "navila-demo",
    "navila-encoder-siglip",
    "navila-llm-llama",
    "navila-projector-mlp",
    "navila-sim-remote",
)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory, build_wheel: Callable[[Path, Path], Path]) -> dict[str, Path]:
    """The wheel of every member, by its name."""
    folder = tmp_path_factory.mktemp("wheels")
    return {member.name: build_wheel(member, folder) for member in MEMBERS}


@each_member
def test_a_wheel_carries_its_types_licence_and_entry_points(member: Path, wheels: dict[str, Path]) -> None:
    project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
    about = described(wheels[member.name])
    with zipfile.ZipFile(wheels[member.name]) as archive:
        names = archive.namelist()
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        licence = archive.read(f"{info}/licenses/LICENSE")
        points = archive.read(f"{info}/entry_points.txt").decode() if f"{info}/entry_points.txt" in names else ""
    assert member.name == project["name"] == about["Name"]
    (module,) = {name.partition("/")[0] for name in names if not name.startswith(info)}
    assert f"{module}/py.typed" in names
    assert not [name for name in names if "test_" in Path(name).name or "conftest" in name]
    assert about["License-Expression"] == "Apache-2.0"
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert about["Summary"]
    assert (about.get_payload() or "").strip(), "the README is the long description"
    for name, value in project.get("entry-points", {}).get("navila", {}).items():
        assert f"{name} = {value}" in points
        assert value.replace(".", "/") + ".py" in names


def test_the_wheel_of_training_carries_the_presets_that_recipes_show(wheels: dict[str, Path]) -> None:
    shown = sorted((Path(__file__).parent.parent / "recipes" / "deepspeed").glob("*.json"))
    assert shown
    with zipfile.ZipFile(wheels["navila-train"]) as archive:
        for path in shown:
            assert archive.read(f"navila_train/presets/{path.name}") == path.read_bytes()


@each_member
def test_a_member_declares_what_it_imports(member: Path, declared: Callable[[str], set[str]]) -> None:
    """Itself or through members that it needs, extras included; what other people's packages bring does not count."""
    provided = metadata.packages_distributions()
    known = {folder.name.replace("-", "_"): {folder.name} for folder in MEMBERS} | {"navila": {"navila-core"}}
    undeclared = {
        f"{path.relative_to(member)}: {name}"
        for path in (member / "src").rglob("*.py")
        for name in imported(path) - set(sys.stdlib_module_names)
        if not known.get(name, {canonical(dist) for dist in provided.get(name, [name])}) & declared(member.name)
    }
    assert undeclared == set()


@pytest.mark.slow  # each imports everything of one member in an environment of its own, torch and transformers too
@pytest.mark.parametrize("member", [m for m in MEMBERS if m.name in SAMPLE], ids=lambda member: member.name)
def test_a_wheel_works_with_what_it_declares_and_nothing_else(
    member: Path, wheels: dict[str, Path], tmp_path: Path
) -> None:
    python = bare_environment(tmp_path, member.name, wheels)
    point = tomllib.loads((member / "pyproject.toml").read_text())["project"].get("entry-points", {}).get("navila", {})

    helped = command(python, "--help")
    assert helped.returncode == 0
    assert helped.stderr == "", "no plugin of this environment is broken"
    listed = json.loads(command(python, "plugins", "--json").stdout)
    assert set(point) <= {row["name"] for row in listed}
    if not point:
        assert listed == [], "core needs no plugin"
        return
    checked = subprocess.run(
        [str(python), "-I", "-c", IMPORT_ALL, member.name.replace("-", "_"), member.name],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow  # builds every wheel
def test_core_alone_says_what_to_install(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = bare_environment(tmp_path, "navila-core", wheels)
    for arguments, line in (
        (("train",), "pip install navila-train"),
        (("llm", "info", "llama"), "pip install navila-llm-llama"),
        (("encoder", "info", "siglip_vision_model"), "pip install navila-encoder-siglip"),
        (("simulator", "info", "mesh"), "pip install navila-sim-mesh"),
    ):
        done = command(python, *arguments)
        assert done.returncode == 2
        assert line in done.stderr
    for name in ("load", "Navigator"):
        program = f"import navila\ntry: navila.{name}\nexcept navila.errors.MissingDependencyError as e: print(e)"
        done = subprocess.run(
            [str(python), "-I", "-c", f"import navila.errors\n{program}"], capture_output=True, text=True, check=False
        )
        assert "pip install 'navila-core[torch]'" in done.stdout, done.stderr


def imported(source: Path) -> set[str]:
    """Top-level names of what a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.fixture(scope="session")
def declared() -> Callable[[str], set[str]]:
    """What a member needs, all its extras included, and what the members that it needs need, as they are asked for."""
    projects = {member.name: tomllib.loads((member / "pyproject.toml").read_text())["project"] for member in MEMBERS}

    def needs(name: str) -> set[str]:
        extras = projects[name].get("optional-dependencies", {})
        waiting = [Requirement(f"{name}[{','.join(extras)}]" if extras else name)]
        seen: set[str] = set()
        found: set[str] = set()
        while waiting:
            requirement = waiting.pop()
            found.add(dist := canonical(requirement.name))
            if dist not in projects or str(requirement) in seen:
                continue
            seen.add(str(requirement))
            lines = [*projects[dist].get("dependencies", [])]
            for extra in requirement.extras:
                lines += projects[dist]["optional-dependencies"][extra]
            waiting += map(Requirement, lines)
        return found

    return functools.cache(needs)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bare_environment(folder: Path, name: str, wheels: dict[str, Path]) -> Path:
    """A virtual environment with one member, installed from wheels; returns its interpreter.

    Other people's packages that it needs are linked from the present environment instead of being downloaded, exactly
    those that the metadata name. uv then resolves without an index, so a wrong or missing requirement is an error.
    """
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")}))
    for dist in foreign_requirements(name, wheels):
        root = Path(str(dist.locate_file("")))
        for top in {file.parts[0] for file in dist.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if top.endswith(".dist-info"):
                # uv knows what is installed by these folders, and does not look behind a link.
                shutil.copytree(root / top, site / top)
            elif not (site / top).exists():
                (site / top).symlink_to(root / top)
    links = next(iter(wheels.values())).parent
    install = [sys.executable, "-m", "uv", "pip", "install", "--no-index", "--find-links", str(links)]
    done = subprocess.run(
        [*install, "--python", str(python), name], capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return python


def foreign_requirements(name: str, wheels: dict[str, Path]) -> Iterator[metadata.Distribution]:
    """Every distribution that a member's wheel needs, other members' needs included, members themselves not."""
    seen: set[tuple[str, str]] = set()
    needed = [Requirement(name)]
    while needed:
        requirement = needed.pop()
        dist = canonical(requirement.name)
        wanted = {(dist, extra) for extra in {"", *requirement.extras}}
        if wanted <= seen:
            continue
        if dist in wheels:
            lines = described(wheels[dist]).get_all("Requires-Dist") or []
        else:
            lines = metadata.requires(dist) or []
            if (dist, "") not in seen:
                yield metadata.distribution(dist)
        seen |= wanted
        for line in lines:
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for _, extra in wanted):
                needed.append(further)


def described(wheel: Path) -> Message:
    """A wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def command(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `navila` as that environment's console script, away from the sources."""
    return subprocess.run(
        [str(python.parent / "navila"), *arguments],
        cwd=python.parent,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def environment() -> dict[str, str]:
    """The environment without what points Python and uv at the workspace."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NAVILA_PLUGINS", "NAVILA_STRICT")
    return {key: value for key, value in os.environ.items() if key not in dropped}

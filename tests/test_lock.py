"""The lock file pins versions and knows no addresses.

uv completes the working copy with the addresses it used, so the tests look at the committed file.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def lock_tool(workspace: Path) -> ModuleType:
    """`tools/lock.py` as a module."""
    spec = importlib.util.spec_from_file_location("lock_tool", workspace / "tools" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def committed(workspace: Path) -> str:
    """The lock file as it was committed."""
    shown = subprocess.run(["git", "show", "HEAD:uv.lock"], cwd=workspace, capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        pytest.skip("this copy of the project is no git repository: its committed uv.lock cannot be asked for")
    return shown.stdout


def test_the_lock_file_has_no_address(committed: str) -> None:
    assert re.findall(r".*(?:://|\burl\b|sha256:).*", committed) == []
    assert set(re.findall(r'registry = "([^"]*)"', committed)) == {"index"}


def test_the_lock_file_pins_every_dependency_of_every_member(
    committed: str, workspace: Path, lock_tool: ModuleType
) -> None:
    pinned = {name for name, _ in lock_tool.pins(committed)}
    for path in [*workspace.glob("packages/*/pyproject.toml"), *workspace.glob("plugins/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        extras = [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
        needed = {re.split(r"[\s\[<>=!~;]", line)[0].lower() for line in [*project.get("dependencies", []), *extras]}
        assert {project["name"], *needed} <= pinned, f"{path.parent.name} needs what uv.lock lacks: run tools/lock.py"


def test_uv_completes_the_file_without_changing_a_pin(committed: str, workspace: Path, lock_tool: ModuleType) -> None:
    working = (workspace / "uv.lock").read_text()
    assert lock_tool.pins(working) == lock_tool.pins(committed)


COMPLETE = """version = 1

[[package]]
name = "a"
version = "1.0"
source = { registry = "https://x.invalid/simple" }
dependencies = [
    { name = "b", version = "2.0", source = { registry = "https://x.invalid/simple" }, marker = "os_name == 'x'" },
]
sdist = { url = "https://x.invalid/a.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://x.invalid/a.whl", hash = "sha256:00", size = 1 },
]

[[package]]
name = "member"
version = "0.1.0"
source = { editable = "packages/member" }
dependencies = [
    { name = "a" },
]

[package.optional-dependencies]
more = [
    { name = "b" },
]

[package.metadata]
requires-dist = [{ name = "a", specifier = ">=1" }]
provides-extras = ["more"]

[package.metadata.requires-dev]
dev = [{ name = "c" }]

[[package]]
name = "b"
version = "2.0"
source = { registry = "https://x.invalid/simple" }
wheels = [{ url = "https://x.invalid/b.whl", hash = "sha256:00", size = 1 }]
"""

STRIPPED = """version = 1

[[package]]
name = "a"
version = "1.0"
source = { registry = "index" }
dependencies = [
    { name = "b", version = "2.0", source = { registry = "index" }, marker = "os_name == 'x'" },
]

[[package]]
name = "member"
version = "0.1.0"
source = { editable = "packages/member" }
dependencies = [
    { name = "a" },
]

[package.optional-dependencies]
more = [
    { name = "b" },
]

[[package]]
name = "b"
version = "2.0"
source = { registry = "index" }
"""


def test_stripping_drops_addresses_files_and_what_members_repeat(lock_tool: ModuleType) -> None:
    assert lock_tool.strip_addresses(COMPLETE) == STRIPPED
    assert lock_tool.strip_addresses(STRIPPED) == STRIPPED

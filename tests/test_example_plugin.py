"""The outsider's plugin in `examples/`: installed from its wheel, found, checked, and passing its contract."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NAME = "navila-projector-average"


@pytest.fixture(scope="module")
def site(
    workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    build_wheel: Callable[[Path, Path], Path],
    install: Callable[..., None],
) -> Path:
    """A folder with the plugin installed, to be put on PYTHONPATH."""
    site = tmp_path_factory.mktemp("site")
    install(site, build_wheel(workspace / "examples" / NAME, tmp_path_factory.mktemp("wheel")))
    return site


def run(site: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in an interpreter that sees the plugin."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_listed_with_its_owner(site: Path) -> None:
    listed = json.loads(run(site, "-m", "navila", "projector", "list", "--json").stdout)
    (row,) = [row for row in listed if row["name"] == "average"]
    assert row["dist"] == NAME


@pytest.mark.slow  # pytest inside pytest, importing torch anew
def test_it_passes_its_contract(site: Path, workspace: Path) -> None:
    tests = workspace / "examples" / NAME / "tests"
    done = run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), str(tests))
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b1\d passed", done.stdout)


def test_the_readme_shows_this_plugin(workspace: Path) -> None:
    readme = (workspace / "README.md").read_text()
    package = workspace / "examples" / NAME / "src" / "navila_projector_average"
    shown = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    for file in ("plugin.py", "projector.py"):
        source = (package / file).read_text()
        blocks = [
            block for block in shown if f"class {'AverageProjector'}" in block or "def navila_projectors" in block
        ]
        assert len(blocks) == 2
        for line in re.findall(r"^.*(?:name=|target=|summary=|return |yield ).*$", source, flags=re.MULTILINE):
            assert any(line.strip() in block for block in blocks), f"README lacks {line.strip()!r} of {file}"

"""The task written out in the documentation runs as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "evaluation.md"

Command = Callable[..., subprocess.CompletedProcess[str]]

pytest.importorskip("navila_sim_mesh", reason="needs the plugin navila-sim-mesh")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside this package")
    source = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    path = tmp_path / "my_rooms.py"
    path.write_text(source[1], encoding="utf-8")
    return path


def test_the_task_of_the_documentation_is_listed_and_runs(navila_eval: Command, plugin: Path, tmp_path: Path) -> None:
    assert "my-rooms" in navila_eval("--plugin", plugin).stdout
    done = navila_eval(
        "--plugin", plugin, "-t", "my-rooms", "--agent", "expert", "--limit", "3", "--output-dir", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "expert" / "my-rooms" / "results.json").read_text())
    assert results["episodes"] == 3
    assert results["results"]["my-rooms"]["sr"] == 1.0


@pytest.mark.slow  # a whole run of pytest, whose tests start processes
def test_the_test_of_the_documentation_passes(tmp_path: Path) -> None:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside this package")
    for source in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        name = source.split(".py", 1)[0].removeprefix('"""')
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    environment = {**os.environ, "NAVILA_PLUGINS": str(tmp_path / "my_colours.py"), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "test_my_colours.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout

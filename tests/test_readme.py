"""What the README shows is so: its folders exist, its Python runs; `test_docs.py` has the commands of all pages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def readme(workspace: Path) -> str:
    """The text of README.md."""
    return (workspace / "README.md").read_text()


def blocks(readme: str, language: str) -> list[str]:
    """Code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", readme, flags=re.DOTALL)


def test_its_folders_exist(readme: str, workspace: Path) -> None:
    (tree,) = [block for block in blocks(readme, "") if "packages/" in block]
    folder = workspace
    for indent, name in re.findall(r"^( *)([\w-]+)/", tree, flags=re.MULTILINE):
        if not indent:
            folder = workspace / name
        assert (folder if not indent else folder / name).is_dir(), name


@pytest.mark.slow  # imports torch and transformers in an interpreter of its own
def test_its_python_walks_to_the_goal(readme: str, tmp_path: Path) -> None:
    (example,) = [block for block in blocks(readme, "python") if "simulator.step" in block]
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run([sys.executable, str(tmp_path / "example.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"0\.\d\d m from the goal\n", done.stdout)

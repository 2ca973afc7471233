"""What the README shows is so: its commands exist, its Python runs."""

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


def test_its_commands_exist(readme: str) -> None:
    commands = set(re.findall(r"\bnavila ([a-z][a-z-]*)(?: ([a-z]+)\b)?", "\n".join(blocks(readme, "bash"))))
    assert ("train", "") in commands
    for command in sorted(commands):
        words = [*filter(None, command), "--help"]
        done = subprocess.run([sys.executable, "-m", "navila", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"navila {' '.join(words)}: {done.stderr}"


def test_its_folders_exist(readme: str, workspace: Path) -> None:
    (tree,) = [block for block in blocks(readme, "") if "packages/" in block]
    folder = workspace
    for indent, name in re.findall(r"^( *)([\w-]+)/", tree, flags=re.MULTILINE):
        if not indent:
            folder = workspace / name
        assert (folder if not indent else folder / name).is_dir(), name


@pytest.mark.slow  # imports torch and transformers in an interpreter of its own
def test_its_python_walks_an_episode(readme: str, goldens: Path, tmp_path: Path) -> None:
    (example,) = [block for block in blocks(readme, "python") if "simulator.step" in block]
    checkpoint = goldens / "H_full_model" / "llama_siglip" / "ckpt"
    program = example.replace("path/to/checkpoint", str(checkpoint)).replace(
        "while not seen.done:", "for _ in range(4):"
    )
    assert program.count(str(checkpoint)) == 1
    assert "range(4)" in program
    (tmp_path / "example.py").write_text(program)
    done = subprocess.run([sys.executable, str(tmp_path / "example.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+\.\d\d m from the goal", done.stdout)

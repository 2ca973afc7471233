"""Write `uv.lock` without addresses, so that its pins hold behind any package index.

    uv run python tools/lock.py              # after a change of dependencies; keeps the pins there are
    uv run python tools/lock.py --upgrade    # newest versions
    uv run python tools/lock.py --check      # exit code 1 if the committed file has an address or lacks a dependency

uv records in the lock file where it found every file. Without those lines it takes the pins as preferences, resolves in
seconds and completes its copy of the file (`uv sync`, `uv run`); run this tool before such a copy is committed.
Everything happens in a temporary copy of the workspace: the project's environment stays as it is.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def strip_addresses(lock: str) -> str:
    """Drop files and index addresses from a lock file's text, and what members repeat from their `pyproject.toml`."""
    kept: list[str] = []
    skipping = ""  # What ends the part being dropped: "]" of a list of wheels, "[[" of the next package.
    for line in lock.splitlines():
        if skipping == "]":
            skipping = "" if line == "]" else skipping
            continue
        if skipping == "[[" and not line.startswith("[["):
            continue
        skipping = ""
        if line.startswith("sdist = "):
            continue
        if line.startswith("wheels = ["):
            skipping = "" if line.endswith("]") else "]"
            continue
        if line.startswith("[package.metadata"):
            skipping = "[["
            continue
        kept.append(re.sub(r'\bregistry = "[^"]*"', 'registry = "index"', line))
    text = "\n".join(kept)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def pins(lock: str) -> set[tuple[str, str]]:
    """(name, version) of every package in a lock file's text."""
    return {(package["name"], package.get("version", "")) for package in tomllib.loads(lock)["package"]}


def resolve(lock: str | None, *options: str) -> str:
    """What `uv lock` makes of the workspace, starting from a lock file's text."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for project in [
            ROOT / "pyproject.toml",
            *ROOT.glob("packages/*/pyproject.toml"),
            *ROOT.glob("plugins/*/pyproject.toml"),
        ]:
            target = copy / project.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project, target)
        if lock is not None:
            (copy / "uv.lock").write_text(lock)
        subprocess.run([sys.executable, "-m", "uv", "lock", "--quiet", *options], cwd=copy, check=True)
        return (copy / "uv.lock").read_text()


def main() -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the present pins")
    parser.add_argument("--check", action="store_true", help="change nothing; say whether the file is as it should be")
    arguments = parser.parse_args()

    path = ROOT / "uv.lock"
    old = path.read_text() if path.is_file() else None
    new = strip_addresses(resolve(old, *(["--upgrade"] if arguments.upgrade else [])))
    completed = resolve(new)
    if pins(completed) != pins(new):
        print(f"uv changes these pins on completing the file: {sorted(pins(completed) ^ pins(new))}", file=sys.stderr)
        return 1
    if arguments.check:
        if old != new:
            print(
                "uv.lock has addresses or is behind pyproject.toml: run `uv run python tools/lock.py`.", file=sys.stderr
            )
        return int(old != new)
    path.write_text(new)
    print(f"{len(pins(new))} packages pinned in uv.lock, no addresses")
    return 0


if __name__ == "__main__":
    sys.exit(main())

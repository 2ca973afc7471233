"""Runs of navigation that are killed again and again, and that several processes work on at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).parent / "corridor.py"
EPISODES = 150

#: Imports everything once; forks off a process for every line it reads, and forgets it when it ends.
FORKS = """
import os, signal, sys
from pathlib import Path
from navila.plugins import default_host
from navila_eval import navigation, navigation_report
from navila_eval.benchmark import Request

benchmark = default_host().registry("benchmark").load("corridor")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    folder, delay, count = line.split()
    process = os.fork()
    if process:
        print(process, flush=True)
        continue
    benchmark(delay=float(delay)).run(Request(
        task="corridor", split="val", output_dir=Path(folder), model_name="none", load_model=lambda: None, identity={},
        agent="random", batch_size=3, limit=int(count), report_episodes=2, quiet=True,
    ))
    os._exit(0)
"""


@pytest.fixture
def start() -> Iterator[Callable[[Path, float], int]]:
    """Starts a run of random walks, with so many seconds a step; returns the number of its process."""
    environment = {**os.environ, "NAVILA_PLUGINS": str(PLUGIN)}
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as forks:

        def start(folder: Path, delay: float = 0.0) -> int:
            assert forks.stdin is not None
            assert forks.stdout is not None
            forks.stdin.write(f"{folder} {delay} {EPISODES}\n")
            forks.stdin.flush()
            return int(forks.stdout.readline())

        yield start


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def walked(folder: Path) -> int:
    """Records there are by now."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("episodes*.jsonl"))


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.002)


def results(folder: Path) -> dict[str, Any]:
    """What a run came to, without when and where it ran."""
    content = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in content.items() if name != "manifest"}


def test_twenty_kills_of_a_shared_run_lose_nothing(start: Callable[..., int], tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    alone = start(whole)
    rng = random.Random(7)
    kept = 0
    for _ in range(10):
        # Two at a time, killed somewhere between the start and the seventh record that follows.
        processes = [start(folder, 0.002), start(folder, 0.002)]
        for process in processes:
            enough = kept + rng.randint(0, 7)
            wait_until(lambda enough=enough: walked(folder) >= enough)
            time.sleep(rng.uniform(0.0, 0.02))
            assert runs(process), "the run ended before it could be killed"
            os.kill(process, signal.SIGKILL)
            wait_until(lambda process=process: not runs(process))
            assert kept <= walked(folder)
            kept = walked(folder)
        assert not (folder / "results.json").exists()
    assert 0 < kept < EPISODES
    last = start(folder)
    wait_until(lambda: not runs(last) and not runs(alone))
    assert results(folder) == results(whole)
    # To the byte, whoever walked what and in which order; and nothing is left lying about.
    assert (folder / "episodes.jsonl").read_bytes() == (whole / "episodes.jsonl").read_bytes()
    assert shown(folder) == shown(whole)


def shown(folder: Path) -> set[str]:
    """What lies in a folder, but for hidden files: a kill may leave one that was to take another's place."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}

"""What the comparing benchmarks share: methods take turns, and ratios are taken within a round.

Other work on the machine slows a round down as a whole: the median of the rounds' ratios says more than any time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def cpu_seconds(work: Callable[[], Any]) -> float:
    """User and system time that a call takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measured(work: Callable[[], Any]) -> None:
    """Do the work and print its CPU seconds, the peak memory of this process in MB and the result, for `in_process`."""
    began = time.process_time()
    result = work()
    seconds = time.process_time() - began
    # Of this program alone: the peak that getrusage tells may be that of the process it came from.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "megabytes": int(peak.split()[1]) / 1024, "result": result}))


def in_process(*arguments: str) -> dict[str, Any]:
    """Run this benchmark with other arguments in a process of its own; return what it `measured`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1"}
    command = [sys.executable, sys.argv[0], *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rounds: Sequence[Mapping[str, float]], *, peer: str, others: Mapping[str, str] | None = None) -> None:
    """Median CPU time of every method, and the median of its rounds' ratios to the peer's.

    Args:
        rounds: seconds of each method, a mapping a round.
        peer: the method the others are compared with.
        others: what else there is to say of a method.
    """
    for name in rounds[0]:
        median = statistics.median(times[name] for times in rounds)
        ratios = sorted(times[peer] / times[name] for times in rounds)
        spread = f"({ratios[0]:.1f} to {ratios[-1]:.1f})"
        print(
            f"  {name:<34}{1000 * median:>9.1f} ms   x{statistics.median(ratios):<6.1f} {spread:<16}"
            f"{(others or {}).get(name, '')}"
        )


def print_machine() -> None:
    """Cores and load: what the times are worth."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load average {load}; CPU time, one thread")

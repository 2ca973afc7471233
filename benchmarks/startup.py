"""CPU seconds and modules that the commands which only tell cost, each in fresh interpreters.

    uv run python benchmarks/startup.py

The budget is 0.25 s of CPU and 220 modules; the least of several runs is the figure, the rest is the machine's noise.
"""

from __future__ import annotations

import os
import subprocess
import sys

RUNS = 7
PROGRAMS = {
    "python -c pass": "pass",
    "import navila": "import navila",
    **{
        f"navila {arguments}": f"from navila.cli import main; main({arguments.split()!r})"
        for arguments in ("--version", "--help", "plugins", "simulator list", "eval --list", "train --help")
    },
}


def cpu_seconds(program: str) -> float:
    """User and system time of one fresh interpreter, start and end included."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime


def modules(program: str) -> int:
    """Modules loaded at the end of the program."""
    program += "; import sys; print('\\n', len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    """Print the table."""
    print(f"{'':<24}{'modules':>9}{'CPU s (least)':>15}{'(median)':>10}")
    for name, program in PROGRAMS.items():
        times = sorted(cpu_seconds(program) for _ in range(RUNS))
        print(f"{name:<24}{modules(program):>9}{times[0]:>15.3f}{times[len(times) // 2]:>10.3f}")


if __name__ == "__main__":
    main()

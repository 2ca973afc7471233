"""Runs a job's command on one of its machines: `python -m navila.launch.node CMD`, started by srun."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from navila.errors import NavilaError
from navila.launch.processes import run_once
from navila.launch.slurm import first_failure


def main(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Tell the command which machine it is on, run it, and write down its exit code if it is the first to fail.

    srun itself returns the greatest code, which may be that of a machine that was told to stop because of the first.
    """
    try:
        code = run_once(command, environment={"CURRENT_RANK": environment["SLURM_NODEID"]}).code
    except NavilaError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = error.exit_code
    if code:
        try:
            with first_failure(Path(environment["OUTPUT_DIR"])).open("x") as file:
                file.write(f"{code}\n")
        except FileExistsError:
            pass
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))

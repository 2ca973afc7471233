"""torchrun that passes signals on and exits as its processes did: `python -m navila.launch.torchrun [flags] CMD`.

torchrun itself exits with 1 whatever happened, and dies of SIGUSR1; "stopped early, run me again" would get lost.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from navila.errors import EXIT_RESUME
from navila.launch.job import Job
from navila.launch.processes import children_of

#: Variables of NaVILA's scripts, and the flags of torchrun they stand for where a job has several machines.
_PLACE = {"CURRENT_RANK": "--node_rank", "MASTER_ADDR": "--master_addr", "MASTER_PORT": "--master_port"}


def command_line(job: Job) -> tuple[str, ...]:
    """The command that starts a job's processes on one machine."""
    nodes = ("--standalone",) if job.nodes == 1 else ("--nnodes", str(job.nodes))
    processes = ("--nproc_per_node", str(job.processes_per_node))
    return (sys.executable, "-m", __name__, *nodes, *processes, *as_program(job.filled()))


def as_program(command: Sequence[str]) -> tuple[str, ...]:
    """A command as torchrun takes it: a module, a script of Python, or any program."""
    first, *rest = command
    if first.endswith(".py"):
        return tuple(command)
    if Path(first).name.startswith("python") and rest:
        if rest[0].endswith(".py"):
            return tuple(rest)
        if rest[0] == "-m" and len(rest) > 1:
            return tuple(rest)
    return ("--no-python", *command)


def main(arguments: Sequence[str]) -> int:
    """Start the processes and wait for them.

    Returns:
        0; 75 when a process stopped early; the exit code of the first that failed, 128 + N after signal N.
    """
    for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _pass_on)

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    place: list[str] = []
    if "--nnodes" in arguments:
        for variable, flag in _PLACE.items():
            if variable in os.environ:
                place += [flag, os.environ[variable]]
    # The first of two equal flags loses.
    parsed: Any = run.parse_args([*place, *arguments])
    # Where torch can be told so: processes have the time they need to save, not the half minute it would give them.
    parsed.signals_to_handle = "SIGHUP,SIGQUIT"
    # torchrun's own choice, which it would explain at length.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        run.run(parsed)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        rank, first = error.get_first_failure()
        if EXIT_RESUME in codes:
            return EXIT_RESUME
        code = first.exitcode if first.exitcode > 0 else 128 - first.exitcode
        print(f"navila run: process {rank} failed first, with exit code {code}", file=sys.stderr)
        return code
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _pass_on(signum: int, _frame: FrameType | None) -> None:
    processes = children_of(os.getpid())
    if not processes:
        # None has been started yet, so there is nothing to save.
        sys.exit(EXIT_RESUME)
    for child in processes:
        try:
            os.kill(child, signum)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Runs a job's command until it is done; SLURM's batch script is `python -m navila.launch.supervise … -- CMD`."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from navila.errors import EXIT_RESUME, NavilaError
from navila.launch.processes import Ended, run_once
from navila.launch.record import Record, State, read, write

#: Exit code of GNU timeout, and ours for a command that had to be killed at its limit.
EXIT_TIMEOUT = 124
#: 128 + SIGUSR1, SIGTERM, SIGKILL: how a command ends that does not know the signal which tells it to stop.
_BY_SIGNAL = (138, 143, 137)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How often a command is started again."""

    restarts: int = 100
    crashes: int = 0


def supervise(
    attempt: Callable[[], Ended],
    record: Record,
    bounds: Bounds,
    *,
    keep: Callable[[Record], None],
    requeue: Callable[[], bool] | None = None,
) -> int:
    """Make attempts until the command is done or a bound is reached; returns the last one's exit code.

    Args:
        attempt: runs the command once.
        record: what is known of earlier attempts.
        bounds: how many restarts are allowed.
        keep: writes the record.
        requeue: hands the job back to a queue that starts it anew, and tells whether it could; without one the command
            is started again at once, unless it was told to stop.
    """
    while True:
        record = record.begun()
        keep(record)
        try:
            ended = attempt()
        except NavilaError as error:
            keep(record.ended(error.exit_code, "failed", "failed"))
            raise
        outcome, state = judge(ended, record, bounds, queued=requeue is not None)
        code = EXIT_TIMEOUT if outcome == "time limit" and ended.code in _BY_SIGNAL else ended.code
        record = record.ended(code, outcome, state)
        keep(record)
        if state != "restarting":
            if state == "stopped":
                say(f"{outcome} (exit code {code}): the same command goes on with it.")
            return code
        say(f"attempt {len(record.attempts)}: {outcome} (exit code {code}); starting again")
        if requeue is not None:
            if not requeue():
                keep(record.ended(code, outcome, "stopped"))
            return code


def judge(ended: Ended, record: Record, bounds: Bounds, *, queued: bool) -> tuple[str, State]:
    """What an attempt's end is called, and what it makes of the job.

    In a queue SIGUSR1 is the time limit; without one, somebody told the command to stop.
    """
    at_limit = ended.told == "limit" or (queued and ended.told == "SIGUSR1")
    if ended.code == 0:
        return "finished", "finished"
    if ended.told and not at_limit:
        return "told to stop", "stopped"
    early = (EXIT_RESUME, EXIT_TIMEOUT)
    if ended.code in early or (at_limit and ended.code in _BY_SIGNAL):
        outcome = "time limit" if at_limit or ended.code == EXIT_TIMEOUT else "stopped early"
        if at_limit and not queued:
            return outcome, "stopped"
        again = record.count("time limit", "stopped early", "lost") < bounds.restarts
        return outcome, "restarting" if again else "stopped"
    return "failed", "restarting" if record.count("failed") < bounds.crashes else "failed"


def say(text: str) -> None:
    """Tell what happens to the job, on stderr."""
    print(f"navila run: {text}", file=sys.stderr, flush=True)


def free_port() -> int:
    """A port that nothing listens on, below those that Linux gives to whoever asks for any: it stays free a while."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", SystemRandom().randrange(20000, 32768)))
            return probe.getsockname()[1]


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The batch script's part: on the first of the job's machines, start the command on all of them."""
    from navila.launch import slurm

    parser = argparse.ArgumentParser(prog="python -m navila.launch.supervise")
    parser.add_argument("--max-restarts", type=int, default=100)
    parser.add_argument("--max-crash-restarts", type=int, default=0)
    parser.add_argument("--grace", type=int, default=300, help="seconds between SIGUSR1 and the end of the job")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    command = tuple(given.command[1:] if given.command[:1] == ["--"] else given.command)
    folder, job_id = Path(environment["OUTPUT_DIR"]), environment["SLURM_JOB_ID"]
    # What is left of the grace is for handing the job back.
    patience = given.grace - 60 if given.grace >= 120 else given.grace / 2

    def attempt() -> Ended:
        slurm.first_failure(folder).unlink(missing_ok=True)
        place = {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(free_port())}
        ended = run_once(command, environment=place, patience=patience)
        return Ended(code=slurm.real_code(folder, ended.code), told=ended.told)

    record = read(folder) or Record(command=command, launcher="slurm", job_id=job_id)
    bounds = Bounds(restarts=given.max_restarts, crashes=given.max_crash_restarts)
    return supervise(
        attempt, record, bounds, keep=lambda record: write(folder, record), requeue=lambda: slurm.requeue(job_id)
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except NavilaError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

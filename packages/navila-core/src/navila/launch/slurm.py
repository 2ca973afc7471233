"""Jobs of a SLURM cluster: the batch script, handing it in, watching it, handing it back."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from navila.errors import ConfigError, NavilaError
from navila.launch import record, torchrun
from navila.launch.job import Job, format_time
from navila.launch.supervise import say

#: Seconds between two looks at a job that is followed, at first and in the long run.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
#: How often in a row SLURM may not answer meanwhile.
MOST_SILENCE = 40
#: States in which a job runs no more.
_OVER = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"),
    *("PREEMPTED", "REVOKED"),
)


class JobLostError(NavilaError):
    """A job ended and did not say how."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What SLURM is told beside the job itself."""

    account: str | None = None
    partition: str | None = None
    exclusive: bool = False
    arguments: tuple[str, ...] = ()
    """Further options of sbatch, such as `--mem=0`."""

    def __post_init__(self) -> None:
        for argument in self.arguments:
            if not argument.startswith("-") or "\n" in argument:
                raise ConfigError(f"--slurm-arg {argument!r} is no option of sbatch: write --slurm-arg=--mem=0.")


def script(job: Job, options: Options, *, by_torchrun: bool) -> str:
    """The batch script of a job; it runs on the first of its machines and starts the command on all of them."""
    directives = [
        f"--job-name={job.mode}/{job.name}",
        f"--output={job.folder}/slurm/%j.log",
        "--open-mode=append",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []),
        *([f"--time={format_time(job.seconds)}", f"--signal=B:USR1@{job.grace}"] if job.seconds else []),
        "--requeue",
        *([f"--account={options.account}"] if options.account else []),
        *([f"--partition={options.partition}"] if options.partition else []),
        *(["--exclusive"] if options.exclusive else []),
    ]
    command = torchrun.command_line(job) if by_torchrun else job.filled()
    supervise = [sys.executable, "-m", "navila.launch.supervise"]
    bounds = ["--max-restarts", job.max_restarts, "--max-crash-restarts", job.max_crash_restarts, "--grace", job.grace]
    srun = ["srun", "--kill-on-bad-exit=1", "--cpu-bind=none", *(["--label"] if job.nodes > 1 else [])]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {shlex.quote(directive)}" for directive in directives),
        *(f"#SBATCH {argument}" for argument in options.arguments),
        *(f"export {name}={shlex.quote(value)}" for name, value in job.environment().items()),
        f"exec {_joined(*supervise, *bounds, '--')} \\",
        f"  {_joined(*srun)} \\",
        f"  {_joined(sys.executable, '-m', 'navila.launch.node')} \\",
        f"  {_joined(*command)}",
    ]
    return "\n".join(lines) + "\n"


def _joined(*words: object) -> str:
    return shlex.join(str(word) for word in words)


def submit(path: Path, options: Options) -> str:
    """Hand a batch script in, held so that it cannot start before it is known here; returns the job's number.

    Raises:
        NavilaError: SLURM refuses it.
    """
    done = _ask("sbatch", "--parsable", "--hold", str(path))
    if done.returncode:
        why = " ".join(done.stderr.replace("sbatch: error: ", "").split()).rstrip(".")
        missing = [flag for flag in ("account", "partition") if not getattr(options, flag)]
        hint = f"; where a cluster wants it, give {' and '.join(f'--{flag}' for flag in missing)}" if missing else ""
        raise NavilaError(f"SLURM refuses the job ({why}): mend what it names{hint}.")
    return done.stdout.strip().partition(";")[0]


def release(job_id: str) -> None:
    """Let a job start that was handed in."""
    _ask("scontrol", "release", job_id)


def requeue(job_id: str) -> bool:
    """Hand the running job back to the queue, which ends this process; False if SLURM refuses."""
    done = _ask("scontrol", "requeue", job_id)
    if done.returncode:
        say(f"SLURM does not take the job back ({' '.join(done.stderr.split())}): the same command goes on with it.")
        return False
    time.sleep(120)
    return True


def state(job_id: str) -> str:
    """What SLURM does with a job, e.g. `RUNNING` or `PENDING (Resources)`; empty once it is over or unknown.

    Raises:
        NavilaError: SLURM does not answer.
    """
    done = _ask("squeue", "--noheader", "--jobs", job_id, "--format", "%T %r")
    if done.returncode and "Invalid job id" not in done.stderr:
        raise NavilaError(f"SLURM does not tell about job {job_id} ({' '.join(done.stderr.split())}): try again.")
    now, _, why = done.stdout.strip().partition(" ")
    return f"{now} ({why})" if now == "PENDING" else now


def is_over(state: str) -> bool:
    """Whether a job in such a state runs no more."""
    return not state or state in _OVER


def follow(job_id: str, folder: Path) -> int:
    """Show a job's log until the job is over; returns the exit code of its command.

    Raises:
        JobLostError: the job ended without one, e.g. because it was cancelled while it waited.
    """
    log = folder / "slurm" / f"{job_id}.log"
    try:
        _watch(job_id, log)
    except KeyboardInterrupt:
        again = f"navila run -m {folder.parent.name} -J {folder.name} --follow"
        say(f"SLURM job {job_id} goes on: cancel it with scancel {job_id}, watch it with {again}.")
        raise
    found = record.read(folder)
    if found is None or found.exit_code is None:
        raise JobLostError(f"SLURM job {job_id} ended without an exit code{_last_words(job_id)}: see {log}.")
    return found.exit_code


def _watch(job_id: str, log: Path) -> None:
    read, shown, silent, pause = 0, "", 0, FIRST_PAUSE
    while True:
        try:
            now, silent = state(job_id), 0
        except NavilaError:
            # A controller that is started anew answers again after a while.
            silent += 1
            if silent > MOST_SILENCE:
                raise
        else:
            if now and now != shown:
                say(f"SLURM job {job_id}: {now}")
                shown, pause = now, FIRST_PAUSE
            if is_over(now):
                _copy(log, read)
                return
        read = _copy(log, read)
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_PAUSE)


def _copy(log: Path, start: int) -> int:
    """Copy what was added to a log onto stdout; returns its length."""
    if not log.exists():
        return start
    with log.open("rb") as file:
        file.seek(start)
        while chunk := file.read(1 << 16):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return file.tell()


def _last_words(job_id: str) -> str:
    done = _ask("scontrol", "show", "job", "--oneliner", job_id)
    fields = dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)
    return f" ({fields['JobState']}, {fields.get('Reason', 'None')})" if "JobState" in fields else ""


def first_failure(folder: Path) -> Path:
    """Where the first machine whose command fails writes its exit code."""
    return folder / "slurm" / "exit_code"


def real_code(folder: Path, code: int) -> int:
    """The exit code of the first machine that failed, where srun returned `code`."""
    try:
        return int(first_failure(folder).read_text()) if code else 0
    except (OSError, ValueError):
        return code


def is_here() -> bool:
    """Whether jobs can be handed in from this machine."""
    return any((Path(place or ".") / "sbatch").is_file() for place in os.environ.get("PATH", "").split(os.pathsep))


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NavilaError(
            f"There is no {command[0]} here: run this where SLURM is installed, or with --launcher torchrun or local."
        ) from None


def needs(commands: Sequence[str] = ("sbatch", "srun")) -> None:
    """Make sure that SLURM's commands are there.

    Raises:
        NavilaError: one is not.
    """
    for command in commands:
        _ask(command, "--version")

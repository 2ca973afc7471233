"""Starts a job by one of the launchers: `local`, `torchrun` or `slurm`."""

from __future__ import annotations

import dataclasses
import fcntl
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from navila.errors import ConfigError
from navila.files import write_atomically
from navila.launch import record, slurm, torchrun
from navila.launch.job import Job, is_training
from navila.launch.processes import Ended, run_once
from navila.launch.supervise import Bounds, say, supervise

Launcher = Literal["local", "torchrun", "slurm"]
LAUNCHERS: tuple[Launcher, ...] = ("local", "torchrun", "slurm")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of several machines this is, and where the first one listens, for torchrun started by hand on each."""

    node_rank: int = 0
    master_addr: str | None = None
    master_port: int | None = None

    def environment(self) -> dict[str, str]:
        """The variables that torchrun and NaVILA's scripts read."""
        found = {"CURRENT_RANK": self.node_rank, "MASTER_ADDR": self.master_addr, "MASTER_PORT": self.master_port}
        return {name: str(value) for name, value in found.items() if value is not None}


def default_launcher(environment: Mapping[str, str]) -> Launcher | None:
    """`slurm` where jobs can be handed in and this is none itself; None where the job's size decides."""
    if slurm.is_here() and "SLURM_JOB_ID" not in environment and not environment.get("NO_SLURM"):
        return "slurm"
    return None


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """GPUs of this machine that a process started here may use, each as CUDA_VISIBLE_DEVICES names it."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device for device in visible.split(",") if device.strip() and device.strip() != "-1"]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def local_command(job: Job, launcher: Launcher) -> tuple[str, ...]:
    """The command that a job is on this machine."""
    return torchrun.command_line(job) if launcher == "torchrun" else job.filled()


def describe(job: Job, launcher: Launcher, place: Place, options: slurm.Options) -> str:
    """What `start` would run, as lines for a shell."""
    if launcher == "slurm":
        path = job.folder / "slurm" / "job.sh"
        text = slurm.script(job, options, by_torchrun=splits(job))
        return f"mkdir -p {path.parent}\ncat > {path} <<'SCRIPT'\n{text}SCRIPT\nsbatch {path}"
    variables = {**job.environment(), **(place.environment() if launcher == "torchrun" else {})}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*exports, shlex.join(local_command(job, launcher))])


def splits(job: Job) -> bool:
    """Whether torchrun is to start the command's processes; else the command is started once a node."""
    return is_training(job.command) and job.nodes * job.processes_per_node > 1


def start(job: Job, launcher: Launcher, *, place: Place, options: slurm.Options, follow: bool, again: bool) -> int:
    """Run a job, or hand it in, and return its exit code.

    Raises:
        NavilaError: a job of the name runs already or has finished, or this one cannot be started.
    """
    found = record.read(job.folder)
    if found is not None:
        # The first machine keeps the record; for others the job runs when the first one was quicker.
        if not place.node_rank and is_running(job, found):
            if follow and launcher == "slurm" and found.command == job.command:
                return slurm.follow(str(found.job_id), job.folder)
            raise ConfigError(f"{_running(job, found)}: choose another --job-name, or wait for it.")
        if found.state == "finished" and not again:
            if found.command != job.command:
                raise ConfigError(
                    f"{job.folder} holds a finished job, {shlex.join(found.command)}: choose another --job-name, or "
                    "--again to run in the same folder."
                )
            say(f"{job.folder} holds this job, finished; --again runs it once more.")
            return 0
    if place.node_rank:
        return _run(job, launcher, place, record.Record(command=job.command, launcher=launcher), lambda _: None)
    attempts = found.attempts if found else ()
    fresh = record.Record(command=job.command, launcher=launcher, earlier=len(attempts), attempts=attempts)
    if launcher == "slurm":
        return _hand_in(job, fresh, options, follow=follow)
    with locked(job.folder) as alone:
        if not alone:
            raise ConfigError(f"{_running(job, fresh)}: choose another --job-name, or wait for it.")
        return _run(job, launcher, place, fresh, lambda now: record.write(job.folder, now))


def follow(folder: Path) -> int:
    """Show the log of a job that was handed in before, until it is over; returns its exit code.

    Raises:
        NavilaError: there is none in the folder.
    """
    found = record.read(folder)
    if found is None or found.job_id is None:
        raise ConfigError(
            f"{folder} holds no job of SLURM to follow: give the --job-name and --mode it was started with."
        )
    return slurm.follow(found.job_id, folder)


def is_running(job: Job, found: record.Record) -> bool:
    """Whether the job of a record runs, or waits for its turn."""
    if found.job_id is not None:
        return found.state in ("submitted", "running", "restarting") and not slurm.is_over(slurm.state(found.job_id))
    with locked(job.folder) as alone:
        return not alone


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process alone runs the job of a folder on this machine; it stays so until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _running(job: Job, found: record.Record) -> str:
    if found.job_id is None:
        return f"{job.folder} holds a job that runs"
    return (
        f"{job.folder} holds a job that runs, SLURM job {found.job_id} (cancel it with scancel {found.job_id}, watch "
        f"it with navila run -m {job.mode} -J {job.name} --follow)"
    )


def _run(
    job: Job, launcher: Launcher, place: Place, fresh: record.Record, keep: Callable[[record.Record], None]
) -> int:
    def attempt() -> Ended:
        environment = {**job.environment(), **(place.environment() if launcher == "torchrun" else {})}
        command = local_command(job, launcher)
        if job.seconds is None:
            return run_once(command, environment=environment)
        return run_once(command, environment=environment, limit=job.seconds - job.grace, patience=job.grace)

    bounds = Bounds(restarts=job.max_restarts, crashes=job.max_crash_restarts)
    return supervise(attempt, fresh, bounds, keep=keep)


def _hand_in(job: Job, fresh: record.Record, options: slurm.Options, *, follow: bool) -> int:
    slurm.needs()
    path = job.folder / "slurm" / "job.sh"
    write_atomically(path, slurm.script(job, options, by_torchrun=splits(job)))
    job_id = slurm.submit(path, options)
    record.write(job.folder, dataclasses.replace(fresh, job_id=job_id))
    slurm.release(job_id)
    say(f"SLURM job {job_id} handed in: log {job.folder}/slurm/{job_id}.log, record {job.folder}/{record.NAME}")
    return slurm.follow(job_id, job.folder) if follow else 0

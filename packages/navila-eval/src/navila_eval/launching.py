"""`navila eval --launcher`: the same command by `navila run`, and what a process finds out that was started so."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import click
from click.core import ParameterSource

#: Those of `navila run`, whose module is imported when one is used.
LAUNCHERS = ("local", "torchrun", "slurm")
#: Variables that say which of how many processes this is, and which of its machine's: torchrun's, then srun's.
_TEAMS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)


@dataclass(frozen=True, kw_only=True)
class Team:
    """Processes that were started side by side, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that shows what comes of it."""
        return self.rank == 0


def team(environment: Mapping[str, str]) -> Team:
    """The team that torchrun or srun started this process in; of one where there is none."""
    for names in _TEAMS:
        # srun writes `4(x2)` for four on each of two machines.
        found = [re.match(r"\d+", environment.get(name, "")) for name in names]
        rank, size, local_rank, local_size = (int(number[0]) if number else 0 for number in found)
        if size > 1:
            return Team(rank=rank, size=size, local_rank=local_rank, local_size=max(local_size, 1))
    return Team()


def own_gpu(team: Team, environment: Mapping[str, str]) -> str | None:
    """The GPU of this process where its machine has several of the team: a value of CUDA_VISIBLE_DEVICES."""
    from navila.launch.start import visible_gpus

    if team.local_size == 1 or not (gpus := visible_gpus(environment)):
        return None
    return gpus[team.local_rank % len(gpus)]


def given_words(context: click.Context, *, without: Collection[str]) -> list[str]:
    """The options of a command as they were given, less some by name."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in without or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for item in value if parameter.multiple else (value,):
            words += [next(flag for flag in parameter.opts if flag.startswith("--")), str(item)]
    return words


def launch(words: Sequence[str], *, launcher: str, name: str, nodes: int, processes: int, dry_run: bool) -> int:
    """Run `navila eval WORDS` as a job; returns its exit code.

    Args:
        words: options.
        launcher: `torchrun`, with so many processes on this machine, or `slurm`, once a machine.
        name: of the job, whose folder is `runs/eval/NAME`.
        nodes: machines.
        processes: of each machine, and GPUs where GPUS_PER_NODE says nothing else.
        dry_run: print what would be run instead.

    Raises:
        NavilaError: it cannot be started.
    """
    from navila.cli.run import run

    flags = ["-m", "eval", "-J", re.sub(r"[^\w.=+-]+", "-", name, flags=re.ASCII)[:80].strip("-."), "--again"]
    flags += ["--launcher", launcher, "--nodes", str(nodes), *(["--dry-run"] if dry_run else [])]
    if launcher == "torchrun" or "GPUS_PER_NODE" not in os.environ:
        flags += ["--gpus-per-node", str(processes)]
    code = run.main([*flags, "--", "navila", "eval", *words], standalone_mode=False)
    return code if isinstance(code, int) else 0

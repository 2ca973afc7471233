"""What is to be started: name, size, time, and the folder and environment that follow from them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from navila.discovery import PLUGINS_VARIABLE
from navila.errors import ConfigError

#: What becomes a folder, and part of a job's name in SLURM.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
#: SLURM's forms of a time: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM and D-HH:MM:SS.
_TIME = re.compile(r"(\d+)(?::([0-5]?\d))?(?::([0-5]?\d))?")
_DAYS = re.compile(r"(\d+)-(\d+)(?::([0-5]?\d))?(?::([0-5]?\d))?")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command and the machines it is to run on."""

    name: str
    command: tuple[str, ...]
    mode: str = "train"
    """The folder beside which other jobs of the kind lie: `train`, `eval`, …"""
    nodes: int = 1
    gpus_per_node: int = 0
    """GPUs and processes a node; 0 is one process on the CPU."""
    seconds: int | None = None
    """Time limit; None for none."""
    grace: int = 300
    """Seconds before the limit at which the command is told to save and stop."""
    max_restarts: int = 100
    """How often a command is started again that stopped early or met the time limit."""
    max_crash_restarts: int = 0
    """How often a command is started again that failed."""

    def __post_init__(self) -> None:
        for flag, word in (("--job-name", self.name), ("--mode", self.mode)):
            if not _WORD.fullmatch(word):
                raise ConfigError(
                    f"{flag} {word!r} is to be a folder's name: use letters, digits and . _ = + - (%t for the time)."
                )
        if self.seconds is not None and self.seconds <= self.grace:
            raise ConfigError(
                f"--time {format_time(self.seconds)} leaves nothing to work: the command is told to stop "
                f"{format_time(self.grace)} before its end (--grace); ask for more time, or for less grace."
            )

    @property
    def folder(self) -> Path:
        """Where everything of the job goes, relative to where it was started."""
        return Path("runs") / self.mode / self.name

    @property
    def processes_per_node(self) -> int:
        """Processes torchrun starts on each node."""
        return max(self.gpus_per_node, 1)

    def environment(self) -> dict[str, str]:
        """The variables that commands and NaVILA's scripts read, and the choice of plugins where there is one."""
        plugins = os.environ.get(PLUGINS_VARIABLE)
        return {
            "RUN_NAME": self.name,
            "OUTPUT_DIR": str(self.folder),
            "n_node": str(self.nodes),
            "GPUS_PER_NODE": str(self.processes_per_node),
            **({PLUGINS_VARIABLE: plugins} if plugins else {}),
        }

    def filled(self) -> tuple[str, ...]:
        """The command with `{run_name}` and `{output_dir}` filled in, and `navila` as this interpreter's."""
        words = (w.replace("{run_name}", self.name).replace("{output_dir}", str(self.folder)) for w in self.command)
        first, *rest = words
        return (sys.executable, "-m", "navila", *rest) if first == "navila" else (first, *rest)


def job_name(pattern: str, now: datetime) -> str:
    """A name with `%t` as the time it was started, `20250131235959`."""
    return pattern.replace("%t", now.strftime("%Y%m%d%H%M%S"))


def parse_time(text: str, flag: str = "--time") -> int:
    """Seconds of a time as SLURM writes it: `30` (minutes), `4:00:00`, `30:00:00`, `2-12:00:00`.

    Raises:
        ConfigError: it is none.
    """
    days = hours = minutes = seconds = 0
    if found := _DAYS.fullmatch(text.strip()):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    elif found := _TIME.fullmatch(text.strip()):
        match [int(part) for part in found.groups() if part is not None]:
            case [minutes]:
                pass
            case [minutes, seconds]:
                pass
            case [hours, minutes, seconds]:
                pass
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise ConfigError(f"{flag} {text!r} is no time: write HH:MM:SS, e.g. 4:00:00, 30:00:00 or 2-12:00:00.")
    return total


def format_time(seconds: int) -> str:
    """A time as SLURM reads it: `04:00:00`, `1-06:00:00`."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours:02}:{minutes:02}:{seconds:02}"


def is_training(command: Sequence[str]) -> bool:
    """Whether a command is `navila train`, which is started once a GPU; others are started once a node."""
    words = list(command)
    if words[1:3] == ["-m", "navila"]:
        words = words[2:]
    return len(words) > 1 and Path(words[0]).name == "navila" and words[1] == "train"

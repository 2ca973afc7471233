"""`job.json`: what became of a job, attempt by attempt."""

from __future__ import annotations

import dataclasses
import json
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from navila.errors import ConfigError
from navila.files import write_atomically

NAME = "job.json"

State = Literal["submitted", "running", "restarting", "finished", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the command."""

    started: str
    host: str
    ended: str | None = None
    exit_code: int | None = None
    """None while it runs, and for ever if its machine went down."""
    outcome: str = "running"
    """`finished`, `failed`, `stopped early`, `time limit`, `told to stop`, or `lost` when nobody saw it end."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `job.json` holds."""

    command: tuple[str, ...]
    launcher: str
    state: State = "submitted"
    exit_code: int | None = None
    job_id: str | None = None
    """SLURM's number of the job."""
    earlier: int = 0
    """How many of the attempts belong to earlier starts of the job: bounds do not count them."""
    attempts: tuple[Attempt, ...] = ()

    def begun(self) -> Record:
        """With one more attempt, begun now on this machine."""
        attempts = tuple(dataclasses.replace(a, outcome="lost") if a.outcome == "running" else a for a in self.attempts)
        attempt = Attempt(started=_now(), host=socket.gethostname())
        return dataclasses.replace(self, state="running", exit_code=None, attempts=(*attempts, attempt))

    def ended(self, code: int, outcome: str, state: State) -> Record:
        """With the last attempt ended now; a state that is final gives the job its exit code."""
        last = dataclasses.replace(self.attempts[-1], ended=_now(), exit_code=code, outcome=outcome)
        final = None if state == "restarting" else code
        return dataclasses.replace(self, state=state, exit_code=final, attempts=(*self.attempts[:-1], last))

    def count(self, *outcomes: str) -> int:
        """How many attempts of this start ended so."""
        return sum(a.outcome in outcomes for a in self.attempts[self.earlier :])


def read(folder: Path) -> Record | None:
    """The record of a job's folder, or None if it has none.

    Raises:
        ConfigError: it is damaged.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        attempts = tuple(Attempt(**attempt) for attempt in found.pop("attempts"))
        return Record(**{**found, "command": tuple(found["command"]), "attempts": attempts})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{path} is no record of a job: move it away, or give another --job-name.") from None


def write(folder: Path, record: Record) -> None:
    """Write a job's record."""
    write_atomically(folder / NAME, json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")

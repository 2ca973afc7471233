"""Stopping a training before its end, all processes at the same step, with a checkpoint."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from navila.errors import ConfigError, Interrupted
from transformers import TrainerCallback, TrainerControl, TrainerState

#: What asks a training to stop.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
#: Launchers pass on what a terminal or SLURM has sent to the processes themselves: such an echo is no second request,
#: and on a machine that is busy it takes its time.
ECHO = 5.0
#: The request of a process whose time is up; other requests are numbers of signals.
OUT_OF_TIME = 1000
#: Steps whose longest counts as how long one may take.
STEPS = 50
#: Until a checkpoint was written, it is taken for float32 weights with two moments each, at this rate.
BYTES_PER_PARAMETER, BYTES_PER_SECOND = 12, 500e6


class StopSignals:
    """Notes SIGTERM, SIGUSR1 and SIGINT while it is entered; a second one stops at once.

    Until `defer` is set there is nothing to save: the first one raises `Interrupted`.
    """

    def __init__(self) -> None:
        self.received = 0
        self.defer = False
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python calls handlers in its main thread alone, and lets only that one set them.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A launcher ends the others when the first has left: they are to leave by themselves, with the same exit code.
        leaving = isinstance(error, Interrupted) and "RANK" in os.environ
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if leaving else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._at = number, now
            if not self.defer:
                raise Interrupted(f"{signal.Signals(number).name} came before training began: run the command again.")
            if os.environ.get("RANK", "0") == "0":
                # Not print: this may interrupt one.
                os.write(
                    2, f"{signal.Signals(number).name}: stopping after this step; again to stop at once\n".encode()
                )
        elif now - self._at > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def ignore_stop_signals(_worker: int = 0) -> None:
    """Let processes that load data live on when the whole job is signalled: the last step needs them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """When a training must be over, in seconds since 1970, and whose wish that is."""

    at: float
    why: str


def find_deadline(time_limit: str | None, *, started: float, environment: Mapping[str, str]) -> Deadline | None:
    """The earlier of `--time_limit`, which counts from `started`, and the end of a SLURM job.

    Raises:
        ConfigError: the limit is no time.
    """
    found = []
    if time_limit:
        found.append(Deadline(at=started + seconds_of(time_limit), why=f"--time_limit {time_limit}"))
    if (end := slurm_end(environment)) is not None:
        found.append(Deadline(at=end, why=f"the time limit of SLURM job {environment['SLURM_JOB_ID']}"))
    return min(found, key=lambda deadline: deadline.at, default=None)


def seconds_of(text: str) -> float:
    """Seconds of `HH:MM:SS`, `D-HH:MM:SS`, or a number of seconds (what YAML makes of 12:00:00).

    Raises:
        ConfigError: it is none of them, or nothing.
    """
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):([0-5]?\d):)?([0-5]?\d|\d+(?:\.\d+)?)", text.strip())
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0,) * 4
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total <= 0:
        raise ConfigError(f"--time_limit {text} is no time: give HH:MM:SS or D-HH:MM:SS.")
    return total


def slurm_end(environment: Mapping[str, str]) -> float | None:
    """When the SLURM job of this process ends, in seconds since 1970; None outside one or without a limit."""
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return None
    if (end := environment.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(end)
    try:
        # Time left, e.g. 1-02:03:04 or UNLIMITED.
        asked = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%L"], capture_output=True, text=True, timeout=30, check=True
        ).stdout.strip()
        # squeue leaves leading zeros out: 5:00 are minutes.
        parts = asked.partition("-")[0] if "-" in asked else "0", asked.rpartition("-")[2].split(":")
        clock = ":".join(["0"] * (3 - len(parts[1])) + parts[1])
        return time.time() + seconds_of(f"{parts[0]}-{clock}")
    except (OSError, subprocess.SubprocessError, ConfigError):
        return None


class Stopper(TrainerCallback):
    """Ends training when any process has asked for it, after the step in which all have agreed."""

    def __init__(self, signals: StopSignals, deadline: Deadline | None = None, *, margin: float = 0.0) -> None:
        """`margin` seconds are left before the deadline; 0 learns from how long steps and checkpoints take."""
        self.signals = signals
        self.deadline = deadline
        self.margin = margin
        self.reason = ""
        """Why training was stopped; empty if it was not."""
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._save = 0.0
        self._measured = False
        self._since = time.monotonic()

    def request(self) -> int:
        """What this process wants: 0, a signal's number, or `OUT_OF_TIME`."""
        if self.signals.received:
            return self.signals.received
        late = self.deadline is not None and time.time() > self.deadline.at - self.needed()
        return OUT_OF_TIME if late else 0

    def agree(self, requests: Sequence[float]) -> None:
        """Hear what every process wants, in the order of ranks; the same on all."""
        asking = [(rank, int(request)) for rank, request in enumerate(requests) if request]
        if asking and not self.reason:
            rank, request = asking[0]
            if request == OUT_OF_TIME:
                self.reason = self.deadline.why if self.deadline else "a time limit"
            else:
                self.reason = signal.Signals(request).name + (f" to rank {rank}" if len(requests) > 1 else "")

    def needed(self) -> float:
        """Seconds to keep for the step under way and its checkpoint."""
        return self.margin or 1.5 * (max(self._steps, default=0.0) + self._save) + 5

    def saved(self, seconds: float) -> None:
        """A checkpoint took so long."""
        self._save = max(self._save, seconds) if self._measured else seconds
        self._measured = True
        # It is no part of the step.
        self._since += seconds

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """From here on there is something to save."""
        self.signals.defer = True
        self._since = time.monotonic()
        if model is not None:
            count = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters())
            self._save = count * BYTES_PER_PARAMETER / BYTES_PER_SECOND

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and end, unless this was the last step anyway."""
        now = time.monotonic()
        self._steps.append(now - self._since)
        self._since = now
        if self.reason and state.global_step >= state.max_steps:
            self.reason = ""
        if self.reason:
            control.should_save = control.should_training_stop = True
            # It may take longer than there is time.
            control.should_evaluate = False

"""Running a command to its end: signals passed on, a limit kept, and what became of it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from navila.errors import ConfigError

#: Most seconds between SIGTERM and SIGKILL.
LAST_SECONDS = 20.0
_TAKEN = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; 128 + N after signal N, as shells report it."""
    told: str = ""
    """Why it was told to stop: `limit` or the name of the first signal that came for it; empty if it was not."""


def run_once(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    limit: float | None = None,
    patience: float | None = None,
) -> Ended:
    """Run a command and pass SIGUSR1, SIGTERM and SIGINT on to it.

    Args:
        command: words, no shell.
        environment: variables beside this process's own.
        limit: seconds after which the command gets SIGUSR1.
        patience: seconds from SIGUSR1 on, ours or another's, after which it gets SIGTERM, and SIGKILL a little later.

    Raises:
        ConfigError: there is no such command.
    """
    told: list[str] = []
    timers: list[threading.Timer] = []
    children: list[subprocess.Popen[bytes]] = []

    def later(seconds: float, act: Callable[..., object], *arguments: object) -> None:
        timer = threading.Timer(seconds, act, arguments)
        timer.daemon = True
        timers.append(timer)
        timer.start()

    def send(signum: int) -> None:
        for child in children:
            child.send_signal(signum)

    def ask(reason: str) -> None:
        told.append(reason)
        send(signal.SIGUSR1)
        if patience is not None:
            later(patience, send, signal.SIGTERM)
            later(patience + min(patience / 2, LAST_SECONDS), _kill_all, children)

    def take(signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGUSR1:
            ask("SIGUSR1")
            return
        told.append(signal.Signals(signum).name)
        if signum != signal.SIGINT or not _in_foreground():
            # Ctrl-C reaches everything in a terminal's foreground already.
            send(signum)

    with _handling(take):
        try:
            children.append(subprocess.Popen(command, env={**os.environ, **(environment or {})}))
        except OSError as error:
            raise ConfigError(f"{command[0]} cannot be started ({error.strerror}): check the command.") from None
        if told:
            # It came while the command was being started.
            send(signal.SIGUSR1 if told[0] == "SIGUSR1" else signal.SIGTERM)
        if limit is not None:
            later(limit, ask, "limit")
        try:
            code = children[0].wait()
        finally:
            for timer in timers:
                timer.cancel()
    return Ended(code=128 - code if code < 0 else code, told=told[0] if told else "")


@contextmanager
def _handling(take: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = {signum: signal.signal(signum, take) for signum in _TAKEN}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Processes that a process started itself; none where there is no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # It has ended.
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def _kill_all(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill processes and all they started: torchrun's are in sessions of their own and would live on."""
    for child in started:
        if child.returncode is None:
            _kill_tree(child.pid)


def _kill_tree(pid: int) -> None:
    with suppress(ProcessLookupError):
        # A shell would go on with its next line once what it waits for is dead, and might end with 0.
        os.kill(pid, signal.SIGSTOP)
    # The root last: once it is gone, whoever waits for it goes on.
    for child in children_of(pid):
        _kill_tree(child)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

"""Heartbeats of all processes, so that a training that hangs ends with the names of those that hold it up."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low

#: Exit code of a training that hung.
EXIT_HUNG = 1
#: Ranks that a sentence names.
NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Beat:
    """How far a process has come. All processes pass the same points, so their counts can be compared."""

    rank: int
    count: int
    step: int
    doing: str
    host: str
    pid: int


class Watchdog:
    """Writes this process's beats into a folder that all share, from a thread, and ends the process when they stop.

    Only the first of those that wait says who is waited for; the others leave later, so that it can be heard before a
    launcher ends all.
    """

    def __init__(self, folder: Path, *, rank: int, timeout: float) -> None:
        """`timeout` in seconds; 0 watches nothing and writes nothing."""
        self.folder = folder
        self.timeout = timeout
        self.interval = min(max(timeout / 10, 0.2), 10.0)
        self._beat = Beat(rank=rank, count=0, step=0, doing="starting", host=socket.gethostname(), pid=os.getpid())
        self._since = time.monotonic()
        self._timed = True
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self.timeout > 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file(".stack").unlink(missing_ok=True)
            self._write()
            self._thread = threading.Thread(target=self._watch, name="navila-watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._file(".json").unlink(missing_ok=True)
            # The last one out.
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def beat(self, step: int, doing: str, *, timed: bool = True) -> None:
        """This process has come to a point that all pass; one that is not `timed` may take as long as it likes."""
        last = self._beat
        self._beat = Beat(rank=last.rank, count=last.count + 1, step=step, doing=doing, host=last.host, pid=last.pid)
        self._since, self._timed = time.monotonic(), timed

    def _watch(self) -> None:
        written = self._beat
        while not self._stopped.wait(self.interval):
            if self._beat is not written:
                written = self._beat
                with contextlib.suppress(OSError):
                    self._write()
            if self._timed and time.monotonic() - self._since > self.timeout:
                self._end()

    def _end(self) -> None:
        """Say who is waited for, if it is this process that has to, and leave."""
        mine = self._beat
        with contextlib.suppress(OSError), self._file(".stack").open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        # What the others have last written.
        time.sleep(self.interval)
        beats = read_beats(self.folder)
        ahead = [beat.rank for beat in beats if beat.count == max(other.count for other in beats)]
        if mine.rank != min(ahead, default=mine.rank):
            time.sleep(3 * self.interval + 5)
        if self._beat is not mine:
            # It was slow, and goes on.
            return
        if mine.rank == min(ahead, default=mine.rank):
            print(f"Error: {hang_sentence(beats, self.timeout, self.folder)}", file=sys.stderr, flush=True)
            time.sleep(0.5)
        os._exit(EXIT_HUNG)

    def _write(self) -> None:
        path = self._file(".json")
        path.with_suffix(".new").write_text(json.dumps(asdict(self._beat)), encoding="utf-8")
        path.with_suffix(".new").replace(path)

    def _file(self, suffix: str) -> Path:
        return self.folder / f"rank-{self._beat.rank:05d}{suffix}"


def clear_beats(folder: Path) -> None:
    """Delete what an earlier run left; before any process of this one writes."""
    shutil.rmtree(folder, ignore_errors=True)


def read_beats(folder: Path) -> list[Beat]:
    """What all processes have last written, in the order of ranks."""
    beats = []
    for path in sorted(folder.glob("rank-*.json")):
        # A file that is just being replaced, or of a process that ended well.
        with contextlib.suppress(OSError, ValueError, TypeError):
            beats.append(Beat(**json.loads(path.read_text(encoding="utf-8"))))
    return beats


def hang_sentence(beats: Sequence[Beat], timeout: float, folder: Path) -> str:
    """What is known about a training in which nothing moves."""
    furthest = max(beats, key=lambda beat: beat.count)
    behind = [beat for beat in beats if beat.count < furthest.count]
    if behind:
        who = (
            f"{_list(behind)} {'has' if len(behind) == 1 else 'have'} not come as far as the other "
            f"{len(beats) - len(behind)}, which are at {furthest.doing!r} of step {furthest.step}"
        )
    else:
        who = f"all {len(beats)} processes are at {furthest.doing!r} of step {furthest.step}"
    return (
        f"nothing has moved for {timeout:g} s: {who}; look at these machines, at the stacks in {folder}, or give more "
        "time with --hang_timeout."
    )


def _list(beats: Sequence[Beat]) -> str:
    each = [f"rank {b.rank} ({b.host}, process {b.pid}, {b.doing!r} of step {b.step})" for b in beats[:NAMED]]
    return ", ".join(each) + (f" and {len(beats) - NAMED} more" if len(beats) > NAMED else "")


class Stragglers:
    """Finds processes that keep the others waiting, by the seconds each needs for a part of a step."""

    def __init__(self, hosts: Sequence[str], part: str, *, factor: float, every: int = 20, least: float = 0.1) -> None:
        """Report each `every` steps whoever took `factor` times the median, and `least` seconds a step more."""
        self.hosts = hosts
        self.part = part
        self.factor = factor
        self.every = every
        self.least = least
        self._seconds: list[Sequence[float]] = []

    def note(self, seconds: Sequence[float]) -> list[str]:
        """Count a step; every so many steps, what to say about the slow ranks."""
        self._seconds.append(seconds)
        if len(self._seconds) < self.every:
            return []
        # The median leaves single long steps out: the first ones, and those after a file that was slow to come.
        each = [median_low(of_rank) for of_rank in zip(*self._seconds, strict=True)]
        self._seconds = []
        usual = median_low(each)
        return [
            f"rank {rank} ({self.hosts[rank]}) needs {needed:.2f} s {self.part}, the others {usual:.2f} s"
            for rank, needed in enumerate(each)
            if self.factor and len(each) > 1 and needed > self.factor * usual and needed - usual > self.least
        ]

"""Which of several processes, on one machine or on many, does what: claims kept as files in the folder they share."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from navila.errors import ConfigError

#: Seconds between two looks for what other processes have finished or left.
PAUSE = 0.5
#: Seconds between two signs of life, and after how many without one a process of another machine counts as dead.
SIGN, DEAD = 10.0, 60.0
#: How file systems without hard links refuse one.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


class Claims:
    """Pieces of work, each claimed by one living process at a time; what a killed one claimed is free again.

    A claim is a file that only one process can create, so any shared file system will do, without locks. A process on
    this machine counts as dead when it no longer runs; one on another machine when its own file was not touched for a
    minute, by the file system's clock. One that was only suspended may be taken for dead, and two processes then do the
    same piece: whatever is claimed here has to come out the same, whoever does it and however often.
    """

    def __init__(self, folder: Path) -> None:
        """Claims in a folder, which is made by `with`."""
        self.folder = folder
        self.owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._sign = folder / f"{self.owner}.alive"
        self._held: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Claims:
        self._show()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for name in tuple(self._held):
            self.release(name)
        self._sign.unlink(missing_ok=True)
        left = list(self.folder.iterdir())
        if not self.others():
            # Of dead processes, all of them.
            for path in left:
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def others(self) -> list[str]:
        """Other processes that are at work here."""
        owners = [path.stem for path in self.folder.glob("*.alive")] if self.folder.is_dir() else []
        return [owner for owner in owners if owner != self.owner and self._lives(owner)]

    def check_alone(self) -> None:
        """Make sure that nobody else is at work here, before what is here is removed.

        Raises:
            ConfigError: other processes are.
        """
        if self.others():
            raise ConfigError(
                f"Other processes are at work in {self.folder.parent}: stop them before the run is started over."
            )

    def take(self, name: str) -> bool:
        """Claim a piece of work; False while another process that lives has it."""
        path = self.folder / name
        while True:
            try:
                self._create(path)
            except FileExistsError:
                if not self._set_free(path):
                    return False
                continue
            except FileNotFoundError:
                # The last of the others has just removed the folder.
                self._show()
                continue
            self._held.add(name)
            return True

    def wait_for(self, name: str) -> None:
        """Claim a piece of work once no other process has it."""
        while not self.take(name):
            time.sleep(PAUSE)

    def _create(self, path: Path) -> None:
        """Make a claim with its owner in it from the start, so that a kill leaves none that belongs to nobody.

        Raises:
            FileExistsError: there is one.
        """
        whole = path.with_name(f"{path.name}.{self.owner}.new")
        whole.write_text(self.owner)
        try:
            path.hardlink_to(whole)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with path.open("x") as file:
                file.write(self.owner)
        finally:
            whole.unlink(missing_ok=True)

    def release(self, name: str) -> None:
        """Give a piece of work back, done or not."""
        self._held.discard(name)
        (self.folder / name).unlink(missing_ok=True)

    def _set_free(self, path: Path) -> bool:
        """Remove the claim of a dead process; False if its owner lives."""
        try:
            owner = path.read_text()
            # Created and not written yet: as good as written.
            if self._lives(owner) if owner.count("-") == 2 else self._age(path) < DEAD:
                return False
            # Of several processes that see the same dead one, only one can move its claim away.
            aside = path.with_name(f"{path.name}.{self.owner}")
            path.rename(aside)
            if aside.read_text() != owner:
                aside.rename(path)
                return False
            aside.unlink()
        except FileNotFoundError:
            pass
        return True

    def _lives(self, owner: str) -> bool:
        machine, pid, _ = owner.split("-")
        if machine == self.owner.split("-")[0] and not _runs(int(pid)):
            return False
        try:
            return self._age(self.folder / f"{owner}.alive") < DEAD
        except FileNotFoundError:
            return False

    def _age(self, path: Path) -> float:
        """Seconds since a file was touched, by the clock of the file system it is on."""
        try:
            now = self._sign.stat().st_mtime
        except FileNotFoundError:
            now = time.time()
        return now - path.stat().st_mtime

    def _show(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sign.touch()

    def _live(self) -> None:
        while not self._stop.wait(SIGN):
            with contextlib.suppress(OSError):
                self._show()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _machine() -> str:
    """Where process ids mean the same processes: this boot of the machine, and this container."""
    try:
        place = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        place = socket.gethostname()
    return hashlib.sha256(place.encode()).hexdigest()[:12]

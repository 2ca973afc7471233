"""Files and folders that are either absent or complete, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file by way of a temporary one beside it, synced and renamed; text as UTF-8. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unprivate(Path(temporary))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A new folder to fill, which takes its name when it is filled; where somebody else was first, theirs stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield fresh
        unprivate(fresh, 0o777)
        fresh.rename(path)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if not (isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.is_dir()):
            raise


def unprivate(path: Path, mode: int = 0o666) -> None:
    """Give what was made for its owner alone the mode of anything new: results are for all the folder is for."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)

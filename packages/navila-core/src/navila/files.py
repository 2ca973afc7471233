"""Files that are either absent or complete, whatever happens while they are written."""

from __future__ import annotations

import os
import tempfile
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


def unprivate(path: Path) -> None:
    """Give a file that was made for its owner alone the mode of any new file: results are for all the folder is for."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)

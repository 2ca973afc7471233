"""Servers that run until Ctrl-C or SIGTERM and then end cleanly. Light."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click
from navila.errors import ConfigError


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Turn what a socket says of a port that cannot be had into a sentence.

    Raises:
        ConfigError: host or port cannot be listened at.
    """
    try:
        yield
    except OSError as error:
        # Python adds the address, which is told already.
        why = (error.strerror or str(error)).partition(" (while")[0]
        raise ConfigError(f"{host}:{port} cannot be listened at ({why}): give another --host or --port.") from None


def until_stopped(close: Callable[[], None], greeting: str, work: Callable[[], None] | None = None) -> NoReturn:
    """Print `greeting`, do `work` again and again until Ctrl-C or SIGTERM, then `close` and end the process."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        click.echo(f"{greeting}; Ctrl-C stops it.")
        idle = threading.Event()
        while True:
            if work is None:
                idle.wait()
            else:
                work()
    except (KeyboardInterrupt, _Stopped):
        # Another one would break off the closing.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        click.echo("Closed.")
    finally:
        close()
    # Threads of clients may be at work in C++, and a process whose interpreter ends beneath such a thread can abort.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _Stopped(BaseException):
    """SIGTERM came."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped

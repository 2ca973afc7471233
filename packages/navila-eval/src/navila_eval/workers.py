"""Processes on this machine that share the work of a run, each with a GPU of its own while there are as many."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from navila.errors import NavilaError
from navila.launch.start import visible_gpus
from navila.processes import end_with_parent


@contextlib.contextmanager
def workers(count: int, work: Callable[..., None], *arguments: Any, daemon: bool) -> Iterator[list[Connection]]:
    """Start processes that run `work(pipe, *arguments)`; yields the other end of each pipe, and ends them on leaving.

    What `work` raises comes out of its pipe as a `NavilaError`, or as a `RuntimeError` with the traceback for a bug.

    Args:
        daemon: whether they end with this process even if it never leaves; such ones cannot start processes themselves.
    """
    gpus = visible_gpus(os.environ)
    context = multiprocessing.get_context("spawn")
    started: list[tuple[Any, Any]] = []
    try:
        for number in range(count):
            here, there = context.Pipe()
            gpu = gpus[number % len(gpus)] if gpus else None
            process = context.Process(target=_run, args=(there, gpu, work, arguments), daemon=daemon)
            process.start()
            # Only the process itself holds its end, so that its death is noticed.
            there.close()
            started.append((process, here))
        yield [pipe for _, pipe in started]
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
            process.join()


def _run(pipe: Connection, gpu: str | None, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    end_with_parent()
    # Nobody may be left to tell.
    with pipe, contextlib.suppress(OSError, KeyboardInterrupt):
        try:
            work(pipe, *arguments)
        except NavilaError as error:
            pipe.send(NavilaError(str(error)))
        except Exception:
            pipe.send(RuntimeError(traceback.format_exc()))

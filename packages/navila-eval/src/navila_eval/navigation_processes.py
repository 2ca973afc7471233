"""Several processes on this machine that share one run of navigation, each with a model and environments of its own."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from navila.errors import NavilaError
from navila.launch.start import visible_gpus
from navila.plugins import default_host
from navila.processes import end_with_parent

from navila_eval.benchmark import Request
from navila_eval.run_folder import RESULTS, RunFolder

if TYPE_CHECKING:
    from navila_eval.navigation import NavigationBenchmark


def run_in_processes(benchmark: NavigationBenchmark, request: Request) -> None:
    """Walk what is left of a run in `request.processes` processes, on a GPU each while there are as many.

    Raises:
        NavilaError: what one of them raised, or one of them died.
    """
    if request.force or (not request.resume and not (request.output_dir / RESULTS).exists()):
        RunFolder(request.output_dir).clear()
    devices = _devices()
    context = multiprocessing.get_context("spawn")
    asked = replace(request, processes=1, force=False, resume=True, load_model=request.model_loader)
    pipes: dict[Any, Any] = {}
    try:
        for number in range(request.processes):
            here, there = context.Pipe()
            device = devices[number % len(devices)] if devices else None
            # They start processes themselves, which daemons may not.
            process = context.Process(target=_work, args=(there, request.task, device), daemon=False)
            process.start()
            there.close()
            # After the plugins are loaded there: what is sent may come from a plugin's file. One shows how all get on.
            here.send((benchmark, replace(asked, quiet=request.quiet or number > 0)))
            pipes[here] = process
        at_work = set(pipes)
        while at_work:
            ready: list[Any] = wait(list(at_work))
            for pipe in ready:
                at_work.remove(pipe)
                try:
                    error = pipe.recv()
                except (EOFError, OSError):
                    raise NavilaError(
                        "A process that walks episodes died, most likely for want of memory: run the same command "
                        "again to go on, with a smaller -n or --num-envs."
                    ) from None
                if error is not None:
                    raise error
    finally:
        for pipe, process in pipes.items():
            pipe.close()
            process.terminate()
            process.join()


def _devices() -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES that name one GPU each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(visible_gpus(os.environ))]


def _work(pipe: Any, task: str, device: str | None) -> None:
    """Run what a pipe brings, and send what it raised."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    end_with_parent()
    with closing(pipe):
        try:
            default_host().registry("benchmark").load(task)
            benchmark, request = pipe.recv()
            benchmark.run(request)
            pipe.send(None)
        except KeyboardInterrupt:
            return
        except NavilaError as error:
            pipe.send(NavilaError(str(error)))
        except Exception:
            pipe.send(RuntimeError(traceback.format_exc()))

"""Several processes on this machine that share one run of navigation, each with a model and environments of its own."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from navila.errors import NavilaError
from navila.plugins import default_host

from navila_eval.benchmark import Request
from navila_eval.run_folder import RESULTS, RunFolder
from navila_eval.workers import workers

if TYPE_CHECKING:
    from navila_eval.navigation import NavigationBenchmark


def run_in_processes(benchmark: NavigationBenchmark, request: Request) -> None:
    """Walk what is left of a run in `request.processes` processes, on a GPU each while there are as many.

    Raises:
        NavilaError: what one of them raised, or one of them died.
    """
    if request.force or (not request.resume and not (request.output_dir / RESULTS).exists()):
        RunFolder(request.output_dir).clear()
    asked = replace(request, processes=1, force=False, resume=True, load_model=request.model_loader)
    # Environments are processes in their turn, which daemons may not start.
    with workers(request.processes, _walk, request.task, daemon=False) as pipes:
        for number, pipe in enumerate(pipes):
            # One shows how all are getting on.
            pipe.send((benchmark, replace(asked, quiet=request.quiet or number > 0)))
        at_work = set(pipes)
        while at_work:
            ready: list[Any] = wait(at_work)
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


def _walk(pipe: Connection, task: str) -> None:
    """Run the benchmark that the pipe brings, and send None when it is done."""
    # First, since the benchmark may be of a class in a plugin's file, which cannot be unpickled before.
    default_host().registry("benchmark").load(task)
    benchmark, request = pipe.recv()
    benchmark.run(request)
    pipe.send(None)

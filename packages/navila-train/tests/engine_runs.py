"""Trainings of several processes, one after the other: `python engine_runs.py PLAN.json`.

The plan is a list of `{"name", "world", "flags"}`; outputs are beside the plan, by name. `kill_at` kills all processes
once that step is logged, and `after` begins with a copy of the output of another run. Each rank's text goes to
NAME.RANK.txt, and the exit codes to results.json. Processes are forked after the imports, which take longer than the
trainings.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed
import peft  # noqa: F401  imported once for all
import torch
import transformers.trainer  # noqa: F401
from navila.errors import NavilaError
from navila_train.parse import parse_flags
from navila_train.run import run

# Its shared-memory collectives would be compiled, for two minutes; gloo does without.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def work(rank: int, port: int, plan: dict[str, Any], output: Path) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if plan["world"] > 1 or "--deepspeed" in plan["flags"]:
        world = str(plan["world"])
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=world, LOCAL_WORLD_SIZE=world)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        run(parse_flags(plan["flags"]))
    except NavilaError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    # The interpreter's end would wait for threads of gloo.
    sys.stderr.flush()
    os._exit(0)


def logged(output: Path, step: int) -> bool:
    path = output / "train_log.jsonl"
    return path.exists() and f'{{"step": {step},' in path.read_text()


def train(plan: dict[str, Any], folder: Path) -> list[int | None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = folder / plan["name"]
    plan = {**plan, "flags": [*plan["flags"], "--output_dir", str(output)]}
    if "after" in plan:
        shutil.copytree(folder / plan["after"], output)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=work, args=(rank, port, plan, folder / f"{plan['name']}.{rank}.txt"))
        for rank in range(plan["world"])
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        broken = any(process.exitcode for process in processes)
        if broken or (plan.get("kill_at") and logged(output, plan["kill_at"])):
            for process in processes:
                if process.is_alive() and process.pid:
                    os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    return [process.exitcode for process in processes]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    results = {}
    for plan in json.loads(path.read_text()):
        started = time.monotonic()
        results[plan["name"]] = train(plan, path.parent)
        print(plan["name"], results[plan["name"]], f"{time.monotonic() - started:.1f} s", flush=True)
        (path.parent / "results.json").write_text(json.dumps(results))

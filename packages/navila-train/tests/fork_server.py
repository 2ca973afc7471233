"""Starts processes of `navila` that are forked off one which has imported everything: importing takes seconds.

Reads orders as JSON lines on stdin and answers each with a line: `start` with a process id, `wait` with an exit code.
"""

import json
import os
import sys

import accelerate  # noqa: F401
import navila_train.run  # noqa: F401
from navila.cli import main

try:
    import deepspeed

    # Its shared-memory collectives are compiled on first use, for two minutes; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
except ImportError:
    pass


def start(order: dict) -> int:
    """Fork a process; in it, this does not return."""
    child = os.fork()
    if child:
        return child
    os.environ.update(order["environment"])
    for stream, path in ((0, os.devnull), (1, order["output"]), (2, order["output"])):
        handle = os.open(path, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, stream)
        os.close(handle)
    sys.exit(main(order["arguments"]))


for line in sys.stdin:
    request = json.loads(line)
    waited = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]) if "wait" in request else None
    print(start(request) if waited is None else waited, flush=True)

# The interpreter would take seconds to take down what was imported.
os._exit(0)

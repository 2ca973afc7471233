"""Starts processes of `navila` that are forked off one which has imported everything: importing takes seconds.

Reads orders as JSON lines on stdin and answers each with a line: `start` with a process id, `wait` with an exit code.
"""

import gc
import importlib
import json
import os
import sys

from navila.cli import main
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

#: What trainings import while they run.
IMPORTED = (
    "accelerate",
    "navila.model.save",
    "navila_dataset_vln.dataset",
    "navila_encoder_siglip.encoder",
    "navila_llm_llama.llm",
    "navila_projector_mlp.projector",
    "navila_train.run",
    "simplejpeg",
    "transformers.models.llama.modeling_llama",
)

# What DeepSpeed says on stdout when it finds no GPU, say, is no answer.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

for name in IMPORTED:
    importlib.import_module(name)
try:
    import deepspeed

    # Its shared-memory collectives are compiled on first use, for two minutes; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
except ImportError:
    pass
# transformers makes its table of old names of weights on first use, for a second.
get_checkpoint_conversion_mapping("llama")
# Otherwise every process, when it collects garbage, copies the memory of all this.
gc.collect()
gc.freeze()


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
    code = main(order["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter would take down what was imported, which takes longer than many a training.
    os._exit(code)


for line in sys.stdin:
    request = json.loads(line)
    waited = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]) if "wait" in request else None
    print(start(request) if waited is None else waited, file=answers, flush=True)

os._exit(0)

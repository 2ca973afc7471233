"""A recorded dataset and a recipe for a model that trains in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from navila.launch.supervise import free_port
from navila_data.procedural import RecordSettings
from navila_data.recording import record

RECIPE = """
llm: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
      num_key_value_heads: 2, max_position_embeddings: 512}
vision_tower: {model_type: siglip_vision_model, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 3,
               num_attention_heads: 2, image_size: 32, patch_size: 16}
mm_projector: mlp_downsample
tokenizer: words
conversation: llama_3
num_video_frames: 4
model_max_length: 256
per_device_train_batch_size: 8
learning_rate: 3e-3
lr_scheduler_type: constant
logging_steps: 10
report_to: none
use_cpu: true
"""


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes, rendered and recorded."""
    folder = tmp_path_factory.mktemp("walks") / "data"
    record(RecordSettings(episodes=4, episodes_per_house=2, seed=5, image_size=32), folder)
    return folder


@pytest.fixture(scope="session")
def recipe(walks: Path) -> Path:
    """A recipe that trains a model of some ten thousand parameters on the walks."""
    path = walks.parent / "recipe.yaml"
    path.write_text(f"{RECIPE}\ndata_mixture: {json.dumps(f'vln:{walks}')}\n")
    return path


class Processes:
    """Processes of `navila`, started in a moment; see fork_server.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **order: object) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, *arguments: object, ranks: int = 1, **environment: object) -> list[Running]:
        """Start `navila ARGUMENTS` as so many processes of one job."""
        self.count += 1
        common = {name: str(value) for name, value in environment.items()}
        # DeepSpeed wants to be launched, as one process too.
        launched = ranks > 1 or "--deepspeed" in arguments
        if launched:
            common |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        started = []
        for rank in range(ranks):
            output = self.folder / f"{self.count}-{rank}.txt"
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)} if launched else {}
            order = {"arguments": [str(a) for a in arguments], "environment": common | place, "output": str(output)}
            started.append(Running(self, self._ask(**order), output))
        return started

    def run(self, *arguments: object, ranks: int = 1, **environment: object) -> str:
        """Run to the end; what the first process said."""
        running = self.start(*arguments, ranks=ranks, **environment)
        for process in running:
            assert process.wait() == 0, process.said()
        return running[0].said()


@dataclass(frozen=True)
class Running:
    """A process that was started."""

    processes: Processes
    pid: int
    output: Path

    def said(self) -> str:
        """Its stdout and stderr so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return self.processes._ask(wait=self.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def until(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Wait for something that it is to do."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.said()
            time.sleep(0.005)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts processes of `navila`."""
    server = Processes(tmp_path_factory.mktemp("said"))
    yield server
    server.server.stdin.close()  # type: ignore[union-attr]
    server.server.wait()

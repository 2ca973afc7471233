"""What a benchmark is: a named task that turns a request into results."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from navila.errors import ConfigError

if TYPE_CHECKING:
    from navila.actions import Decoding
    from navila.endpoint import Endpoint
    from navila.model import NavilaForCausalLM

    from navila_eval.judging import Judge
    from navila_eval.perturbations import Perturbation


#: Where benchmark data lie when no `--data-root` says otherwise.
DATA_ROOT = Path("data/eval")
#: Agents of navigation that are the model, told the instruction or another one.
MODEL_AGENTS = ("model", "wrong-instruction", "swapped-sides")
#: Agents `navila eval --agent` offers.
AGENTS = (*MODEL_AGENTS, "random", "random-vln-ce", "expert", "reference", "replay")


def in_words(name: str) -> str:
    """The name of an agent or a run as a table shows it; the minus of a number stays."""
    return re.sub(r"(?<!=)[-_]", " ", name)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a benchmark."""

    task: str
    """Name the results go under."""
    split: str
    output_dir: Path
    """Folder of this run."""
    model_name: str
    load_model: Callable[[], NavilaForCausalLM]
    """Loads the model on first use, so that a finished run costs nothing."""
    identity: Mapping[str, Any]
    """What identifies the agent in `run.json`: model path and digest, conversation template, frames."""
    agent: str = "model"
    """One of `AGENTS`."""
    perturbation: Perturbation | None = None
    """How images of navigation are disturbed."""
    decoding: Decoding = "free"
    num_frames: int | None = None
    limit: int | None = None
    """At most so many samples; the benchmark's own number when None."""
    data_root: Path | None = None
    seed: int = 0
    batch_size: int = 8
    """Samples, or environments, in one batch."""
    env_processes: bool = False
    """Whether every simulator has a process of its own, so that one that breaks costs its episode only."""
    sim_timeout: float = 60.0
    """Seconds a simulator in its own process may take for a primitive; ten times that for loading a scene."""
    max_steps: int | None = None
    """Primitives after which an episode ends; the benchmark's own number when None."""
    report_episodes: int = 20
    """Episodes whose pictures are kept for the report."""
    video: str = ""
    """Episodes of navigation to make films of: `all`, `failed`, or a number; empty for none."""
    processes: int = 1
    """Processes that answer questions, or walk episodes, side by side."""
    model_loader: Callable[[], NavilaForCausalLM] | None = None
    """Loads the model in another process, to which it is sent."""
    endpoint: Endpoint | None = None
    """Answers questions in place of a model here."""
    judge: Judge | None = None
    """Judges answers where the benchmark asks for it."""
    force: bool = False
    resume: bool = True
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a run came to."""

    path: Path
    """Folder of the run."""
    metrics: Mapping[str, float | None]
    """Headline figures by the names of `BenchmarkSpec.metrics`."""
    intervals: Mapping[str, Sequence[float] | None]
    """95 % confidence interval (low, high) of each."""
    count: int
    """Samples scored."""
    failed: int = 0
    """Samples that broke and were counted as failures."""
    content: Mapping[str, Any]
    """All of `results.json`."""
    written: str = ""
    """File in the folder that holds it, where that is another."""


class Benchmark(ABC):
    """A task `navila eval` runs; a plugin names its class as the `target` of a `BenchmarkSpec`."""

    shares: ClassVar[bool] = False
    """Whether processes that run it in one folder at the same time share its work."""
    asks_by: ClassVar[Sequence[str] | None] = ()
    """Options that decide what is asked, so that `rescore` cannot change them; all of them when None."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Benchmark:
        """An instance with a handful of small samples that needs no data on disk."""

    @abstractmethod
    def run(self, request: Request) -> Results:
        """Do what is asked, resuming what is in `request.output_dir`, and write `results.json` there last.

        Raises:
            NavilaError: data is missing, or the folder holds another run.
        """

    def rescore(self, folder: Path, judge: Judge | None = None) -> Results:
        """Score what a complete run recorded once more, without model or simulator.

        Raises:
            NavilaError: the run is not complete, or cannot be scored again.
        """
        raise ConfigError(f"{type(self).__name__} keeps no records that could be scored again.")

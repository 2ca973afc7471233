"""Tasks of `navila eval` during training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from navila.actions import Decoding
from navila.errors import ConfigError
from navila.plugins import default_host
from transformers import TrainerCallback

from navila_eval.benchmark import DATA_ROOT, Request
from navila_eval.runner import make_benchmark, run_label

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM


@dataclass(eq=False, kw_only=True)
class BenchmarkCallback(TrainerCallback):
    """Scores the model in training on a task (`navila.callbacks.Evaluator`); options as of `navila eval`."""

    task: str = "houses"
    split: str = ""
    """The task's default split when empty."""
    level: int | None = None
    """Short for the split `levelN`."""
    limit: int = 8
    """Samples or episodes."""
    data_root: str = str(DATA_ROOT)
    seed: int = 0
    batch_size: int = 8
    num_frames: int | None = None
    decoding: Decoding = "free"
    max_steps: int | None = None
    every: int = 1
    """Only at evaluations whose step is a multiple of it."""

    def __post_init__(self) -> None:
        spec = default_host().registry("benchmark").spec(self.task)
        self.split = self.split or (spec.default_split if self.level is None else f"level{self.level}")
        if self.split not in spec.splits:
            raise ConfigError(f"The task {self.task} has no split {self.split!r}: use one of {', '.join(spec.splits)}.")
        for name in ("limit", "batch_size", "every"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(
                    f"The callback benchmark takes a number as {name}, e.g. 4, not {getattr(self, name)!r}."
                )
        self.label = run_label(spec.name, self.split, spec.default_split)

    @classmethod
    def tiny(cls) -> BenchmarkCallback:
        """One short walk."""
        return cls(limit=1, max_steps=2)

    def evaluate(self, model: NavilaForCausalLM, *, step: int, output_dir: Path) -> Mapping[str, float | None]:
        """The task's figures as `TASK_METRIC`; records and report are in `output_dir/eval/step-N/TASK`."""
        if step % self.every:
            return {}
        results = make_benchmark(self.task, {}).run(
            Request(
                task=self.task,
                split=self.split,
                output_dir=output_dir / "eval" / f"step-{step}" / self.label,
                model_name=f"{output_dir.name} at step {step}",
                load_model=lambda: model,
                identity={"training": output_dir.name, "step": step},
                num_frames=self.num_frames,
                decoding=self.decoding,
                limit=self.limit,
                data_root=Path(self.data_root),
                seed=self.seed,
                batch_size=self.batch_size,
                max_steps=self.max_steps,
                # What an earlier training, or this one before it was interrupted, left there is of other weights.
                force=True,
                quiet=True,
            )
        )
        return {f"{self.label}_{name}": value for name, value in results.metrics.items()}

"""What a training callback may offer beyond `transformers.TrainerCallback`. Light."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM


@runtime_checkable
class Evaluator(Protocol):
    """A callback that scores the model in training, whenever `--eval_strategy` says so."""

    def evaluate(self, model: NavilaForCausalLM, *, step: int, output_dir: Path) -> Mapping[str, float | None]:
        """Figures by name; they stand in the log as `eval_NAME`.

        Called on the first process alone, with the model in evaluation mode and without gradients; random states and
        modes are put back afterwards. Files go below `output_dir/eval/step-N`.
        """
        ...

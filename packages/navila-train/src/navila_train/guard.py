"""Steps that would spoil the weights: found on all processes alike, left out, counted, and bounded."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from navila.errors import ConfigError, NavilaError

#: Losses whose running median a spike is measured against, and how many there must be.
WINDOW, ENOUGH = 64, 16
#: Samples that a sentence names.
NAMED = 8


class BadSteps(NavilaError):
    """Several steps in a row could not be trained on."""


class StepGuard:
    """Judges each step's loss and gradients; processes that see the same numbers come to the same end."""

    def __init__(self, *, max_bad_steps: int = 3, spike_factor: float = 0.0) -> None:
        """Stop after `max_bad_steps` in a row; bad is also a loss over `spike_factor` times the median, if not 0.

        Raises:
            ConfigError: a number makes no sense.
        """
        if max_bad_steps < 1:
            raise ConfigError(f"--max_bad_steps is {max_bad_steps}: give at least 1.")
        if spike_factor and not 1 < spike_factor < math.inf:
            raise ConfigError(f"--spike_factor is {spike_factor}: give more than 1, or 0 to allow any loss.")
        self.max_bad_steps = max_bad_steps
        self.spike_factor = spike_factor
        self.left_out = 0
        """Steps whose update was left out."""
        self.in_a_row = 0
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def judge_loss(self, losses: Sequence[float]) -> str:
        """Why the update must be left out, from every process's loss; empty if it need not."""
        if not all(math.isfinite(loss) for loss in losses):
            ranks = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
            return f"loss {losses[ranks[0]]}" + (f" on rank {ranks[0]}" if len(losses) > 1 else "")
        loss = fmean(losses)
        if self.spike_factor and len(self._recent) >= ENOUGH and loss > self.spike_factor * median(self._recent):
            return f"loss {loss:.4g}, over {self.spike_factor:g} times the median {median(self._recent):.4g}"
        return ""

    def note(self, why: str, losses: Sequence[float]) -> None:
        """Count a step, which was left out for `why` unless that is empty."""
        if why:
            self.left_out += 1
            self.in_a_row += 1
        else:
            self.in_a_row = 0
            self._recent.append(fmean(losses))

    def require_good(self, why: str, step: int, samples: Sequence[str]) -> None:
        """Stop if there were too many bad steps in a row.

        Raises:
            BadSteps: there were.
        """
        if self.in_a_row >= self.max_bad_steps:
            raise BadSteps(
                f"Training stopped at step {step}: {self.in_a_row} steps in a row could not be trained on ({why}), the "
                f"last with samples {named(samples)}; look at them with `navila data preview`, lower --learning_rate, "
                "or allow more with --max_bad_steps."
            )

    def state(self) -> dict[str, Any]:
        """What must be remembered in a checkpoint."""
        return {"left_out": self.left_out, "in_a_row": self.in_a_row, "recent": list(self._recent)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.left_out, self.in_a_row = int(state["left_out"]), int(state["in_a_row"])
        self._recent.extend(float(loss) for loss in state["recent"])


def named(samples: Sequence[str]) -> str:
    """The first samples, and how many more there are."""
    more = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
    return ", ".join(samples[:NAMED]) + more

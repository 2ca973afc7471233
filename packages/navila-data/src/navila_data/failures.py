"""One policy for broken media and records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from navila.errors import ConfigError, DataError

Policy = Literal["raise", "skip", "mask"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A sample that could not be read, and why, in one sentence."""

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BatchNotes:
    """What became of the samples of a batch."""

    samples: int
    """How many are in it."""
    shortened: int
    """How many of them were longer than the model takes, and lost history frames or late turns."""
    failures: tuple[Failure, ...]
    frames: Mapping[str, int] = field(default_factory=dict)
    """Where its frames came from (`FrameStore.take_counts`)."""


class FailureLog:
    """Counts what became of samples, and stops the run when broken ones pass `bound` of the data.

    `raise` stops at the first one; `skip` leaves the sample out of its batch; `mask` keeps it with black frames and no
    label, so that batches keep their size.
    """

    def __init__(self, policy: Policy, *, total: int, bound: float = 0.01) -> None:
        if policy not in get_args(Policy):
            raise ConfigError(f"Unknown policy for broken data {policy!r}: choose {', '.join(get_args(Policy))}.")
        if not 0 <= bound <= 1:
            raise ConfigError(f"The bound of broken data is {bound}: give a share of the samples, from 0 to 1.")
        self.policy: Policy = policy
        self.total = total
        self.bound = bound
        self.samples = 0
        self.shortened = 0
        self.frames = Counter[str]()
        self.failures: dict[str, str] = {}
        self.refused = ""
        """Why the first broken sample could not be read, where the policy is `raise`."""

    def note(self, notes: BatchNotes) -> None:
        """Count a batch; a broken sample that comes again in a later epoch counts once.

        Raises:
            DataError: a sample is broken and the policy is `raise`, or more than `bound` of all samples are.
        """
        self.count(notes)
        self.require_few()

    def count(self, notes: BatchNotes) -> None:
        """Count a batch, whatever is wrong with it."""
        self.samples += notes.samples
        self.shortened += notes.shortened
        self.frames.update(notes.frames)
        for failure in notes.failures:
            self.failures[failure.where] = failure.reason
            self.refused = self.refused or (failure.reason if self.policy == "raise" else "")

    def require_few(self) -> None:
        """Raises as `note`, for what was counted."""
        if self.refused:
            raise DataError(self.refused)
        if len(self.failures) > self.bound * self.total:
            worst = " ".join(list(self.failures.values())[:5])
            raise DataError(
                f"{len(self.failures)} of {self.total} samples are broken, more than {self.bound:.0%}: {worst}"
            )

    def to_dict(self) -> dict[str, Any]:
        """What was counted, as plain data for JSON."""
        return {
            "samples": self.samples,
            "shortened": self.shortened,
            "frames": dict(self.frames),
            "failures": self.failures,
            "refused": self.refused,
        }

    def add(self, counted: Mapping[str, Any]) -> None:
        """Add what another log counted (`to_dict`), of another process or before an interruption."""
        self.samples += counted["samples"]
        self.shortened += counted["shortened"]
        self.frames.update(counted["frames"])
        self.failures |= counted["failures"]
        self.refused = self.refused or counted.get("refused", "")

"""What `navila data check` finds, and how grave it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from navila_data.media import Medium

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of problem."""

    severity: Severity
    title: str


KINDS: dict[str, Kind] = {
    "dataset": Kind(severity="error", title="Datasets that cannot be opened"),
    "json": Kind(severity="error", title="Records that are no JSON objects"),
    "record": Kind(severity="error", title="Records that make no sample"),
    "missing": Kind(severity="error", title="Files that are missing"),
    "corrupt": Kind(severity="error", title="Files that are damaged"),
    "length": Kind(severity="error", title="Samples longer than the model takes"),
    "leak": Kind(severity="error", title="Samples whose frames are in the other mixture too"),
    "header": Kind(severity="warning", title="Videos whose header counts other frames than they have"),
    "answer": Kind(severity="warning", title="Navigation answers that are none of the ten"),
    "motion": Kind(severity="warning", title="Turns whose next frame shows the opposite turn"),
    "shared": Kind(severity="warning", title="Samples that are in several datasets"),
    "duplicate": Kind(severity="warning", title="Samples that occur more than once"),
    "balance": Kind(severity="warning", title="Answers that never occur"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One problem, and where it is."""

    kind: str
    """A key of `KINDS`."""
    source: str
    """Dataset."""
    file: str = ""
    """Annotation file, or folder of a dataset that cannot be opened."""
    record: int | None = None
    """Number of the record in its dataset, from 0; of a file of pictures, the first record that shows it."""
    line: int | None = None
    """Line of the annotation file on which the record begins, from 1."""
    medium: str = ""
    """File of pictures, where that is what is wrong."""
    reason: str
    confidence: float | None = None
    """0 to 1, where it is a guess."""
    pictures: tuple[Medium, ...] = ()
    """What a report shows of it."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        told = {name: getattr(self, name) for name in ("kind", "source", "file", "record", "line", "medium", "reason")}
        if self.confidence is not None:
            told["confidence"] = round(self.confidence, 3)
        return {"severity": KINDS[self.kind].severity} | {k: v for k, v in told.items() if v not in (None, "")}

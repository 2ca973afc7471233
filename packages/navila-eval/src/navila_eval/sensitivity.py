"""Does it matter what the agent is told? Two runs over the same episodes under different instructions."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila_eval.benchmark import MODEL_AGENTS
from navila_eval.breakdowns import FIGURES
from navila_eval.navigation_metrics import HEADLINE
from navila_eval.run_folder import RECORDS, RunFolder
from navila_eval.statistics import paired_difference
from navila_eval.walk import measures

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How walks differ that were told different things."""

    episodes: int
    """Walked in both runs under different instructions."""
    same_walk: float
    """Share of them in which both took the very same primitives."""
    same_start: float
    """Share of them in which both began with the same action."""
    first_difference: float | None
    """Median of the primitives executed before the two parted, where they did."""
    end_apart: float
    """Mean distance between their ends, metres."""
    differences: Mapping[str, tuple[float, tuple[float, float]]]
    """Second less first with its 95 % interval, of each figure."""


def sensitivity(first: Path, second: Path) -> Sensitivity | None:
    """Compare the episodes of two runs that were told something else; None where there are none."""
    if not all((folder / RECORDS).is_file() for folder in (first, second)):
        return None
    one, two = RunFolder(first).records(), RunFolder(second).records()
    pairs = [
        (a, b)
        for name, a in one.items()
        if (b := two.get(name)) is not None
        and a["instruction"] != b["instruction"]
        and a["episode_instruction"] == b["episode_instruction"]
        and "failed" not in (a["outcome"], b["outcome"])
    ]
    if not pairs:
        return None
    parted = [step for a, b in pairs if (step := _parted(a, b)) is not None]
    starts = [a["decisions"][0]["primitives"] == b["decisions"][0]["primitives"] for a, b in pairs]
    apart = [math.dist(a["positions"][-1], b["positions"][-1]) for a, b in pairs]
    return Sensitivity(
        episodes=len(pairs),
        same_walk=1 - len(parted) / len(pairs),
        same_start=sum(starts) / len(pairs),
        first_difference=statistics.median(parted) if parted else None,
        end_apart=sum(apart) / len(apart),
        differences=_differences(pairs),
    )


def misled(folder: Path) -> bool:
    """Whether the agent of a run is one that is told something else, where its instructions allow it."""
    return RunFolder(folder).run().get("agent") in MODEL_AGENTS[1:]


def _parted(first: Mapping[str, Any], second: Mapping[str, Any]) -> int | None:
    """Primitives before two walks differ; None where they do not."""
    both = itertools.zip_longest(first["primitives"], second["primitives"])
    return next((step for step, (a, b) in enumerate(both) if a != b), None)


def _differences(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> dict[str, tuple[float, tuple[float, float]]]:
    found = {}
    for name in FIGURES:
        values = [(measures(a)[HEADLINE[name]], measures(b)[HEADLINE[name]]) for a, b in pairs]
        values = [pair for pair in values if all(map(math.isfinite, pair))]
        if values:
            found[name] = paired_difference([b for _, b in values], [a for a, _ in values])
    return found


def sentence(found: Sensitivity) -> str:
    """What `compare` says of walks."""
    text = (
        f"{found.episodes} episodes were told something else: {found.same_walk:.0%} walked the same, "
        f"{found.same_start:.0%} began the same"
    )
    if found.first_difference is not None:
        text += (
            f"; the others parted after {found.first_difference:g} primitives (median), and all ended "
            f"{found.end_apart:.1f} m apart (mean)"
        )
    return f"{text}."


def sensitivity_table(found: Sensitivity) -> Table:
    """What `compare` shows of figures."""
    from rich.table import Table

    table = Table("metric", "difference", "95 % interval", title="told something else", title_justify="left")
    for name, (difference, (low, high)) in found.differences.items():
        sure = "" if low <= 0 <= high else " *"
        table.add_row(name, f"{difference:+.3f}{sure}", f"{low:+.3f} to {high:+.3f}")
    return table

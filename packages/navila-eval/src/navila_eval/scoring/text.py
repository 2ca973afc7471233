"""Small operations on text that several scorers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def edit_distance(first: str, second: str) -> int:
    """Least number of inserted, deleted and replaced characters between two texts (Levenshtein, 1966)."""
    row = list(range(len(second) + 1))
    for index, character in enumerate(first, start=1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(second, start=1):
            cost = diagonal + (character != other)
            diagonal, row[column] = row[column], min(cost, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def to_float(text: str) -> float | None:
    """The number a text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def mean(values: Sequence[float]) -> float:
    """Mean of scores; 0 of none."""
    return sum(values) / len(values) if values else 0.0


def means_by_group(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean score of each group, and of all together as `overall` (ChartQA's splits, CinePile's categories)."""
    groups: dict[str, list[float]] = {}
    for group, score in rows:
        groups.setdefault(group, []).append(score)
    everything = [score for scores in groups.values() for score in scores]
    return {"overall": mean(everything)} | {group: mean(scores) for group, scores in groups.items()}

"""Top-down maps for reports: the floor as an image, paths over it as SVG."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from navila.pages import image_uri

from navila_eval.pictures import KeptMap
from navila_eval.walk import Record

#: Colours of agents wherever they are shown, and of runs that are called otherwise, such as by their models.
_COLOURS = {
    "model": "#2f7bf0",
    "wrong-instruction": "#f0883e",
    "random": "#8b93a1",
    "expert": "#2ea56a",
}
_FURTHER = ("#a560e8", "#2f7bf0", "#f0883e", "#14a3a8", "#d6457f", "#a08b1c", "#8b93a1", "#7a4b2a")


#: Length of a map's longer side in units of its drawing.
SIDE = 100


def run_colours(names: Sequence[str]) -> dict[str, str]:
    """Colours of runs in tables and on maps, each its own while there are as many."""
    known = {name: colour for name in names if (colour := _COLOURS.get(name.replace("_", "-")))}
    further = itertools.cycle([colour for colour in _FURTHER if colour not in known.values()])
    return {name: known.get(name) or next(further) for name in names}


def map_point(facts: Mapping[str, Any], position: Sequence[float]) -> tuple[float, float]:
    """Place (across, down) of a position on the map, whose longer side is `SIDE` long."""
    column, row = pixel(facts, position)
    return column * _scale(facts), row * _scale(facts)


def pixel(facts: Mapping[str, Any], position: Sequence[float]) -> tuple[float, float]:
    """Place (across, down) of a position on the map in its pixels."""
    x, _, z = position
    column = (x - facts["origin"][0]) / facts["resolution"]
    row = (z - facts["origin"][1]) / facts["resolution"]
    # A position at the centre of pixel 0 is half a pixel from the map's edge.
    return column + 0.5, row + 0.5


def define_floor(kept: KeptMap) -> str:
    """An SVG image that the maps of all walks on this floor show."""
    width, height = _size(kept.facts)
    return (
        f'<image id="{kept.key}" href="{image_uri(kept.jpeg)}" width="{width:.1f}" height="{height:.1f}" '
        'preserveAspectRatio="none"/>'
    )


def draw_map(kept: KeptMap, walks: Mapping[str, Record], colours: Mapping[str, str] | None = None) -> str:
    """An SVG figure: the floor, the goal with its success radius, the start, the expert's path and those taken.

    Args:
        kept: the floor.
        walks: by the names of their runs, at least one.
        colours: of the runs; those of `run_colours` by default.
    """
    facts = kept.facts
    colours = colours or run_colours(list(walks))
    lead = next(iter(walks.values()))
    goals = [map_point(facts, goal) for goal in lead["goals"]]
    radius = lead["success_distance"] / facts["resolution"] * _scale(facts)
    star = _star(*(sum(axis) / len(goals) for axis in zip(*goals, strict=True)), size=3.2) if goals else ""
    # The expert's walk is its path once more, where there is one on record.
    shown = {agent: walk for agent, walk in walks.items() if agent != "expert" or not lead["gt_locations"]}
    taken = [_taken(agent, colours[agent], facts, walk["positions"]) for agent, walk in shown.items()]
    width, height = _size(facts)
    whole = f"0 0 {width:.1f} {height:.1f}"
    points = [*goals, *(map_point(facts, p) for walk in walks.values() for p in walk["positions"])]
    return (
        f'<figure class="map"><svg viewBox="{_close_up(points, width, height)}" data-other="{whole}" role="img">'
        "<title>map from above</title>"
        f'<use href="#{kept.key}"/>'
        f'<g class="reach">{"".join(_circle("", goal, radius) for goal in goals)}</g>'
        f"{_polyline('reference', _COLOURS['expert'], facts, lead['gt_locations'])}"
        f"{''.join(reversed(taken))}"
        f"{_circle('start', map_point(facts, lead['positions'][0]), 1.6) if lead['positions'] else ''}"
        f"{star}"
        f"{''.join(_landmark(facts, mark) for mark in facts['landmarks'])}"
        f"{_circle('here', (-9, -9), 2.4)}</svg></figure>"
    )


def _scale(facts: Mapping[str, Any]) -> float:
    return SIDE / max(facts["width"], facts["height"])


def _close_up(points: Sequence[tuple[float, float]], width: float, height: float) -> str:
    """View box round the points with a margin, square where the map allows it."""
    (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    side = max(right - left, bottom - top) + 0.3 * SIDE
    across, down = min(side, width), min(side, height)
    x = min(max((left + right - across) / 2, 0), width - across)
    y = min(max((top + bottom - down) / 2, 0), height - down)
    return f"{x:.1f} {y:.1f} {across:.1f} {down:.1f}"


def _size(facts: Mapping[str, Any]) -> tuple[float, float]:
    return facts["width"] * _scale(facts), facts["height"] * _scale(facts)


def _landmark(facts: Mapping[str, Any], mark: Mapping[str, Any]) -> str:
    """An invisible spot that says what stands there when pointed at."""
    return _circle("landmark", map_point(facts, mark["position"]), 3, title=mark["name"])


def _taken(agent: str, colour: str, facts: Mapping[str, Any], positions: Sequence[Sequence[float]]) -> str:
    if not positions:
        return ""
    end = _circle("end", map_point(facts, positions[-1]), 1.4, fill=colour)
    return f"<g><title>{html.escape(agent)}</title>{_polyline('taken', colour, facts, positions)}{end}</g>"


def _polyline(kind: str, colour: str, facts: Mapping[str, Any], positions: Sequence[Sequence[float]]) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*map_point(facts, position)) for position in positions)
    return f'<polyline class="halo" points="{points}"/><polyline class="{kind}" points="{points}" stroke="{colour}"/>'


def _circle(kind: str, centre: tuple[float, float], radius: float, *, fill: str = "", title: str = "") -> str:
    colour = f' fill="{fill}"' if fill else ""
    inside = f"<title>{html.escape(title)}</title>" if title else ""
    return (
        f'<circle class="{kind}" cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{radius:.1f}"{colour}>{inside}</circle>'
    )


def _star(x: float, y: float, size: float) -> str:
    """A four-pointed star round a point."""
    inner = 0.38 * size
    corners = [(0, -size), (inner, -inner), (size, 0), (inner, inner)]
    corners += [(-dx, -dy) for dx, dy in corners]
    return '<path class="goal" d="M' + " L".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners) + 'Z"/>'

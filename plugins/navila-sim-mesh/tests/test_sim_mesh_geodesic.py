"""Geodesic distances against lengths known from geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from navila_sim_mesh.geodesic import VisibilityGraph
from navila_sim_mesh.navigation import CELL, FloorGrid
from scipy import sparse
from scipy.sparse import csgraph

RADIUS = 0.1


def floor(side: float, blocks: list[tuple[float, float, float, float]]) -> FloorGrid:
    """A square room from (0, 0) to (side, side) without the blocks (x0, z0, x1, z1)."""
    cells = round(side / CELL)
    free = np.zeros((cells + 4, cells + 4), np.bool_)
    free[2:-2, 2:-2] = True
    for x0, z0, x1, z1 in blocks:
        x, z = (slice(round(a / CELL) + 2, round(b / CELL) + 2) for a, b in ((x0, x1), (z0, z1)))
        free[z, x] = False
    origin = (-1.5 * CELL, -1.5 * CELL)
    return FloorGrid.build(origin=origin, free=free, height=np.zeros(free.shape, np.float32), radius=RADIUS)


def round_corner(leg_x: float, leg_z: float) -> float:
    """From a point to the line through a corner (leg_x, leg_z) away, round a disc of RADIUS about the corner."""
    away = math.hypot(leg_x, leg_z)
    turn = math.atan2(leg_z, leg_x) + math.asin(RADIUS / away)
    return math.sqrt(away**2 - RADIUS**2) + RADIUS * turn


def test_across_an_empty_room_the_distance_is_the_straight_line() -> None:
    graph = VisibilityGraph(floor(10, []))
    rng = np.random.default_rng(0)
    for (x0, z0), (x1, z1) in rng.uniform(0.2, 9.8, (200, 2, 2)).tolist():
        assert graph.distance(graph.field([(x1, z1)]), (x0, z0)) == pytest.approx(
            math.dist((x0, z0), (x1, z1)), rel=1e-9
        )


@pytest.mark.parametrize("depth", [3.0, 5.0, 8.0])
def test_round_one_block_the_distance_is_right_to_one_percent(depth: float) -> None:
    graph = VisibilityGraph(floor(10, [(4, 0, 6, depth)]))
    exact = 2 * round_corner(2.0, depth - 1.0) + 2.0
    assert graph.distance(graph.field([(8.0, 1.0)]), (2.0, 1.0)) == pytest.approx(exact, rel=0.01)


def test_the_shorter_way_round_is_taken() -> None:
    graph = VisibilityGraph(floor(10, [(3, 2.0, 7, 9.0)]))
    path = graph.path(graph.field([(8.0, 5.0)]), (2.0, 5.0))
    assert path[0] == (2.0, 5.0)
    assert path[-1] == (8.0, 5.0)
    assert min(z for _, z in path) < 2.0


def test_the_nearest_goal_counts_and_a_closed_room_is_out_of_reach() -> None:
    graph = VisibilityGraph(floor(10, [(0, 4, 10, 4.5)]))
    near, far, behind = (3.0, 1.0), (9.0, 1.0), (3.0, 8.0)
    assert graph.distance(graph.field([far, near, behind]), (1.0, 1.0)) == pytest.approx(2.0)
    assert graph.distance(graph.field([behind]), (1.0, 1.0)) == math.inf
    assert graph.path(graph.field([behind]), (1.0, 1.0)) == []


@pytest.mark.parametrize("seed", [0, 3])
def test_in_clutter_distances_lie_between_those_of_two_grids(seed: int) -> None:
    # An independent check: steps to 32 neighbours overestimate by at most 1.3 %. The one grid may cut the corners of
    # blocked cells, so it is too long by no more than that; the other keeps away from them, so it is never too short.
    rng = np.random.default_rng(seed)
    corners = np.round(rng.uniform(0.5, 7, (12, 2)) / CELL) * CELL
    clutter = [(x, z, x + w, z + d) for (x, z), (w, d) in zip(corners, rng.uniform(0.3, 1.5, (12, 2)), strict=True)]
    grid = floor(8, clutter)
    graph = VisibilityGraph(grid)
    rows, columns = np.nonzero(graph.regions == np.bincount(graph.regions.ravel())[1:].argmax() + 1)
    picks = rng.integers(len(rows), size=40)
    start = (int(rows[picks[0]]), int(columns[picks[0]]))
    short = lattice_distances(grid.walkable, start, cut_corners=True)
    long = lattice_distances(grid.walkable, start, cut_corners=False)
    field = graph.field([(grid.origin[0] + start[1] * CELL, grid.origin[1] + start[0] * CELL)])
    for pick in picks[1:]:
        row, column = int(rows[pick]), int(columns[pick])
        distance = graph.distance(field, (grid.origin[0] + column * CELL, grid.origin[1] + row * CELL))
        assert short[row, column] / 1.014 - 1e-9 <= distance <= long[row, column] + 1e-9


def lattice_distances(walkable: np.ndarray, start: tuple[int, int], *, cut_corners: bool) -> np.ndarray:
    """Distances in metres from a cell over straight steps to 32 neighbours."""
    number = np.arange(walkable.size).reshape(walkable.shape)
    inner = np.zeros_like(walkable)
    inner[3:-3, 3:-3] = walkable[3:-3, 3:-3]
    steps = [(r, c) for r in range(4) for c in range(-3, 4) if math.gcd(r, c) == 1 and (r > 0 or c > 0)]
    data, a, b = [], [], []
    for dr, dc in steps:
        pieces = max(abs(dr), abs(dc))
        if cut_corners:
            cells = [(round(dr * k / pieces), round(dc * k / pieces)) for k in range(pieces + 1)]
        else:
            cells = [(r, int(math.copysign(c, dc))) for r in range(dr + 1) for c in range(abs(dc) + 1)]
        free = np.logical_and.reduce([np.roll(inner, (-r, -c), (0, 1)) for r, c in cells])
        a.append(number[free])
        b.append(np.roll(number, (-dr, -dc), (0, 1))[free])
        data.append(np.full(int(free.sum()), math.hypot(dr, dc) * CELL))
    graph = sparse.coo_array((np.concatenate(data), (np.concatenate(a), np.concatenate(b))), shape=(walkable.size,) * 2)
    return csgraph.dijkstra(graph.tocsr(), directed=False, indices=int(number[start])).reshape(walkable.shape)

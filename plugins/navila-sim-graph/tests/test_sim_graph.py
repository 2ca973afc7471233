"""The simulator of connectivity graphs: its contract, and walks over drawn and real graphs."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.connectivity import ConnectivityGraph, ConnectivityGraphs, graph_of
from navila.embodiments import embodiment
from navila.errors import ConfigError, DataError, SceneError
from navila.r2r import rotation_of_heading
from navila.simulation import Embodiment, Episode, Position
from navila.testing import SimulatorContract
from navila_sim_graph.motion import exits, headings
from navila_sim_graph.simulator import TINY_SCENE, GraphSimulator
from navila_sim_graph.ways import Ways

STOP, FORWARD, LEFT, RIGHT = range(4)


def task(scene: str, start: Position, goal: Position, yaw: float = 0.0, **changes: Any) -> Episode:
    facts: dict[str, Any] = {"episode_id": "1", "scene_id": scene, "start_position": start, "goals": (goal,)}
    return Episode(**facts | {"start_rotation": rotation_of_heading(-yaw)} | changes)


class TestGraph(SimulatorContract):
    name = "graph"

    @pytest.fixture
    def episode(self, tiny: GraphSimulator) -> Episode:
        return task(TINY_SCENE, (0.0, 0.0, 0.0), (6.0, 1.5, -3.0), yaw=0.1)


def brute_force(graph: ConnectivityGraph) -> dict[tuple[str, str], float]:
    """Floyd and Warshall's all pairs."""
    names = sorted(graph.positions)
    metres = {(a, b): 0.0 if a == b else graph.neighbours[a].get(b, math.inf) for a in names for b in names}
    for middle, a, b in itertools.product(names, names, names):
        metres[a, b] = min(metres[a, b], metres[a, middle] + metres[middle, b])
    return metres


def drawn_graph(seed: int) -> ConnectivityGraph:
    """Viewpoints thrown on two storeys, each joined with its nearest."""
    rng = random.Random(seed)
    points: dict[str, Position] = {
        f"v{n:02d}": (rng.uniform(0, 10), 2.5 * (n % 2), rng.uniform(0, 10)) for n in range(24)
    }
    edges = [(a, b) for a in points for b in sorted(points, key=lambda b, a=a: math.dist(points[a], points[b]))[1:5]]
    return graph_of(f"drawn{seed}", points, edges)


def walk(sim: GraphSimulator, episode: Episode, radius: float) -> tuple[list[Position], int]:
    """Positions of the expert, and how often it collided."""
    seen, collisions = sim.reset(episode), 0
    positions = [seen.position]
    while not seen.done and len(positions) <= 500:
        seen = sim.step(sim.expert_action(episode.goals[0], radius))
        positions.append(seen.position)
        collisions += seen.collided
    assert seen.done
    return positions, collisions


def length(path: list[Position] | tuple[Position, ...]) -> float:
    return sum(itertools.starmap(math.dist, itertools.pairwise(path)))


@pytest.mark.parametrize("profile", ["navila", "rxr-official"])
def test_distances_are_brute_forces_and_the_expert_walks_them_to_the_millimetre(profile: str) -> None:
    body = embodiment(profile)
    for seed in range(3):
        graph = drawn_graph(seed)
        sim = GraphSimulator(body, {graph.scan: graph})
        sim.render_images = False
        metres = brute_force(graph)
        rng = random.Random(seed)
        for _ in range(6):
            a, b = rng.sample(sorted(graph.positions), 2)
            if math.isinf(metres[a, b]):
                with pytest.raises(SceneError, match="can be reached"):
                    sim.reset(task(graph.scan, graph.positions[a], graph.positions[b]))
                continue
            episode = task(graph.scan, graph.positions[a], graph.positions[b], yaw=rng.uniform(0, 6.28))
            positions, collisions = walk(sim, episode, 0.1)
            assert sim.geodesic(positions[0], episode.goals) == pytest.approx(metres[a, b], abs=1e-9)
            assert sim.geodesic(positions[-1], episode.goals) <= 0.06 + 1e-9
            assert length(positions) == pytest.approx(metres[a, b], abs=0.1 + 1e-9), "not a step astray"
            assert length(sim.shortest_path(positions[0], episode.goals[0])) == pytest.approx(metres[a, b], abs=1e-9)
            # Between viewpoints: as far as the nearer way round its own edge says.
            for position in positions[1:-1:7]:
                there = length(sim.shortest_path(position, episode.goals[0]))
                assert sim.geodesic(position, episode.goals) == pytest.approx(there, abs=1e-9)
            assert collisions == 0 or profile == "rxr-official"


def test_of_two_ways_in_one_direction_both_are_taken() -> None:
    """A step towards the one nearest to the view would never lead to the other."""
    points = {"a": (0.0, 0.0, 0.0), "near": (0.02, 0.0, -2.0), "far": (0.06, 0.0, -6.0), "side": (3.0, 0.0, 0.0)}
    graph = graph_of("s", points, [("a", "near"), ("a", "far"), ("a", "side")])
    for turn in (15.0, 30.0):
        body = Embodiment(turn_angle=turn)
        ways = exits(Ways(graph), "a", 0.0, body)
        assert sorted(ways.values()) == ["far", "near", "side"]
        assert ways[headings(body) * 3 // 4] == "side", "90 degrees to the right"
        for goal in ("near", "far"):
            sim = GraphSimulator(body, {"s": graph})
            positions, _ = walk(sim, task("s", points["a"], points[goal]), 0.1)
            assert length(positions) == pytest.approx(math.dist(points["a"], points[goal]), abs=0.07)


def test_more_ways_than_headings_are_all_taken() -> None:
    points = {"hub": (0.0, 0.0, 0.0)}
    points |= {f"w{n}": (3 * math.sin(0.4 * n), 0.0, -3 * math.cos(0.4 * n)) for n in range(15)}
    graph = graph_of("s", points, [("hub", name) for name in points if name != "hub"])
    sim = GraphSimulator(embodiment("rxr-official"), {"s": graph})
    sim.render_images = False
    for name, goal in points.items():
        if name != "hub":
            positions, collisions = walk(sim, task("s", points["hub"], goal, yaw=0.2), 0.1)
            assert (positions[-1], collisions) == (goal, 0)
            assert length(positions) == pytest.approx(3.0)


def test_off_its_ways_a_body_slides_or_stands() -> None:
    points = {"a": (0.0, 0.0, 0.0), "b": (0.0, 0.0, -4.0)}
    graph = graph_of("s", points, ["ab"])
    for sliding in (True, False):
        sim = GraphSimulator(Embodiment(sliding=sliding), {"s": graph})
        start = sim.reset(task("s", points["a"], points["b"], yaw=math.radians(60)))
        seen = sim.step(FORWARD)
        assert seen.collided
        assert math.dist(seen.position, start.position) == pytest.approx(0.125 if sliding else 0.0)
        for _ in range(4):
            sim.step(RIGHT)
        ahead = [sim.step(FORWARD) for _ in range(17)]
        assert not any(seen.collided for seen in ahead[:15])
        assert ahead[-1].position == points["b"], "a step ends at the next viewpoint"


def test_the_picture_shows_what_lies_ahead() -> None:
    points = {"a": (0.0, 0.0, 0.0), "b": (0.0, 0.0, -4.0)}
    sim = GraphSimulator(Embodiment(width=64, height=64), {"s": graph_of("s", points, ["ab"])})
    ahead = sim.reset(task("s", points["a"], points["b"])).rgb
    below = ahead[63, 32].astype(int) - ahead[63, 5]
    assert below.min() > 50, "the way, lighter than the floor beside it"
    for _ in range(12):
        behind = sim.step(LEFT).rgb
    assert np.array_equal(behind[63, 32], behind[63, 5])


def test_starts_off_the_graph_and_unusable_bodies_are_one_sentence(tmp_path: Path) -> None:
    sim = GraphSimulator.tiny()
    with pytest.raises(SceneError, match="off the graph of 'tiny'"):
        sim.reset(task(TINY_SCENE, (9.0, 9.0, 9.0), (0.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match="not by 25"):
        GraphSimulator(Embodiment(turn_angle=25.0), {})
    with pytest.raises(ConfigError, match="no depth"):
        GraphSimulator(Embodiment(depth=True), {})
    with pytest.raises(DataError, match="Matterport3DSimulator"):
        GraphSimulator(scene_root=tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="no graph of the scan 'tiny'"):
        GraphSimulator(scene_root=tmp_path).reset(task(TINY_SCENE, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))


def test_real_graphs_are_walked_along_their_shortest_ways(navigation_data: Path) -> None:
    """Paths as R2R drew them: shortest, 5 to 20 m and 4 to 7 edges long, in scans of all splits."""
    graphs = ConnectivityGraphs(navigation_data / "mp3d_connectivity.json.gz")
    rng = random.Random(0)
    sim = GraphSimulator(Embodiment(), navigation_data / "mp3d_connectivity.json.gz")
    sim.render_images = False
    walked = 0
    for scan in ("zsNo4HB9uLZ", "oLBMNvg9in8", "2azQ1b91cZZ", "17DRP5sb8fy"):
        graph = graphs[scan]
        for _ in range(12):
            a, b = rng.sample(sorted(graph.positions), 2)
            path = graph.shortest_path(a, b)
            metres = length([graph.positions[viewpoint] for viewpoint in path])
            if not (5 <= metres <= 20 and 5 <= len(path) <= 8):
                continue
            positions, collisions = walk(sim, task(scan, graph.positions[a], graph.positions[b], rng.random()), 0.2)
            assert sim.geodesic(positions[0], [positions[-1]]) == pytest.approx(length(positions), abs=1e-6)
            assert length(positions) == pytest.approx(metres, abs=0.13)
            assert collisions == 0
            walked += 1
    assert walked > 10

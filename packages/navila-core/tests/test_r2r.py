"""R2R's and RxR's own files and Matterport's graphs, as episodes; embodiments by name."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from navila.connectivity import CAMERA_HEIGHT, ConnectivityGraphs
from navila.embodiments import EMBODIMENTS, embodiment
from navila.episodes import language_of, read_episodes, write_episodes
from navila.errors import ConfigError, DataError
from navila.r2r import densified, is_r2r, read_r2r

#: Viewpoints of a scan in Matterport's axes (z up), cameras 1.4 m above the floor.
CAMERAS = {"a": (0.0, 0.0, 1.4), "b": (3.0, 0.0, 1.4), "c": (3.0, 4.0, 1.4), "d": (3.0, 4.0, 4.4), "x": (9.0, 9.0, 1.4)}


def matterport(folder: Path) -> Path:
    """`connectivity/s_connectivity.json` as Matterport3D's simulator ships it: a-b-c-d, and x, which is left out."""
    names = list(CAMERAS)

    def view(name: str) -> dict[str, Any]:
        x, y, z = CAMERAS[name]
        near = [abs(names.index(name) - other) == 1 for other in range(len(names))]
        return {
            "image_id": name,
            "pose": [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z, 0, 0, 0, 1],
            "included": name != "x",
            "visible": [True] * len(names),
            "unobstructed": near,
            "height": 1.4,
        }

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s_connectivity.json").write_text(json.dumps([view(name) for name in names]))
    return folder


def record(**changes: Any) -> dict[str, Any]:
    facts = {"scan": "s", "path_id": 7, "path": ["a", "b", "c"], "heading": math.pi / 2, "distance": 7.0}
    return facts | {"instructions": ["Go on.", "Turn left at the end."]} | changes


def written(folder: Path, records: Any, name: str = "R2R_val.json") -> Path:
    (folder / name).write_text(json.dumps(records))
    return folder / name


def test_paths_of_viewpoints_become_episodes_in_habitats_axes(tmp_path: Path) -> None:
    graphs = ConnectivityGraphs(matterport(tmp_path / "connectivity"))
    first, second = read_r2r(written(tmp_path, [record()]), graphs)
    assert (first.episode_id, second.episode_id, first.trajectory_id) == ("7_0", "7_1", "7")
    assert (first.scene_id, second.instruction) == ("mp3d/s/s.glb", "Turn left at the end.")
    # North, y there, is -z here; the floor is the height of the tripod below the camera.
    assert first.reference_path == ((0.0, 0.0, 0.0), (3.0, 0.0, 0.0), (3.0, 0.0, -4.0))
    assert first.goals == ((3.0, 0.0, -4.0),)
    assert first.geodesic_distance == pytest.approx(7.0)
    # A heading of 90 degrees looks east, along +x.
    _, y, _, w = first.start_rotation
    forward = (-2 * y * w, -(1 - 2 * y * y))
    assert forward == pytest.approx((1.0, 0.0), abs=1e-9)
    assert len(first.gt_locations) == 1 + 12 + 16
    assert all(math.dist(p, q) <= 0.25 + 1e-9 for p, q in itertools.pairwise(first.gt_locations))
    assert set(first.reference_path) <= set(first.gt_locations)


def test_they_are_written_and_read_as_vln_ces(tmp_path: Path) -> None:
    source = written(tmp_path, [record()])
    episodes = read_r2r(source, ConnectivityGraphs(matterport(tmp_path / "connectivity")))
    write_episodes(tmp_path / "val.json.gz", episodes)
    assert is_r2r(source)
    assert not is_r2r(tmp_path / "val.json.gz")
    for episode, again in zip(episodes, read_episodes(tmp_path / "val.json.gz"), strict=True):
        assert again.reference_path == episode.reference_path
        assert again.gt_locations == episode.gt_locations
        assert again.geodesic_distance == episode.geodesic_distance


def test_rxrs_lines_keep_language_and_id_and_starts_alone_have_no_goal(tmp_path: Path) -> None:
    graphs = ConnectivityGraphs(matterport(tmp_path / "connectivity"))
    lines = [
        record(instruction="Chalo.", instruction_id=12, language="hi-IN"),
        record(instruction="Stay.", instruction_id=13, language="en-US", path=["d"]),
    ]
    for line in lines:
        del line["instructions"]
    file = tmp_path / "rxr.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert is_r2r(file)
    first, alone = read_r2r(file, graphs)
    assert (first.episode_id, language_of(first), language_of(alone)) == ("12", "hi-IN", "en-US")
    assert (alone.goals, alone.gt_locations, alone.geodesic_distance) == ((), (), None)
    assert alone.start_position == pytest.approx((3.0, 3.0, -4.0))


def test_a_file_of_all_graphs_says_the_same(tmp_path: Path) -> None:
    folder = ConnectivityGraphs(matterport(tmp_path / "connectivity"))["s"]
    nodes = {name: [x, z, -y] for name, (x, y, z) in CAMERAS.items() if name != "x"}
    content = {"s": {"nodes": nodes, "edges": [["a", "b", 3.0], ["b", "c", 4.0], ["c", "d", 3.0]]}}
    (tmp_path / "graphs.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    file = ConnectivityGraphs(tmp_path / "graphs.json.gz")["s"]
    for name, others in folder.neighbours.items():
        assert file.neighbours[name] == pytest.approx(others)
    assert file.shortest_path("a", "d") == folder.shortest_path("a", "d") == ("a", "b", "c", "d")
    assert file.positions["a"][1] == pytest.approx(1.4 - CAMERA_HEIGHT)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"path": ["a", "c"]}, "a and c of the scan s are not next to each other"),
        ({"path": ["a", "x"]}, "no viewpoint 'x'"),
        ({"path": []}, "no list of viewpoints"),
        ({"scan": "t"}, "no graph of the scan 't'"),
        ({"heading": "north"}, "Record 0"),
        ({"instructions": [3]}, "no list of text"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    graphs = ConnectivityGraphs(matterport(tmp_path / "connectivity"))
    with pytest.raises(DataError, match=complaint) as caught:
        read_r2r(written(tmp_path, [record(**changes)]), graphs)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    graphs = ConnectivityGraphs(matterport(tmp_path / "connectivity"))
    for name, content in (("empty.json", "[]"), ("broken.json", "[{"), ("other.json", '{"episodes": []}')):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            read_r2r(tmp_path / name, graphs)
    (tmp_path / "graphs.json").write_text('{"s": {"nodes": {"a": [0, 0, 0]}, "edges": [["a", "b", 1]]}}')
    with pytest.raises(DataError, match=r"graph of the scan 's' in .*graphs\.json is malformed"):
        ConnectivityGraphs(tmp_path / "graphs.json")["s"]


def test_a_dense_path_has_every_corner_and_whole_steps_between() -> None:
    path = densified([(0.0, 0.0, 0.0), (0.6, 0.0, 0.0), (0.6, 0.0, 0.5)])
    assert [(round(x, 6), round(z, 6)) for x, _, z in path] == [
        (0, 0), (0.25, 0), (0.5, 0), (0.6, 0), (0.6, 0.25), (0.6, 0.5),
    ]  # fmt: skip


def test_real_paths_are_shortest_ways_of_real_graphs(navigation_data: Path) -> None:
    graphs = ConnectivityGraphs(navigation_data / "mp3d_connectivity.json.gz")
    file = navigation_data / "r2r_val_unseen_80.json"
    told = {str(path["path_id"]): path["distance"] for path in json.loads(file.read_text())}
    episodes = read_r2r(file, graphs)
    assert len(episodes) == 240
    for episode in episodes:
        length = sum(itertools.starmap(math.dist, itertools.pairwise(episode.reference_path)))
        assert episode.geodesic_distance == pytest.approx(length, abs=1e-9)
        assert length == pytest.approx(told[episode.trajectory_id], abs=0.01)


def test_embodiments_are_those_published_numbers_were_obtained_with() -> None:
    body = embodiment("navila")
    assert (body.width, body.height, body.hfov, body.camera_height) == (512, 512, 90.0, 1.25)
    assert (body.turn_angle, body.forward_step, body.sliding) == (15.0, 0.25, True)
    official = embodiment("rxr-official")
    assert (official.width, official.height, official.hfov, official.camera_height) == (640, 480, 79.0, 0.88)
    assert (official.turn_angle, official.agent_radius, official.sliding) == (30.0, 0.18, False)
    assert embodiment("navila-bench").hfov == 96.7
    assert all(name == body.name for name, body in EMBODIMENTS.items())


def test_an_embodiment_of_ones_own_starts_from_a_profile_and_is_not_called_like_it() -> None:
    assert embodiment({"width": 64}).name == "navila-changed"
    assert embodiment({"name": "rxr-official", "depth": True}).turn_angle == 30.0
    assert embodiment({"name": "rxr-official"}) is not None
    assert embodiment({"name": "rxr-official"}).name == "rxr-official"
    assert embodiment({"name": "mine", "hfov": 100}).hfov == 100.0
    for wrong, complaint in (
        ("navilla", "did you mean 'navila'"),
        ({"fov": 90}, "no 'fov'"),
        ({"width": "64"}, "width is '64'"),
        ({"width": 0}, "width is 0"),
        ({"sliding": 1}, "sliding is 1"),
        (3, "a name or an object"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            embodiment(wrong)  # pyright: ignore[reportArgumentType]

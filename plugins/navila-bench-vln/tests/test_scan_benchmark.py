"""The task `scan`: a list a person writes, walked in a mesh made on the spot."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.episodes import write_episodes
from navila.errors import ConfigError, DataError, NavilaError
from navila.plugins import default_host
from navila.r2r import densified
from navila_bench_vln.markers import markers_of
from navila_bench_vln.walks_file import read_walks
from navila_eval.benchmark import Request, Results
from PIL import Image

trimesh = pytest.importorskip("trimesh", reason="needs the plugin navila-sim-mesh")
pytest.importorskip("navila_sim_mesh", reason="needs the plugin navila-sim-mesh")

WALKS = [
    {"id": "box", "instruction": "Go through the door.", "start": "entrance", "goal": [2.2, -2.5], "radius": 1.0},
    {"instruction": "Look around.", "start": [-2.0, 2.0], "heading": 45},
]


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rooms of 8 m x 4 m with a door between, and a node called `entrance`, turned by 90 degrees."""
    scene = trimesh.Scene()

    def box(name: str, extents: tuple[float, float, float], place: Any) -> None:
        block = trimesh.creation.box(extents)
        block.visual.face_colors = (150, 140, 130, 255)
        transform = np.eye(4)
        if np.shape(place) == (3,):
            transform[:3, 3] = place
        else:
            transform = place
        scene.add_geometry(block, node_name=name, transform=transform)

    box("floor", (8, 0.1, 8), (0, -0.05, 0))
    box("between", (5, 2.6, 0.1), (-1.5, 1.3, 0))
    for name, extents, place in (("north", (8, 2.6, 0.1), (0, 1.3, -4)), ("west", (0.1, 2.6, 8), (-4, 1.3, 0))):
        box(name, extents, place)
    turned = trimesh.transformations.rotation_matrix(math.radians(90), [0, 1, 0])
    turned[:3, 3] = (-2.0, 0.0, 2.0)
    box("entrance", (0.01, 0.01, 0.01), turned)
    path = tmp_path_factory.mktemp("scan") / "building.glb"
    scene.export(path)
    return path


def scan(building: Path, walks: Path, **options: Any) -> Any:
    component: Any = default_host().registry("benchmark").load("scan")
    body = {"width": 48, "height": 48}
    return component(scene=str(building), instructions=str(walks), embodiment=body, **options)


def walked(made: Any, folder: Path, agent: str, task: str = "scan", split: str = "walks", **changes: Any) -> Results:
    return made.run(
        Request(
            task=task,
            split=split,
            output_dir=folder,
            model_name="tiny",
            load_model=lambda: None,  # pyright: ignore[reportArgumentType]
            identity={},
            agent=agent,
            batch_size=1,
            env_processes=False,
            quiet=True,
            **changes,
        )
    )


def nowhere() -> Any:
    pytest.fail("every walk has a start")


def written(folder: Path, content: Any, name: str = "walks.json") -> Path:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


def test_the_expert_goes_through_the_door_and_success_is_the_walks_own_radius(building: Path, tmp_path: Path) -> None:
    results = walked(scan(building, written(tmp_path, WALKS[:1])), tmp_path / "run", "expert")
    assert (results.metrics["sr"], results.metrics["spl"], results.metrics["ndtw"]) == (1.0, 1.0, None)
    assert results.metrics["ne"] is not None
    assert results.metrics["ne"] < 1.0
    (record,) = (json.loads(line) for line in (results.path / "episodes.jsonl").read_text().splitlines())
    assert record["success_distance"] == 1.0
    assert record["positions"][0] == pytest.approx([-2.0, 0.0, 2.0], abs=0.06)
    assert record["distances"][0] > math.dist((-2.0, 2.0), (1.0, 0.0)) + math.dist((1.0, 0.0), (2.2, -2.5)) - 0.3


def test_episodes_of_vln_ce_are_walked_in_the_scenes_beside_them(building: Path, tmp_path: Path) -> None:
    """The folders of VLN-CE and habitat: datasets/ and scene_datasets/ below one root."""
    scene = tmp_path / "scene_datasets" / "mp3d" / "b" / "b.glb"
    scene.parent.mkdir(parents=True)
    scene.write_bytes(building.read_bytes())
    (walk,) = read_walks(written(tmp_path, WALKS[:1]), "mp3d/b/b.glb", markers_of(building), nowhere)
    way = ((-2.0, 0.0, 2.0), (1.8, 0.0, 0.2), (2.2, 0.0, -2.5))
    episode = replace(walk, reference_path=way, gt_locations=densified(way), goal_radius=3.0)
    folder = tmp_path / "datasets" / "R2R_VLNCE_v1-3_preprocessed" / "val_seen"
    write_episodes(folder / "val_seen.json.gz", [episode])
    component: Any = default_host().registry("benchmark").load("r2r-ce")
    made = component(embodiment={"width": 48, "height": 48})
    results = walked(made, tmp_path / "run", "expert", "r2r-ce", "val_seen", data_root=tmp_path)
    assert (results.metrics["sr"], results.metrics["spl"]) == (1.0, 1.0)
    assert results.metrics["ndtw"] is not None
    assert results.metrics["ndtw"] > 0.7


def test_a_walk_without_goal_is_shown_and_not_scored(building: Path, tmp_path: Path) -> None:
    results = walked(scan(building, written(tmp_path, WALKS)), tmp_path / "run", "random-vln-ce")
    assert results.count == 2
    assert results.metrics["sr"] is not None, "that of the walk with a goal"
    alone = walked(scan(building, written(tmp_path, WALKS[1:])), tmp_path / "alone", "random-vln-ce")
    assert alone.failed == 0
    assert all(alone.metrics[name] is None for name in ("sr", "spl", "os", "ne", "ndtw", "sdtw", "cls"))
    assert alone.metrics["steps"] is not None
    page = (tmp_path / "alone" / "report.html").read_text()
    assert 'badge">walk<' in page
    assert "data:image/jpeg" in page
    with pytest.raises(ConfigError, match="has no goal"):
        walked(scan(building, written(tmp_path, WALKS[1:])), tmp_path / "expert", "expert")


def test_a_walk_without_start_begins_near_the_origin_and_a_plan_shows_where_what_is(
    building: Path, tmp_path: Path
) -> None:
    made = scan(building, written(tmp_path, [{"instruction": "Go."}]))
    (episode,) = made.episodes("walks")
    assert math.hypot(*episode.start_position) < 1.5, "the wall between the rooms stands on the origin"
    results = walked(made, tmp_path / "run", "random")
    assert results.failed == 0
    with Image.open(results.path / "plan.png") as plan:
        assert max(plan.size) == 1200
    (tmp_path / "broken.glb").write_bytes(b"glTF")
    with pytest.raises(NavilaError, match=r"broken\.glb"):
        scan(tmp_path / "broken.glb", written(tmp_path, [{"instruction": "Go."}])).episodes("walks")


def test_a_node_of_the_scene_is_a_place_to_start_and_a_view(building: Path) -> None:
    marker = markers_of(building)["entrance"]
    assert marker.position == pytest.approx((-2.0, 0.0, 2.0))
    assert marker.yaw == pytest.approx(math.radians(90))
    # Where z points up, a quarter turn to the left is one about z.
    half = math.sqrt(0.5)
    turned = {"name": "door", "translation": [1, 2, 0.5], "rotation": [0, 0, half, half]}
    (building.parent / "z_up.gltf").write_text(json.dumps({"nodes": [turned]}))
    marker = markers_of(building.parent / "z_up.gltf", "z")["door"]
    assert marker.position == (1.0, 0.5, -2.0)
    assert marker.yaw == pytest.approx(math.radians(90))
    (building.parent / "none.glb").write_bytes(b"glTF nothing")
    assert markers_of(building.parent / "none.glb") == {}
    assert markers_of(building.parent / "scan.ply") == {}


def test_json_lines_and_tables_say_the_same(building: Path, tmp_path: Path) -> None:
    markers = markers_of(building)
    table = (
        "id, instruction, start, heading, goal, radius\n"
        'box, "Go through the door.", entrance, , 2.2 -2.5, 1\n'
        '2, "Look around.", -2 2, 45, ,\n'
    )
    files = [
        written(tmp_path, WALKS),
        written(tmp_path, "\n".join(map(json.dumps, WALKS)), "walks.jsonl"),
        written(tmp_path, table, "walks.csv"),
    ]
    first, *others = (read_walks(file, "building.glb", markers, nowhere) for file in files)
    assert all(walks == first for walks in others)
    box, tour = first
    assert (box.episode_id, tour.episode_id, box.goals, tour.goals) == ("box", "2", ((2.2, 0.0, -2.5),), ())
    assert box.start_rotation == pytest.approx((0.0, math.sin(math.pi / 4), 0.0, math.cos(math.pi / 4)))


def test_the_lists_of_the_reference_are_read_and_say_the_same(building: Path, tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "navigation-tasks.md"
    blocks = dict(re.findall(r"^```(json|csv)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    markers = markers_of(building)
    listed = read_walks(written(tmp_path, blocks["json"]), "building.glb", markers, nowhere)
    assert [len(walk.goals) for walk in listed] == [1, 0]
    tabled = read_walks(written(tmp_path, blocks["csv"], "walks.csv"), "building.glb", markers, nowhere)
    assert [replace(walk, episode_id="") for walk in tabled] == [replace(walk, episode_id="") for walk in listed]


def test_points_of_a_z_up_scan_are_its_own_and_a_path_makes_an_experts(tmp_path: Path) -> None:
    walk = {"instruction": "Go.", "start": [1.0, 2.0], "goal": [3.0, 2.0, 0.5], "path": [[2.0, 2.0]]}
    (episode,) = read_walks(written(tmp_path, [walk]), "scan.ply", {}, nowhere, "z")
    assert (episode.start_position, episode.goals) == ((1.0, 0.0, -2.0), ((3.0, 0.5, -2.0),))
    assert episode.reference_path == ((1.0, 0.0, -2.0), (2.0, 0.0, -2.0), (3.0, 0.5, -2.0))
    assert len(episode.gt_locations) == 1 + 4 + 5


@pytest.mark.parametrize(
    ("walks", "complaint"),
    [
        ([{"start": [0, 0]}], "Walk 1 of .* has no instruction"),
        ([{"instruction": "Go.", "start": "door"}], "its start is 'door', .* it has .*entrance"),
        ([{"instruction": "Go.", "start": [0]}], r"its start is \[0\]"),
        ([{"instruction": "Go.", "start": [0, 0], "goal": [1, "a"]}], "its goal is"),
        ([{"instruction": "Go.", "start": [0, 0], "heading": "left"}], "its heading is 'left': give degrees"),
        ([{"instruction": "Go.", "start": [0, 0], "radius": 0}], "its radius is 0"),
        ([{"instruction": "Go.", "start": [0, 0], "goals": [1, 1]}], "has 'goals', which says nothing"),
        ([{"id": "a", "instruction": "Go.", "start": [0, 0]}] * 2, "two walks with the id 'a'"),
        ([], "has no walk"),
        (["Go."], "is no object"),
        ("[{", "cannot be read"),
    ],
)
def test_what_is_wrong_in_a_list_is_one_sentence(building: Path, tmp_path: Path, walks: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        scan(building, written(tmp_path, walks)).episodes("walks")
    assert "\n" not in str(caught.value)


def test_a_scan_that_cannot_be_walked_at_all_is_one_sentence_before_the_run(building: Path, tmp_path: Path) -> None:
    off, on = ({"instruction": "Go.", "start": [x, 0.5], "goal": [2, 2]} for x in (50.0, 1.0))
    with pytest.raises(DataError, match=r"The start \(50\.00.* of episode '1' is off"):
        walked(scan(building, written(tmp_path, [off, off])), tmp_path / "off", "expert")
    assert walked(scan(building, written(tmp_path, [off, on])), tmp_path / "one", "expert").failed == 1
    (tmp_path / "broken.glb").write_bytes(building.read_bytes()[:500])
    made = scan(tmp_path / "broken.glb", written(tmp_path, [on] * 3))
    with pytest.raises(DataError, match=r"^The scene .*broken\.glb cannot be read: it is cut off"):
        walked(made, tmp_path / "broken", "expert")
    assert not (tmp_path / "broken" / "run.json").exists()


def test_files_that_are_not_given_or_not_there_are_named(building: Path, tmp_path: Path) -> None:
    component: Any = default_host().registry("benchmark").load("scan")
    with pytest.raises(ConfigError, match=r"add -o scene=building\.glb"):
        component().simulator()
    with pytest.raises(ConfigError, match=r"add -o instructions=walks\.json"):
        component(scene=str(building)).simulator()
    with pytest.raises(DataError, match="no scene"):
        component(scene=str(tmp_path / "x.glb"), instructions="w.json").episodes("walks")
    with pytest.raises(DataError, match="cannot be read"):
        scan(building, tmp_path / "none.json").episodes("walks")
    with pytest.raises(ConfigError, match="give y or z"):
        component(up="x")

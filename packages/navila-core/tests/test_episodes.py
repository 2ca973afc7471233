"""VLN-CE episode files: what is read, what is written, and how a bad record is named."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from navila.episodes import ground_truth_path, read_episodes, write_episodes
from navila.errors import DataError
from navila.simulation import Episode

R2R_RECORD: dict[str, Any] = {
    "episode_id": 1,
    "trajectory_id": 4,
    "scene_id": "data/scene_datasets/mp3d/zsNo4HB9uLZ/zsNo4HB9uLZ.glb",
    "start_position": [1, 0.5, -2.25],
    "start_rotation": [0, 0.6, 0, 0.8],
    "info": {"geodesic_distance": 6.42, "role": "guide"},
    "goals": [{"position": [3.0, 0.5, 1.0], "radius": 3.0}],
    "instruction": {"instruction_text": "Walk über the rug.", "instruction_tokens": [5, 6], "language": "en-IN"},
    "reference_path": [[1, 0.5, -2.25], [3.0, 0.5, 1.0]],
    "annotator": "someone",
}
TRUNCATED_GZIP = gzip.compress(b'{"episodes": []}' * 50, mtime=0)[
    :30
]  # a time of its own would name each run's test anew
TRUTH = {"1": {"locations": [[1, 0.5, -2.25], [1.0, 0.5, -2.0]], "forward_steps": 1, "actions": [1, 0]}}


def write_r2r(folder: Path, **changes: Any) -> Path:
    path = folder / "val_seen.json.gz"
    record = {key: value for key, value in (R2R_RECORD | changes).items() if value != "removed"}
    path.write_bytes(gzip.compress(json.dumps({"episodes": [record]}).encode()))
    return path


def test_a_file_of_vln_ce_isaac_is_turned_to_habitats_axes(tmp_path: Path) -> None:
    half = math.sqrt(0.5)
    path = write_r2r(
        tmp_path,
        start_position=[1.0, 2.0, 0.5],
        start_rotation=[half, 0.0, 0.0, half],  # w first, a quarter to the left of +x: along +y
        goals=[{"position": [1.0, 5.0, 0.5], "radius": 3.0}],
        reference_path=[[1.0, 2.0, 0.5], [1.0, 5.0, 0.5]],
        gt_locations=[[1.0, 2.0, 0.5], [1.0, 2.25, 0.5]],
    )
    (episode,) = read_episodes(path)
    assert (episode.start_position, episode.goals) == ((1.0, 0.5, -2.0), ((1.0, 0.5, -5.0),))
    assert episode.start_rotation == pytest.approx((0.0, 0.0, 0.0, 1.0)), "yaw 0 looks along -z, which +y became"
    assert episode.reference_path == ((1.0, 0.5, -2.0), (1.0, 0.5, -5.0))
    assert episode.gt_locations == ((1.0, 0.5, -2.0), (1.0, 0.5, -2.25))
    assert "gt_locations" not in episode.info


def test_an_r2r_file_is_read_with_its_expert_paths(tmp_path: Path) -> None:
    path = write_r2r(tmp_path)
    (tmp_path / "val_seen_gt.json.gz").write_bytes(gzip.compress(json.dumps(TRUTH).encode()))
    (episode,) = read_episodes(path)
    assert episode == Episode(
        episode_id="1",
        trajectory_id="4",
        scene_id="mp3d/zsNo4HB9uLZ/zsNo4HB9uLZ.glb",
        start_position=(1.0, 0.5, -2.25),
        start_rotation=(0.0, 0.6, 0.0, 0.8),
        goals=((3.0, 0.5, 1.0),),
        goal_radius=3.0,
        instruction="Walk über the rug.",
        reference_path=((1.0, 0.5, -2.25), (3.0, 0.5, 1.0)),
        gt_locations=((1.0, 0.5, -2.25), (1.0, 0.5, -2.0)),
        geodesic_distance=6.42,
        info={
            "role": "guide",
            "annotator": "someone",
            "instruction": {"instruction_tokens": [5, 6], "language": "en-IN"},
            "gt_actions": [1, 0],
        },
    )


@pytest.mark.parametrize("name", ["val.json", "val.json.gz"])
def test_written_episodes_are_read_back_equal(tmp_path: Path, name: str) -> None:
    source = write_r2r(tmp_path)
    (tmp_path / "val_seen_gt.json").write_text(json.dumps(TRUTH))
    episodes = read_episodes(source)
    path = tmp_path / "copy" / name
    write_episodes(path, episodes)
    assert read_episodes(path) == episodes
    first = path.read_bytes(), ground_truth_path(path).read_bytes()
    write_episodes(path, episodes)
    assert (path.read_bytes(), ground_truth_path(path).read_bytes()) == first
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_the_written_file_is_vln_ce(tmp_path: Path) -> None:
    write_episodes(tmp_path / "val.json", read_episodes(write_r2r(tmp_path), None))
    document = json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))
    (record,) = document["episodes"]
    assert document["instruction_vocab"]["word_list"] == []
    assert record["goals"] == [{"position": [3.0, 0.5, 1.0], "radius": 3.0}]
    assert record["instruction"]["instruction_text"] == "Walk über the rug."
    assert record["info"]["geodesic_distance"] == 6.42
    assert not (tmp_path / "val_gt.json").exists()


def test_a_test_split_has_no_goals(tmp_path: Path) -> None:
    (episode,) = read_episodes(write_r2r(tmp_path, goals="removed", reference_path="removed"))
    assert episode.goals == ()
    assert episode.reference_path == ()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"episode_id": "removed"}, "episode_id"),
        ({"episode_id": [1]}, "episode_id"),
        ({"scene_id": 7}, "scene_id"),
        ({"start_position": "removed"}, "start_position"),
        ({"start_position": [0, float("nan"), 1]}, "start_position"),
        ({"start_rotation": [0, 0, 1]}, "start_rotation"),
        ({"start_rotation": [0, 0, 0, 0]}, "start_rotation"),
        ({"goals": [{"position": [1, 2], "radius": 3.0}]}, "goals.position"),
        ({"goals": [{"position": [1, 2, 3], "radius": -1}]}, "goals.radius"),
        ({"goals": "there"}, "goals"),
        ({"instruction": 3}, "instruction"),
        ({"instruction": {"instruction_text": None}}, "instruction.instruction_text"),
        ({"reference_path": [[0, 0, 0], [1, 1]]}, "reference_path[1]"),
        ({"info": []}, "info"),
        ({"info": {"geodesic_distance": "far"}}, "info.geodesic_distance"),
    ],
)
def test_a_bad_record_is_named_with_file_episode_and_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = write_r2r(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read_episodes(path)
    message = str(caught.value)
    assert str(path) in message
    assert repr(key) in message
    assert "Episode '1'" in message or key == "episode_id"
    assert "\n" not in message


def test_bad_expert_paths_are_named_with_their_own_file(tmp_path: Path) -> None:
    path = write_r2r(tmp_path)
    truth = tmp_path / "elsewhere.json"
    truth.write_text(json.dumps({"1": {"locations": [[0, 0]]}}))
    with pytest.raises(DataError, match=r"elsewhere\.json: 'locations\[0\]'"):
        read_episodes(path, truth)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"episodes": {}}', TRUNCATED_GZIP, b"\xff\xfe", b"[" * 100_000],
)
def test_a_corrupt_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.json\.gz") as caught:
        read_episodes(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_repeated_id_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json cannot be read"):
        read_episodes(tmp_path / "nowhere.json")
    (tmp_path / "twice.json").write_text(json.dumps({"episodes": [R2R_RECORD, R2R_RECORD]}))
    with pytest.raises(DataError, match=r"'1' twice"):
        read_episodes(tmp_path / "twice.json")

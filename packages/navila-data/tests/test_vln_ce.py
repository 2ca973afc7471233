"""VLN-CE episode files and scenes become navigation data, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from navila.actions import LEGAL_ANSWERS, parse
from navila.episodes import read_episodes, write_episodes
from navila.errors import ConfigError, DataError, SceneError
from navila.plugins import default_host
from navila.simulation import Embodiment
from navila_data.mixture import Mixture
from navila_data.recording import record
from navila_data.vln_ce import ConvertSettings
from navila_sim_mesh.houses import build_house
from PIL import Image

BODY = Embodiment(width=32, height=32)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two procedural houses as GLB files, and episodes in them that alternate between the scenes."""
    folder = tmp_path_factory.mktemp("scans")
    sim = default_host().registry("simulator").load("mesh")(embodiment=BODY)  # pyright: ignore[reportCallIssue]
    by_house = [sim.make_episodes(level=1, seed=seed, count=2) for seed in (1, 2)]  # pyright: ignore[reportAttributeAccessIssue]
    episodes = []
    for episode in (by_house[0][0], by_house[1][0], by_house[0][1], by_house[1][1]):
        seed = episode.scene_id.removeprefix("houses/")
        scene = f"mp3d/{seed}/{seed}.glb"
        if not (folder / scene).exists():
            surface = build_house(int(seed)).surface
            rgb = surface.rgb if surface.rgb.ndim == 2 else surface.rgb.mean(axis=1)
            mesh = trimesh.Trimesh(
                vertices=surface.triangles.reshape(-1, 3),
                faces=np.arange(len(surface.triangles) * 3).reshape(-1, 3),
                face_colors=(np.clip(rgb, 0, 1) * 255).astype(np.uint8),
                process=False,
            )
            (folder / scene).parent.mkdir(parents=True)
            mesh.export(folder / scene)
        language = {"language": "en-US" if len(episodes) % 2 else "hi-IN"}
        route = episode.reference_path or (episode.start_position, *episode.goals[:1])
        episodes.append(
            dataclasses.replace(
                episode,
                episode_id=str(100 + len(episodes)),
                scene_id=scene,
                reference_path=route,
                info={**episode.info, "instruction": language},
            )
        )
    write_episodes(folder / "train.json.gz", episodes)
    return folder


def settings(scans: Path, **changes: object) -> ConvertSettings:
    facts = {"episodes_file": scans / "train.json.gz", "scene_root": scans, "image_size": 32, "perturb": 0.2, "seed": 5}
    return ConvertSettings(**{**facts, **changes})  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def converted(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "data"
    record(settings(scans), folder)
    return folder


def test_episodes_become_the_releases_format(scans: Path, converted: Path):
    records = json.loads((converted / "annotations.json").read_text())
    episodes = {episode.episode_id: episode for episode in read_episodes(scans / "train.json.gz")}
    assert {key for entry in records for key in entry} == {"video_id", "frames", "q", "a"}
    assert {entry["a"] for entry in records} <= set(LEGAL_ANSWERS)
    seen = []
    for entry in records:
        episode, step = entry["video_id"].split("-")
        assert entry["frames"] == [f"{episode}/frame_{i}.jpg" for i in range(int(step) + 1)]
        assert entry["q"] == episodes[episode].instruction
        if episode not in seen:
            seen.append(episode)
    assert seen == ["100", "102", "101", "103"], "scene by scene"
    for episode in seen:
        last = [entry for entry in records if entry["video_id"].startswith(f"{episode}-")][-1]
        assert parse(last["a"]).kind == "stop"
    with Image.open(converted / "train" / records[0]["frames"][0]) as image:
        assert image.size == (32, 32)
        assert len(image.convert("RGB").getcolors(10_000) or ()) > 20, "the scan is seen"
    mixture = Mixture.open(str(converted) + "/")
    assert mixture.counts() == {"vln": len(records)}


def test_the_manifest_names_the_file_by_its_content_and_no_place(scans: Path, converted: Path):
    manifest = json.loads((converted / "dataset.json").read_text())
    assert manifest["settings"]["episodes_file"] == "train.json.gz"
    assert len(manifest["settings"]["sha256"]) == 64
    assert str(scans) not in json.dumps(manifest)
    assert (manifest["episodes"], manifest["skipped"]) == (4, [])


# Every process loads the scans anew.
@pytest.mark.slow
def test_workers_do_not_change_a_byte(scans: Path, converted: Path, tmp_path: Path):
    record(settings(scans), tmp_path / "two", workers=2)
    assert bytes_of(tmp_path / "two") == bytes_of(converted)


# Two processes load the scans, one after the other.
@pytest.mark.slow
def test_a_killed_conversion_resumes_to_the_same_bytes(scans: Path, converted: Path, tmp_path: Path):
    folder = tmp_path / "killed"
    program = (
        "import os; from pathlib import Path, PosixPath; from navila_data.recording import record; "
        "from navila_data.vln_ce import ConvertSettings; "
        f"record({settings(scans)!r}, Path({str(folder)!r}), "
        "progress=lambda done, total: os.kill(os.getpid(), 9) if done == 2 else None)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert len(list(folder.glob("parts/*.jsonl"))) == 1, "the first of two scenes"
    flags = ["--scene-root", str(scans), "--image-size", "32", "--perturb", "0.2", "--seed", "5"]
    source = str(scans / "train.json.gz")
    command = [sys.executable, "-m", "navila", "data", "convert", "--from", "vln-ce", source, *flags]
    done = subprocess.run([*command, "--output", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bytes_of(folder) == bytes_of(converted)


def test_the_expert_follows_the_described_route(scans: Path, tmp_path: Path):
    """A detour in the reference path is walked, and ends at the goal all the same."""
    first = read_episodes(scans / "train.json.gz")[0]
    sim = default_host().registry("simulator").load("mesh")(embodiment=BODY, scene_root=scans)  # pyright: ignore[reportCallIssue]
    sim.reset(first)
    goal = first.goals[0]
    there = sim.shortest_path(first.start_position, goal)
    back = dataclasses.replace(first, reference_path=(first.start_position, there[-1], first.start_position, there[-1]))
    write_episodes(tmp_path / "detour.json", [back])
    changes = {"episodes_file": tmp_path / "detour.json", "perturb": 0.0}
    straight = record(settings(scans, **changes), tmp_path / "straight")
    described = record(settings(scans, expert="reference-path", **changes), tmp_path / "described")
    assert described["records"] > 2 * straight["records"]
    assert parse(json.loads((tmp_path / "described" / "annotations.json").read_text())[-1]["a"]).kind == "stop"


def test_language_and_limit_choose_episodes(scans: Path, tmp_path: Path):
    manifest = record(settings(scans, language="en", limit=1), tmp_path / "one")
    assert manifest["episodes"] == 1
    assert {path.name for path in (tmp_path / "one" / "train").iterdir()} == {"101"}
    with pytest.raises(DataError, match="no episode in the language 'de'"):
        record(settings(scans, language="de"), tmp_path / "none")


def test_episodes_that_do_not_fit_stop_the_conversion_or_are_told(scans: Path, tmp_path: Path):
    episodes = list(read_episodes(scans / "train.json.gz"))
    episodes[1] = dataclasses.replace(episodes[1], start_position=(900.0, 0.0, 900.0))
    write_episodes(tmp_path / "off.json", episodes)
    changes = {"episodes_file": tmp_path / "off.json", "limit": 2}
    with pytest.raises(SceneError, match="off the walkable floor"):
        record(settings(scans, **changes), tmp_path / "strict")
    manifest = record(settings(scans, skip_misfits=True, **changes), tmp_path / "lenient")
    assert [entry["episode"] for entry in manifest["skipped"]] == ["101"]
    assert not (tmp_path / "lenient" / "train" / "101").exists()
    with pytest.raises(DataError, match="None of the episodes"):
        record(settings(scans, skip_misfits=True, scene_root=tmp_path), tmp_path / "lost")
    assert record(settings(scans, skip_misfits=True), tmp_path / "lost")["skipped"] == [], "a mended path goes on"


def test_a_file_that_cannot_be_learned_from_is_told_before_anything_is_done(scans: Path, tmp_path: Path):
    first = read_episodes(scans / "train.json.gz")[0]
    for change, expert, match in (
        ({"goals": ()}, "shortest-path", "no goal"),
        ({"reference_path": ()}, "reference-path", "no reference_path"),
        ({"episode_id": "../x"}, "shortest-path", "cannot name a folder"),
    ):
        write_episodes(tmp_path / "bad.json", [dataclasses.replace(first, **change)])
        with pytest.raises(DataError, match=match):
            record(settings(scans, episodes_file=tmp_path / "bad.json", expert=expert), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_another_conversion_is_not_overwritten(scans: Path, converted: Path):
    before = bytes_of(converted)
    with pytest.raises(ConfigError, match="conversion with seed 5, not 6"):
        record(settings(scans, seed=6), converted)
    assert bytes_of(converted) == before


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--from", "vln-ce", "nowhere.json"], "nowhere.json"),
        (["nowhere.json"], "Give either --from"),
        (["--from", "vln-ce", "x.json", "--fps", "2"], "--fps is of no use with --from vln-ce"),
        (["--to", "lerobot", "x", "--perturb", "0.1"], "--perturb is of no use with --to lerobot"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, flags: list[str], match: str):
    command = [sys.executable, "-m", "navila", "data", "convert", "--output", str(tmp_path / "x"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert match in errors[0]
    assert "Traceback" not in done.stderr

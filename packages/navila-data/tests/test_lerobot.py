"""Navigation steps in other formats: LeRobotDataset v3.0, and LLaVA's conversations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.errors import ConfigError, DataError
from navila_data import lerobot
from navila_data.dataset import LoadOptions
from navila_data.lerobot import ExportSettings, export
from navila_data.llava_export import to_llava
from navila_data.mixture import Mixture
from PIL import Image

pq = pytest.importorskip("pyarrow.parquet")

FORWARD, LEFT, RIGHT = "move forward 75 cm", "turn left 15 degree", "turn right 30 degree"
STOP = "I think I should stop because I have finished the instruction."


def write_walks(folder: Path, walks: int = 3) -> Path:
    """Walks of five steps; the stop is there three times, as in the release, and records are out of order."""
    rng = np.random.default_rng(0)
    records = []
    for walk in range(walks):
        (folder / "train" / str(walk)).mkdir(parents=True)
        names = []
        for number in range(5):
            names.append(f"{walk}/frame_{number}.jpg")
            pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "train" / names[-1])
        actions = [f"The next action is {text}." for text in (FORWARD, LEFT, RIGHT, FORWARD)]
        answers = [*actions, STOP, STOP, STOP]
        for number, answer in enumerate(answers):
            shown = names[: number + 1]
            records.append({"video_id": f"{walk}-{number}", "frames": shown, "q": f"Go to {walk % 2}.", "a": answer})
    records.reverse()
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("walks") / "walks")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "data").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_steps_are_rows_in_the_order_they_were_walked(walks: Path, tmp_path: Path):
    manifest = export(walks, tmp_path / "out", ExportSettings(fps=2))
    assert (manifest["records"], manifest["episodes"], manifest["repeated"]) == (15, 3, 6)
    rows = rows_of(tmp_path / "out")
    assert [row["index"] for row in rows] == list(range(15))
    assert [row["frame_index"] for row in rows[:6]] == [0, 1, 2, 3, 4, 0]
    assert [row["timestamp"] for row in rows[:3]] == [0.0, 0.5, 1.0]
    assert [row["action"] for row in rows[:5]] == [[0.75, 0.0], [0.0, 15.0], [0.0, -30.0], [0.75, 0.0], [0.0, 0.0]]
    assert [row["next.done"] for row in rows[:5]] == [False] * 4 + [True]
    # The records are in reverse, so the last walk begins first.
    assert rows[0]["observation.images.front"]["bytes"] == (walks / "train" / "2" / "frame_0.jpg").read_bytes()
    assert rows[6]["observation.images.front"]["bytes"] == (walks / "train" / "1" / "frame_1.jpg").read_bytes()


@pytest.mark.parametrize(
    ("actions", "expected"), [("primitive", [[0.25, 0.0], [0.0, 15.0], [0.0, -15.0]]), ("id", [1, 2, 3])]
)
def test_actions_are_also_single_primitives(walks: Path, tmp_path: Path, actions: Any, expected: list[Any]):
    export(walks, tmp_path / "out", ExportSettings(actions=actions))
    assert [row["action"] for row in rows_of(tmp_path / "out")[:3]] == expected


def test_what_is_told_about_the_data_is_true(walks: Path, tmp_path: Path):
    export(walks, tmp_path / "out", ExportSettings())
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 15, 2)
    assert info["features"]["observation.images.front"]["shape"] == [12, 16, 3]
    rows = rows_of(tmp_path / "out")
    assert set(rows[0]) == set(info["features"])
    tasks = pq.read_table(tmp_path / "out" / "meta" / "tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["Go to 0.", "Go to 1."]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    episodes = pq.read_table(tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [(e["tasks"], e["dataset_from_index"], e["dataset_to_index"]) for e in episodes] == [
        (["Go to 0."], 0, 5),
        (["Go to 1."], 5, 10),
        (["Go to 0."], 10, 15),
    ]
    stats = json.loads((tmp_path / "out" / "meta" / "stats.json").read_text())
    action = np.asarray([row["action"] for row in rows])
    np.testing.assert_allclose(stats["action"]["mean"], action.mean(0))
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(action, 0.9, axis=0))
    files = sorted((walks / "train").rglob("*.jpg"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in files]).reshape(-1, 3) / 255
    for key, expected in (
        ("mean", pixels.mean(0)),
        ("std", pixels.std(0)),
        ("min", pixels.min(0)),
        ("max", pixels.max(0)),
    ):
        np.testing.assert_allclose(np.ravel(stats["observation.images.front"][key]), expected, atol=1e-9)
    median = np.quantile(pixels, 0.5, axis=0)
    np.testing.assert_allclose(np.ravel(stats["observation.images.front"]["q50"]), median, atol=1 / 255)
    assert stats["observation.images.front"]["count"] == [15]


def test_data_files_are_bounded_and_found_again(walks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lerobot, "FILE_BYTES", 3000)
    export(walks, tmp_path / "out", ExportSettings())
    files = sorted(path.name for path in (tmp_path / "out" / "data").rglob("*.parquet"))
    assert files == ["file-000.parquet", "file-001.parquet", "file-002.parquet"]
    assert [row["index"] for row in rows_of(tmp_path / "out")] == list(range(15))
    episodes = pq.read_table(tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [episode["data/file_index"] for episode in episodes] == [0, 1, 2]


def test_a_killed_export_ends_in_the_same_bytes(tmp_path: Path):
    walks = write_walks(tmp_path / "walks", walks=6)
    program = (
        "import os, sys; from pathlib import Path; from navila_data import lerobot; lerobot.FILE_BYTES = 3000; "
        "lerobot.export(Path(sys.argv[1]), Path(sys.argv[2]), lerobot.ExportSettings(), "
        "progress=lambda done, total: os.kill(os.getpid(), 9) if done == int(sys.argv[3]) else None)"
    )

    def run(folder: Path, killed_after: int = 0) -> int:
        command = [sys.executable, "-c", program, str(walks), str(folder), str(killed_after)]
        return subprocess.run(command, check=False).returncode

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert run(killed, killed_after=3) == -9
    assert len(list(killed.glob("parts/*.json"))) == 3
    # What the killed run was writing may be anything.
    (killed / "data" / "chunk-000" / "file-003.parquet").write_bytes(b"half a")
    assert run(killed) == run(whole) == 0
    assert bytes_of(killed) == bytes_of(whole)


def test_what_cannot_be_exported_is_told(walks: Path, tmp_path: Path):
    changes = (
        (lambda f: Image.new("RGB", (8, 8)).save(f / "train" / "1" / "frame_2.jpg"), "8 x 8 pixels, others 16 x 12"),
        (lambda f: (f / "train" / "1" / "frame_2.jpg").write_bytes(b"no"), "frame_2.jpg cannot be read"),
        (lambda f: (f / "train" / "1" / "frame_2.jpg").unlink(), "frame_2.jpg cannot be read"),
        (lambda f: (f / "annotations.json").write_text('[{"frames": ["a"], "q": "b", "a": "dance"}]'), "is no action"),
        (lambda f: (f / "annotations.json").write_text("[]"), "no record"),
    )
    for number, (change, match) in enumerate(changes):
        folder = write_walks(tmp_path / str(number))
        change(folder)
        with pytest.raises(DataError, match=match):
            export(folder, tmp_path / "out", ExportSettings())
    export(walks, tmp_path / "out", ExportSettings())
    with pytest.raises(ConfigError, match="export with fps 1, not 3"):
        export(walks, tmp_path / "out", ExportSettings(fps=3))


def test_steps_become_llavas_conversations(walks: Path, tmp_path: Path):
    manifest = to_llava(f"vln:{walks}", tmp_path / "out", num_frames=4)
    assert manifest["records"] == 21
    original = Mixture.open(f"vln:{walks}", None, LoadOptions(num_frames=4))
    mixture = Mixture.open(str(tmp_path / "out") + "/")
    for index in range(21):
        before, after = original[index], mixture[index]
        assert [" ".join(turn.text.split()) for turn in after.turns] == [" ".join(t.text.split()) for t in before.turns]
        for was, now in zip(before.media, after.media, strict=True):
            assert isinstance(now, Path)
            pixels = np.asarray(Image.open(now))
            assert not pixels.any() if was is None else now.resolve() == was.resolve()  # type: ignore[union-attr]

"""`navila data convert --from r2r`: R2R's own paths as VLN-CE's episodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from navila.episodes import read_episodes


def convert(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "navila", "data", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_paths_of_viewpoints_become_episode_files(tmp_path: Path) -> None:
    graphs = {"s": {"nodes": {"a": [0, 1.5, 0], "b": [0, 1.5, -2.0]}, "edges": [["a", "b", 2.0]]}}
    (tmp_path / "graphs.json").write_text(json.dumps(graphs))
    path = {"scan": "s", "path_id": 3, "path": ["a", "b"], "heading": 0.0, "distance": 2.0, "instructions": ["Go."]}
    (tmp_path / "R2R_val.json").write_text(json.dumps([path]))
    options = ("--from", "r2r", tmp_path / "R2R_val.json", "--output", tmp_path / "out")
    done = convert(*options, "--connectivity", tmp_path / "graphs.json")
    assert done.returncode == 0, done.stderr
    (episode,) = read_episodes(tmp_path / "out" / "R2R_val.json.gz")
    assert (episode.episode_id, episode.goals, len(episode.gt_locations)) == ("3_0", ((0.0, 0.0, -2.0),), 9)
    refused = convert(*options, "--sim", "mesh")
    assert (refused.returncode, refused.stderr.strip()) == (
        2,
        "Error: --sim is of no use with --from r2r: leave it out.",
    )

"""The tasks of VLN-CE and of one's own scans, from files as they are published to scores."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from navila.embodiments import EMBODIMENTS
from navila.episodes import ground_truth_path, write_episodes
from navila.errors import ConfigError, DataError, NavilaError
from navila.plugins import default_host
from navila.r2r import densified
from navila.simulation import Episode
from navila.testing import BenchmarkContract
from navila_eval.benchmark import Request, Results

pytest.importorskip("navila_sim_mesh", reason="needs the plugin navila-sim-mesh")
pytest.importorskip("navila_sim_graph", reason="needs the plugin navila-sim-graph")

SCANS = ("one", "two")


class TestR2rCe(BenchmarkContract):
    name = "r2r-ce"


def benchmark(task: str, **options: Any) -> Any:
    component: Any = default_host().registry("benchmark").load(task)
    return component(**options)


@pytest.mark.parametrize("task", ["rxr-ce", "envdrop", "scan"])
def test_the_other_tasks_have_the_same_measures_and_a_split_of_their_own(task: str) -> None:
    spec = default_host().registry("benchmark").spec(task)
    assert spec.metrics == default_host().registry("benchmark").spec("r2r-ce").metrics
    assert spec.default_split in spec.splits
    assert len(benchmark(task).tiny().episodes(spec.default_split, limit=1)) == 1


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs of two scans in Matterport's format, R2R's own paths over them, and VLN-CE's and RxR's files of those."""
    from navila.connectivity import ConnectivityGraphs
    from navila.r2r import read_r2r

    root = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    (root / "connectivity").mkdir()
    paths = []
    for scan in SCANS:
        # Viewpoints on a jittered grid, joined with those beside them.
        cameras = {f"{scan}{n}": (2.0 * (n % 4) + rng.random(), 2.0 * (n // 4) + rng.random(), 1.5) for n in range(16)}
        names = list(cameras)
        views = [
            {
                "image_id": name,
                "pose": [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z, 0, 0, 0, 1],
                "included": True,
                "unobstructed": [abs(n % 4 - m % 4) + abs(n // 4 - m // 4) == 1 for m in range(16)],
                "height": 1.5,
            }
            for n, (name, (x, y, z)) in enumerate(cameras.items())
        ]
        (root / "connectivity" / f"{scan}_connectivity.json").write_text(json.dumps(views))
        graph = ConnectivityGraphs(root / "connectivity")[scan]
        for number, (a, b) in enumerate(((0, 15), (3, 12), (1, 14))):
            path = list(graph.shortest_path(names[a], names[b]))
            paths.append(
                {
                    "path_id": len(paths),
                    "scan": scan,
                    "path": path,
                    "heading": rng.uniform(0, 6.28),
                    "distance": 0.0,
                    "instructions": [f"Way {number} of {scan}.", "The same in other words."],
                }
            )
    (root / "R2R_val_unseen.json").write_text(json.dumps(paths))
    episodes = read_r2r(root / "R2R_val_unseen.json", ConnectivityGraphs(root / "connectivity"))
    folder = root / "datasets" / "R2R_VLNCE_v1-3_preprocessed"
    write_episodes(folder / "val_unseen" / "val_unseen.json.gz", episodes)
    hidden = [_hidden(record) for record in _load(folder / "val_unseen" / "val_unseen.json.gz")["episodes"][:2]]
    _dump(folder / "test" / "test.json.gz", {"episodes": hidden, "instruction_vocab": {"word_list": []}})
    _write_rxr(root / "datasets" / "RxR_VLNCE_v0", folder)
    return root


def _load(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def _dump(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(document).encode()))


def _hidden(record: dict[str, Any]) -> dict[str, Any]:
    """An episode as the test split tells it."""
    return {key: value for key, value in record.items() if key not in ("goals", "reference_path", "info")}


def _write_rxr(folder: Path, r2r: Path) -> None:
    """RxR's files as published: guide and follower apart, times of words that are no numbers, ids as text."""
    source = _load(r2r / "val_unseen" / "val_unseen.json.gz")["episodes"]
    truth = _load(r2r / "val_unseen" / "val_unseen_gt.json.gz")
    languages = ("en-US", "en-IN", "hi-IN", "te-IN")
    for role in ("guide", "follower"):
        records, paths = [], {}
        for number, record in enumerate(source):
            instruction = {
                "instruction_id": str(100 - number),
                "instruction_text": record["instruction"]["instruction_text"],
                "language": languages[number % 4],
                "annotator_id": "3",
                "edit_distance": 0.0,
                "timed_instruction": [{"word": "Way", "start_time": math.nan, "end_time": None}] * 3,
            }
            records.append({**record, "episode_id": str(number), "instruction": instruction})
            paths[str(number)] = truth[record["episode_id"]]
        _dump(
            folder / "val_unseen" / f"val_unseen_{role}.json.gz", {"episodes": records[: 9 if role == "guide" else 2]}
        )
        _dump(folder / "val_unseen" / f"val_unseen_{role}_gt.json.gz", paths)
    hidden = [_hidden(record) for record in records[:3]]
    _dump(folder / "test_challenge" / "test_challenge_guide.json.gz", {"episodes": hidden})


@pytest.fixture
def run(data_root: Path, tmp_path: Path) -> Callable[..., Results]:
    """Runs a task over the graphs."""

    def run(task: str, split: str | None = None, options: dict[str, Any] | None = None, **changes: Any) -> Results:
        facts: dict[str, Any] = {
            "task": task,
            "split": split or default_host().registry("benchmark").spec(task).default_split,
            "output_dir": tmp_path / "run",
            "model_name": "tiny",
            "load_model": lambda: None,
            "identity": {},
            "agent": "expert",
            "batch_size": 1,
            "env_processes": False,
            "data_root": data_root,
            "report_episodes": 1,
            "quiet": True,
        }
        made = benchmark(task, **{"simulator": "graph", "embodiment": {"width": 32, "height": 32}} | (options or {}))
        return made.run(Request(**facts | changes))

    return run


def test_the_expert_scores_one_on_vln_ces_files_and_on_r2rs_own(run: Any, data_root: Path, tmp_path: Path) -> None:
    ours = run("r2r-ce")
    assert (ours.count, ours.metrics["sr"], ours.metrics["spl"]) == (12, 1.0, 1.0)
    theirs = run("r2r-ce", options={"episodes": str(data_root / "R2R_val_unseen.json")}, output_dir=tmp_path / "own")
    assert theirs.metrics == ours.metrics
    scenes = [line["scene_id"] for line in _records(ours)]
    assert scenes == ["mp3d/one/one.glb"] * 6 + ["mp3d/two/two.glb"] * 6


def test_the_described_path_and_recorded_actions_are_walked_again(run: Any, data_root: Path, tmp_path: Path) -> None:
    """A detour on record is gone, where the expert takes the shortest way."""
    source = _load(data_root / "datasets/R2R_VLNCE_v1-3_preprocessed/val_unseen/val_unseen.json.gz")["episodes"][0]
    path = source["reference_path"]
    detour = {**source, "reference_path": [*path, path[-2], path[-3], path[-2], path[-1]]}
    truth = {
        source["episode_id"]: {"locations": [list(p) for p in densified(list(map(tuple, detour["reference_path"])))]}
    }
    _dump(tmp_path / "one.json.gz", {"episodes": [detour]})
    _dump(tmp_path / "one_gt.json.gz", truth)
    options = {"episodes": str(tmp_path / "one.json.gz")}
    gone = run("r2r-ce", options=options, agent="reference", output_dir=tmp_path / "reference")
    assert gone.metrics["sr"] == 1.0
    assert gone.metrics["ndtw"] == pytest.approx(1.0, abs=0.03)
    assert gone.metrics["spl"] < 0.8
    expert = run("r2r-ce", options=options, output_dir=tmp_path / "expert")
    assert expert.metrics["ndtw"] < gone.metrics["ndtw"] - 0.1
    (record,) = _records(gone)
    truth[source["episode_id"]]["actions"] = record["primitives"]
    _dump(tmp_path / "one_gt.json.gz", truth)
    replayed = run("r2r-ce", options=options, agent="replay", output_dir=tmp_path / "replay")
    assert _records(replayed)[0]["positions"] == record["positions"]
    with pytest.raises(ConfigError, match=r"No episode of r2r-ce .* comes with recorded actions"):
        run("r2r-ce", agent="replay", limit=1, output_dir=tmp_path / "without")


def _records(results: Results) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results.path / "episodes.jsonl").read_text().splitlines()]


def test_an_episode_that_breaks_off_counts_as_nothing_reached_in_both_aggregates(
    run: Any, data_root: Path, tmp_path: Path
) -> None:
    records = _load(data_root / "datasets/R2R_VLNCE_v1-3_preprocessed/val_unseen/val_unseen.json.gz")
    records["episodes"] = records["episodes"][:2]
    records["episodes"][1]["start_position"] = [90.0, 0.0, 90.0]
    _dump(tmp_path / "two.json.gz", records)
    results = run("r2r-ce", options={"episodes": str(tmp_path / "two.json.gz")})
    assert results.failed == 1
    means = json.loads((results.path / "aggregate.json").read_text())
    (walked,) = (record for record in _records(results) if record["outcome"] == "stopped")
    left = walked["metrics"]["distance_to_goal"]
    assert (means["navila"]["mean_success"], means["navid"]["mean_success"]) == (0.5, 0.5)
    assert (means["navila"]["mean_distance_to_goal"], means["navid"]["mean_distance_to_goal"]) == (left, left / 2)
    assert means["navila"]["invalid_distances"] == 1
    assert (results.metrics["sr"], results.metrics["spl"], results.metrics["ndtw"]) == (0.5, 0.5, None)


@pytest.mark.parametrize(
    ("split", "languages"),
    [
        ("val_unseen_guide", ["en-US", "en-IN", "hi-IN", "te-IN"] * 2 + ["en-US"]),
        ("val_unseen_guide_en", ["en-US", "en-IN", "en-US", "en-IN", "en-US"]),
        ("val_unseen_guide_en_us", ["en-US"] * 3),
        ("val_unseen_guide_hi", ["hi-IN"] * 2),
        ("val_unseen_follower_te", []),
        ("val_unseen_follower", ["en-US", "en-IN"]),
    ],
)
def test_splits_of_rxr_are_roles_and_languages(data_root: Path, split: str, languages: list[str]) -> None:
    rxr = benchmark("rxr-ce", simulator="graph")
    assert split in default_host().registry("benchmark").spec("rxr-ce").splits
    if not languages:
        with pytest.raises(DataError, match="no episode of the split val_unseen_follower_te"):
            rxr.episodes(split, data_root=data_root)
        return
    episodes = rxr.episodes(split, data_root=data_root)
    assert [episode.info["instruction"]["language"] for episode in episodes] == languages
    assert all(episode.gt_locations and "timed_instruction" not in episode.info["instruction"] for episode in episodes)


def test_rxr_is_told_by_language_and_pooled(run: Any) -> None:
    results = run("rxr-ce", options={"embodiment": "rxr-official"})
    assert (results.count, results.metrics["sr"], results.metrics["spl"]) == (5, 1.0, 1.0)
    by_language = results.content["breakdowns"]["language"]
    assert {name: group["episodes"] for name, group in by_language.items()} == {"en-US": 3, "en-IN": 2}
    assert results.content["run"]["embodiment"]["turn_angle"] == 30.0
    assert results.content["run"]["max_steps"] == 500


def test_a_split_without_goals_is_walked_not_scored_and_its_leaderboards_file_written(run: Any, tmp_path: Path) -> None:
    results = run("r2r-ce", "test", agent="random")
    assert results.metrics["sr"] is results.metrics["spl"] is results.metrics["ndtw"] is None
    assert results.metrics["pl"] is not None
    assert results.content["submission"] == ["predictions.json"]
    walks = json.loads((results.path / "predictions.json").read_text())
    records = {record["episode_id"]: record for record in _records(results)}
    assert set(walks) == set(records)
    for name, poses in walks.items():
        assert [pose["position"] for pose in poses] == records[name]["positions"]
        assert [pose["stop"] for pose in poses] == [False, *(step == 0 for step in records[name]["primitives"])]
        _, y, _, w = records[name]["rotations"][-1]
        assert math.cos(poses[-1]["heading"]) == pytest.approx(1 - 2 * y * y)
        assert math.sin(poses[-1]["heading"]) == pytest.approx(2 * w * y)
    rxr = run("rxr-ce", "test_challenge_guide", agent="random", output_dir=tmp_path / "rxr")
    lines = [json.loads(line) for line in (rxr.path / "predictions.jsonl").read_text().splitlines()]
    assert [line["instruction_id"] for line in lines] == [98, 99, 100]
    assert all(p != q for line in lines for p, q in zip(line["path"], line["path"][1:], strict=False))
    with pytest.raises(ConfigError, match="nowhere to go"):
        run("r2r-ce", "test", output_dir=tmp_path / "expert")


def test_what_is_missing_is_told_with_where_it_comes_from(data_root: Path, tmp_path: Path) -> None:
    for task, dataset in (("r2r-ce", "R2R_VLNCE_v1-3_preprocessed"), ("rxr-ce", "RxR_VLNCE_v0"), ("envdrop", "R2R_")):
        split = default_host().registry("benchmark").spec(task).default_split
        with pytest.raises(DataError, match=rf"download {dataset}.*VLN-CE.*--data-root") as caught:
            benchmark(task).episodes(split, data_root=tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"mp3d/one/one.glb is not below .*2 of 2 scenes.*Matterport3D's terms"):
        benchmark("r2r-ce").episodes("val_unseen", data_root=data_root)
    (tmp_path / "mp3d" / "one").mkdir(parents=True)
    (tmp_path / "mp3d" / "one" / "one.glb").touch()
    here = benchmark("r2r-ce", scenes=str(tmp_path))
    assert len(here.episodes("val_unseen", limit=6, data_root=data_root)) == 6, "only scenes that are walked are needed"
    with pytest.raises(ConfigError, match="add -o simulator=graph"):
        benchmark("r2r-ce", episodes=str(data_root / "R2R_val_unseen.json")).episodes("val_unseen")
    with pytest.raises(DataError, match=r"no episode file nowhere\.json"):
        benchmark("r2r-ce", episodes="nowhere.json").episodes("val_unseen")
    for wrong in ({"embodiment": "rxr"}, {"simulator": "mash"}, {"simulator_options": 3}):
        with pytest.raises(NavilaError):
            benchmark("r2r-ce", **wrong)


def test_expert_paths_belong_to_the_published_files(data_root: Path, tmp_path: Path) -> None:
    published = Path("datasets/R2R_VLNCE_v1-3_preprocessed/val_unseen/val_unseen.json.gz")
    (tmp_path / published).parent.mkdir(parents=True)
    (tmp_path / published).write_bytes((data_root / published).read_bytes())
    with pytest.raises(DataError, match=r"val_unseen_gt\.json\.gz.* is missing"):
        benchmark("r2r-ce", simulator="graph").episodes("val_unseen", data_root=tmp_path)
    episodes = benchmark("r2r-ce", simulator="graph", episodes=str(tmp_path / published)).episodes("val_unseen")
    truth = ground_truth_path(tmp_path / published)
    truth.write_bytes((data_root / truth.relative_to(tmp_path)).read_bytes())
    for path in (tmp_path / published, truth):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = benchmark("r2r-ce", simulator="graph").episodes("val_unseen", data_root=tmp_path)
    assert [episode.instruction for episode in unpacked] == [episode.instruction for episode in episodes]
    assert all(episode.gt_locations for episode in unpacked)


def test_a_limit_takes_the_first_or_draws_from_all(data_root: Path) -> None:
    def drawn(limit: int | None, seed: int = 0, **options: Any) -> list[Episode]:
        made = benchmark("r2r-ce", simulator="graph", **options)
        return made.episodes("val_unseen", seed=seed, limit=limit, data_root=data_root)

    everything = drawn(None)
    assert drawn(3) == everything[:3]
    sampled = drawn(6, sample=True)
    assert sampled == drawn(6, sample=True) != drawn(6, seed=1, sample=True)
    assert {episode.scene_id for episode in sampled} == {"mp3d/one/one.glb", "mp3d/two/two.glb"}


def test_the_camera_is_the_embodiments(data_root: Path) -> None:
    for name in ("navila", "rxr-official", "navila-bench"):
        made = benchmark("r2r-ce", simulator="graph", scenes=str(data_root / "connectivity"), embodiment=name)
        simulator = made.simulator()
        assert simulator.embodiment == EMBODIMENTS[name]
        seen = simulator.reset(made.episodes("val_unseen", limit=1, data_root=data_root)[0])
        assert seen.rgb.shape == (EMBODIMENTS[name].height, EMBODIMENTS[name].width, 3)


def test_real_paths_are_replayed_with_success_and_spl_one(run: Any, navigation_data: Path) -> None:
    results = run(
        "r2r-ce",
        options={
            "episodes": str(navigation_data / "r2r_val_unseen_80.json"),
            "scenes": str(navigation_data / "mp3d_connectivity.json.gz"),
            "sample": True,
        },
        limit=30,
    )
    assert (results.count, results.metrics["sr"], results.metrics["spl"], results.metrics["os"]) == (30, 1.0, 1.0, 1.0)
    assert results.metrics["collisions"] == 0

"""`navila eval` as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from navila.testing import CallbackContract, CommandContract
from navila_eval.command import _choose

Command = Callable[..., subprocess.CompletedProcess[str]]

pytest.importorskip("navila_bench_vln", reason="needs the plugin navila-bench-vln")
pytest.importorskip("navila_sim_mesh", reason="needs the plugin navila-sim-mesh")


class TestEvalCommand(CommandContract):
    name = "eval"


class TestBenchmarkCallback(CallbackContract):
    name = "benchmark"


def test_without_a_model_it_lists_the_tasks(navila_eval: Command) -> None:
    listed = navila_eval()
    assert listed.returncode == 0
    assert "houses" in listed.stdout
    assert navila_eval("--list").stdout == listed.stdout


def test_the_list_is_made_from_descriptions_alone() -> None:
    program = (
        "import sys; from navila.cli import main; code = main(['eval', '--list', '--json']); "
        "heavy = [m for m in ('torch', 'numpy', 'PIL', 'transformers', 'matplotlib', 'navila_bench_vln.houses') "
        "if m in sys.modules]; print(heavy, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    tasks = {task["name"]: task for task in json.loads(done.stdout)}
    assert tasks["houses"]["dist"] == "navila-bench-vln"
    assert "sr" in [metric["name"] for metric in tasks["houses"]["metrics"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-t", "housse", "--agent", "expert"], "did you mean 'houses'?"),
        (["-t", "houses:level99", "--agent", "expert"], "has no split 'level99': use one of level0"),
        (["-t", "houses"], "--agent model needs a checkpoint: give it with -m."),
        (["-m", "x"], "name tasks with -t"),
        (["-t", "houses", "--agent", "expert", "--level", "0", "--split", "level0"], "give one of them"),
        (["-t", "houses,houses:level1", "--agent", "expert", "-o", "size=3"], "no option 'size': it has image_size"),
        (["-t", ",", "--agent", "expert"], "-t names no task"),
        (["-t", "houses", "-m", "no-such-checkpoint"], "'no-such-checkpoint' is no folder here"),
    ],
)
def test_a_mistake_is_one_sentence(navila_eval: Command, arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = navila_eval(*arguments, "--output-dir", tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert sentence in last
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_task_has_one_folder_by_whatever_name_it_is_called() -> None:
    assert _choose("r2r:val_seen", None) == _choose("r2r-ce", "val_seen") == ("r2r-ce", "val_seen")


def test_a_run_writes_results_aggregate_records_and_a_report(navila_eval: Command, tmp_path: Path) -> None:
    arguments = ["-t", "houses,houses:level1", "--agent", "expert", "--limit", "2", "--output-dir", tmp_path]
    # Processes would cost more time than what they are started for.
    arguments.append("--no-env-processes")
    done = navila_eval(*arguments)
    assert done.returncode == 0, done.stderr
    assert "sr" in done.stdout
    for label in ("houses", "houses-level1"):
        folder = tmp_path / "expert" / label
        results = json.loads((folder / "results.json").read_text())
        assert results["results"]["houses"]["sr"] == 1.0
        assert results["manifest"]["plugins"]["navila-bench-vln"]
        assert results["run"]["embodiment"]["turn_angle"] == 15.0
        assert json.loads((folder / "aggregate.json").read_text())["navila"]["total_episodes"] == 2
        assert len((folder / "episodes.jsonl").read_text().splitlines()) == 2
        assert "<html" in (folder / "report.html").read_text()
    assert json.loads((tmp_path / "expert" / "metrics.json").read_text())["houses-level1/sr"] == 1.0
    before = (tmp_path / "expert" / "houses" / "results.json").read_bytes()
    assert navila_eval(*arguments, "--json").returncode == 0
    assert navila_eval(*arguments, "--perturb", "latency=0").returncode == 0, "that is the run without"
    assert (tmp_path / "expert" / "houses" / "results.json").read_bytes() == before, "a finished task is not run again"


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "navila", "eval", "-t", "houses", "--agent", "expert", "--limit", "60"]
    process = subprocess.Popen(
        [*command, "--num-envs", "1", "--quiet", "--output-dir", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    records = tmp_path / "expert" / "houses" / "episodes.jsonl"
    while not (records.exists() and records.read_bytes().count(b"\n")):
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 75
    assert "run the same command again" in stderr.strip().splitlines()[-1]
    assert "Traceback" not in stderr
    assert not (tmp_path / "expert" / "houses" / "results.json").exists()


OFF_THE_FLOOR = """
from dataclasses import replace
from navila import hookimpl
from navila.specs import BenchmarkSpec
from navila_bench_vln.houses import Houses

@hookimpl
def navila_benchmarks():
    for name in ("OffFloor", "Empty"):
        yield BenchmarkSpec(name=name.lower(), target=f"{__name__}:{name}", summary="broken", splits=("level0",),
                            default_split="level0", simulator="mesh")

class OffFloor(Houses):
    def episodes(self, split, **options):
        good, bad = super().episodes(split, **options)
        return [good, replace(bad, start_position=(999.0, 0.0, 999.0))]

class Empty(Houses):
    def episodes(self, split, **options):
        return []
"""


def test_what_fails_is_named_and_does_not_stop_the_rest(navila_eval: Command, tmp_path: Path) -> None:
    plugin = tmp_path / "off_the_floor.py"
    plugin.write_text(OFF_THE_FLOOR)
    done = navila_eval(
        "--plugin", plugin, "-t", "empty,offfloor,houses", "--agent", "expert", "--limit", "2",
        "--no-env-processes", "--output-dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "empty: failed: The task empty level0 has no episodes" in done.stdout
    assert "Error: empty, offfloor did not run without failures" in done.stderr
    assert "is off the walkable floor" in done.stderr
    results = json.loads((tmp_path / "expert" / "offfloor" / "results.json").read_text())
    assert results["results"]["offfloor"]["sr"] == 0.5
    assert "SceneError" not in results["failed_episodes"][0]["error"], "a sentence of ours says all"
    assert json.loads((tmp_path / "expert" / "houses" / "results.json").read_text())["episodes"] == 2

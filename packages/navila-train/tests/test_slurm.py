"""navila run on a real SLURM: two nodes, whose daemons run on this machine for as long as the tests do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

#: A program that is told to stop, says so by exit code 75, and is done when it is started again.
STOPS_EARLY = """
import pathlib, signal, sys, time
saved = pathlib.Path(sys.argv[1], "saved")
if saved.exists():
    print("resumed")
    sys.exit(0)

def save(*_):
    # Without cgroups SLURM signals every process of a job itself, so that it comes twice.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    saved.touch()
    sys.exit(75)

signal.signal(signal.SIGUSR1, save)
time.sleep(300)
"""
#: A program that fails on the second node alone, while the first would go on.
FAILS = """
import os, sys, time
if os.environ["CURRENT_RANK"] == "1":
    sys.exit(7)
time.sleep(300)
"""


@pytest.fixture
def environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """This process's variables and the cluster's, as outside of any job."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | dict(slurm)


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs `navila run` in a new folder, without GPUs."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "navila", "run", "--gpus-per-node", "0", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / "runs" / "train" / name / "job.json").read_text())


def outcomes(folder: Path, name: str) -> list[tuple[str, int]]:
    return [(attempt["outcome"], attempt["exit_code"]) for attempt in record(folder, name)["attempts"]]


def losses(folder: Path) -> dict[int, float]:
    """Step to loss; the last line may still be written."""
    log = folder / "train_log.jsonl"
    lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def squeue(environment: Mapping[str, str], job_id: str) -> str:
    command = ["squeue", "--noheader", "--jobs", job_id, "--format", "%T"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.slow  # two starts of a training on two nodes that start torch by torchrun
def test_a_training_on_two_nodes_stopped_at_its_time_limit_has_the_losses_of_one_process(
    environment: dict[str, str], processes: Any, recipe: Path, tmp_path: Path
):
    flags = ("--config", recipe, "--max_steps", 20, "--logging_steps", 1, "--per_device_train_batch_size", 4)
    processes.run("train", *flags, "--gradient_accumulation_steps", 2, "--output_dir", tmp_path / "one")
    job = ("run", "-J", "two", "-N", 2, "--gpus-per-node", 0, "-t", "20:00", "--follow", "--", "navila", "train")
    stumbling = ("--plugin", Path(__file__).with_name("stumbling.py"), "--callback", "stumble")
    following = subprocess.Popen(
        [sys.executable, "-m", "navila", *map(str, (*job, *flags, *stumbling))],
        cwd=tmp_path,
        env={**environment, "HOLD": "5", "UNTIL": str(tmp_path / "told")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",  # srun cuts progress bars anywhere
    )
    output = tmp_path / "runs" / "train" / "two"
    while len(losses(output)) < 3:
        assert following.poll() is None, following.communicate()
        time.sleep(0.1)
    # What SLURM does some time before the limit.
    scancel = ["scancel", "--batch", "--signal=USR1", record(tmp_path, "two")["job_id"]]
    subprocess.run(scancel, env=environment, check=True)
    (log,) = (output / "slurm").glob("*.log")
    while "SIGUSR1: stopping after this step" not in log.read_text(errors="replace"):
        assert following.poll() is None, following.communicate()
        time.sleep(0.1)
    (tmp_path / "told").touch()
    told = following.communicate()[0]
    assert following.returncode == 0, told
    assert outcomes(tmp_path, "two") == [("time limit", 75), ("finished", 0)]
    assert "trained 20 steps" in told, "--follow shows what the nodes print"
    assert losses(output) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert len(losses(output)) == 20


@pytest.mark.slow  # SLURM looks at time limits twice a minute
def test_a_job_that_meets_its_time_limit_is_told_and_started_again(run: Run, tmp_path: Path):
    (tmp_path / "program.py").write_text(STOPS_EARLY)
    # A quarter of a minute to work: SLURM tells a job half a minute before it has to, or later.
    done = run("-J", "long", "-t", "2:00", "--grace", "1:15", "--follow", "--", "python", "program.py", "{output_dir}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed" in done.stdout
    assert outcomes(tmp_path, "long") == [("time limit", 75), ("finished", 0)]
    assert len({attempt["started"] for attempt in record(tmp_path, "long")["attempts"]}) == 2


def test_restarts_are_bounded_and_the_exit_code_stays(run: Run, tmp_path: Path):
    done = run("-J", "never", "--max-restarts", 1, "--follow", "--", "bash", "-c", "exit 75")
    assert done.returncode == 75, done.stdout + done.stderr
    assert outcomes(tmp_path, "never") == [("stopped early", 75), ("stopped early", 75)]
    assert record(tmp_path, "never")["state"] == "stopped"


def test_the_exit_code_is_that_of_the_node_that_failed_first(run: Run, tmp_path: Path):
    (tmp_path / "program.py").write_text(FAILS)
    done = run("-J", "fails", "-N", 2, "--follow", "--", "python", "program.py")
    assert done.returncode == 7, done.stdout + done.stderr
    assert outcomes(tmp_path, "fails") == [("failed", 7)]


def test_every_node_knows_its_place_and_words_arrive_as_they_were_given(run: Run, tmp_path: Path):
    words = "$HOME 'one' \"two\"  three"
    shown = 'echo "$RUN_NAME|$OUTPUT_DIR|$n_node|$GPUS_PER_NODE|$CURRENT_RANK|$MASTER_ADDR:$MASTER_PORT|$0"'
    done = run("-J", "place", "-N", 2, "--follow", "bash", "-c", shown, words)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = sorted(line[3:].split("|") for line in done.stdout.splitlines() if line[:3] in ("0: ", "1: "))
    assert [line[:5] for line in lines] == [["place", "runs/train/place", "2", "1", rank] for rank in "01"]
    assert {line[6] for line in lines} == {words}
    assert len({line[5] for line in lines}) == 1, "one address and port for all"


def test_a_job_of_a_name_is_there_once_and_ends_when_it_is_cancelled(
    run: Run, environment: dict[str, str], tmp_path: Path
):
    done = run("-J", "sleeper", "sleep", 300)
    assert done.returncode == 0, done.stderr
    job_id = record(tmp_path, "sleeper")["job_id"]
    assert f"SLURM job {job_id} handed in" in done.stderr
    again = run("-J", "sleeper", "sleep", 300)
    assert again.returncode == 2
    assert f"scancel {job_id}" in again.stderr
    while squeue(environment, job_id) != "RUNNING":
        time.sleep(0.2)
    subprocess.run(["scancel", job_id], env=environment, check=True)
    followed = run("-J", "sleeper", "--follow")
    assert followed.returncode != 0
    assert squeue(environment, job_id) in ("", "COMPLETING")
    assert record(tmp_path, "sleeper")["state"] != "finished"


def test_what_slurm_refuses_is_one_sentence(run: Run, tmp_path: Path):
    done = run("-J", "refused", "--partition", "nowhere", "true")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: SLURM refuses the job (")
    assert "nvalid partition" in done.stderr
    assert "--account" in done.stderr
    assert len(done.stderr.splitlines()) == 1

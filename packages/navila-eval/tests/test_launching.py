"""`navila eval` on several GPUs and machines: what is started, and who does what there."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from navila.errors import ConfigError
from navila_eval.claims import Claims
from navila_eval.command import evaluate
from navila_eval.launching import Team, own_gpu, team
from navila_eval.runner import start_over


def test_torchrun_and_srun_say_which_process_this_is() -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert team(torchrun) == Team(rank=5, size=16, local_rank=1, local_size=4)
    srun = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    }
    assert team(srun) == Team(rank=5, size=8, local_rank=1, local_size=4)
    assert team({**srun, **torchrun}).size == 16
    # A batch script and an interactive shell of an allocation are one process, whatever its size.
    assert team({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Team()
    assert not team(srun).leads
    assert team({}).leads


def test_processes_of_a_machine_share_its_gpus() -> None:
    third = Team(rank=2, size=4, local_rank=2, local_size=4)
    assert own_gpu(third, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}) == "6"
    assert own_gpu(third, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}) == "GPU-a"
    assert own_gpu(third, {"CUDA_VISIBLE_DEVICES": ""}) is None
    # Alone on its machine, it starts processes for all GPUs itself.
    assert own_gpu(Team(rank=1, size=2), {"CUDA_VISIBLE_DEVICES": "4,5"}) is None


def dry(*flags: str) -> str:
    words = [
        "-t",
        "r2r-ce,rxr-ce:val_seen_guide_en",
        "-m",
        "far/Model-8B",
        "--api-base",
        "http://localhost:1/v1",
        *flags,
    ]
    done = CliRunner().invoke(evaluate, [*words, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_launcher_starts_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUS_PER_NODE", raising=False)
    given = shlex.join(["--model", "far/Model-8B", "--tasks", "r2r-ce,rxr-ce:val_seen_guide_en"])
    by_torchrun = dry("--launcher", "torchrun", "-n", "4", "--no-resume", "-o", "sample=true", "-o", "scenes=x y")
    last = by_torchrun.splitlines()[-1]
    assert "--nproc_per_node 4" in last
    assert f"{sys.executable} -m" in last
    for words in (given, "-m navila eval ", "--option sample=true", "--option 'scenes=x y'"):
        assert words in last
    for words in ("--launcher", "--nproc-per-node", "--dry-run", "resume"):
        assert words not in last

    by_slurm = dry("--launcher", "slurm", "-N", "2", "-n", "4", "--force")
    for words in (
        "--job-name=eval/model-8b-2-tasks",
        "--nodes=2",
        "--gpus-per-node=4",
        "eval --model far/Model-8B",
        "--nproc-per-node 4",
    ):
        assert words in by_slurm
    assert "--force" not in by_slurm, "a job that is started again goes on"
    monkeypatch.setenv("GPUS_PER_NODE", "0")
    assert "--gpus-per-node" not in dry("--launcher", "slurm")


def test_a_launched_run_is_started_over_before(tmp_path: Path) -> None:
    for task in ("scanqa", "houses"):
        (tmp_path / "model-8b" / task).mkdir(parents=True)
        for name in ("run.json", "samples.jsonl", "samples-x.jsonl", "episodes.jsonl", "mine.txt"):
            (tmp_path / "model-8b" / task / name).write_text("{}")
    (tmp_path / "model-8b" / "houses" / "results.json").write_text('{"task": "houses"}')
    over = partial(start_over, model="far/Model-8B", agent="model", output_dir=tmp_path)
    over([("scanqa", "val"), ("houses", "level0")], finished=False)
    assert [path.name for path in (tmp_path / "model-8b" / "scanqa").iterdir()] == ["mine.txt"]
    assert len(list((tmp_path / "model-8b" / "houses").iterdir())) == 6, "it is finished"
    with Claims(tmp_path / "model-8b" / "houses" / "claims"), pytest.raises(ConfigError, match="at work in"):
        over([("houses", "level0")], finished=True)
    over([("houses", "level0")], finished=True)
    assert [path.name for path in (tmp_path / "model-8b" / "houses").iterdir()] == ["mine.txt"]


def test_what_makes_no_sense_with_several_processes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*flags: str) -> str:
        done = CliRunner().invoke(evaluate, ["-t", "scanqa", "-m", "x", *flags])
        assert isinstance(done.exception, ConfigError)
        return str(done.exception)

    assert "are for --launcher torchrun or slurm" in refused("-N", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "several processes at once cannot" in refused("--force")

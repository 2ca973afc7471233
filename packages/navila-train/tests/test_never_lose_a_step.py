"""Trainings that are stopped, killed, damaged, poisoned or held up; real processes, see conftest.py."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

STUMBLING = Path(__file__).with_name("stumbling.py")
#: Rounding noise of an optimizer cannot hide here, and a step less cannot either.
FLAGS = ("--logging_steps", 3, "--history_dropout", 0.5, "--per_device_train_batch_size", 2)


def command(recipe: Path, output: Path, *flags: object) -> list[object]:
    plugin = ("--plugin", STUMBLING)
    return ["train", *plugin, "--config", recipe, "--output_dir", output, "--callback", "stumble", *FLAGS, *flags]


def log_of(output: Path) -> list[dict]:
    path = output / "train_log.jsonl"
    # What comes after the last line's end is still being written.
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def losses(output: Path) -> dict[int, tuple]:
    return {
        line["step"]: (line["loss"], line["grad_norm"], line["learning_rate"])
        for line in log_of(output)
        if "loss" in line
    }


def weights(output: Path) -> dict[str, torch.Tensor]:
    files = [file for part in ("llm", "vision_tower", "mm_projector") for file in (output / part).glob("*.safetensors")]
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_same_training(one: Path, two: Path) -> None:
    """Bit for bit: every log line's loss and gradient norm, and the final weights."""
    assert losses(one) == losses(two)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    told = [json.loads((folder / "training.json").read_text()) for folder in (one, two)]
    assert told[0]["steps"] == told[1]["steps"]
    assert told[0]["loss"] == pytest.approx(told[1]["loss"], abs=1e-6)


def checkpoints(output: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("checkpoint-")) for folder in output.glob("checkpoint-*"))


def reached(output: Path, step: int) -> bool:
    return any(line["step"] >= step for line in log_of(output))


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGUSR1, signal.SIGINT))],
)
def test_a_signal_saves_and_ends_with_75_and_the_same_command_goes_on(processes, recipe, tmp_path, number):
    train = command(
        recipe, tmp_path / "run", "--max_steps", 20, "--save_strategy", "no", "--gradient_accumulation_steps", 2
    )
    (running,) = processes.start(*train, HOLD=8, UNTIL=tmp_path / "told")
    running.until(lambda: reached(tmp_path / "run", 6))
    running.kill(number)
    (tmp_path / "told").touch()
    assert running.wait() == 75
    (step,) = checkpoints(tmp_path / "run")
    assert 6 <= step < 20
    assert f"Stopped after step {step} of 20 by {number.name}" in running.said()
    assert not (tmp_path / "run" / "training.json").exists()
    assert f"resuming from {tmp_path / 'run' / f'checkpoint-{step}'}" in processes.run(*train)
    processes.run(*command(recipe, tmp_path / "whole", *train[train.index("--max_steps") :]))
    assert_same_training(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow  # several trainings that take their time
def test_a_time_limit_ends_each_of_several_runs_that_together_equal_one(processes, recipe, tmp_path):
    train = command(recipe, tmp_path / "run", "--max_steps", 24, "--save_strategy", "no")
    stopped = []
    # On the slowest machine each makes one step.
    for _ in range(24):
        (running,) = processes.start(*train, "--time_limit", "00:01:00", "--time_margin", 50, PACE=0.5)
        code = running.wait()
        if code == 0:
            break
        assert code == 75, running.said()
        stopped.append(max(checkpoints(tmp_path / "run")))
        assert f"by --time_limit 00:01:00, kept in {tmp_path / 'run' / f'checkpoint-{stopped[-1]}'}" in running.said()
    assert code == 0
    assert stopped
    assert stopped == sorted(set(stopped)), "every run got further"
    processes.run(*command(recipe, tmp_path / "whole", *train[train.index("--max_steps") :]))
    assert_same_training(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow  # waits for an echo to pass
def test_a_second_signal_stops_at_once(processes, recipe, tmp_path):
    (running,) = processes.start(*command(recipe, tmp_path / "run", "--max_steps", 9, "--hang_timeout", 0), HANG=4)
    running.until(lambda: reached(tmp_path / "run", 3))
    running.kill(signal.SIGTERM)
    running.until(lambda: "again to stop at once" in running.said())
    # What comes within five seconds is an echo of the first.
    running.kill(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["tail", f"--pid={running.pid}", "-f", "/dev/null"], timeout=5.5, check=False)
    running.kill(signal.SIGTERM)
    assert running.wait() == -signal.SIGTERM
    assert checkpoints(tmp_path / "run") == []


@pytest.mark.slow  # three trainings of two processes
def test_a_signal_to_one_rank_stops_all_at_the_same_step(processes, recipe, tmp_path):
    train = command(
        recipe, tmp_path / "run", "--max_steps", 12, "--save_strategy", "no", "--gradient_accumulation_steps", 2
    )
    ranks = processes.start(*train, ranks=2, HOLD=5, UNTIL=tmp_path / "told")
    ranks[0].until(lambda: reached(tmp_path / "run", 3))
    ranks[1].kill(signal.SIGTERM)
    (tmp_path / "told").touch()
    assert [rank.wait() for rank in ranks] == [75, 75]
    (step,) = checkpoints(tmp_path / "run")
    assert f"Stopped after step {step} of 12 by SIGTERM to rank 1" in ranks[0].said()
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {
        file.name for file in (tmp_path / "run" / f"checkpoint-{step}").iterdir()
    }
    processes.run(*train, ranks=2)
    processes.run(*command(recipe, tmp_path / "whole", *train[train.index("--max_steps") :]), ranks=2)
    assert_same_training(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow  # two trainings of two processes
def test_a_group_that_shares_rows_stops_too(processes, recipe, tmp_path):
    train = command(recipe, tmp_path / "run", "--max_steps", 9, "--seq_parallel_size", 2, "--save_strategy", "no")
    ranks = processes.start(*train, ranks=2, HOLD=5, UNTIL=tmp_path / "told")
    ranks[0].until(lambda: reached(tmp_path / "run", 3))
    ranks[1].kill(signal.SIGUSR1)
    (tmp_path / "told").touch()
    assert [rank.wait() for rank in ranks] == [75, 75]
    assert "by SIGUSR1 to rank 1" in ranks[0].said()
    (step,) = checkpoints(tmp_path / "run")
    assert "trained" in processes.run(*train, "--max_steps", step + 1, ranks=2)


def test_a_step_without_a_finite_loss_is_left_out_everywhere_and_told(processes, recipe, tmp_path):
    train = command(recipe, tmp_path / "run", "--max_steps", 6, "--save_steps", 2, "--gradient_accumulation_steps", 2)
    said = processes.run(*train, ranks=2, NAN="4:1")
    assert "step 4 was left out: loss nan on rank 1; its samples: " in said
    (line,) = [line for line in log_of(tmp_path / "run") if "left_out" in line]
    assert line["step"] == 4
    assert len(line["samples"]) == 4, "two batches of two, of the rank whose loss it was"
    two, four = weights(tmp_path / "run" / "checkpoint-2"), weights(tmp_path / "run" / "checkpoint-4")
    assert any(not torch.equal(two[name], four[name]) for name in two), "step 3 counts"
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    logged = {line["step"]: line for line in log_of(tmp_path / "run") if "loss" in line}
    assert logged[6]["steps_left_out"] == 1
    assert 1 < logged[6]["loss"] < 10, "the mean of the two steps that have one"


def test_gradients_that_are_no_numbers_change_nothing(processes, recipe, tmp_path):
    train = command(recipe, tmp_path / "run", "--max_steps", 4, "--save_steps", 1)
    assert "step 3 was left out: gradient norm nan" in processes.run(*train, BAD_GRADIENT=3)
    two, three = weights(tmp_path / "run" / "checkpoint-2"), weights(tmp_path / "run" / "checkpoint-3")
    assert all(torch.equal(two[name], three[name]) for name in two)
    four = weights(tmp_path / "run" / "checkpoint-4")
    assert any(not torch.equal(three[name], four[name]) for name in three)


def test_too_many_bad_steps_in_a_row_end_training_with_their_samples(processes, recipe, tmp_path):
    train = command(recipe, tmp_path / "run", "--max_steps", 9, "--max_bad_steps", 2)
    (running,) = processes.start(*train, NANS="5,9")
    assert running.wait() == 2
    (last,) = [line for line in running.said().splitlines() if "Error: " in line]
    assert last.startswith("Error: Training stopped at step 6: 2 steps in a row could not be trained on (loss nan)")
    assert "vln record" in last
    assert "--max_bad_steps" in last


@pytest.mark.slow  # three trainings
def test_spikes_are_left_out_when_asked_for_and_remembered_over_a_stop(processes, recipe, tmp_path):
    flags = ("--max_steps", 24, "--spike_factor", 3, "--save_steps", 18, "--save_total_limit", 1)
    whole = processes.run(*command(recipe, tmp_path / "whole", *flags), SPIKE=22)
    assert "step 22 was left out: loss" in whole
    assert "over 3 times the median" in whole
    (running,) = processes.start(*command(recipe, tmp_path / "run", *flags), SPIKE=22, HANG=20)
    running.until(lambda: 18 in checkpoints(tmp_path / "run"))
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert "step 22 was left out: loss" in processes.run(*command(recipe, tmp_path / "run", *flags), SPIKE=22)
    assert_same_training(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow  # waits for a timeout
def test_a_hang_names_the_rank_that_is_waited_for(processes, recipe, tmp_path):
    train = command(recipe, tmp_path / "run", "--max_steps", 9, "--hang_timeout", 15)
    ranks = processes.start(*train, ranks=3, HANG="4:1")
    assert [rank.wait() for rank in ranks] == [1, 1, 1]
    (told,) = [rank.said() for rank in ranks if "nothing has moved" in rank.said()]
    assert f"rank 1 ({socket.gethostname()}, process {ranks[1].pid}, 'beginning' of step 4)" in told
    assert "has not come as far as the other 2" in told
    stack = (tmp_path / "run" / "heartbeats" / "rank-00001.stack").read_text()
    assert "on_step_begin" in stack


def test_a_slow_rank_is_named(processes, recipe, tmp_path):
    said = processes.run(*command(recipe, tmp_path / "run", "--max_steps", 21), ranks=2, SLOW=1)
    assert f"step 20: rank 1 ({socket.gethostname()}) needs" in said
    assert "rank 0 (" not in said


def test_damaged_checkpoints_are_passed_over_and_told(processes, recipe, tmp_path):
    flags = ("--max_steps", 8, "--save_steps", 2)
    train = command(recipe, tmp_path / "run", *flags)
    processes.run(*train)
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    (tmp_path / "run" / "training.json").unlink()
    optimizer = tmp_path / "run" / "checkpoint-8" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    state = tmp_path / "run" / "checkpoint-6" / "scheduler.pt"
    state.write_bytes(bytes(reversed(state.read_bytes())))
    (tmp_path / "run" / "tmp-checkpoint-7" / "checkpoint-7").mkdir(parents=True)
    said = processes.run(*train)
    assert "checkpoint-8 cannot be gone on from" in said
    assert "optimizer.pt has" in said
    assert "scheduler.pt has other contents" in said
    assert f"resuming from {tmp_path / 'run' / 'checkpoint-4'}" in said
    assert not list((tmp_path / "run").glob("tmp-*"))
    assert_same_training(tmp_path / "run", tmp_path / "whole")


def test_rotation_keeps_the_newest_good_ones(tmp_path):
    from navila_train.checkpoint_files import clear_temporary, damage, numbered, publish, rotate, sizes, temporary

    def write(step: int) -> Path:
        # Many a system's times of files stand still that long.
        time.sleep(0.02)
        folder = temporary(tmp_path, step) / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(str(step))
        return publish(folder, sizes(folder), step=step, required=("trainer_state.json",), resumable=True)

    def left() -> list[int]:
        return [step for step, _ in numbered(tmp_path)]

    for step in (1, 2, 3):
        assert damage(write(step)) == ""
    rotate(tmp_path, 2)
    assert left() == [2, 3]
    for folder in (tmp_path / "checkpoint-3", tmp_path / "checkpoint-2"):
        (folder / "trainer_state.json").write_text("damaged")
    (tmp_path / "checkpoint-9").mkdir()
    rotate(tmp_path, 1)
    assert left() == [2, 3, 9], "none is good, so none is deleted"
    write(4)
    assert left() == [2, 3, 4, 9]
    rotate(tmp_path, 1, best=str(tmp_path / "checkpoint-2"))
    assert left() == [2, 4], "the last good one, and the best"
    write(3)
    rotate(tmp_path, 1)
    assert left() == [3], "written last, after going on from an earlier one"
    # Killed between the last file and the name.
    shutil.move(tmp_path / "checkpoint-3", temporary(tmp_path, 3) / "checkpoint-3")
    clear_temporary(tmp_path)
    assert left() == [3]


def test_files_that_were_written_badly_are_found_before_the_checkpoint_counts(tmp_path):
    from navila.errors import CheckpointError
    from navila_train.checkpoint_files import publish, sizes, temporary

    folder = temporary(tmp_path, 5) / "checkpoint-5"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b'{"a":{}}')
    for required, match in (
        (("optimizer.pt",), "written without optimizer.pt"),
        ((), "model.safetensors .* cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=match):
            publish(folder, sizes(folder), step=5, required=required, resumable=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tmp-checkpoint-5"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12:00:00", 43200), ("1-00:30:00", 88200), ("00:00:07", 7), ("43200", 43200), ("100:00:00", 360000)],
)
def test_times_are_read(text, seconds):
    from navila_train.stopping import seconds_of

    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["12:00", "tomorrow", "00:00:00", "-5", "1:60:00"])
def test_what_is_no_time_is_one_sentence(text):
    from navila.errors import ConfigError
    from navila_train.stopping import seconds_of

    with pytest.raises(ConfigError, match="HH:MM:SS"):
        seconds_of(text)


@pytest.mark.parametrize(("left", "seconds"), [("1-02:03:04", 93784), ("5:00", 300), ("0:09", 9), ("UNLIMITED", None)])
def test_a_slurm_job_ends_when_squeue_says(tmp_path, monkeypatch, left, seconds):
    from navila_train.stopping import find_deadline

    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\n[ "$*" = "-h -j 7 -o %L" ] && echo {left}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = find_deadline(None, started=0, environment={"SLURM_JOB_ID": "7"})
    if seconds is None:
        assert found is None
    else:
        assert found is not None
        assert found.at == pytest.approx(time.time() + seconds, abs=30)
        assert found.why == "the time limit of SLURM job 7"
    told = find_deadline("00:01:00", started=100, environment={"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "130"})
    assert told is not None
    assert (told.at, told.why) == (130, "the time limit of SLURM job 7")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--time_limit", "12:00"], "--time_limit 12:00 is no time"),
        (["--max_bad_steps", "0"], "--max_bad_steps is 0"),
        (["--spike_factor", "0.5"], "--spike_factor is 0.5"),
        (["--time_margin", "-1"], "--time_margin is -1.0"),
    ],
)
def test_a_wrong_number_is_one_sentence(processes, recipe, tmp_path, flags, match):
    (running,) = processes.start(*command(recipe, tmp_path / "run", "--max_steps", 1, *flags))
    assert running.wait() == 2
    last = running.said().splitlines()[-1]
    assert last.startswith("Error: ")
    assert match in last


@pytest.mark.slow  # twenty-two trainings
def test_a_training_killed_twenty_times_equals_one_that_was_not(processes, recipe, tmp_path):
    """At any moment: while it begins, in a step, and while it writes or deletes a checkpoint."""
    chance = random.Random(7)
    flags = ("--max_steps", 240, "--save_steps", 5, "--save_total_limit", 2, "--dataloader_num_workers", 1)
    processes.run(*command(recipe, tmp_path / "whole", *flags))
    train = command(recipe, tmp_path / "run", *flags)
    while_writing = 0
    for kill in range(20):
        before = max(checkpoints(tmp_path / "run"), default=0)
        (running,) = processes.start(*train)
        if kill % 4 == 0:
            # However slow the machine is, some go on from where the one before was.
            running.until(lambda done=before: max(checkpoints(tmp_path / "run"), default=0) > done)
        # Every other one while it writes the next checkpoint, or just after.
        following = tmp_path / "run" / f"tmp-checkpoint-{before + 5}"
        pause = chance.random() * (0.2 if kill % 2 else 4)
        began = time.monotonic() if not kill % 2 else math.inf
        while time.monotonic() - began < pause and max(checkpoints(tmp_path / "run"), default=0) < before + 10:
            if began == math.inf and following.exists():
                began = time.monotonic()
            time.sleep(0.002)
        running.kill()
        assert running.wait() == -signal.SIGKILL, running.said()
        while_writing += any((tmp_path / "run").glob("tmp-checkpoint-*/checkpoint-*"))
    assert while_writing, "no kill came while a checkpoint was written"
    said = processes.run(*train)
    assert f"resuming from {tmp_path / 'run' / 'checkpoint-'}" in said
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    assert checkpoints(tmp_path / "run") == [235, 240]


def engine_flags(engine: str) -> tuple[object, ...]:
    return ("--engine", "fsdp2") if engine == "fsdp2" else ("--deepspeed", engine)


@pytest.mark.slow  # three trainings of two processes that start DeepSpeed
@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp2"])
def test_divided_trainings_stop_and_leave_bad_steps_out_alike(processes, recipe, tmp_path, engine):
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    flags = ("--max_steps", 8, "--save_steps", 3, "--save_total_limit", 1, *engine_flags(engine))
    train = command(recipe, tmp_path / "run", *flags)
    ranks = processes.start(*train, ranks=2, NAN="2:1", HOLD=5, UNTIL=tmp_path / "told")
    ranks[0].until(lambda: "step 2 was left out: loss nan on rank 1" in ranks[0].said())
    ranks[1].kill(signal.SIGTERM)
    (tmp_path / "told").touch()
    assert [rank.wait() for rank in ranks] == [75, 75], ranks[0].said()
    (step,) = checkpoints(tmp_path / "run")
    assert step < 8
    processes.run(*train, ranks=2, NAN="2:1")
    processes.run(*command(recipe, tmp_path / "whole", *flags), ranks=2, NAN="2:1")
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    assert checkpoints(tmp_path / "run") == [8]

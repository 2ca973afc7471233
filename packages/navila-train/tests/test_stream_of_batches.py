"""A training sees every sample once an epoch and goes on exactly where it was, with other workers too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from navila.errors import CheckpointError, ConfigError
from navila_train.parse import parse_flags
from navila_train.run import run
from safetensors.torch import load_file

PACKED = ("--packing", "--packing_tokens", 600, "--lr_scheduler_type", "constant", "--logging_steps", 1)


def train(*flags: object) -> None:
    run(parse_flags([str(flag) for flag in flags]))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}.{name}": tensor
        for file in sorted(checkpoint.glob("*/*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.fixture(scope="module")
def packed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of packed rows."""
    output = tmp_path_factory.mktemp("packed") / "run"
    train("--config", recipe, "--output_dir", output, *PACKED, "--num_train_epochs", 2, "--save_strategy", "epoch")
    return output


def test_an_epoch_of_packed_rows_ends_where_its_samples_do(packed: Path):
    lines = [json.loads(line) for line in (packed / "train_log.jsonl").read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if "loss" in line]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 2.0
    saved = sorted(int(path.name.partition("-")[2]) for path in packed.glob("checkpoint-*"))
    marker = json.loads((packed / "training.json").read_text())
    assert saved[-1] == marker["steps"]
    assert len(saved) == 2
    assert next(line["epoch"] for line in lines if line["step"] == saved[0]) == 1.0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_training_goes_on_with_any_number_of_workers(
    packed: Path, recipe: Path, tmp_path: Path, workers: int
):
    steps = json.loads((packed / "training.json").read_text())["steps"]
    stopped = ("--config", recipe, "--output_dir", tmp_path / "run", *PACKED, "--save_steps", 3)
    train(*stopped, "--max_steps", 3)
    (tmp_path / "run" / "training.json").unlink()
    train(*stopped, "--max_steps", steps, "--dataloader_num_workers", workers)
    whole, resumed = weights(packed), weights(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_remains_can_be_shown(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def shown(output: Path) -> list[dict]:
        capsys.readouterr()
        train("--config", recipe, "--output_dir", output, *PACKED, "--max_steps", 6, "--show_order", 999)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"batch"')]

    whole = shown(tmp_path / "new")
    assert [batch["batch"] for batch in whole] == list(range(6))
    assert all(name.startswith("vln record ") for batch in whole for name in batch["samples"])
    train("--config", recipe, "--output_dir", tmp_path / "run", *PACKED, "--max_steps", 2, "--save_steps", 2)
    (tmp_path / "run" / "training.json").unlink()
    assert shown(tmp_path / "run") == whole[2:]


def test_a_position_in_other_data_is_refused(packed: Path, recipe: Path, tmp_path: Path):
    flags = ("--config", recipe, "--output_dir", tmp_path / "run", "--resume_from_checkpoint")
    checkpoint = max(packed.glob("checkpoint-*"))
    with pytest.raises(ConfigError, match="was trained on other data, or with another seed or batch size"):
        train(*flags, checkpoint, *PACKED, "--seed", 9)
    (checkpoint / "data_position.json").unlink()
    with pytest.raises(CheckpointError, match=r"data_position\.json is missing"):
        train(*flags, checkpoint, *PACKED)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--packing", "--share_prefix"), "leave one of them out"),
        (("--group_by_episode", 4, "--train_sampling_strategy", "sequential"), "two orders of samples"),
        (("--train_sampling_strategy", "batch_rebalance"), "is not offered"),
        (("--dataloader_drop_last",), "would lose samples"),
        (("--packing", "--packing_tokens", 5), "the longest sample takes"),
        (("--bad_data_bound", 2), "a share of the samples"),
    ],
)
def test_orders_and_layouts_that_cannot_be_are_refused(recipe: Path, tmp_path: Path, flags: tuple, match: str):
    with pytest.raises(ConfigError, match=match):
        train("--config", recipe, "--output_dir", tmp_path / "run", *flags)


def test_samples_of_like_length_share_batches(recipe: Path, tmp_path: Path):
    output = tmp_path / "run"
    train("--config", recipe, "--output_dir", output, "--max_steps", 2, "--train_sampling_strategy", "group_by_length")
    assert json.loads((output / "training.json").read_text())["steps"] == 2


def test_a_step_that_does_not_fit_loses_frames_and_is_counted(recipe: Path, tmp_path: Path):
    train("--config", recipe, "--output_dir", tmp_path / "run", "--max_steps", 2, "--model_max_length", 24)
    marker = json.loads((tmp_path / "run" / "training.json").read_text())
    assert marker["shortened_samples"] > 0
    assert marker["broken_samples"] == 0

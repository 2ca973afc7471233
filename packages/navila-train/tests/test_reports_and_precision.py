"""--report_to and the flags of precision do what they say, or say why not; tokens of time are trained."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from navila.errors import ConfigError, MissingDependencyError
from navila_train import reports
from navila_train.parse import parse_flags
from navila_train.run import run


def train(recipe: Path, output: Path, *flags: object) -> list[dict[str, Any]]:
    two = ("--config", recipe, "--output_dir", output, "--max_steps", 2, "--logging_steps", 1, "--save_strategy", "no")
    run(parse_flags([str(flag) for flag in (*two, *flags)]))
    lines = (output / "train_log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_sentence(name: str, recipe: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reports, "find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=f"--report_to {name} needs a package: run `pip install {name}`"):
        parse_flags(["--config", str(recipe), "--report_to", name])
    # A plan reports nothing.
    parse_flags(["--config", str(recipe), "--report_to", name, "--plan"])


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_has_the_figures_of_the_log(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    lines = train(recipe, tmp_path / "run", "--report_to", "tensorboard")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    for name in ("loss", "learning_rate", "tokens_per_second", "data_wait"):
        told = [event.value for event in events.Scalars(f"train/{name}")]
        assert told == pytest.approx([line[name] for line in lines], rel=1e-5)


def test_runs_are_named_after_their_folder(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    training = parse_flags(["--config", str(recipe), "--output_dir", str(tmp_path / "first")]).training
    reports.name_reports(training)
    assert training.run_name == "first"
    assert os.environ["WANDB_PROJECT"] == "mine"
    monkeypatch.delenv("WANDB_PROJECT")
    reports.name_reports(training)
    assert os.environ["WANDB_PROJECT"] == "navila"


def test_mixed_precision_computes_in_fewer_bits(recipe: Path, tmp_path: Path):
    full, mixed = train(recipe, tmp_path / "full"), train(recipe, tmp_path / "mixed", "--bf16")
    assert mixed[0]["loss"] != full[0]["loss"]
    assert mixed[0]["loss"] == pytest.approx(full[0]["loss"], abs=0.02)


def test_precision_of_gpus_is_refused_or_left_out_on_a_cpu(recipe: Path):
    with pytest.raises(ConfigError, match="--fp16 needs a GPU"):
        parse_flags(["--config", str(recipe), "--fp16"])
    assert parse_flags(["--config", str(recipe), "--tf32", "True"]).training.tf32 is None
    assert parse_flags(["--config", str(recipe), "--fp16", "--plan"]).training.fp16


def test_points_in_time_are_tokens_with_a_loss_of_their_own(recipe: Path, tmp_path: Path):
    lines = train(recipe, tmp_path / "run", "--num_time_tokens", 8)
    assert all(0 < line["loss"] < 10 for line in lines)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(config["time_token_ids"]) == config["num_time_tokens"] == 8

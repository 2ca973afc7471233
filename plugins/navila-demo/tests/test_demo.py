"""`navila demo` as it is typed, and the recipe of its checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from navila.testing import CommandContract
from navila_data.recording import RecordSettings
from navila_demo.scratch import record_command
from navila_train.parse import parse_flags


class TestDemoCommand(CommandContract):
    name = "demo"


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    return yaml.safe_load((files("navila_demo") / "recipe.yaml").read_text(encoding="utf-8"))["steps"]


def test_the_shipped_checkpoint_is_small():
    folder = Path(str(files("navila_demo") / "checkpoint"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= 8_000_000


def test_every_recording_of_the_recipe_is_one_navila_can_make(steps: list[dict[str, Any]]):
    from navila_data.command import record

    recordings = [step["record"] for step in steps if "record" in step]
    assert recordings
    flags = {option for parameter in record.params for option in parameter.opts}
    for settings in recordings:
        words = record_command(settings)[2:]
        assert {word for word in words if word.startswith("--")} <= flags
        RecordSettings(**{k: v for k, v in settings.items() if k not in ("output", "level")})


def test_every_training_of_the_recipe_is_one_navila_can_run(steps: list[dict[str, Any]], tmp_path: Path):
    trainings = [step["train"] for step in steps if "train" in step]
    assert trainings
    known = {"output_dir"}
    for number, settings in enumerate(trainings):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(settings))
        arguments = parse_flags(["--config", str(path)])
        # Each training goes on from the one before it.
        assert arguments.model.model_name_or_path in (None, *known)
        known.add(settings["output_dir"])


@pytest.mark.slow  # Walks four agents through real houses, twice over a process start with torch.
def test_the_demonstration_writes_figures_of_all_agents_and_a_report(tmp_path: Path):
    command = [sys.executable, "-m", "navila", "demo", "--episodes", "3", "--seed", "5", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["level0", "level1"]
    for level in results.values():
        assert set(level) == {"model", "wrong_instruction", "random", "expert"}
        for figures in level.values():
            assert set(figures) == {"sr", "spl", "os", "ne", "ndtw", "episodes"}
            assert figures["episodes"] == 3
            assert 0 <= figures["spl"] <= figures["sr"] <= figures["os"] <= 1
        assert level["expert"]["sr"] == 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert str(tmp_path / "results.json") in done.stdout.replace("\n", "")

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_mistakes_are_one_sentence(tmp_path: Path):
    command = [sys.executable, "-m", "navila", "demo", "--model", str(tmp_path / "nowhere"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sum(line.startswith("Error: ") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr

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
from navila.cli import main
from navila.errors import ConfigError
from navila.testing import CommandContract
from navila_data.procedural import RecordSettings
from navila_demo.scratch import read_steps, record_command
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
    from navila_data.commands.record import record

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


@pytest.mark.slow  # Walks four agents through real houses, and again in a process of its own.
def test_the_demonstration_writes_figures_of_all_agents_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["demo", "--episodes", "3", "--seed", "5", "--output", str(tmp_path)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
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
    assert str(tmp_path / "results.json") in told.replace("\n", "")

    again = subprocess.run([sys.executable, "-m", "navila", *arguments], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["demo", "--model", str(tmp_path / "nowhere"), "--output", str(tmp_path)]) == 2
    assert sum(line.startswith("Error: ") for line in capsys.readouterr().err.splitlines()) == 1


def test_a_recipe_that_does_not_end_in_a_training_is_refused(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    for text in ("steps: []", "steps:\n- record: {output: a}", "steps: 3", "[", "steps:\n- train: {max_steps: 3}"):
        recipe.write_text(text)
        with pytest.raises(ConfigError, match="recipe"):
            read_steps(recipe)


MINIATURE = """
steps:
  - record: {output: views, what: grounding, episodes: 2, views: 2, image_size: 32, seed: 1}
  - record: {output: tours, what: tours, level: [0, 1], episodes: 2, max_steps: 4, image_size: 32, seed: 1}
  - train:
      output_dir: first
      llm: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2}
      vision_tower:
        {model_type: siglip_vision_model, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,
         num_attention_heads: 2, image_size: 32, patch_size: 16}
      mm_projector: mlp_downsample
      mm_vision_select_layer: -1
      tokenizer: words
      tokenizer_mixture: vln:tours+llava:views
      conversation: llama_3
      num_video_frames: 2
      data_mixture: llava:views
      share_prefix: true
      max_steps: 2
  - train:
      output_dir: second
      model_name_or_path: first
      num_video_frames: 2
      data_mixture: vln:tours
      share_prefix: true
      history_dropout: 0.5
      max_steps: 2
"""


@pytest.mark.slow  # Four processes, two of them with torch, each the command a user would type.
def test_from_scratch_records_trains_and_shows(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(MINIATURE)
    output = tmp_path / "demo"
    arguments = ["demo", "--from-scratch", "--recipe", str(recipe), "--episodes", "1", "--output", str(output)]
    assert main(arguments) == 0
    made = output / "from-scratch" / "second"
    assert (made / "training.json").is_file()
    assert json.loads((output / "results.json").read_text())["level1"]["model"]["episodes"] == 1

"""navila train, for real: rendered data in, a checkpoint that acts out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import navila
import numpy as np
import pytest
import torch
from navila.actions import LEGAL_ANSWERS
from navila.errors import ConfigError, DataError, NavilaError
from navila_train.parse import parse_flags
from navila_train.run import run
from PIL import Image
from safetensors.torch import load_file

STEPS = 120
LAYOUT = ("llm", "vision_tower", "mm_projector")


def train(*flags: object) -> None:
    run(parse_flags([str(flag) for flag in flags]))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for part in LAYOUT:
        for file in sorted((checkpoint / part).glob("*.safetensors")):
            tensors |= {f"{part}.{name}": tensor for name, tensor in load_file(file).items()}
    return tensors


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    """The parts whose tensors are all equal."""
    assert one.keys() == two.keys()
    return {part for part in LAYOUT if all(torch.equal(one[n], two[n]) for n in one if n.startswith(part))}


def log_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(processes: Any, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole training, in a process of its own."""
    output = tmp_path_factory.mktemp("trained") / "run"
    flags = ("--max_steps", STEPS, "--save_steps", 40, "--group-by-episode", 8, "--history_dropout", 0.3)
    processes.run("train", "--config", recipe, "--output_dir", output, *flags)
    return output


def test_the_model_loads_and_answers(trained: Path):
    model = navila.load(trained, device="cpu", dtype="float32")
    assert model.config.num_video_frames == 4
    assert model.template.name == "llama_3"
    image = Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8))
    assert isinstance(model.generate_content([image, "Where is the sofa?"], max_new_tokens=4), str)
    navigator = navila.Navigator(model)
    navigator.reset("Go to the red sofa.")
    action = navigator.act(image)
    assert action.status == "ok"
    assert action.text in LEGAL_ANSWERS


def test_the_log_tells_loss_and_speed(trained: Path):
    lines = [line for line in log_of(trained) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(10, STEPS + 1, 10))
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    for name in ("tokens_per_second", "samples_per_second", "images_per_second", "learning_rate", "grad_norm"):
        assert lines[-1][name] > 0


def test_the_completion_marker_says_what_was_trained_on_what(trained: Path):
    marker = json.loads((trained / "training.json").read_text())
    assert marker["complete"]
    assert marker["steps"] == STEPS
    assert marker["arguments"]["history_dropout"] == 0.3
    assert marker["arguments"]["llm"]["hidden_size"] == 32
    assert set(marker["samples"]) == {"vln"}
    assert "navila-llm-llama" in marker["versions"]
    assert not list(trained.rglob("training_args.bin")), "no pickles"


def test_intermediate_checkpoints_load_too(trained: Path):
    assert {path.name for path in trained.glob("checkpoint-*")} == {"checkpoint-40", "checkpoint-80", "checkpoint-120"}
    early, final = weights(trained / "checkpoint-40"), weights(trained)
    assert same(early, final) == set()
    assert same(weights(trained / "checkpoint-120"), final) == set(LAYOUT)
    navila.load(trained / "checkpoint-40", device="cpu")


def test_a_finished_training_is_left_alone(trained: Path, recipe: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    train("--config", recipe, "--output_dir", trained)
    assert "finished" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_two_processes_train_as_one(processes: Any, recipe: Path, tmp_path: Path):
    """Without GPUs too: launched processes share a batch, they do not each train alone."""
    flags = ("--max_steps", 5, "--logging_steps", 1, "--save_strategy", "no", "--use_cpu", "False")
    for name, ranks in (("one", 1), ("two", 2)):
        batch = ("--per_device_train_batch_size", 8 // ranks)
        processes.run("train", "--config", recipe, "--output_dir", tmp_path / name, *flags, *batch, ranks=ranks)
    curves = [[line["loss"] for line in log_of(tmp_path / name) if "loss" in line] for name in ("one", "two")]
    assert len(curves[0]) == 5
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_training_goes_on_from_a_whole_checkpoint(trained: Path, walks: Path, tmp_path: Path):
    train(
        *("--model_name_or_path", trained, "--data_mixture", f"vln:{walks}", "--num_video_frames", 2),
        *("--output_dir", tmp_path / "run", "--max_steps", 1, "--report_to", "none", "--logging_steps", 1),
        *("--tune_mm_projector", True, "--save_strategy", "no"),
    )
    assert same(weights(trained), weights(tmp_path / "run")) == {"llm", "vision_tower"}
    assert navila.load(tmp_path / "run", device="cpu").config.num_video_frames == 2


def test_parts_of_different_checkpoints_are_composed(trained: Path, walks: Path, tmp_path: Path):
    train(
        *(
            "--llm",
            trained / "llm",
            "--vision_tower",
            trained / "vision_tower",
            "--mm_projector_type",
            "mlp_downsample",
        ),
        *("--version", "llama_3", "--data_mixture", f"vln:{walks}", "--num_video_frames", 2),
        *("--output_dir", tmp_path / "run", "--max_steps", 1, "--report_to", "none", "--save_strategy", "no"),
        *("--tune_mm_projector", "True", "--tune_language_model", "False", "--mm_use_im_start_end", "False"),
    )
    assert same(weights(trained), weights(tmp_path / "run")) == {"llm", "vision_tower"}


def test_length_and_ends_of_images_are_put_on_record(trained: Path, walks: Path, tmp_path: Path):
    train(
        *("--model_name_or_path", trained, "--data_mixture", f"vln:{walks}", "--output_dir", tmp_path / "run"),
        *("--max_steps", 1, "--report_to", "none", "--save_strategy", "no", "--on_bad_data", "raise"),
        *("--model_max_length", 513, "--mm_use_im_start_end", "True"),
    )
    config = json.loads((tmp_path / "run" / "llm" / "config.json").read_text())
    assert config["rope_scaling"] == {"type": "linear", "factor": 2.0}
    assert config["tokenizer_model_max_length"] == 513
    model = navila.load(tmp_path / "run", device="cpu")
    assert model.config.mm_use_im_start_end
    start = model.tokenizer.convert_tokens_to_ids("<im_start>")
    # It occurs in what was trained on, so its row has moved away from the one next to it.
    rows = model.llm.get_input_embeddings().weight[start : start + 2]
    assert not torch.equal(rows[0], rows[1])
    assert json.loads((trained / "llm" / "config.json").read_text())["tokenizer_model_max_length"] == 256


def test_learning_rates_of_the_parts(trained: Path, walks: Path, tmp_path: Path):
    train(
        *("--model_name_or_path", trained, "--data_mixture", f"vln:{walks}", "--output_dir", tmp_path / "run"),
        *("--max_steps", 1, "--report_to", "none", "--save_strategy", "no"),
        *("--vision_tower_lr", 0, "--mm_projector_lr", 0, "--learning_rate", "1e-3"),
    )
    assert same(weights(trained), weights(tmp_path / "run")) == {"vision_tower", "mm_projector"}


def test_broken_frames_are_left_out_counted_and_bounded(trained: Path, walks: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(walks, data)
    total = len(json.loads((data / "annotations.json").read_text()))
    (data / "train" / "0" / "frame_0.jpg").unlink()
    flags = (
        *("--model_name_or_path", trained, "--data_mixture", f"vln:{data}", "--save_strategy", "no"),
        *("--num_train_epochs", 1, "--report_to", "none", "--num_video_frames", 2),
    )
    with pytest.raises(DataError, match=rf"of {total} samples are broken, more than 1%.*frame_0\.jpg"):
        train(*flags, "--output_dir", tmp_path / "bounded")
    with pytest.raises(DataError, match=r"frame_0\.jpg does not exist"):
        train(*flags, "--output_dir", tmp_path / "raised", "--on_bad_data", "raise")
    train(*flags, "--output_dir", tmp_path / "skipped", "--bad_data_bound", 1.0)
    assert json.loads((tmp_path / "skipped" / "training.json").read_text())["broken_samples"] >= 1


@pytest.mark.parametrize("flags", [("--bad_data_bound", 0.06), ("--on_bad_data", "raise")], ids=["bound", "raise"])
def test_processes_count_broken_samples_together_and_stop_alike(
    processes: Any, recipe: Path, walks: Path, tmp_path: Path, flags: tuple[object, ...]
):
    """Neither process alone has seen more than is allowed, or only one of them has seen any."""
    shutil.copytree(walks, tmp_path / "data")
    records = json.loads((tmp_path / "data" / "annotations.json").read_text())[:64]
    for number in range(5 if "--bad_data_bound" in flags else 1):
        records[number]["frames"] = ["none.jpg"]
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(records))
    flags = (*flags, "--save_strategy", "no", "--use_cpu", "False", "--data_mixture", f"vln:{tmp_path / 'data'}")
    flags += ("--per_device_train_batch_size", 8, "--max_steps", 4)
    started = processes.start("train", "--config", recipe, "--output_dir", tmp_path / "run", *flags, ranks=2)
    assert [process.wait() for process in started] == [2, 2]
    # The progress bar's line may not have ended.
    told = ["Error: " + process.said().partition("Error: ")[2].splitlines()[0] for process in started]
    assert told[0] == told[1]
    assert re.match(r"Error: [45] of 64 samples are broken|Error: .*none\.jpg does not exist", told[0]), told[0]


def test_a_step_without_a_whole_sample_has_no_loss_and_harms_nothing(trained: Path, walks: Path, tmp_path: Path):
    shutil.copytree(walks, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "train")
    flags = ("--model_name_or_path", trained, "--data_mixture", f"vln:{tmp_path / 'data'}", "--max_steps", 1)
    train(*flags, "--report_to", "none", "--bad_data_bound", 1.0, "--output_dir", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "training.json").read_text())["loss"] == 0.0
    assert same(weights(trained), weights(tmp_path / "run")) == set(LAYOUT)


def test_weights_can_be_read_by_whoever_may_read_new_files(trained: Path, tmp_path: Path):
    (tmp_path / "new").touch()
    modes = {file.name: file.stat().st_mode for file in trained.rglob("*.safetensors")}
    assert set(modes.values()) == {(tmp_path / "new").stat().st_mode}


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--data_mixtur", "r2r"], "did you mean --data_mixture"),
        (["--learning_rate", "fast"], "learning_rate"),
        (["--max_steps"], "max_steps"),
        (["--llm", "{model_type"], "not valid JSON"),
        (["--mm_use_im_patch_token", "True"], "not supported"),
        (["--config", "nowhere.yaml"], "cannot be read"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_flag_is_one_sentence(flags: list[str], match: str):
    with pytest.raises(ConfigError, match=match) as caught:
        parse_flags(flags)
    assert "\n" not in str(caught.value)


def test_a_wrong_recipe_is_one_sentence(tmp_path: Path):
    recipe = tmp_path / "r.yaml"
    for text, match in (
        ("lerning_rate: 1", "lerning_rate.*did you mean learning_rate"),
        ("a: [", "not valid YAML"),
        ("- a", "must be a mapping"),
    ):
        recipe.write_text(text)
        with pytest.raises(ConfigError, match=match):
            parse_flags(["--config", str(recipe)])
    recipe.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match="no text file"):
        parse_flags(["--config", str(recipe)])


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--data_mixture", ""], "--data_mixture"),
        (["--vision_tower", ""], "--vision_tower"),
        (["--tune_language_model", "False"], "No part is to be trained"),
        (["--data_mixture", "vln:nowhere"], "nowhere"),
        (["--data_mixture", "r2rr"], "did you mean 'r2r'"),
        (["--on_bad_data", "ignore"], "raise, skip, mask"),
        (["--resume_from_checkpoint", "nowhere"], "no complete checkpoint"),
        (["--conversation", "lama_3"], "llama_3"),
    ],
)
def test_a_wrong_choice_is_one_sentence(recipe: Path, tmp_path: Path, flags: list[str], match: str):
    with pytest.raises(NavilaError, match=match) as caught:
        train("--config", recipe, "--output_dir", tmp_path / "run", *flags)
    assert "\n" not in str(caught.value)


def test_flags_win_over_the_recipe_and_texts_of_yaml_become_numbers(recipe: Path):
    arguments = parse_flags(["--config", str(recipe), "--num_video_frames=6", "--tune_vision_tower", "True"])
    assert arguments.training.learning_rate == 3e-3
    assert arguments.data.num_video_frames == 6
    assert arguments.training.tune_vision_tower is True
    assert arguments.training.tune_language_model is None
    assert arguments.model.llm["hidden_size"] == 32  # type: ignore[index]


def test_a_switch_needs_no_value(recipe: Path):
    training = parse_flags(["--config", str(recipe), "--tune_mm_projector", "--tune_language_model", "False"]).training
    assert (training.tune_mm_projector, training.tune_language_model, training.tune_vision_tower) == (True, False, None)


def test_a_trained_policy_acts_while_the_expert_labels(trained: Path, tmp_path: Path):
    from navila_data.procedural import RecordSettings
    from navila_data.recording import record

    settings = RecordSettings(episodes=1, seed=9, image_size=32, policy=str(trained), max_steps=12)
    record(settings, tmp_path / "one")
    record(settings, tmp_path / "two")
    records = json.loads((tmp_path / "one" / "annotations.json").read_text())
    assert 0 < len(records) <= 12
    assert {entry["a"] for entry in records} <= set(LEGAL_ANSWERS)
    assert (tmp_path / "one" / "annotations.json").read_text() == (tmp_path / "two" / "annotations.json").read_text()

"""ZeRO, FSDP2, sequence parallelism and adapters, on processes of the CPU: the loss curve is that of one process."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.cli import main
from navila.model import build
from navila.model.location import read_json
from navila_train.deepspeed_config import PRESETS
from navila_train.tokenizers import build_word_tokenizer
from PIL import Image

pytest.importorskip("deepspeed")
# Some twenty trainings of two and four processes; they start in a moment, and take a few steps.
pytestmark = pytest.mark.slow

STUMBLING = Path(__file__).with_name("stumbling.py")
#: Widths that neither two nor four processes divide evenly.
LLM = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 1}
LLM |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
TOWER = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 66, "num_hidden_layers": 2}
TOWER |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
STEPS, SAVED, KILLED = 4, 2, 3
ADAPTER = ["--lora_enable", "--lora_llm", "--lora_vt", "--lora_r", "3", "--lora_dropout", "0", "--tune_mm_projector"]
ADAPTER += ["--lora_target_modules", "q_proj", "v_proj", "fc1"]
SEQUENCE = ["--packing", "--packing_tokens", "256"]


def preset(folder: Path, name: str, **zero: object) -> str:
    """A preset with other settings, as a file."""
    config = read_json(PRESETS / f"{name}.json")
    # Small models have small buckets, which take long.
    config["zero_optimization"] |= {"reduce_bucket_size": 1 << 20, **zero}
    # DeepSpeed's own optimizer for CPUs would be compiled first, for minutes.
    config["zero_force_ds_cpu_optimizer"] = False
    (folder / f"{name}-changed.json").write_text(json.dumps(config))
    return str(folder / f"{name}-changed.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint, to go on from."""
    folder = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(0)
    words = build_word_tokenizer(["Imagine you are a robot programmed for navigation tasks."], model_max_length=512)
    build(LLM, TOWER, "mlp_downsample", words, template="llama_3", num_video_frames=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations, every other one without an image."""
    folder = tmp_path_factory.mktemp("talk")
    Image.new("RGB", (32, 32), (200, 40, 40)).save(folder / "red.png")
    records = []
    for number in range(24):
        shown = {"image": "red.png"} if number % 2 == 0 else {}
        asked = f"{'<image> ' if shown else ''}What is number {number}?"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"It is {'red' * (number % 3 + 1)}."}]
        records.append({"id": str(number), "conversations": turns, **shown})
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


def logged(folder: Path, step: int) -> bool:
    log = folder / "train_log.jsonl"
    return log.exists() and f'{{"step": {step},' in log.read_text()


@pytest.fixture(scope="module")
def runs(processes: Any, walks: Path, talk: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all trainings, a folder each, and what their first processes said."""
    folder = tmp_path_factory.mktemp("engines")
    common = [*("--model_name_or_path", base, "--data_mixture", f"vln:{walks}", "--num_video_frames", 4)]
    common += ["--model_max_length", 256, "--learning_rate", "3e-3"]
    common += ["--lr_scheduler_type", "inverse_sqrt", "--warmup_steps", 2]
    common += ["--logging_steps", 1, "--report_to", "none", "--max_grad_norm", 0.5, "--weight_decay", 0.1]
    common += ["--per_device_train_batch_size", 2, "--hang_timeout", 0]

    def train(
        name: str, world: int, *flags: str, batches: int = 4, steps: int = STEPS, killed: bool = False, after: str = ""
    ) -> None:
        """Train with so many batches an optimizer step over all processes, going on from another run."""
        size = int(flags[flags.index("--seq_parallel_size") + 1]) if "--seq_parallel_size" in flags else 1
        words = [*common, "--gradient_accumulation_steps", batches * size // world, "--max_steps", steps]
        words += ["--save_steps", SAVED] if killed or after else ["--save_strategy", "no"]
        words += ["--output_dir", folder / name, *flags]
        if after:
            shutil.copytree(folder / after, folder / name)
        if killed:
            words += ["--plugin", STUMBLING, "--callback", "stumble"]
            ranks = processes.start("train", *words, ranks=world, HANG=KILLED + 1)
            ranks[0].until(lambda: logged(folder / name, KILLED))
            for rank in ranks:
                rank.kill()
            assert {rank.wait() for rank in ranks} == {-signal.SIGKILL}, ranks[0].said()
        else:
            (folder / f"{name}.txt").write_text(processes.run("train", *words, ranks=world))

    def zero(name: str, **changed: object) -> list[str]:
        return ["--deepspeed", preset(folder, name, **changed)]

    train("one", 1)
    # A name, not a file.
    train("zero1", 2, "--deepspeed", "zero1", steps=2)
    train("zero2-offload", 2, *zero("zero2-offload"), steps=2)
    train("zero3-offload", 2, *zero("zero3-offload"), steps=2)
    train("zero3-hpz", 4, *zero("zero3-hpz", zero_hpz_partition_size=2), steps=2)
    train("zero2-killed", 2, *zero("zero2"), killed=True)
    train("zero2-on-1", 1, *zero("zero2"), after="zero2-killed")
    train("zero3", 2, *zero("zero3"))
    train("zero3-killed", 2, *zero("zero3"), killed=True)
    train("zero3-on-2", 2, *zero("zero3"), after="zero3-killed")
    train("zero3-on-4", 4, *zero("zero3"), after="zero3-killed")
    fsdp = ["--engine", "fsdp2"]
    train("fsdp-killed", 2, *fsdp, killed=True)
    train("fsdp-on-1", 1, *fsdp, after="fsdp-killed")
    train("fsdp-on-2-by-2", 4, *fsdp, "--fsdp_group_size", "2", after="fsdp-killed")
    train("adapter", 1, *ADAPTER, *SEQUENCE, batches=2)
    divided = [*ADAPTER, *SEQUENCE, *zero("zero3"), "--seq_parallel_size", "2", "--activation_checkpointing"]
    train("adapter-killed", 4, *divided, batches=2, killed=True)
    train("adapter-on-2", 2, *divided, batches=2, after="adapter-killed")
    train("adapter-fsdp", 2, *ADAPTER, *SEQUENCE, *fsdp, batches=2, steps=2)
    words = ["--data_mixture", f"llava:{talk}", "--train_sampling_strategy", "sequential"]
    words += ["--per_device_train_batch_size", "1"]
    train("talk", 1, *words, batches=2, steps=2)
    train("talk-zero3", 2, *words, *zero("zero3"), "--activation_checkpointing", batches=2, steps=2)
    return folder


def curve(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


def test_gradients_were_long_enough_to_be_clipped(runs: Path):
    assert min(norm for _, norm in curve(runs / "one")) > 0.5


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        *((f"zero{n}", "one") for n in (1, 3)),
        *((f"zero{n}", "one") for n in ("2-offload", "3-offload", "3-hpz", "2-on-1", "3-on-2", "3-on-4")),
        *((f"fsdp-{n}", "one") for n in ("on-1", "on-2-by-2")),
        ("adapter-on-2", "adapter"),
        ("adapter-fsdp", "adapter"),
        ("talk-zero3", "talk"),
    ],
)
def test_losses_and_norms_are_those_of_one_process(runs: Path, name: str, alone: str):
    """Before and after the kill, whatever divides the model and however many processes go on."""
    ours, theirs = curve(runs / name), curve(runs / alone)
    assert len(ours) >= 2
    for (loss, norm), (expected, expected_norm) in zip(ours, theirs, strict=False):
        assert abs(loss - expected) < 1e-5
        assert abs(norm - expected_norm) < 1e-4


def test_what_was_killed_had_gone_on_from_its_checkpoint(runs: Path):
    for name in ("zero2-on-1", "zero3-on-4", "fsdp-on-2-by-2", "adapter-on-2"):
        assert f"resuming from {runs / name / f'checkpoint-{SAVED}'}" in (runs / f"{name}.txt").read_text()
        assert len(curve(runs / name)) == STEPS


def test_zero_3_resumes_to_the_very_same_curve(runs: Path):
    assert curve(runs / "zero3-on-2") == curve(runs / "zero3")


@pytest.mark.parametrize("name", ["zero3", "zero3-on-4", "zero2-on-1", "fsdp-on-1", "fsdp-on-2-by-2"])
def test_the_result_is_the_released_layout_with_the_weights_of_one_process(runs: Path, name: str):
    ours, theirs = (navila.load(runs / n, device="cpu").state_dict() for n in (name, "one"))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) < 1e-4


def test_checkpoints_of_adapters_are_small_and_load_over_their_base(runs: Path, base: Path, tmp_path: Path):
    checkpoint = runs / "adapter-on-2" / f"checkpoint-{STEPS}"
    frozen = sum(file.stat().st_size for file in base.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in checkpoint.rglob("*model_states.pt")) < frozen
    assert not (checkpoint / "llm").exists()
    assert main(["model", "merge-lora", str(runs / "adapter-on-2"), "--output", str(tmp_path / "merged")]) == 0
    merged = navila.load(tmp_path / "merged", device="cpu").state_dict()
    alone = navila.load(runs / "adapter", model_base=base, device="cpu").state_dict()
    assert merged.keys() == alone.keys()
    assert max(float((merged[n] - alone[n]).abs().max()) for n in merged) < 1e-4

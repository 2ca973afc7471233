"""navila train with LoRA, DoRA and quantised bases, and what engines and adapters refuse; one process."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import navila
import pytest
import torch
from navila.errors import NavilaError
from navila.model import build
from navila.model.location import read_json
from navila_train.deepspeed_config import preset_names, read_deepspeed
from navila_train.parse import parse_flags
from navila_train.run import run
from navila_train.tokenizers import build_word_tokenizer
from safetensors.torch import load_file

#: Widths that the kernels of 4 bits for CPUs take.
LLM = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
LLM |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
TOWER = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TOWER |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
LORA = ("--lora_enable", "--lora_llm", "--lora_r", "4")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint, to go on from."""
    folder = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(0)
    words = build_word_tokenizer(["Go to the red sofa."], model_max_length=512)
    build(LLM, TOWER, "mlp_downsample", words, template="llama_3", num_video_frames=4).save_pretrained(folder)
    return folder


@pytest.fixture
def flags(base: Path, walks: Path, tmp_path: Path) -> tuple[str, ...]:
    """Training of three steps."""
    data = ("--model_name_or_path", str(base), "--data_mixture", f"vln:{walks}", "--num_video_frames", "4")
    course = ("--max_steps", "3", "--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-2")
    batches = ("--per_device_train_batch_size", "4", "--report_to", "none", "--use_cpu")
    return (*data, *course, *batches, "--output_dir", str(tmp_path / "run"))


def train(*flags: str) -> None:
    run(parse_flags(flags))


def losses(output: Path) -> list[float]:
    lines = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(
    "more",
    [
        ("--lora_vt", "--use_dora", "--lora_bias", "all", "--tune_mm_projector", "--activation_checkpointing"),
        ("--bits", "4", "--tune_mm_projector", "--activation_checkpointing"),
        ("--bits", "8", "--bf16"),
        ("--lora_vt", "--bf16", "--lora_target_modules", "q_proj", "fc1"),
        ("--lora_modules_to_save", "embed_tokens", "lm_head", "--num_time_tokens", "4"),
    ],
    ids=lambda more: " ".join(more),
)
def test_an_adapter_learns_and_loads_by_its_name_alone(
    flags: tuple[str, ...], base: Path, tmp_path: Path, more: tuple[str, ...]
):
    train(*flags, *LORA, *more)
    assert len(losses(tmp_path / "run")) == 3
    model, before = (navila.load(folder, device="cpu").state_dict() for folder in (tmp_path / "run", base))
    changed = {n.partition(".")[0] for n in before if not torch.equal(before[n], model[n][: len(before[n])])}
    expected = {"--lora_vt": "vision_tower", "--tune_mm_projector": "mm_projector"}
    assert changed == {"llm", *(part for flag, part in expected.items() if flag in more)}
    assert not list(tmp_path.rglob("model.safetensors")), "the base is not written again"


def test_what_is_frozen_is_kept_in_half_precision_and_what_learns_is_not(flags: tuple[str, ...], tmp_path: Path):
    train(*flags, *LORA, "--bf16", "--tune_mm_projector")
    for name in ("adapter_model.safetensors", "non_lora_trainables.safetensors"):
        tensors = load_file(tmp_path / "run" / "checkpoint-2" / name)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_an_adapter_resumes_to_the_same_weights(flags: tuple[str, ...], tmp_path: Path):
    """Dropout included: the random state goes on too."""
    train(*flags, *LORA, "--tune_mm_projector")
    files = ("adapter_model.safetensors", "non_lora_trainables.safetensors")
    whole = [load_file(tmp_path / "run" / name) for name in files]
    for path in (tmp_path / "run").iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(NavilaError, match=r"--lora_r is 8 and .*checkpoint-2 has 4"):
        train(
            *flags,
            *LORA,
            "--tune_mm_projector",
            "--lora_r",
            "8",
            "--resume_from_checkpoint",
            str(tmp_path / "run/checkpoint-2"),
        )
    train(*flags, *LORA, "--tune_mm_projector", "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-2"))
    for name, expected in zip(files, whole, strict=True):
        again = load_file(tmp_path / "run" / name)
        assert expected.keys() == again.keys()
        assert [key for key in expected if not torch.equal(expected[key], again[key])] == []


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--lora_llm"], "--lora_llm needs --lora_enable"),
        (["--lora_enable"], "--lora_llm, --lora_vt or both"),
        ([*LORA, "--lora_bias", "some"], "none, all, lora_only"),
        ([*LORA, "--lora_target_modules", "w_proj"], "mend its targets"),
        ([*LORA, "--num_time_tokens", "4"], "--lora_modules_to_save"),
        ([*LORA, "--bits", "3"], "4, 8 or 16"),
        (["--bits", "4"], "cannot be trained itself"),
        ([*LORA, "--bits", "4", "--engine", "fsdp2"], "ZeRO-3 and FSDP"),
        (["--engine", "fsdp"], "auto or fsdp2"),
        (["--engine", "fsdp2", "--fsdp_group_size", "2"], "divide the number of processes, 1"),
        (["--fsdp", "full_shard"], "--engine fsdp2"),
        (["--deepspeed", "zero4"], "give a file, or zero1"),
        (["--deepspeed", "{"], "not valid JSON"),
        (["--deepspeed", '{"optimizer": {"type": "AdamW"}}'], "has a block 'optimizer'"),
        (
            ["--deepspeed", '{"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5}'],
            "gradient_clipping=0.5 and the flags say max_grad_norm=1.0",
        ),
        (["--deepspeed", "zero2"], "needs a launcher"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(flags: tuple[str, ...], more: list[str], match: str):
    if "--deepspeed" in more:
        pytest.importorskip("deepspeed")
    with pytest.raises(NavilaError, match=match) as caught:
        train(*flags, *more)
    assert "\n" not in str(caught.value)


def test_an_adapter_is_of_a_whole_checkpoint(recipe: Path, tmp_path: Path):
    with pytest.raises(NavilaError, match="navila model build"):
        train("--config", str(recipe), "--output_dir", str(tmp_path / "run"), *LORA)


def test_deepspeed_knows_every_preset_and_clips():
    config_class = pytest.importorskip("deepspeed.runtime.config").DeepSpeedConfig
    numbers = {"train_micro_batch_size_per_gpu": 1, "train_batch_size": 1, "gradient_accumulation_steps": 1}
    assert {"zero1", "zero2", "zero3", "zero2-offload", "zero3-offload", "zero3-mics", "zero3-hpz"} <= set(
        preset_names()
    )
    # MiCS is gone from DeepSpeed 0.19.8.
    gone = set() if find_spec("deepspeed.runtime.zero.mics") else {"zero3-mics"}
    for name in gone:
        with pytest.raises(NavilaError, match="--fsdp_group_size"):
            read_deepspeed(name)
    for name in set(preset_names()) - gone:
        config = read_deepspeed(name)
        assert config["gradient_clipping"] == "auto"
        filled = {key: value for key, value in config.items() if value != "auto"} | numbers | {"gradient_clipping": 1.0}
        filled["zero_optimization"] = {k: v for k, v in config["zero_optimization"].items() if v != "auto"}
        filled |= {"bf16": {"enabled": True}, "fp16": {"enabled": False}}
        assert config_class(filled).gradient_clipping == 1.0


def test_a_configuration_of_ones_own_clips_as_the_flags_say(tmp_path: Path, base: Path):
    pytest.importorskip("deepspeed")
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    training = parse_flags(["--deepspeed", str(path), "--max_grad_norm", "0.7", "--use_cpu"]).training
    assert training.hf_deepspeed_config.config["gradient_clipping"] == 0.7
    assert "gradient_clipping" not in read_json(path)

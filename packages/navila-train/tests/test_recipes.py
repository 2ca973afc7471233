"""Recipes of `recipes/`: each parses, trains two steps with tiny parts, and its plan says what it is made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from navila.model import build
from navila_train.parse import parse_flags, read_recipe
from navila_train.planning import make_plan
from navila_train.run import prepare, run
from navila_train.tokenizers import build_word_tokenizer

FOLDER = Path(__file__).resolve().parents[3] / "recipes"
RECIPES = ("navila-8b-8f-sft", "stage-1-alignment", "lora-24gb", "long-context")

#: Shapes of a8cheng/navila-llama3-8b-8f: Llama 3 8B.
LLAMA_3_8B = {
    **{"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336},
    **{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192},
}
#: What is tiny, or lies elsewhere, in the test. Everything else is as the recipe has it.
TINY: dict[str, Any] = {
    **{"model_max_length": 256, "max_steps": 2, "dataloader_num_workers": 0, "report_to": "none", "use_cpu": True},
    **{"logging_steps": 1, "gradient_accumulation_steps": 2},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint, too small to know anything."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    llm = {
        **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512},
    }
    tower = {
        **{"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3},
        **{"num_attention_heads": 2, "image_size": 32, "patch_size": 16},
    }
    words = build_word_tokenizer(["Go to the red sofa."])
    build(llm, tower, "mlp_downsample", words, template="llama_3").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_two_steps(name: str, tiny: Path, walks: Path, tmp_path: Path):
    recipe = read_recipe(FOLDER / f"{name}.yaml")
    changed = {**recipe, **TINY, "data_mixture": f"vln:{walks}", "output_dir": str(tmp_path / "run")}
    for part in ("llm", "vision_tower"):
        if part in recipe:
            changed[part] = str(tiny / part)
    if "model_name_or_path" in recipe:
        changed["model_name_or_path"] = str(tiny)
    if "packing_tokens" in recipe:
        changed["packing_tokens"] = 512
    # Engines and rows over several processes have tests of their own; 4 bits need a GPU.
    for key in ("deepspeed", "seq_parallel_size", "seq_parallel_ring_size", "bits"):
        changed.pop(key, None)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed))
    run(parse_flags(["--config", str(path), "--num_video_frames", "4"]))
    marker = json.loads((tmp_path / "run" / "training.json").read_text())
    assert marker["steps"] == 2
    assert marker["loss"] > 0
    assert marker["broken_samples"] == 0


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """The configs of an 8B checkpoint, without its weights."""
    parts = {
        "llm": LLAMA_3_8B,
        "vision_tower": {
            **{"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304},
            **{"num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14},
        },
        "mm_projector": {"mm_projector_type": "mlp_downsample", "model_type": "v2l_projector"},
    }
    root = {"model_type": "llava_llama", "mm_vision_select_layer": -2, "mm_vision_select_feature": "cls_patch"}
    (tmp_path / "config.json").write_text(json.dumps({**root, **{f"{part}_cfg": parts[part] for part in parts}}))
    for part, config in parts.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.slow  # plans of models of eight billion parameters
@pytest.mark.parametrize(
    ("name", "gpu", "gpus", "tokens"),
    # Tokens of the longest sample that the recipe is made for.
    [
        ("navila-8b-8f-sft", "h100-80gb", 8, 4096),
        ("stage-1-alignment", "a100-40gb", 8, 4096),
        ("lora-24gb", "rtx4090", 1, 4096),
        ("long-context", "h100-80gb", 8, 51200),
    ],
)
def test_a_recipe_fits_the_gpus_it_is_made_for(name: str, gpu: str, gpus: int, tokens: int, configs: Path):
    parts: list[str] = ["--model_name_or_path", str(configs)]
    if name == "stage-1-alignment":
        parts = ["--llm", json.dumps(LLAMA_3_8B), "--vision_tower", "siglip-so400m-384"]
    flags = ["--config", str(FOLDER / f"{name}.yaml"), "--plan", "--gpu", gpu, "--gpus", str(gpus), *parts]
    arguments = parse_flags(flags)
    plan = make_plan(arguments, lambda model: prepare(model, arguments, None))
    assert plan.fits, plan.to_text()
    assert plan.longest_tokens >= tokens
    # Weights alone: a plan that forgot them would fit anywhere.
    assert 8.4e9 < sum(plan.parameters.values()) < 8.8e9
    assert plan.total > sum(plan.parameters.values()) * (0.5 if name == "lora-24gb" else 2 / gpus)


def test_every_recipe_of_the_folder_is_tested():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*RECIPES, "demo"}
    assert (FOLDER / "deepspeed" / "zero3.json").is_file()


def test_the_flags_of_navilas_own_script_mean_what_its_recipe_says(tmp_path: Path):
    # As scripts/train/sft_8frames.sh has them, without what a whole checkpoint answers and its sampler of one dataset.
    flags = """
        --model_name_or_path a8cheng/navila-siglip-llama3-8b-v1.5-pretrain --version llama_3 --seed 10
        --data_mixture r2r+rxr+envdrop+human+scanqa+video_chatgpt+sharegpt_video+sharegpt4v_sft
        --mm_vision_select_feature cls_patch --mm_vision_select_layer -2 --num_video_frames 8
        --tune_vision_tower True --tune_mm_projector True --tune_language_model True
        --mm_use_im_start_end False --mm_use_im_patch_token False --image_aspect_ratio resize
        --bf16 True --tf32 True --num_train_epochs 1 --per_device_train_batch_size 10 --gradient_accumulation_steps 2
        --evaluation_strategy no --save_strategy steps --save_steps 100 --save_total_limit 1 --fps 0.0
        --learning_rate 1e-4 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1
        --model_max_length 4096 --gradient_checkpointing True --dataloader_num_workers 16 --lazy_preprocess True
        --longvila_sampler False
    """
    here = ["--output_dir", str(tmp_path), "--report_to", "none"]
    script = parse_flags([*flags.split(), *here])
    # Its file of DeepSpeed is a preset here, which needs a launcher.
    recipe = read_recipe(FOLDER / "navila-8b-8f-sft.yaml")
    del recipe["deepspeed"]
    changed = tmp_path / "recipe.yaml"
    changed.write_text(yaml.safe_dump(recipe))
    parsed = parse_flags(["--config", str(changed), *here])
    assert (script.model, script.data, script.adapter) == (parsed.model, parsed.data, parsed.adapter)
    assert script.training.to_dict() == parsed.training.to_dict()
    assert script.training.warmup_steps == 0.03

"""navila train --plan: its bytes against those of real trainings, its sentences, and configs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import ConfigError, NavilaError
from navila.model import NavilaForCausalLM, build
from navila.model.packed_attention import PACKED
from navila_train.parse import Arguments, parse_flags
from navila_train.planning import Plan, make_plan
from navila_train.planning.activations import Activations
from navila_train.planning.blueprint import Blueprint
from navila_train.planning.micro_batch import TEXT
from navila_train.run import prepare, run
from navila_train.tokenizers import build_word_tokenizer
from torch.profiler import ProfilerActivity, profile

LLM = {
    **{"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 160},
    **{"num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
}
TOWER = {
    **{"model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "image_size": 64, "patch_size": 8},
}
#: How far a plan's activations may be from what is measured.
TOLERANCE = 0.05


def parsed(*flags: object, llm: dict[str, Any] = LLM) -> Arguments:
    parts = ("--llm", json.dumps(llm), "--vision_tower", json.dumps(TOWER), "--mm_projector", "mlp_downsample")
    return parse_flags([str(flag) for flag in ("--plan", *parts, *flags)])


def planned(*flags: object, **options: Any) -> Plan:
    """For a GPU that no frame fits on, if flags name no other: looking for how many do takes longest."""
    arguments = parsed("--gpu", "1GB", *flags, **options)
    return make_plan(arguments, lambda model: prepare(model, arguments, None))


def real_peak(model: NavilaForCausalLM, rows: int, tokens: int, images: int, labels: int) -> int:
    """Bytes that torch's allocator gives out at most during forward and backward, gradients of parameters left out."""
    ids = torch.full((rows, tokens - images // rows * (model.tokens_per_image - 1)), 7)
    ids[:, : images // rows] = -200
    wanted = torch.full_like(ids, -100)
    wanted[:, -labels:] = 7
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    # What torch sets up at its first use does not count.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        torch.ones(1).sum()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model(
            ids, pixel_values=torch.rand(images, 3, 64, 64), labels=wanted, supervised_logits_only=True
        ).loss.backward()
    now = most = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("rows", "tokens", "labels"), [(2, 700, 8), (1, 300, 200)])
def test_activations_are_those_of_a_real_model(checkpointing: bool, rows: int, tokens: int, labels: int):
    blueprint = Blueprint.of(parsed())

    def prepared(model: NavilaForCausalLM) -> NavilaForCausalLM:
        if checkpointing:
            model.activation_checkpointing_enable()
        return model.train()

    activations = Activations(
        build=lambda layers: prepared(blueprint.build(layers=layers, attn_implementation=PACKED)),
        layers=5,
        autocast=False,
    )
    vision, text = activations.images(4), activations.text(rows=rows, tokens=tokens, labels=labels)
    expected = vision.kept + max(text.peak, vision.peak - vision.kept)
    model = prepared(build(LLM, TOWER, "mlp_downsample", build_word_tokenizer(["a"])))
    assert real_peak(model, rows, tokens, 4, labels) == pytest.approx(expected, rel=TOLERANCE)


def test_weights_gradients_and_optimizer_are_counted_exactly():
    plan = planned()
    model = build(LLM, TOWER, "mlp_downsample", build_word_tokenizer(["a"]))
    model.set_trainable()
    weights = list(model.parameters())
    trained = [parameter for parameter in weights if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    for what, tensors in (("parameters", weights), ("gradients", trained), ("optimizer", states)):
        assert plan.memory[what] == sum(tensor.nbytes for tensor in tensors)
    assert plan.memory["gathered parameters, buckets, copies"] == 0


@pytest.mark.parametrize(
    ("preset", "parameters", "gradients", "optimizer"),
    # Bytes a number of a model that is trained whole, on 4 GPUs in bfloat16 (ZeRO, arXiv 1910.02054, figure 1).
    [("zero1", 2, 2, 12 / 4), ("zero2", 2, 2 / 4, 12 / 4), ("zero3", 2 / 4, 2 / 4, 12 / 4), ("zero3-offload", 0, 0, 0)],
)
def test_zero_divides_what_it_says(preset: str, parameters: float, gradients: float, optimizer: float):
    plan = planned("--deepspeed", preset, "--bf16", "--gpus", 4)
    count, trained = sum(plan.parameters.values()), plan.trained
    assert plan.memory["parameters"] == parameters * count
    assert plan.memory["gradients"] == pytest.approx(gradients * trained)
    assert plan.memory["optimizer"] == pytest.approx(optimizer * trained)
    assert (plan.host_memory > 0) == (preset == "zero3-offload")


@pytest.mark.slow  # three plans, one of which searches for long
def test_the_longest_sample_fits_and_one_frame_more_does_not():
    frames = planned("--gpu", "2GB", "--bf16", "--gradient_checkpointing").longest_frames
    sizes = [
        planned(
            *("--gpu", "2GB", "--bf16", "--gradient_checkpointing", "--per_device_train_batch_size", 1),
            *("--num_video_frames", n, "--model_max_length", n * 16 + TEXT),
        )
        for n in (frames, frames + 1)
    ]
    assert [plan.fits for plan in sizes] == [True, False]


def test_a_frozen_encoder_keeps_nothing_under_gradient_checkpointing():
    """transformers would ask for gradients of its embeddings, and so for all of its activations."""
    frozen = ("--tune_mm_projector", "--tune_language_model")
    kept = [planned(*frozen, *flags).memory["activations of images"] for flags in ((), ("--gradient_checkpointing",))]
    assert kept[0] == kept[1]


def test_gradient_checkpointing_works_through_a_frozen_language_model():
    name, flags = "activations of the language model", ("--tune_mm_projector", "--per_device_train_batch_size", 2)
    kept = [planned(*flags, *more).memory[name] for more in ((), ("--gradient_checkpointing",))]
    assert kept[1] < 0.5 * kept[0]


def test_sequence_parallelism_divides_activations():
    flags = ("--packing", "--packing_tokens", 8192, "--gpus", 4)
    alone, shared = planned(*flags), planned(*flags, "--seq_parallel_size", 4)
    name = "activations of the language model"
    assert shared.memory[name] == pytest.approx(alone.memory[name] / 4, rel=0.05)
    assert shared.memory["exchanged with other GPUs of a row"] > 0


def test_an_adapter_trains_little_on_a_base_of_four_bits():
    flags = ("--lora_enable", "--lora_llm", "--tune_mm_projector", "--bf16")
    whole, packed = planned(*flags), planned(*flags, "--bits", 4)
    assert whole.trained == packed.trained < sum(whole.parameters.values())
    assert packed.memory["parameters"] < whole.memory["parameters"]
    assert packed.memory["optimizer"] == whole.memory["optimizer"] == 8 * whole.trained


@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text", "mixtral"])
def test_every_family_of_language_models_can_be_planned(kind: str):
    from navila.model.components import llm_backend

    config = {**llm_backend(kind).tiny_config(), "model_type": kind}
    plan = planned("--gradient_checkpointing", llm=config)
    assert plan.memory["activations of the language model"] > 0


def test_the_command_tells_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(parsed("--gpu", "rtx4090", "--max_steps", 10, "--plan_json", tmp_path / "plan.json", "--output_dir", tmp_path))
    told = capsys.readouterr().out
    assert "of 23.99: fits" in told
    assert "tokens/s" in told
    figures = json.loads((tmp_path / "plan.json").read_text())
    assert figures["fits"]
    assert figures["total"] == sum(figures["memory"].values())
    assert figures["hours"] > 0
    assert not (tmp_path / "training.json").exists()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--gpu", "tpu"], "--gpu tpu is unknown"),
        (["--gpus", "0"], "--gpus is 0"),
        (["--plan_mfu", "40"], "share between 0 and 1"),
        (["--gpus", "3", "--seq_parallel_size", "2"], "does not divide the number of processes, 3"),
        (["--mm_projector", "mlp_up"], "mlp_up"),
        (["--llm", '{"model_type": "llama", "hidden_size": "wide"}'], "describe no model .*hidden_size"),
    ],
)
def test_a_wrong_plan_is_one_sentence(flags: list[str], match: str):
    with pytest.raises(NavilaError, match=match) as caught:
        planned(*flags)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_cannot_be_fetched_is_planned_from_configs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = parse_flags(["--plan", "--model_name_or_path", "nobody/nothing"])
    with pytest.raises(ConfigError, match=r"nobody/nothing.*give configs, e\.g\. --llm"):
        make_plan(arguments, lambda model: None)
    # Parts that are given are not asked of it.
    assert planned("--model_name_or_path", "nobody/nothing").memory["parameters"] > 0

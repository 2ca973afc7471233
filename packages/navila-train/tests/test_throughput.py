"""What the log says of speed: operations as torch counts them, samples of packed rows, waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from navila.model import NavilaForCausalLM, build
from navila.model.components import vision_encoder
from navila.plugins import default_host
from navila_train.flops import StepFlops, seen
from navila_train.gpus import GPUS, find_gpu, gpu_called
from navila_train.throughput import Throughput
from navila_train.tokenizers import build_word_tokenizer
from torch.utils.flop_counter import FlopCounterMode

LLM = {
    **{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
}
TOWER = {
    **{"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4},
    **{"num_attention_heads": 2, "image_size": 64, "patch_size": 16},
}


def model_of(**trainable: bool) -> NavilaForCausalLM:
    # Eager attention computes all pairs, so that torch counts all of them.
    words = build_word_tokenizer(["a b c d"])
    model = build(LLM, TOWER, "mlp_downsample", words, attn_implementation="eager")
    model.set_trainable(**trainable)
    return model.train()


@pytest.mark.parametrize(
    "trainable",
    [
        {},
        {"vision_tower": False},
        {"llm": False, "vision_tower": False},
        {"llm": False, "mm_projector": False},
        {"vision_tower": False, "mm_projector": False},
    ],
)
def test_operations_are_those_that_torch_counts(trainable: dict[str, bool]):
    model = model_of(**trainable)
    ids = torch.full((2, 20), 5)
    ids[:, 3] = -200
    labels = ids.masked_fill(ids < 0, -100)
    labels[:, :11] = -100
    with FlopCounterMode(display=False) as counter:
        model(ids, pixel_values=torch.rand(2, 3, 64, 64), labels=labels, supervised_logits_only=True).loss.backward()
    flops = StepFlops.of(model)
    length = 19 + model.tokens_per_image
    half = flops.total(lengths=[length, length], images=2, labels=18)
    # Of all pairs instead of those that see each other.
    whole = half + 2 * len(flops.windows) * flops.pair * (length**2 - seen(length))
    # The first layer does without the gradient of its input where nothing in front of it learns.
    assert counter.get_total_flops() == pytest.approx(whole, rel=0.06)


def test_pairs_of_a_window_are_those_it_lets_through():
    for length, window in ((10, None), (10, 3), (10, 10), (3, 7)):
        distance = torch.arange(length)[:, None] - torch.arange(length)
        assert seen(length, window) == int(((distance >= 0) & (distance < (window or length))).sum())


def test_a_token_uses_the_experts_it_is_sent_to():
    words = build_word_tokenizer(["a b c d"])
    sizes = {**LLM, "model_type": "mixtral", "num_local_experts": 8}
    two, four = (
        StepFlops.of(build({**sizes, "num_experts_per_tok": used}, TOWER, "mlp_downsample", words)) for used in (2, 4)
    )
    # Three matrices an expert and layer, forward and backward.
    assert four.token - two.token == 3 * 6 * 2 * 3 * 64 * 96


@pytest.mark.parametrize("name", sorted({spec.name for spec in default_host().registry("vision-encoder").specs()}))
def test_images_of_every_encoder_can_be_counted(name: str):
    encoder = vision_encoder(name).tiny()
    model = build(LLM, TOWER, "mlp_downsample", build_word_tokenizer(["a"]))
    model.vision_tower = encoder
    width = encoder.out_features
    model.mm_projector = torch.nn.Linear(width, 64)  # type: ignore[assignment]
    assert StepFlops.of(model).image > 0


def test_samples_and_tokens_of_packed_rows_are_counted():
    throughput = Throughput(model_of())
    ids = torch.tensor([[5, -200, 6, 5, 6, 7]])
    throughput.count({"input_ids": ids, "position_ids": torch.tensor([[0, 1, 5, 0, 1, 2]]), "labels": ids})
    assert (throughput.samples, throughput.tokens) == (2, 5 + throughput.tokens_per_image)
    padded = {
        "input_ids": torch.tensor([[5, -200, 6], [5, 0, 0]]),
        "attention_mask": torch.tensor([[1] * 3, [1, 0, 0]]),
    }
    throughput.count(padded)
    assert (throughput.samples, throughput.tokens) == (4, 8 + 2 * throughput.tokens_per_image)


def test_waiting_for_data_is_told_as_a_share():
    throughput = Throughput(model_of())

    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    assert list(throughput.waiting(slow())) == [0, 1, 2]
    assert throughput.waited >= 0.15
    rates = throughput.rates(1)
    assert 0 < rates["data_wait"] <= 1
    assert "mfu" not in rates, "there is no GPU to compare with"
    assert throughput.rates(1)["data_wait"] == 0.0


def test_gpus_are_found_by_name_beginning_and_size():
    assert find_gpu("H100-80GB").flops == 989.4e12
    assert find_gpu("h200").memory > 140 * 2**30
    assert find_gpu("24GB").memory == 24 * 2**30
    assert find_gpu("24 GiB").flops is None
    found = gpu_called("NVIDIA H200")
    assert found is not None
    assert found.name == "h200-141gb"
    assert gpu_called("NVIDIA A100-SXM4-40GB") is find_gpu("a100-40gb")
    assert gpu_called("NVIDIA A100 80GB PCIe") is find_gpu("a100-80gb")
    assert gpu_called("Tesla K80") is None
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


@pytest.mark.parametrize(("name", "match"), [("a100", "several: use one of a100-40gb, a100-80gb"), ("tpu", "unknown")])
def test_a_gpu_that_is_not_meant_clearly_is_one_sentence(name: str, match: str):
    from navila.errors import ConfigError

    with pytest.raises(ConfigError, match=match):
        find_gpu(name)

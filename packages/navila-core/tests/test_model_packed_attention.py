"""Packed rows, attended to sample by sample, give what the samples give alone: logits, loss and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from navila.model.components import llm_backend
from navila.model.packed_attention import PACKED, segments_of

LENGTHS = (9, 1, 17, 5)


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "gemma", "qwen2", "qwen3", "phi3"])
def test_samples_of_a_row_are_as_if_alone(family: str):
    torch.manual_seed(0)
    backend = llm_backend(family)
    config = backend.tiny_config()
    if "sliding_window" in config:
        # Shorter than some samples and longer than others.
        config["sliding_window"] = 6
    model: Any = backend.build(config, attn_implementation="sdpa").eval()
    ids = torch.randint(5, 300, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    weight = torch.randn(model.config.vocab_size)

    def outcome() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        extra = {"segments": segments_of(positions)} if model.config._attn_implementation == PACKED else {}
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, **extra).logits
        (logits.tanh() @ weight).sum().backward()
        return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected, gradients = outcome()
    starts = torch.tensor((0, *LENGTHS)).cumsum(0)
    for start, length in zip(starts, LENGTHS, strict=False):
        alone = model(input_ids=ids[:, start : start + length], use_cache=False).logits
        torch.testing.assert_close(expected[:, start : start + length], alone, atol=1e-5, rtol=1e-4)
    model.set_attn_implementation(PACKED)
    logits, packed_gradients = outcome()
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert packed_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
    # Recomputed activations see the same samples.
    model.train()
    model.activation_checkpointing_enable()
    _, recomputed = outcome()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_segments_are_read_from_positions_of_every_row():
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 0]])
    assert segments_of(positions) == [(0, 0, 3), (0, 3, 5), (1, 0, 1), (1, 1, 4), (1, 4, 5)]
    assert segments_of(torch.tensor([[0, 1, 2]])) == [(0, 0, 3)]

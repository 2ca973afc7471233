"""The loss of points in time: the original's numbers, and what the composed model makes of it in training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.constants import IGNORE_INDEX
from navila.model import build
from navila.model.components import llm_backend
from navila.model.losses import soft_cross_entropy
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def by_hand(logits: Tensor, labels: Tensor, times: list[int], std: float) -> Tensor:
    """The formula, one target after the other."""
    terms: list[Tensor] = []
    for row, row_labels in zip(logits, labels, strict=True):
        for here, target in zip(row[:-1], row_labels[1:].tolist(), strict=True):
            if target == IGNORE_INDEX:
                continue
            log_p = here.log_softmax(-1)
            if target not in times:
                terms.append(-log_p[target])
                continue
            weights = [math.exp(-((target - s) ** 2) / (2 * std**2)) for s in times]
            terms.append(-sum(w / sum(weights) * log_p[s] for w, s in zip(weights, times, strict=True)))
    return torch.stack(terms).mean()


def test_losses_and_gradients_of_the_original(goldens: Path) -> None:
    folder = goldens / "I_loss"
    tensors = load_file(folder / "tensors.safetensors")
    for case in json.loads((folder / "cases.json").read_text()):
        logits = tensors[f"{case['i']}.logits"].requires_grad_()
        labels = torch.tensor(case["targets"])
        loss = soft_cross_entropy(logits, labels, case["soft_tokens"], std=case["std"])
        if case["loss_list"] == "nan":
            assert loss.isnan()
            continue
        assert loss.item() == pytest.approx(case["loss_list"], rel=1e-5), case["i"]
        loss.backward()
        torch.testing.assert_close(logits.grad, tensors[f"{case['i']}.grad_logits"], atol=1e-6, rtol=1e-5)
        count = int((labels[:, 1:] != IGNORE_INDEX).sum())
        summed = soft_cross_entropy(logits, labels, case["soft_tokens"], std=case["std"], num_items_in_batch=2 * count)
        torch.testing.assert_close(2 * summed, loss)


@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma2"])
def test_training_uses_it_and_evaluation_does_not(name: str, goldens: Path) -> None:
    torch.manual_seed(0)
    config = {k: v for k, v in llm_backend(name).tiny_config().items() if k not in ("vocab_size", "pad_token_id")}
    words = goldens / "tokenizers" / "llama3_like"
    options: dict[str, Any] = {"num_time_tokens": 6, "soft_ce_std": 2.0, "attn_implementation": "eager"}
    model: Any = build(config, TOWER, "linear", words, **options).train()
    times = model.config.time_token_ids
    ids = torch.randint(0, 1000, (2, 12))
    ids[:, 7:9] = torch.tensor(times[2:4])
    labels = ids.clone()
    labels[:, :4] = IGNORE_INDEX
    output = model(ids, labels=labels)
    router = model.llm.config.router_aux_loss_coef * output.aux_loss if name == "mixtral" else 0.0
    torch.testing.assert_close(output.loss, by_hand(output.logits, labels, times, 2.0) + router)
    # As the Trainer asks for it: logits where there are labels only, and the sum over a number of its own.
    fewer = model(ids, labels=labels, supervised_logits_only=True, num_items_in_batch=torch.tensor(64))
    assert fewer.logits.shape[1] == 8
    torch.testing.assert_close(fewer.loss, by_hand(output.logits, labels, times, 2.0) * 16 / 64 + router)
    with torch.no_grad():
        judged = model.eval()(ids, labels=labels)
    plain = F.cross_entropy(judged.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(judged.loss, plain)

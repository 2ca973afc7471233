"""Every language model is composed, trained for a step, saved in the released layout, loaded and asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.model import build
from navila.model.components import llm_backend
from navila.plugins import default_host

TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
#: What a mapping leaves to the tokenizer.
FROM_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


@pytest.mark.parametrize("name", [spec.name for spec in default_host().registry("llm").specs()])
def test_from_config_to_checkpoint_and_back(name: str, goldens: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {k: v for k, v in llm_backend(name).tiny_config().items() if k not in FROM_TOKENIZER}
    model: Any = build(config, TOWER, "mlp_downsample", goldens / "tokenizers" / "llama3_like")
    prompt = model.template.render([("user", "<image>\nWhere to?"), ("assistant", "Left.")])
    image = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8).numpy()
    inputs = model.prepare(prompt, [image])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] < 0, -100)

    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    before = model.train()(**inputs, labels=labels).loss
    before.backward()
    assert all(p.grad is not None for p in model.mm_projector.parameters())
    optimiser.step()
    assert model(**inputs, labels=labels).loss < before

    model.eval().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "llm" / "config.json").read_text())
    assert saved["model_type"] in default_host().registry("llm").spec(name).model_types
    again: Any = navila.load(tmp_path, device="cpu", dtype="float32")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    options = {"max_new_tokens": 5, "eos_token_id": []}
    assert again.generate(**inputs, **options).tolist() == model.generate(**inputs, **options).tolist()

"""The Mistral backend keeps the contract of language models, its sliding window included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import ConfigError
from navila.testing import LLMContract
from navila_llm_mistral.llm import MistralBackend


class TestMistral(LLMContract):
    name = "mistral"


class TestMistralEager(LLMContract):
    name = "mistral"

    @pytest.fixture
    def tiny(self) -> Any:
        torch.manual_seed(0)
        return MistralBackend.build(MistralBackend.tiny_config(), attn_implementation="eager")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_position_sees_as_far_as_the_window(attention: str) -> None:
    config = {**MistralBackend.tiny_config(), "num_hidden_layers": 1, "sliding_window": 4}
    model: Any = MistralBackend.build(config, attn_implementation=attention).eval()
    embeds = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    changed = embeds.clone()
    changed[:, 2] += 1
    with torch.no_grad():
        same = (model(inputs_embeds=embeds).logits == model(inputs_embeds=changed).logits).all(-1)[0]
    assert same.tolist() == [True, True, False, False, False, False, True, True, True]


def test_a_ministral_is_refused(tmp_path: Path) -> None:
    model = MistralBackend.tiny()
    MistralBackend.save_pretrained(model, tmp_path, {"layer_types": ["sliding_attention", "full_attention"]})
    assert json.loads((tmp_path / "config.json").read_text())["layer_types"]
    with pytest.raises(ConfigError, match=r"config\.json: .* Ministral"):
        MistralBackend.from_pretrained(tmp_path)

"""The Phi-3 backend keeps the contract of language models, and its rotary scaling survives saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.conversation import get_template
from navila.testing import ConversationContract, LLMContract
from navila_llm_phi3.llm import Phi3Backend


class TestPhi3(LLMContract):
    name = "phi3"


class TestPhi3Template(ConversationContract):
    name = "phi_3"


class TestPhi4MiniTemplate(ConversationContract):
    name = "phi_4_mini"


def test_prompts_are_those_of_the_published_templates() -> None:
    asked = [("user", "Hi"), ("assistant", None)]
    assert get_template("phi_3").render(asked) == "<|user|>\nHi<|end|>\n<|assistant|>\n"
    assert get_template("phi_4_mini").render(asked) == "<|user|>Hi<|end|><|assistant|>"
    assert (
        get_template("phi_3")
        .render(asked, system="<|system|>\nBe brief.")
        .startswith("<|system|>\nBe brief.<|end|>\n<|user|>\nHi")
    )


def long_config() -> dict[str, Any]:
    """As of Phi-4-mini: part of each head is rotated, and scaled beyond 16 positions."""
    return {
        **Phi3Backend.tiny_config(),
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.5,
        "rope_theta": 5000.0,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.5, 2.5, 3.5, 4.5],
        },
        "sliding_window": None,
    }


def test_rotary_scaling_is_saved_in_the_form_every_reader_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = Phi3Backend.build(long_config()).eval()
    Phi3Backend.save_pretrained(model, tmp_path, {})
    saved = json.loads((tmp_path / "config.json").read_text())
    assert set(saved["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    assert (saved["partial_rotary_factor"], saved["rope_theta"]) == (0.5, 5000.0)
    # What transformers 4 knows of it is enough.
    del saved["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    loaded: Any = Phi3Backend.from_pretrained(tmp_path).eval()
    for length in (12, 40):
        embeds = torch.randn(1, length, 64, generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            assert torch.equal(model(inputs_embeds=embeds).logits, loaded(inputs_embeds=embeds).logits)


@pytest.mark.parametrize(("length", "changes"), [(12, False), (40, True)])
def test_long_factors_count_beyond_the_original_length_only(length: int, changes: bool) -> None:
    logits = []
    for factor in (1.5, 3.0):
        config = long_config()
        config["rope_scaling"]["long_factor"] = [factor] * 4
        torch.manual_seed(0)
        model: Any = Phi3Backend.build(config).eval()
        embeds = torch.randn(1, length, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits.append(model(inputs_embeds=embeds).logits)
    assert torch.equal(*logits) is not changes

"""The Gemma backends keep the contract of language models: scaled embeddings, windows and capped scores included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.conversation import get_template
from navila.errors import ConfigError
from navila.model.vocabulary import grow_vocabulary
from navila.testing import ConversationContract, LLMContract
from navila_llm_gemma.llm import Gemma2Backend, Gemma3Backend, GemmaBackend


class TestGemma(LLMContract):
    name = "gemma"


class TestGemma2(LLMContract):
    name = "gemma2"


class TestGemma3(LLMContract):
    name = "gemma3"


class TestGemmaTemplate(ConversationContract):
    name = "gemma"


def test_prompts_are_those_of_the_published_template() -> None:
    assert get_template("gemma").render([("user", "Hi"), ("assistant", None)]) == (
        "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
    )


def test_capped_scores_run_eagerly_and_sdpa_is_refused(tmp_path: Path) -> None:
    model: Any = Gemma2Backend.tiny()
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match="sdpa attention cannot cap"):
        Gemma2Backend.build(Gemma2Backend.tiny_config(), attn_implementation="sdpa")
    Gemma2Backend.save_pretrained(model, tmp_path, {})
    with pytest.raises(ConfigError, match=r"config\.json: sdpa attention cannot cap"):
        Gemma2Backend.from_pretrained(tmp_path, attn_implementation="sdpa")


@pytest.mark.parametrize(
    ("act", "version", "exact"),
    [
        ("gelu", "4.37.2", True),
        ("gelu", "4.38.0.dev0", False),
        ("gelu", None, False),
        ("gelu_pytorch_tanh", "4.37.2", False),
    ],
)
def test_gelu_is_exact_where_navilas_own_gemma_wrote_it(act: str, version: str | None, exact: bool) -> None:
    model: Any = GemmaBackend.build({**GemmaBackend.tiny_config(), "hidden_act": act, "transformers_version": version})
    x = torch.linspace(-3, 3, 50)
    want = torch.nn.functional.gelu(x, approximate="none" if exact else "tanh")
    torch.testing.assert_close(model.model.layers[0].mlp.act_fn(x), want, atol=1e-6, rtol=0)


def test_an_exact_gelu_is_saved_as_one(tmp_path: Path) -> None:
    raw = {**GemmaBackend.tiny_config(), "hidden_act": "gelu", "transformers_version": "4.37.2"}
    GemmaBackend.save_pretrained(GemmaBackend.build(raw), tmp_path, raw)
    loaded: Any = GemmaBackend.from_pretrained(tmp_path)
    x = torch.linspace(-3, 3, 50)
    got = loaded.model.layers[0].mlp.act_fn(x)
    torch.testing.assert_close(got, torch.nn.functional.gelu(x), atol=1e-6, rtol=0)


def test_a_grown_vocabulary_is_scaled_still() -> None:
    model: Any = GemmaBackend.tiny()
    grow_vocabulary(model, 520)
    table = model.get_input_embeddings()
    assert table.weight.shape[0] == 520
    torch.testing.assert_close(table(torch.tensor([519])), table.weight[519:] * 8)
    assert model.get_output_embeddings().weight is table.weight


def test_both_rotary_frequencies_of_gemma_3_are_saved_for_older_readers(tmp_path: Path) -> None:
    Gemma3Backend.save_pretrained(Gemma3Backend.tiny(), tmp_path, {})
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["rope_theta"], saved["rope_local_base_freq"]) == (500000.0, 10000.0)
    assert saved["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_an_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="generates nothing"):
        Gemma3Backend.build({**Gemma3Backend.tiny_config(), "use_bidirectional_attention": True})

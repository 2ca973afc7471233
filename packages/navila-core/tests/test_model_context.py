"""Longer sequences than a language model has positions: linear scaling, as a stock model has it, saved and loaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import ConfigError
from navila.model import build
from navila.model.components import llm_backend
from navila.model.context import stretched
from navila.plugins import default_host
from transformers import AutoModelForCausalLM

OWN = 24
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": OWN,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 2.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
}


@pytest.fixture(scope="module")
def words(goldens: Path) -> Path:
    return goldens / "tokenizers" / "llama3_like"


def built(words: Path, llm: Any = LLAMA, **options: Any) -> Any:
    torch.manual_seed(0)
    return build(llm, TOWER, "linear", words, **options).eval()


def plain(name: str) -> dict[str, Any]:
    """A tiny config of `OWN` positions whose rotary frequencies are not scaled and whose layers see everything."""
    config = llm_backend(name).tiny_config()
    config = {k: v for k, v in config.items() if k not in ("rope_scaling", "sliding_window", "vocab_size")}
    if "layer_types" in config:
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    if "original_max_position_embeddings" in config:
        config["original_max_position_embeddings"] = OWN
    # Weights large enough for attention to be told apart by position.
    return {**config, "max_position_embeddings": OWN, "use_sliding_window": False, "initializer_range": 0.2}


def logits_of(model: Any, embeds: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs_embeds=embeds).logits


@pytest.mark.parametrize("name", [spec.name for spec in default_host().registry("llm").specs()])
def test_positions_are_divided_and_stay_so(name: str, words: Path, tmp_path: Path) -> None:
    longer = built(words, plain(name), model_max_length=2 * OWN + 1)
    embeds = torch.randn(1, 2 * OWN, 64)
    got = logits_of(longer.llm, embeds)

    stock: Any = built(words, plain(name)).llm
    stock.load_state_dict(longer.llm.state_dict())
    assert not torch.allclose(got, logits_of(stock, embeds), atol=1e-2)
    # What linear scaling says: the unscaled model, asked about fractions of positions.
    thirds = torch.arange(2 * OWN)[None] / 3
    with torch.no_grad():
        mask = torch.ones(1, 2 * OWN, dtype=torch.long)
        want = stock(inputs_embeds=embeds, position_ids=thirds, attention_mask=mask).logits
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)

    longer.save_pretrained(tmp_path)
    again: Any = navila.load(tmp_path, device="cpu", dtype="float32")
    assert torch.equal(logits_of(again.llm, embeds), got)
    # Trained on with the same length, nothing is scaled a second time.
    twice: Any = navila.load(tmp_path, device="cpu", dtype="float32", model_max_length=2 * OWN + 1)
    assert torch.equal(logits_of(twice.llm, embeds), got)
    # transformers' own loading of the saved part reads the same from it.
    alone: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "llm", dtype=torch.float32).eval()
    torch.testing.assert_close(logits_of(alone, embeds), got, atol=1e-5, rtol=0)


def test_what_is_saved_is_what_the_original_saves(words: Path, tmp_path: Path) -> None:
    built(words, model_max_length=100).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    assert config["rope_scaling"] == {"type": "linear", "factor": 5.0}
    assert config["rope_parameters"]["rope_type"] == "linear"
    assert config["max_position_embeddings"] == OWN
    assert config["model_max_length"] == config["tokenizer_model_max_length"] == 100
    assert config["tokenizer_padding_side"] == "right"
    again: Any = navila.load(tmp_path, device="cpu")
    assert again.tokenizer.model_max_length == 100
    assert again.tokenizer.padding_side == "right"


def test_files_of_the_original_are_read_alike(words: Path, tmp_path: Path) -> None:
    model = built(words, model_max_length=2 * OWN)
    model.save_pretrained(tmp_path)
    path = tmp_path / "llm" / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps({**config, "rope_scaling": {"type": "linear", "factor": 2.0}}))
    embeds = torch.randn(1, OWN, 32)
    again: Any = navila.load(tmp_path, device="cpu", dtype="float32")
    assert torch.equal(logits_of(again.llm, embeds), logits_of(model.llm, embeds))


def test_within_its_own_positions_nothing_is_scaled(words: Path) -> None:
    model = built(words, model_max_length=OWN)
    assert model.llm.config.rope_parameters["rope_type"] == "default"
    assert model.llm.config.tokenizer_model_max_length == OWN
    assert getattr(built(words).llm.config, "tokenizer_model_max_length", None) is None


def test_scaling_that_is_there_is_never_replaced_silently(words: Path, caplog: pytest.LogCaptureFixture) -> None:
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    with caplog.at_level(logging.WARNING):
        assert stretched(linear, OWN, 4 * OWN) == linear
        assert not caplog.records
        assert stretched(linear, OWN, 5 * OWN) == {**linear, "factor": 5.0}
        assert "divided by 4" in caplog.text
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": OWN}
    assert stretched(yarn, OWN, 4 * OWN) == yarn
    with pytest.raises(ConfigError, match="'yarn', reach 96"):
        stretched(yarn, OWN, 4 * OWN + 1)
    kept = built(words, {**LLAMA, "rope_scaling": LLAMA3_ROPE}, model_max_length=OWN)
    assert kept.llm.config.rope_parameters["rope_type"] == "llama3"
    with pytest.raises(ConfigError, match="llama3"):
        built(words, {**LLAMA, "rope_scaling": LLAMA3_ROPE}, model_max_length=OWN + 1)


def test_the_long_variant_of_phi3_is_left_alone(words: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope = {"type": "longrope", **factors}
    config = {**plain("phi3"), "max_position_embeddings": 4 * OWN, "rope_scaling": rope}
    assert built(words, config, model_max_length=4 * OWN).llm.config.rope_parameters["long_factor"] == [2.0] * 8
    with pytest.raises(ConfigError, match="longrope"):
        built(words, config, model_max_length=4 * OWN + 1)


@pytest.mark.parametrize("length", [0, -1, 4096.0, "4096", True])
def test_a_length_that_is_none_is_told(length: Any, words: Path) -> None:
    with pytest.raises(ConfigError, match="model_max_length is"):
        built(words, model_max_length=length)

"""The resampler keeps the contract of projectors, gives as many tokens as it says, and works in a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import ConfigError
from navila.model import build
from navila.testing import ProjectorContract
from navila_projector_resampler.projector import ResamplerProjector


class TestResampler(ProjectorContract):
    name = "resampler"


class TestResamplerOfAnUnevenGrid(ProjectorContract):
    name = "resampler"
    num_patches = 7


def test_the_order_of_patches_makes_no_difference_and_their_values_do() -> None:
    torch.manual_seed(0)
    projector, features = ResamplerProjector.tiny(), torch.randn(1, 9, 32)
    with torch.no_grad():
        read = projector(features)
        torch.testing.assert_close(projector(features.flip(1)), read)
        assert not torch.allclose(projector(torch.randn(1, 9, 32)), read, atol=1e-2)
    assert not torch.allclose(read[:, 0], read[:, 1], atol=1e-2), "queries read different things"


def test_what_the_config_leaves_out_is_written_into_it() -> None:
    config = {"mm_projector_type": "resampler", "mm_hidden_size": 128, "hidden_size": 16}
    projector = ResamplerProjector(config)
    assert projector.config.items() >= {"num_queries": 64, "depth": 2, "num_heads": 2}.items()
    assert projector.num_tokens(729) == 64


@pytest.mark.parametrize(("key", "value"), [("num_queries", 0), ("depth", "2"), ("num_heads", 5)])
def test_a_wrong_config_is_told(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value!r}"):
        ResamplerProjector({**ResamplerProjector.tiny().config, key: value})


def test_a_model_with_it_trains_and_comes_back(goldens: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = build(
        llm={"model_type": "llama", **sizes, "max_position_embeddings": 512},
        vision_tower={"model_type": "siglip_vision_model", **sizes, "image_size": 64, "patch_size": 16},
        mm_projector={"mm_projector_type": "resampler", "num_queries": 6, "num_heads": 2},
        tokenizer=goldens / "tokenizers" / "llama3_like",
    )
    assert model.tokens_per_image == 6
    ids = torch.tensor([[5, -200, 7, 8]])
    inputs: dict[str, Any] = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 64, 64)}
    output = model(**inputs, labels=ids.masked_fill(ids < 0, -100))
    assert output.logits.shape[1] == 3 + 6
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.mm_projector.parameters())
    model.eval().save_pretrained(tmp_path)
    again = navila.load(tmp_path, device="cpu", dtype="float32")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert json.loads((tmp_path / "mm_projector" / "config.json").read_text())["num_queries"] == 6

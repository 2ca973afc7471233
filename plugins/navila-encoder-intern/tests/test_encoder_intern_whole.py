"""The tower of a whole InternVL is found by name, and trains with stochastic depth."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from navila.model.components import vision_encoder
from navila.model.load import model_type_of
from navila_encoder_intern.encoder import InternEncoder
from navila_encoder_intern.network import Layer
from safetensors.torch import load_file, save_file


def test_the_vision_part_of_a_whole_internvl(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = InternEncoder.tiny().eval()
    whole, saved = tmp_path / "whole", tmp_path / "saved"
    whole.mkdir()
    described = {"model_type": "internvl_chat", "llm_config": {"hidden_size": 8}, "vision_config": tower.config}
    (whole / "config.json").write_text(json.dumps(described))
    names = tower.vision_tower.state_dict()
    others = {"language_model.model.norm.weight": torch.ones(8), "mlp1.0.weight": torch.ones(8)}
    save_file(
        {**{f"vision_model.{name}": tensor for name, tensor in names.items()}, **others}, whole / "model.safetensors"
    )

    loaded = vision_encoder(model_type_of(whole, None)).from_pretrained(whole).eval()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), tower(pixels))
    loaded.save_pretrained(saved)
    assert load_file(saved / "model.safetensors").keys() == names.keys()
    assert json.loads((saved / "config.json").read_text()) == tower.config


def test_stochastic_depth_leaves_out_branches_of_samples_in_training() -> None:
    torch.manual_seed(0)
    rate = 0.5
    encoder = InternEncoder({**InternEncoder.tiny().config, "drop_path_rate": rate, "num_hidden_layers": 2})
    pixels = torch.rand(64, 3, 32, 32)
    last = encoder.vision_tower.layers[1]
    assert isinstance(last, Layer)
    with torch.no_grad():
        before = encoder.eval().hidden_states(pixels, 1)
        outcomes: list[torch.Tensor] = []
        for attends, mixes in itertools.product((0, 1 / (1 - rate)), repeat=2):
            hidden = before + attends * last.ls1 * last.attn(last.norm1(before))
            outcomes.append(hidden + mixes * last.ls2 * last.mlp(last.norm2(hidden)))
        got = encoder.train().hidden_states(pixels, 2)
        # The first layer's rate is 0; each sample takes one of four ways through the last.
        ways = torch.stack([(got - outcome).abs().amax(dim=(1, 2)) < 1e-5 for outcome in outcomes])
        assert torch.equal(ways.sum(dim=0), torch.ones(64, dtype=torch.long))
        assert ways.any(dim=1).all()

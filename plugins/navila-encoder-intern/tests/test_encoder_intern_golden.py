"""InternViT towers give the original's features and pixels, and hold the tensors of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import ConfigError
from navila.images import process_image
from navila_encoder_intern.encoder import InternEncoder
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

TOWERS = ("internvit56", "internvit70_qknorm")


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "G_vision_towers"


@pytest.fixture(scope="module")
def features(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "features.safetensors")


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", [-2, -1, 0, 1])
@pytest.mark.parametrize("feature", ["patch", "cls_patch", None])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_features_with_and_without_the_class_token(
    folder: Path, features: dict[str, Tensor], tower: str, layer: int, feature: str | None, attention: str
) -> None:
    encoder = InternEncoder.from_pretrained(
        folder / tower, select_layer=layer, select_feature=feature, attn_implementation=attention
    ).eval()
    with torch.no_grad():
        got = encoder(features[f"{tower}.pixels"])
    torch.testing.assert_close(got, features[f"{tower}|{layer}|{feature or 'patch'}"], atol=1e-5, rtol=0)
    assert got.shape[1:] == (encoder.num_tokens, encoder.hidden_size)


@pytest.mark.parametrize("tower", TOWERS)
def test_every_hidden_state(folder: Path, features: dict[str, Tensor], tower: str) -> None:
    encoder = InternEncoder.from_pretrained(folder / tower).eval()
    for layer in range(encoder.num_layers + 1):
        with torch.no_grad():
            got = encoder.hidden_states(features[f"{tower}.pixels"], layer)
        torch.testing.assert_close(got, features[f"{tower}.hidden_states.{layer}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", TOWERS)
def test_every_tensor_of_a_tower_survives(folder: Path, tmp_path: Path, tower: str) -> None:
    InternEncoder.from_pretrained(folder / tower).save_pretrained(tmp_path)
    before, after = (load_file(place / "model.safetensors") for place in (folder / tower, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    config = json.loads((folder / tower / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_layers_after_the_selected_one_do_not_run(folder: Path, features: dict[str, Tensor]) -> None:
    encoder = InternEncoder.from_pretrained(folder / "internvit56")
    ran: list[int] = []
    for index, layer in enumerate(encoder.vision_tower.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    encoder(features["internvit56.pixels"])
    assert ran == [0, 1]


@pytest.mark.parametrize(
    ("name", "millions", "has", "has_not"),
    [
        ("intern-300m-448", 304, ("norm1.bias", "attn.qkv.bias"), ("attn.q_norm.weight",)),
        ("intern-6b-224", 5903, ("attn.q_norm.weight", "attn.proj.bias"), ("norm1.bias", "attn.qkv.bias")),
    ],
)
def test_layouts_of_the_published_sizes(
    name: str, millions: int, has: tuple[str, ...], has_not: tuple[str, ...]
) -> None:
    with torch.device("meta"):
        encoder = InternEncoder(InternEncoder.default_config(name))
    names = {key.removeprefix("encoder.layers.0.") for key in encoder.vision_tower.state_dict()}
    assert names >= {*has, "ls1", "ls2", "mlp.fc1.weight", "embeddings.class_embedding"}
    assert names.isdisjoint(has_not)
    # The model cards state millions.
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6) == millions


def test_pixels_without_a_processor_file(goldens: Path) -> None:
    folder = goldens / "E_process_images"
    sizes: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
    processor = InternEncoder({**sizes, "image_size": 224}).image_processor
    outputs = load_file(folder / "outputs.safetensors")
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    compared = 0
    for case in cases:
        if case["processor"] != "intern224" or case["key"] not in outputs:
            continue
        (file,) = (folder / "images").glob(f"{case['image']}.png")
        got = torch.from_numpy(process_image(Image.open(file), processor, case["image_aspect_ratio"]))
        step, row = case["stride"], got.shape[1] // 3
        torch.testing.assert_close(got[:, ::step, ::step], outputs[case["key"]], atol=1e-6, rtol=0)
        torch.testing.assert_close(got[:, row], outputs[f"{case['key']}|row"], atol=1e-6, rtol=0)
        compared += 1
    assert compared >= 6


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"norm_type": "batch_norm"}, "norm_type is 'batch_norm'"),
        ({"hidden_act": "gulu"}, "hidden_act is 'gulu'"),
        ({"num_attention_heads": 5}, "does not divide"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
    ],
)
def test_a_wrong_config_is_told(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        InternEncoder({**InternEncoder.tiny().config, **config})

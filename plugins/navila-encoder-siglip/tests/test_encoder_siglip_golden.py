"""SigLIP towers give the original's features at every layer, and lose no patch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from navila.errors import CheckpointError, ConfigError, DataError
from navila.model.components import vision_encoder
from navila_encoder_siglip.encoder import SiglipEncoder
from safetensors.torch import load_file, save_file
from torch import Tensor

TOWERS = ("siglip56", "siglip70")


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "G_vision_towers"


@pytest.fixture(scope="module")
def features(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "features.safetensors")


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", [-2, -1, 0, 1])
def test_features_of_every_layer(folder: Path, features: dict[str, Tensor], tower: str, layer: int) -> None:
    encoder = SiglipEncoder.from_pretrained(folder / tower, select_layer=layer, select_feature="cls_patch").eval()
    with torch.no_grad():
        got = encoder(features[f"{tower}.pixels"])
    torch.testing.assert_close(got, features[f"{tower}|{layer}|cls_patch"], atol=1e-5, rtol=0)
    assert got.shape[1:] == (encoder.num_tokens, encoder.hidden_size)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("feature", ["patch", None])
def test_no_patch_is_lost_where_there_is_no_class_token(
    folder: Path, features: dict[str, Tensor], tower: str, feature: str | None
) -> None:
    encoder = SiglipEncoder.from_pretrained(folder / tower, select_feature=feature).eval()
    with torch.no_grad():
        got = encoder(features[f"{tower}.pixels"])
    torch.testing.assert_close(got, features[f"{tower}|-2|cls_patch"], atol=1e-5, rtol=0)
    # The original dropped the first patch here; the others are equal.
    torch.testing.assert_close(got[:, 1:], features[f"{tower}|-2|patch"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", TOWERS)
def test_every_hidden_state(folder: Path, features: dict[str, Tensor], tower: str) -> None:
    encoder = SiglipEncoder.from_pretrained(folder / tower).eval()
    for layer in range(encoder.num_layers + 1):
        with torch.no_grad():
            got = encoder.hidden_states(features[f"{tower}.pixels"], layer)
        torch.testing.assert_close(got, features[f"{tower}.hidden_states.{layer}"], atol=1e-5, rtol=0)


def test_wrong_options_are_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="bogus"):
        SiglipEncoder.from_pretrained(folder / "siglip56", select_feature="bogus")
    with pytest.raises(ConfigError, match="3 layers"):
        SiglipEncoder.from_pretrained(folder / "siglip56", select_layer=4)
    with pytest.raises(DataError, match=r"\(N, 3, 56, 56\)"):
        SiglipEncoder.from_pretrained(folder / "siglip56")(torch.zeros(1, 3, 70, 70))


def test_the_vision_half_of_a_published_two_tower_file(
    folder: Path, features: dict[str, Tensor], tmp_path: Path
) -> None:
    vision = json.loads((folder / "siglip70" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": vision}))
    state = load_file(folder / "siglip70" / "model.safetensors")
    save_file(
        {**state, "text_model.head.weight": torch.zeros(2, 2), "logit_scale": torch.zeros(1)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "preprocessor_config.json").write_text((folder / "siglip70" / "preprocessor_config.json").read_text())
    encoder = SiglipEncoder.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        got = encoder(features["siglip70.pixels"])
    torch.testing.assert_close(got, features["siglip70|-2|cls_patch"], atol=1e-5, rtol=0)
    assert encoder.config["model_type"] == "siglip_vision_model"


def test_a_tower_of_other_sizes_is_told(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "siglip70").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_size": 84}))
    with pytest.raises(CheckpointError, match="position_embedding"):
        SiglipEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_a_siglip2_of_fixed_size_is_a_siglip_and_naflex_is_refused(folder: Path, tmp_path: Path, whole: bool) -> None:
    """Published SigLIP2 files are those of a SigLIP with a text model; NaFlex has types of its own."""
    vision = json.loads((folder / "siglip56" / "config.json").read_text())
    shutil.copytree(folder / "siglip56", tmp_path / "siglip2", copy_function=shutil.copyfile)
    path = tmp_path / "siglip2" / "config.json"
    path.write_text(json.dumps({"model_type": "siglip", "text_config": {}, "vision_config": vision}))
    pixels = torch.zeros(1, 3, 56, 56)
    with torch.no_grad():
        want = SiglipEncoder.from_pretrained(folder / "siglip56").eval()(pixels)
        assert torch.equal(SiglipEncoder.from_pretrained(path.parent).eval()(pixels), want)
    naflex = {**vision, "model_type": "siglip2_vision_model"}
    path.write_text(json.dumps({"model_type": "siglip2", "vision_config": naflex} if whole else naflex))
    assert vision_encoder(json.loads(path.read_text())["model_type"]) is SiglipEncoder
    with pytest.raises(ConfigError, match=r"'siglip2_vision_model', a SigLIP2 NaFlex"):
        SiglipEncoder.from_pretrained(path.parent)

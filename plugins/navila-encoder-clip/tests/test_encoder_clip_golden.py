"""CLIP towers give the original's features, pixels and answers."""

from __future__ import annotations

import json
from pathlib import Path

import navila
import pytest
import torch
from navila_encoder_clip.encoder import ClipEncoder
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

TOWERS = ("clip56", "clip70")


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "G_vision_towers"


@pytest.fixture(scope="module")
def features(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "features.safetensors")


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", [-2, -1, 0, 1])
@pytest.mark.parametrize("feature", ["patch", "cls_patch", None])
def test_features_with_and_without_the_class_token(
    folder: Path, features: dict[str, Tensor], tower: str, layer: int, feature: str | None
) -> None:
    encoder = ClipEncoder.from_pretrained(folder / tower, select_layer=layer, select_feature=feature).eval()
    with torch.no_grad():
        got = encoder(features[f"{tower}.pixels"])
    torch.testing.assert_close(got, features[f"{tower}|{layer}|{feature or 'patch'}"], atol=1e-5, rtol=0)
    assert got.shape[1:] == (encoder.num_tokens, encoder.hidden_size)


@pytest.mark.parametrize("tower", TOWERS)
def test_every_hidden_state(folder: Path, features: dict[str, Tensor], tower: str) -> None:
    encoder = ClipEncoder.from_pretrained(folder / tower).eval()
    for layer in range(encoder.num_layers + 1):
        with torch.no_grad():
            got = encoder.hidden_states(features[f"{tower}.pixels"], layer)
        torch.testing.assert_close(got, features[f"{tower}.hidden_states.{layer}"], atol=1e-5, rtol=0)


def test_layers_after_the_selected_one_do_not_run(folder: Path, features: dict[str, Tensor]) -> None:
    encoder = ClipEncoder.from_pretrained(folder / "clip56").eval()
    ran: list[int] = []
    for index, layer in enumerate(encoder.vision_tower.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        encoder(features["clip56.pixels"])
    assert ran == [0, 1]


def test_every_tensor_of_a_tower_survives(folder: Path, tmp_path: Path) -> None:
    ClipEncoder.from_pretrained(folder / "clip70").save_pretrained(tmp_path)
    before, after = (load_file(place / "model.safetensors") for place in (folder / "clip70", tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_vision_half_of_a_published_two_tower_file(
    folder: Path, features: dict[str, Tensor], tmp_path: Path
) -> None:
    vision = json.loads((folder / "clip70" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))
    state = load_file(folder / "clip70" / "model.safetensors")
    save_file({**state, "text_model.head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text((folder / "clip70" / "preprocessor_config.json").read_text())
    encoder = ClipEncoder.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        got = encoder(features["clip70.pixels"])
    torch.testing.assert_close(got, features["clip70|-2|patch"], atol=1e-5, rtol=0)
    assert encoder.config["model_type"] == "clip_vision_model"


@pytest.mark.parametrize("size", [224, 336])
def test_default_pixels_are_those_of_the_published_processor(goldens: Path, size: int) -> None:
    case = ClipEncoder({"image_size": size, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1})
    published = json.loads((goldens / f"E_process_images/processors/clip{size}/preprocessor_config.json").read_text())
    own = case.image_processor.raw
    assert own == {key: published[key] for key in own}


def test_a_model_with_clip_gives_the_originals_ids_pixels_logits_and_answers(goldens: Path) -> None:
    folder = goldens / "H_full_model" / "llama_clip"
    recorded, tensors = json.loads((folder / "golden.json").read_text()), load_file(folder / "golden.safetensors")
    model = navila.load(folder / "ckpt", dtype="float32", device="cpu")
    assert model.tokens_per_image == 16
    with torch.no_grad():
        seen = model.vision_tower(tensors["ii_image.pixel_values"])
        torch.testing.assert_close(seen, tensors["ii_image.vision_tower_out"], atol=1e-4, rtol=0)
        torch.testing.assert_close(model.mm_projector(seen), tensors["ii_image.projector_out"], atol=1e-4, rtol=0)
    for key in ("ii_image", "iii_nav_T20"):
        case = recorded[key]
        numbers = case.get("frames") or case["sampled_frame_indices(-1=black 512x512)"]
        images = [
            Image.open(folder.parent / "frames" / f"frame_{n:02d}.png") if n >= 0 else Image.new("RGB", (512, 512))
            for n in numbers
        ]
        inputs = model.prepare(case["prompt"], images)
        assert inputs["input_ids"].tolist() == case["input_ids"]
        if f"{key}.pixel_values" in tensors:
            assert torch.equal(inputs["pixel_values"], tensors[f"{key}.pixel_values"])
        with torch.no_grad():
            logits = model(**inputs).logits
        assert list(logits.shape) == case["logits_shape"]
        positions = case["logits_positions"]
        kept = logits if positions == "all" else logits[:, positions]
        torch.testing.assert_close(kept, tensors[f"{key}.logits"], atol=1e-4, rtol=0)
        assert model.generate(**inputs, max_new_tokens=32).tolist() == [case["generate"]["new_ids"]]

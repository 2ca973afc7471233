"""Folders as NVIDIA publishes them are read, saved again without loss, and told apart when they are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import CheckpointError, ConfigError
from navila.images import process_image
from navila.model.components import vision_encoder
from navila.model.load import model_type_of
from navila_encoder_radio.config import ARCHITECTURES, RadioVitConfig
from navila_encoder_radio.encoder import SIZES, RadioEncoder
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

TEACHERS = [{"name": "clip"}, {"name": "siglip"}, {"name": "sam"}, {"name": "sam", "use_summary": False}]


def config_of(model: str = "vit_tiny_patch14_224", **args: Any) -> dict[str, Any]:
    """As NVIDIA writes it, less most of the arguments of the training run."""
    given = {"model": model, "cpe_max_size": 112, "cls_token_per_teacher": True, "teachers": TEACHERS}
    return {
        "architectures": ["RADIOModel"],
        "auto_map": {"AutoConfig": "hf_model.RADIOConfig", "AutoModel": "hf_model.RADIOModel"},
        "args": {
            **given,
            "register_multiple": 8,
            "cpe_num_registers": None,
            "drop_path": None,
            "model_kwargs": {},
            **args,
        },
        "version": "radio_v2.5-b",
        "patch_size": 14,
        "max_resolution": 112,
        "preferred_resolution": [56, 56],
        "vitdet_window_size": None,
    }


def tensors_of(width: int, layers: int) -> dict[str, Tensor]:
    """Names and shapes as NVIDIA's files have them: 3 teachers, 5 registers, 8 x 8 positions, patches of 14 pixels."""
    shapes: dict[str, tuple[int, ...]] = {
        "input_conditioner.norm_mean": (3, 1, 1),
        "input_conditioner.norm_std": (3, 1, 1),
        "model.patch_generator.embedder.weight": (width, 3 * 14**2),
        "model.patch_generator.pos_embed": (1, 64, width),
        "model.patch_generator.cls_token.token": (8, width),
    }
    for index in range(layers):
        sizes = {"norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in sizes.items():
            shapes[f"model.blocks.{index}.{name}.weight"] = shape
            shapes[f"model.blocks.{index}.{name}.bias"] = shape[:1]
    torch.manual_seed(0)
    return {f"radio_model.{name}": torch.rand(shape) * 0.1 + 0.1 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.json").write_text(json.dumps(config_of()))
    processor = {"do_resize": False, "do_center_crop": False, "do_normalize": False, "do_rescale": True, "resample": 3}
    sizes = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **sizes}))
    extra = {"radio_model.summary_idxs": torch.tensor([0, 1, 2])}
    save_file({**tensors_of(192, 12), **extra}, folder / "model.safetensors")
    return folder


def test_a_published_folder_is_known_and_every_tensor_survives(published: Path, tmp_path: Path) -> None:
    encoder = vision_encoder(model_type_of(published, None)).from_pretrained(published).eval()
    assert isinstance(encoder, RadioEncoder)
    assert (encoder.image_size, encoder.num_tokens, encoder.hidden_size, encoder.num_layers) == (56, 16, 192, 12)
    encoder.save_pretrained(tmp_path)
    after = load_file(tmp_path / "model.safetensors")
    before = tensors_of(192, 12)
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {**config_of(), "model_type": "radio"}


def test_images_come_as_squares_in_0_to_1_and_the_network_normalises(published: Path) -> None:
    encoder = RadioEncoder.from_pretrained(published).eval()
    image = Image.effect_noise((90, 60), 60).convert("RGB")
    pixels = torch.from_numpy(process_image(image, encoder.image_processor, "resize"))[None]
    assert pixels.shape == (1, 3, 56, 56)
    assert 0 <= pixels.min() < 0.2 < 0.8 < pixels.max() <= 1
    conditioner = encoder.vision_tower.input_conditioner
    mean, std = (tensors_of(192, 12)[f"radio_model.input_conditioner.norm_{name}"] for name in ("mean", "std"))
    assert torch.equal(conditioner(pixels), (pixels - mean) / std)


def test_another_resolution_keeps_the_table_of_positions(published: Path, tmp_path: Path) -> None:
    encoder = RadioEncoder.from_pretrained(published, image_size=84)
    assert (encoder.num_tokens, encoder.image_processor.target_size) == (36, (84, 84))
    assert encoder(torch.rand(1, 3, 84, 84)).shape == (1, 36, 192)
    table = encoder.vision_tower.trunk.patch_generator.pos_embed
    assert torch.equal(table, tensors_of(192, 12)["radio_model.model.patch_generator.pos_embed"])
    encoder.save_pretrained(tmp_path)
    again = RadioEncoder.from_pretrained(tmp_path)
    assert (again.image_size, again.image_processor.target_size) == (84, (84, 84))
    assert RadioEncoder.from_pretrained(tmp_path, image_size=56).image_processor.target_size == (56, 56)


@pytest.mark.parametrize("feature", [None, "patch", "cls_patch"])
def test_no_class_token_is_a_feature_and_no_patch_is_lost(published: Path, feature: str | None) -> None:
    encoder = RadioEncoder.from_pretrained(published, select_feature=feature, select_layer=-1).eval()
    tower, pixels = encoder.vision_tower, torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        tokens = tower(pixels, 12)
        assert tokens.shape == (2, 8 + 16, 192)
        assert torch.equal(encoder(pixels), tokens[:, 8:])


def test_scales_are_seen_in_tiles(published: Path) -> None:
    encoder = RadioEncoder.from_pretrained(published, s2_scales="56,112")
    assert encoder.image_processor.target_size == (112, 112)
    assert encoder(torch.rand(1, 3, 112, 112)).shape == (1, 16, 384)


def test_layers_after_the_selected_one_do_not_run() -> None:
    encoder = RadioEncoder.tiny()
    ran: list[int] = []
    for index, block in enumerate(encoder.vision_tower.trunk.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    encoder(torch.rand(1, 3, 32, 32))
    assert ran == [0, 1]


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_what_the_layer_does_not_need_is_not_trained(layer: int) -> None:
    encoder = RadioEncoder(RadioEncoder.tiny().config, select_layer=layer)
    encoder.set_trainable(True)
    encoder(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert [name for name, p in encoder.named_parameters() if p.requires_grad != (p.grad is not None)] == []


def test_dinov2s_layout_and_layer_scales_have_their_names() -> None:
    with torch.device("meta"):
        giant = RadioEncoder(RadioEncoder.default_config("radio-v2.5-g")).vision_tower.state_dict()
        base = RadioEncoder(RadioEncoder.default_config("c-radio-v3-b")).vision_tower.state_dict()
    assert giant.keys() >= {
        "model.inner.patch_generator.embedder.bias",
        "model.inner.blocks.39.mlp.w12.weight",
        "model.inner.blocks.39.ls2.grandma",
        "model.inner.norm.weight",
    }
    assert "model.blocks.11.ls1.grandma" in base


@pytest.mark.parametrize(
    ("name", "millions"),
    # Sizes of the published model.safetensors in float32, or what the model cards state.
    [
        ("radio-v2.5-b", 98.2),
        ("radio-v2.5-l", 320),
        ("radio-v2.5-g", 1160),
        ("c-radio-v3-g", 1160),
        ("c-radio-v4-so400m", 431),
    ],
)
def test_parameters_of_the_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        encoder = RadioEncoder(RadioEncoder.default_config(name))
    assert sum(parameter.numel() for parameter in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(
    ("args", "tokens"),
    [
        ({"register_multiple": 8}, 8),
        ({"register_multiple": 3}, 6),
        ({"register_multiple": None}, 3),
        ({"register_multiple": 0, "cpe_num_registers": 4}, 7),
        ({"cls_token_per_teacher": False, "register_multiple": None, "cpe_num_registers": 4}, 5),
    ],
)
def test_class_tokens_and_registers(args: dict[str, Any], tokens: int) -> None:
    assert RadioVitConfig.from_dict(config_of(**args)).num_prefix_tokens == tokens


def test_versions_differ_in_where_positions_lie() -> None:
    def corners(version: str, **said: bool) -> bool:
        return RadioVitConfig.from_dict({**config_of(), "version": version, **said}).align_corners

    assert (corners("radio_v2.5-l"), corners("c-radio_v3-l"), corners("c-radio_v4-h")) == (True, True, False)
    assert not corners("radio_v2.5-l", align_corners=False)
    assert {config["args"]["model"] for config in SIZES.values()} <= ARCHITECTURES.keys()


def test_layer_scales_under_their_usual_name_are_read(tmp_path: Path) -> None:
    config = {**config_of("vit_base_patch16_v2_224"), "preferred_resolution": [32, 32], "model_type": "radio"}
    encoder = RadioEncoder(config)
    encoder.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({name.replace("grandma", "gamma"): t for name, t in state.items()}, tmp_path / "model.safetensors")
    scale = RadioEncoder.from_pretrained(tmp_path).vision_tower.state_dict()["model.blocks.3.ls2.grandma"]
    assert torch.equal(scale, torch.full((768,), 1e-5))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"args": None}, "args is None"),
        ({"image_size": "56"}, "image_size is '56'"),
        ({"args": {"model": "eradio"}}, "args.model is 'eradio'"),
        ({"args": {"model": "vit_base_patch16_224", "cpe_max_size": None}}, "cpe_max_size is missing"),
        ({"vitdet_window_size": 16}, "vitdet_window_size is set"),
        ({"preferred_resolution": None}, "give image_size"),
        ({"preferred_resolution": [56, 70]}, "give image_size"),
        ({"image_size": 60}, "use a multiple of the patch, 14"),
        ({"args": {**config_of()["args"], "model_kwargs": {"qk_norm": True}}}, "model_kwargs has 'qk_norm'"),
    ],
)
def test_a_network_that_is_not_built_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RadioEncoder({**config_of(), **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"use_swiglu_ffn": True}, "use_swiglu_ffn is True"),
        ({"num_attention_heads": 5}, "does not divide"),
    ],
)
def test_a_field_of_transformers_that_is_not_built_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RadioEncoder({**RadioEncoder.tiny().config, **changes})


def test_factors_of_weights_are_told(published: Path, tmp_path: Path) -> None:
    state = load_file(published / "model.safetensors")
    name = "radio_model.model.blocks.0.attn.qkv"
    state[f"{name}.parametrizations.weight.original"] = state.pop(f"{name}.weight")
    (tmp_path / "config.json").write_text(json.dumps(config_of()))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="a factor of a weight"):
        RadioEncoder.from_pretrained(tmp_path)


def test_tokens_of_another_number_of_teachers_are_told(published: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of(register_multiple=16)))
    save_file(load_file(published / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cls_token\.token"):
        RadioEncoder.from_pretrained(tmp_path)

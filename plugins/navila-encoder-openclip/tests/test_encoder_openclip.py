"""Encoders of open_clip keep the contract, give open_clip's own features, and are read from open_clip's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import navila
import numpy as np
import open_clip
import pytest
import torch
from navila.errors import CheckpointError, ConfigError
from navila.images import process_image
from navila.model import build
from navila.model.components import vision_encoder
from navila.model.load import model_type_of
from navila.model.multiscale import resize_positions
from navila.testing import VisionEncoderContract
from navila_encoder_openclip.encoder import OpenClipEncoder
from open_clip.push_to_hf_hub import save_config_for_hf
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

TINY = {"image_size": 56, "patch_size": 14, "width": 32, "layers": 3, "head_width": 8}
TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
#: What open_clip's configs say beyond sizes.
OWN: dict[str, dict[str, Any]] = {
    "clip": {},
    "clipa": {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    "coca": {"attentional_pool": True, "attn_pooler_heads": 4},
    "layer scale": {"ls_init_value": 0.5},
    "qk norm": {"qk_norm": True, "scale_heads": True, "scale_fc": True},
}
#: Models of timm, and their tokens before the patches (class, registers).
TIMM = {"vit_tiny_patch16_224": 1, "eva02_tiny_patch14_224": 1, "vit_wee_patch16_reg1_gap_256": 1}


class TestOpenClip(VisionEncoderContract):
    name = "openclip"


def model_cfg(**vision: Any) -> dict[str, Any]:
    return {"embed_dim": 16, "vision_cfg": {**TINY, **vision}, "text_cfg": TEXT}


def config_of(model: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return {"model_type": "open_clip", "model_cfg": model, **extra}


def reference_of(model: dict[str, Any]) -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**model).eval()


def timm_cfg(name: str, pool: str = "avg", **vision: Any) -> dict[str, Any]:
    # All of it is drawn at random or fetched in open_clip's training, and nothing of it here.
    training = {"timm_drop_path": 0.5, "timm_drop": 0.5, "patch_dropout": 0.5, "timm_model_pretrained": True}
    facts = {"timm_model_name": name, "timm_pool": pool, "image_size": 224, **training}
    return {"embed_dim": 16, "vision_cfg": {**facts, **vision}, "text_cfg": TEXT}


def pixels(side: int = 56, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def hidden_states(blocks: Any, run: Any) -> list[Tensor]:
    """What goes into the first block, and comes out of each, while `run` runs."""
    seen: list[Tensor] = []
    hooks = [blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    hooks += [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in blocks]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("form", OWN)
def test_every_layer_is_what_open_clip_computes(form: str, quick_gelu: bool) -> None:
    model = {**model_cfg(**OWN[form]), "quick_gelu": quick_gelu}
    visual = reference_of(model).visual
    want = hidden_states(visual.transformer.resblocks, lambda: visual(pixels()))
    for layer in range(-4, 4):
        encoder = OpenClipEncoder(config_of(model), select_layer=layer, select_feature="cls_patch").eval()
        encoder.vision_tower.load_state_dict(visual.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(encoder(pixels()), want[layer], atol=1e-5, rtol=0)
        patches = OpenClipEncoder(config_of(model), select_layer=layer).eval()
        patches.load_state_dict(encoder.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(patches(pixels()), want[layer][:, 1:], atol=1e-5, rtol=0)
        assert (encoder.num_tokens, patches.num_tokens) == (17, 16)


def test_the_last_layer_normed_is_what_open_clip_calls_tokens() -> None:
    visual = reference_of(model_cfg(output_tokens=True)).visual
    encoder = OpenClipEncoder(config_of(model_cfg()), select_layer=-1).eval()
    encoder.vision_tower.load_state_dict(visual.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(visual.ln_post(encoder(pixels())), visual(pixels())[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_models_of_clips_form_agree_with_transformers(quick_gelu: bool) -> None:
    torch.manual_seed(0)
    facts = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    facts |= {"image_size": 56, "patch_size": 14, "hidden_act": "quick_gelu" if quick_gelu else "gelu"}
    reference = CLIPVisionModel(CLIPVisionConfig(**facts)).eval()
    theirs = {name.removeprefix("vision_model."): t for name, t in reference.state_dict().items()}
    ours: dict[str, Tensor] = {
        "class_embedding": theirs["embeddings.class_embedding"],
        "positional_embedding": theirs["embeddings.position_embedding.weight"],
        "conv1.weight": theirs["embeddings.patch_embedding.weight"],
        "proj": torch.zeros(32, 16),
    }
    for kind in ("weight", "bias"):
        ours |= {f"ln_pre.{kind}": theirs[f"pre_layrnorm.{kind}"], f"ln_post.{kind}": theirs[f"post_layernorm.{kind}"]}
        for n in range(3):
            old, new = f"encoder.layers.{n}", f"transformer.resblocks.{n}"
            parts = [theirs[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            ours[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            for a, b in (("self_attn.out_proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                ours[f"{new}.{b}.{kind}"] = theirs[f"{old}.{a}.{kind}"]
            for a in (1, 2):
                ours[f"{new}.ln_{a}.{kind}"] = theirs[f"{old}.layer_norm{a}.{kind}"]
    with torch.no_grad():
        want = reference(pixels(), output_hidden_states=True).hidden_states
        for layer in range(4):
            model = {**model_cfg(), "quick_gelu": quick_gelu}
            encoder = OpenClipEncoder(config_of(model), select_layer=layer, select_feature="cls_patch").eval()
            encoder.vision_tower.load_state_dict(ours)
            torch.testing.assert_close(encoder(pixels()), want[layer], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "before"), TIMM.items())
def test_a_trunk_of_timm_gives_its_patches(name: str, before: int) -> None:
    model = timm_cfg(name)
    encoder = OpenClipEncoder(config_of(model), select_feature="cls_patch").train()
    trunk = cast(Any, encoder.vision_tower).trunk
    side = encoder.image_size
    first = int(trunk.cls_token is not None)
    ran = hidden_states(trunk.blocks, lambda: encoder(pixels(side, 1)))
    assert len(ran) == 1 + encoder.num_layers - 1, "no block after the selected one runs"
    full = hidden_states(trunk.blocks, lambda: encoder.vision_tower(pixels(side, 1)))
    with torch.no_grad():
        got = encoder(pixels(side, 1))
    want = full[-2]
    torch.testing.assert_close(got, torch.cat([want[:, :first], want[:, before:]], dim=1), atol=1e-5, rtol=0)
    assert got.shape[1] == encoder.num_tokens == (side // trunk.patch_embed.patch_size[0]) ** 2 + first
    with pytest.raises(ConfigError, match=f"use 1 to {encoder.num_layers}"):
        OpenClipEncoder(config_of(model), select_layer=0)


@pytest.mark.parametrize("model", [model_cfg(**OWN["coca"]), timm_cfg("vit_tiny_patch16_224")])
def test_what_never_runs_is_never_trained(model: dict[str, Any]) -> None:
    encoder = OpenClipEncoder(config_of(model))
    encoder.set_trainable(True)
    encoder(pixels(encoder.image_size)).square().mean().backward()
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []
    encoder.set_trainable(False)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_no_patch_is_dropped_while_training() -> None:
    encoder = OpenClipEncoder(config_of(model_cfg(patch_dropout=0.5))).train()
    assert encoder(pixels()).shape[1] == encoder.num_tokens == 16
    assert encoder.config["model_cfg"]["vision_cfg"]["patch_dropout"] == 0.5, "the config is kept as it was"


def test_a_name_is_enough() -> None:
    with torch.device("meta"):
        encoder = OpenClipEncoder({"model_type": "open_clip", "architecture": "ViT-L-14-336-quickgelu"})
        siglip = OpenClipEncoder({"model_type": "open_clip", "architecture": "ViT-B-16-SigLIP", "image_size": 256})
    assert (encoder.image_size, encoder.num_tokens, encoder.hidden_size) == (336, 576, 1024)
    assert (siglip.image_size, siglip.num_tokens, siglip.has_cls_token) == (256, 256, False)
    assert type(cast(Any, encoder.vision_tower).transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def publish(folder: Path, model: dict[str, Any], *, binary: bool = False, **preprocess: Any) -> open_clip.CLIP:
    """A folder as open_clip uploads it."""
    clip = reference_of(model)
    facts = {"size": 56, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear", **preprocess}
    open_clip.set_model_preprocess_cfg(clip, facts)
    folder.mkdir()
    save_config_for_hf(clip, folder / "open_clip_config.json", model)
    if binary:
        torch.save(clip.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return clip


@pytest.mark.parametrize("binary", [False, True])
def test_open_clips_own_files_are_read_and_the_vision_half_is_kept(tmp_path: Path, binary: bool) -> None:
    published, saved = tmp_path / "published", tmp_path / "saved"
    clip = publish(published, {**model_cfg(), "quick_gelu": True}, binary=binary, resize_mode="squash")
    encoder_class = vision_encoder(model_type_of(published, None))
    encoder = encoder_class.from_pretrained(published, select_layer=-1).eval()
    want = hidden_states(clip.visual.transformer.resblocks, lambda: clip.visual(pixels()))[-1][:, 1:]
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels()), want, atol=1e-5, rtol=0)
    processor = encoder.image_processor
    assert (processor.mean, processor.std, processor.resample) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 2)

    encoder.save_pretrained(saved)
    tensors = load_file(saved / "model.safetensors")
    assert tensors.keys() == {f"visual.{name}" for name in clip.visual.state_dict()}
    assert all(torch.equal(t, clip.state_dict()[name]) for name, t in tensors.items())
    original = json.loads((published / "open_clip_config.json").read_text())
    assert json.loads((saved / "config.json").read_text()) == {**original, "model_type": "open_clip"}
    again = vision_encoder(model_type_of(saved, None)).from_pretrained(saved, select_layer=-1).eval()
    with torch.no_grad():
        assert torch.equal(again(pixels()), encoder(pixels()))
    assert again.image_processor == processor


def test_a_model_is_built_on_it_at_another_resolution_and_comes_back(goldens: Path, tmp_path: Path) -> None:
    clip = publish(tmp_path / "published", model_cfg())
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = build(
        {"model_type": "llama", **sizes},
        tmp_path / "published",
        "mlp_downsample",
        goldens / "tokenizers" / "llama3_like",
        vision_resolution=84,
    ).eval()
    assert (model.tokens_per_image, model.vision_tower.image_processor.target_size) == (9, (84, 84))
    table = resize_positions(clip.visual.positional_embedding, 37, prefix=1)
    assert torch.equal(cast(Any, model.vision_tower.vision_tower).positional_embedding, table)
    model.save_pretrained(tmp_path / "saved")
    again = navila.load(tmp_path / "saved", device="cpu", dtype="float32")
    with torch.no_grad():
        assert torch.equal(again.encode_images(pixels(84)), model.encode_images(pixels(84)))


def test_sizes_that_do_not_fit_are_told_when_a_model_is_built(goldens: Path) -> None:
    llm = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(ConfigError, match=r"given as vision_tower describes no vision encoder .*divisible"):
        build(llm, config_of(model_cfg(head_width=5)), "linear", goldens / "tokenizers" / "llama3_like")


def test_positions_of_a_trunk_of_timm_are_resized(tmp_path: Path) -> None:
    first = OpenClipEncoder(config_of(timm_cfg("eva02_tiny_patch14_224")))
    first.save_pretrained(tmp_path / "small")
    larger = OpenClipEncoder.from_pretrained(tmp_path / "small", image_size=280).eval()
    old, new = (cast(Any, e.vision_tower).trunk.pos_embed for e in (first, larger))
    assert torch.equal(new, resize_positions(old, 401, prefix=1))
    assert (larger.num_tokens, larger.image_processor.target_size) == (400, (280, 280))
    larger.save_pretrained(tmp_path / "large")
    again = OpenClipEncoder.from_pretrained(tmp_path / "large").eval()
    with torch.no_grad():
        assert torch.equal(again(pixels(280, 1)), larger(pixels(280, 1)))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_are_prepared_as_open_clip_does(mode: str, interpolation: str) -> None:
    facts = {"mean": [0.1, 0.2, 0.3], "std": 0.5, "interpolation": interpolation, "resize_mode": mode}
    encoder = OpenClipEncoder(config_of(model_cfg(), preprocess_cfg=facts))
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((128, 112))
    want = image_transform_v2(PreprocessCfg(size=56, **facts), is_train=False)(image)
    got = process_image(image, encoder.image_processor, aspect_ratio=None)
    np.testing.assert_allclose(got, np.asarray(want), atol=1e-5)


def test_several_scales_are_seen() -> None:
    encoder = OpenClipEncoder(config_of(model_cfg()), s2_scales="56,112").eval()
    with torch.no_grad():
        assert encoder(pixels(112)).shape == (2, 16, 64)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "architecture is None"),
        ({"architecture": "ViT-L-15"}, "such as ViT-L-1"),
        ({"architecture": "hf-hub:laion/any"}, "architecture is 'hf-hub"),
        ({"architecture": "RN50"}, "ModifiedResNet, which has no patch tokens"),
        ({"model_cfg": timm_cfg("convnext_atto")}, "ConvNeXt, which has no patch tokens"),
        ({"model_cfg": timm_cfg("hf-hub:timm/any")}, "no model of timm"),
        ({"model_cfg": {"embed_dim": 16}}, "no embed_dim and vision_cfg"),
        ({"model_cfg": model_cfg(eva_model_name="eva-clip")}, "has eva_model_name"),
        ({"model_cfg": model_cfg(image_size=[28, 56])}, "56x28"),
        ({"model_cfg": model_cfg(), "preprocess_cfg": {"resize_mode": "stretch"}}, "resize_mode 'stretch'"),
        ({"model_cfg": model_cfg(), "preprocess_cfg": {"interpolation": "area"}}, "interpolation 'area'"),
    ],
)
def test_what_open_clip_cannot_give_is_told(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OpenClipEncoder(config)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "open_clip_model.safetensors").write_bytes(b"no tensors"), "corrupt"),
        (lambda folder: (folder / "open_clip_model.safetensors").unlink(), "holds no weights"),
        (lambda folder: save_file({"logit_scale": torch.ones(1)}, folder / "open_clip_model.safetensors"), "lacks"),
        (lambda folder: (folder / "open_clip_config.json").write_text("{"), "open_clip_config.json"),
        (lambda folder: (folder / "open_clip_config.json").unlink(), "open_clip_config.json is missing"),
        (
            lambda folder: (folder / "open_clip_config.json").write_text(
                json.dumps({"model_cfg": model_cfg(head_width=5)})
            ),
            "open_clip_config.json describes no vision encoder",
        ),
    ],
)
def test_a_damaged_folder_is_told(tmp_path: Path, damage: Any, words: str) -> None:
    publish(tmp_path / "published", model_cfg())
    damage(tmp_path / "published")
    with pytest.raises(CheckpointError, match=words):
        OpenClipEncoder.from_pretrained(tmp_path / "published")

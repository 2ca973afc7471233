"""A composed model computes what its parts compute alone: transformers' own classes, put together here by hand.

Sizes are those that checkpoints differ in: heads, widths of heads, windows, experts, grids, layers, vocabularies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from navila.model import build
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, CLIPVisionModel, SiglipVisionModel

TOLERANCE = 1e-4
SIZES = {"num_hidden_layers": 2, "max_position_embeddings": 512, "initializer_range": 0.1}
LLMS: Mapping[str, Mapping[str, Any]] = {
    "llama: one key head, tied": {
        **{"model_type": "llama", "hidden_size": 36, "intermediate_size": 50, "num_attention_heads": 3},
        **{"num_key_value_heads": 1, "tie_word_embeddings": True, "rope_theta": 1e5, "rms_norm_eps": 1e-3},
    },
    "llama: wide heads, biases, scaled": {
        **{"model_type": "llama", "hidden_size": 40, "intermediate_size": 50, "num_attention_heads": 4},
        **{"head_dim": 16, "attention_bias": True, "mlp_bias": True, "rope_scaling": {"type": "linear", "factor": 4.0}},
    },
    "llama: dynamic positions": {
        **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 50, "num_attention_heads": 4},
        **{"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    },
    "mistral: window shorter than the prompt": {
        **{"model_type": "mistral", "hidden_size": 48, "intermediate_size": 70, "num_attention_heads": 6},
        **{"num_key_value_heads": 2, "sliding_window": 7},
    },
    "mixtral: three of eight experts": {
        **{"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4},
        **{"num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 3, "sliding_window": None},
    },
    "mixtral: one expert": {
        **{"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2},
        **{"num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 9},
    },
    "gemma: narrow heads": {
        **{"model_type": "gemma", "hidden_size": 40, "intermediate_size": 60, "num_attention_heads": 4},
        **{"num_key_value_heads": 1, "head_dim": 6, "hidden_act": "gelu_pytorch_tanh"},
    },
    "gemma: head of its own": {
        **{"model_type": "gemma", "hidden_size": 24, "intermediate_size": 60, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": False, "vocab_size": 1900},
    },
}
SIGLIP = {"model_type": "siglip_vision_model", "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14}
CLIP = {**SIGLIP, "model_type": "clip_vision_model"}
#: Encoder, what of it is taken, projector.
SIGHTS: Mapping[str, tuple[Mapping[str, Any], int, str, str]] = {
    "siglip 5x5, merged": ({**SIGLIP, "hidden_size": 24, "image_size": 70}, -2, "cls_patch", "mlp_downsample"),
    "siglip 4x4, merged": ({**SIGLIP, "hidden_size": 30, "image_size": 56}, -1, "cls_patch", "mlp_downsample"),
    "siglip 1x1, merged": ({**SIGLIP, "hidden_size": 24, "image_size": 14}, 1, "cls_patch", "mlp_downsample"),
    "clip 3x3, merged": ({**CLIP, "hidden_size": 24, "image_size": 42}, -2, "patch", "mlp_downsample"),
    "clip 3x3, with class": ({**CLIP, "hidden_size": 24, "image_size": 42}, -3, "cls_patch", "mlp3x_gelu"),
    "clip 4x4, gelu, embeddings": (
        {**CLIP, "hidden_size": 20, "image_size": 56, "hidden_act": "gelu", "projection_dim": 7},
        0,
        "patch",
        "linear",
    ),
}


def features_by_hand(folder: Path, pixels: Tensor) -> Tensor:
    """(N, T, D) from transformers' encoder and the projector's formula."""
    root = json.loads((folder / "config.json").read_text())
    kind = SiglipVisionModel if root["vision_tower_cfg"]["model_type"] == "siglip_vision_model" else CLIPVisionModel
    tower: Any = kind.from_pretrained(folder / "vision_tower", dtype=torch.float32, attn_implementation="eager")
    hidden = tower.eval()(pixels, output_hidden_states=True).hidden_states[root["mm_vision_select_layer"]]
    if root["mm_vision_select_feature"] == "patch":
        hidden = hidden[:, 1:]
    return projected_by_hand(load_file(folder / "mm_projector" / "model.safetensors"), hidden)


def projected_by_hand(weights: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    if "layers.weight" in weights:
        return F.linear(hidden, weights["layers.weight"], weights["layers.bias"])
    if weights.get("layers.1.weight", torch.zeros(1, 1)).dim() == 1:
        side = math.isqrt(hidden.shape[1])
        grid = hidden.reshape(len(hidden), side, side, -1)
        columns = []
        for j in range(0, side, 2):
            for i in range(0, side, 2):
                corners = [(i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)]
                outside = torch.zeros_like(grid[:, 0, 0])
                columns.append(torch.cat([grid[:, r, c] if max(r, c) < side else outside for r, c in corners], -1))
        merged = torch.stack(columns, 1)
        hidden = F.layer_norm(merged, merged.shape[-1:], weights["layers.1.weight"], weights["layers.1.bias"], 1e-5)
        order = (2, 4)
    else:
        order = tuple(sorted({int(name.split(".")[1]) for name in weights}))
    for number in order:
        hidden = F.gelu(hidden) if number != order[0] else hidden
        hidden = F.linear(hidden, weights[f"layers.{number}.weight"], weights[f"layers.{number}.bias"])
    return hidden


def logits_by_hand(folder: Path, ids: list[int], features: list[Tensor]) -> Tensor:
    """(L', V) of one sample alone, from transformers' language model."""
    llm: Any = AutoModelForCausalLM.from_pretrained(folder / "llm", dtype=torch.float32, attn_implementation="eager")
    table = load_file(folder / "llm" / "model.safetensors")["model.embed_tokens.weight"]
    left = list(features)
    rows = [left.pop(0) if i == IMAGE_TOKEN_INDEX else table[i][None] for i in ids]
    embeds = torch.cat(rows)[None]
    if llm.config.model_type == "gemma":
        embeds = embeds * llm.config.hidden_size**0.5
    return llm.eval()(inputs_embeds=embeds).logits[0]


def made(goldens: Path, folder: Path, llm: Mapping[str, Any], sight: str) -> Any:
    """A random model, saved as it is released and loaded from there."""
    tower, layer, feature, projector = SIGHTS[sight]
    options: dict[str, Any] = {"mm_vision_select_layer": layer, "mm_vision_select_feature": feature}
    tower = {"intermediate_size": 40, **tower}
    model = build({**SIZES, **llm}, tower, projector, goldens / "tokenizers" / "llama3_like", **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms and biases that say nothing would hide that one is left out.
            if parameter.dim() == 1 and not name.startswith("llm"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return navila.load(folder, dtype="float32", device="cpu")


@torch.no_grad()
@pytest.mark.parametrize(
    ("llm", "sight", "seed"),
    [(llm, list(SIGHTS)[number % len(SIGHTS)], number) for number, llm in enumerate(LLMS)],
)
def test_batches_packed_rows_and_losses(llm: str, sight: str, seed: int, goldens: Path, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    model = made(goldens, tmp_path, LLMS[llm], sight)
    side = model.vision_tower.image_size
    image = IMAGE_TOKEN_INDEX
    # Two images, none, one at the very end, one at the beginning; the last holds special tokens among words.
    samples = [
        [1796, image, 7, 300, image, 8, 9],
        [1796, 5, 6, 7, 8, 9, 10, 11, 12],
        [1796, 3, image],
        [image, 4],
        [1796, 1806, 1800, image, 1806, 2],
    ]
    counts = [ids.count(image) for ids in samples]
    pixels = torch.randn(sum(counts), 3, side, side)
    features = features_by_hand(tmp_path, pixels)
    torch.testing.assert_close(model.encode_images(pixels), features, atol=TOLERANCE, rtol=0)
    shares = [list(part) for part in features.split(counts)]
    wanted = [logits_by_hand(tmp_path, ids, part) for ids, part in zip(samples, shares, strict=True)]

    longest = max(map(len, samples))
    ids = torch.tensor([s + [1806] * (longest - len(s)) for s in samples])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in samples])
    labels = ids.masked_fill((mask == 0) | (ids == image) | (torch.rand(ids.shape) < 0.2), IGNORE_INDEX)
    output = model(ids, pixels, attention_mask=mask, labels=labels)
    for row, want in enumerate(wanted):
        torch.testing.assert_close(output.logits[row, : len(want)], want, atol=TOLERANCE, rtol=0)
    terms = []
    width = model.tokens_per_image
    for sample, row_labels, want in zip(samples, labels.tolist(), wanted, strict=True):
        pairs = zip(sample, row_labels[: len(sample)], strict=True)
        spread = [[IGNORE_INDEX] * width if i == image else [label] for i, label in pairs]
        following = torch.tensor([label for part in spread for label in part][1:])
        active = following != IGNORE_INDEX
        terms.append(F.cross_entropy(want[:-1][active], following[active], reduction="none"))
    assert output.loss.item() == pytest.approx(torch.cat(terms).mean().item(), rel=1e-5)

    packed_ids = torch.tensor([[i for s in samples for i in s]])
    positions = torch.tensor([[p for s in samples for p in range(len(s))]])
    packed = model(packed_ids, pixels, position_ids=positions).logits[0]
    torch.testing.assert_close(packed, torch.cat(wanted), atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("sight", [name for name in SIGHTS])
def test_greedy_answers(sight: str, goldens: Path, tmp_path: Path) -> None:
    torch.manual_seed(100)
    model = made(goldens, tmp_path, LLMS["llama: one key head, tied"], sight)
    pixels = torch.randn(2, 3, model.vision_tower.image_size, model.vision_tower.image_size)
    features = list(features_by_hand(tmp_path, pixels))
    ids = [1796, IMAGE_TOKEN_INDEX, 9, IMAGE_TOKEN_INDEX, 17]
    got = model.generate(torch.tensor([ids]), pixel_values=pixels, max_new_tokens=4, eos_token_id=[])[0].tolist()
    want: list[int] = []
    for _ in range(4):
        want.append(int(logits_by_hand(tmp_path, ids + want, features)[-1].argmax()))
    assert got == want


@torch.no_grad()
@pytest.mark.parametrize("tower", ["internvit56", "internvit70_qknorm"])
@pytest.mark.parametrize(("projector", "feature"), [("mlp_downsample", "patch"), ("mlp2x_gelu", "cls_patch")])
def test_an_internvit_of_the_original_in_a_whole_model(
    tower: str, projector: str, feature: str, goldens: Path, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    folder = goldens / "G_vision_towers"
    words = goldens / "tokenizers" / "llama3_like"
    config = {**SIZES, **LLMS["mistral: window shorter than the prompt"]}
    model = build(config, folder / tower, projector, words, mm_vision_select_feature=feature)
    model.save_pretrained(tmp_path)
    # What NaVILA's own saving leaves there.
    content = {"image_processor_type": "InternVisionPreprocessor", "resize_size": 448}
    (tmp_path / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(content))
    again: Any = navila.load(tmp_path, dtype="float32", device="cpu")
    recorded = load_file(folder / "features.safetensors")
    hidden = recorded[f"{tower}|-2|{feature}"]
    weights = load_file(tmp_path / "mm_projector" / "model.safetensors")
    pixels = recorded[f"{tower}.pixels"]
    features = projected_by_hand(weights, hidden)
    torch.testing.assert_close(again.encode_images(pixels), features, atol=TOLERANCE, rtol=0)
    ids = [1796, IMAGE_TOKEN_INDEX, 3, IMAGE_TOKEN_INDEX, 4]
    want = logits_by_hand(tmp_path, ids, list(features))
    torch.testing.assert_close(again(torch.tensor([ids]), pixels).logits[0], want, atol=TOLERANCE, rtol=0)

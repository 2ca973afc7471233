"""Checkpoints of other layouts, described as if they were of the released one; light: no tensor is read here.

| layout | known by | parts |
|---|---|---|
| released (VILA 1.5, NaVILA, NVILA) | `llm_cfg`, or the folder `llm/` | a folder each |
| LLaVA 1.5 | `mm_vision_tower` | one folder; the encoder's own elsewhere |
| LLaVA of transformers (`llava-hf`) | `text_config` and `vision_config` | one folder |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from navila.errors import CheckpointError, reason
from navila.model.nvila import Nvila

#: `model_type` of composed models, and the language model of those whose config has no other word for it.
MODEL_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "llava_llama": "llama",
        "llava": "llama",
        "navila": "llama",
        "vila": "qwen2",
        "llava_mistral": "mistral",
        "llava_mixtral": "mixtral",
        "llava_gemma": "gemma",
        "llava_qwen": "qwen2",
    }
)
#: A projector trained alone, as LLaVA's first stage leaves it.
PROJECTOR_FILE = "mm_projector.bin"
#: What keys of a LLaVA config begin with that are not the language model's.
_LLAVA_KEYS = ("mm_", "image_", "tune_", "freeze_", "unfreeze_", "use_mm_", "s2", "model_type", "architectures")
#: Names of an encoder's tensors inside a whole checkpoint, to those of its network.
_ENCODER_NAMES = {r"^(model\.)?vision_tower\.(vision_tower\.)?(vision_model\.)?": ""}


class Layout(Enum):
    """How a checkpoint is laid out."""

    RELEASED = "a folder for each part"
    LLAVA = "LLaVA 1.5"
    LLAVA_HF = "LLaVA of transformers"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where a part of a checkpoint is."""

    folder: Path
    config: Mapping[str, Any] | None = None
    """What stands in its `config.json`, where the folder's is not its own."""
    weights: Path | None = None
    """A folder or file whose tensors come before those of `folder`: those that `names` renames, if there are any."""
    names: Mapping[str, str] | None = None
    """Patterns of tensor names and what to write instead; None: they are the part's own."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The parts of a checkpoint, and its top `config.json` as the released layout would have it."""

    config: Mapping[str, Any]
    llm: Part
    vision_tower: Part
    mm_projector: Part
    text_template: bool = True
    """Whether the tokenizer's chat template takes messages of plain text."""


def layout_of(folder: Path, raw: Mapping[str, Any]) -> Layout:
    """The layout of the checkpoint with this top `config.json`.

    Raises:
        CheckpointError: it is of another kind of model, partial, or computes what navila does not.
    """
    path = folder / "config.json"
    model_type = raw.get("model_type")
    if raw.get("ps3") or model_type == "llava_topdown_llama":
        raise CheckpointError(f"{path} has ps3 true: PS3 encoders (VILA-HD) are not supported, use an NVILA without.")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise CheckpointError(_not_composed(folder, raw))
    if "llm_cfg" in raw or (folder / "llm").is_dir():
        _check_folders(folder, raw)
        try:
            Nvila.of(raw)
        except CheckpointError as error:
            raise CheckpointError(f"In {folder}, {error}") from None
        return Layout.RELEASED
    if isinstance(raw.get("text_config"), Mapping) and isinstance(raw.get("vision_config"), Mapping):
        return Layout.LLAVA_HF
    if isinstance(raw.get("mm_vision_tower"), str):
        _check_llava(path, raw)
        return Layout.LLAVA
    raise CheckpointError(
        f"{path} has model_type {model_type!r}, but neither llm_cfg, mm_vision_tower nor text_config: its layout is "
        "not known here, or the file is partial."
    )


def sources(
    folder: Path,
    raw: Mapping[str, Any],
    *,
    vision_tower: str | Path | None = None,
    model_base: str | Path | None = None,
) -> Sources:
    """Where the parts of a checkpoint are; an encoder that it only names is fetched.

    Args:
        folder, raw: the checkpoint and its top `config.json`.
        vision_tower: a folder or Hub id of the encoder, instead of the one the config names. Weights of an encoder in
            the checkpoint itself, which were trained there, still go first.
        model_base: the language model of a projector that was trained alone.

    Raises:
        CheckpointError: as `layout_of`, or the encoder cannot be fetched.
    """
    layout = layout_of(folder, raw)
    if layout is Layout.LLAVA:
        return _llava(folder, raw, vision_tower, model_base)
    if layout is Layout.LLAVA_HF:
        if vision_tower is not None:
            raise CheckpointError(f"{folder} has its own vision encoder: leave {str(vision_tower)!r} out.")
        return _llava_hf(folder, raw)
    own = folder / "vision_tower"
    if vision_tower is not None or not own.is_dir():
        own = _fetched(folder, "vision_tower_cfg", raw.get("vision_tower_cfg"), vision_tower)
    return Sources(
        config=raw,
        llm=Part(folder=folder / "llm"),
        vision_tower=Part(folder=own),
        mm_projector=Part(folder=folder / "mm_projector"),
    )


def _llava(
    folder: Path, raw: Mapping[str, Any], vision_tower: str | Path | None, model_base: str | Path | None
) -> Sources:
    """The language model's config with keys of the whole among it, its tensors under their own names."""
    top = {key: value for key, value in raw.items() if key.startswith(_LLAVA_KEYS)}
    llm = {key: value for key, value in raw.items() if key not in top}
    llm |= {"model_type": MODEL_TYPES[raw["model_type"]], "architectures": None}
    alone = _is_projector(folder)
    if alone and model_base is None:
        raise CheckpointError(
            f"{folder} holds a projector alone ({PROJECTOR_FILE}): give the folder or Hub id of the language model it "
            "was trained for as model_base (--model-base)."
        )
    if model_base is not None and not alone:
        raise CheckpointError(f"{folder} is a whole model: leave the base {str(model_base)!r} out.")
    return Sources(
        config={
            **top,
            "llm_cfg": None if alone else llm,
            "mm_projector_cfg": {"mm_projector_type": raw.get("mm_projector_type") or "linear"},
            "conversation": "mistral" if llm["model_type"] == "mistral" else raw.get("conversation"),
        },
        llm=Part(folder=_fetched(folder, "", None, model_base)) if alone else Part(folder=folder, config=llm),
        vision_tower=Part(
            folder=_fetched(folder, "mm_vision_tower", raw["mm_vision_tower"], vision_tower),
            weights=None if alone else folder,
            names=_ENCODER_NAMES,
        ),
        mm_projector=Part(
            folder=folder,
            weights=folder / PROJECTOR_FILE if alone else folder,
            names={r"^(model\.)?mm_projector\.": "layers."},
        ),
    )


def _is_projector(folder: Path) -> bool:
    """Whether a folder of LLaVA's holds the projector of a first stage of training and no whole model."""
    whole = (*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*.bin*"))
    return (folder / PROJECTOR_FILE).is_file() and not whole


def _llava_hf(folder: Path, raw: Mapping[str, Any]) -> Sources:
    """Configs of the parts within one, and one set of weight files whose names changed between versions."""
    text, vision = raw["text_config"], raw["vision_config"]
    path = folder / "config.json"
    act = raw.get("projector_hidden_act", "gelu")
    if act != "gelu" or raw.get("multimodal_projector_bias") is False:
        raise CheckpointError(
            f"{path} has projector_hidden_act {act!r}: only a projector with gelu and biases is known."
        )
    layer = raw.get("vision_feature_layer", -2)
    if type(layer) is not int:
        raise CheckpointError(f"{path} has vision_feature_layer {layer!r}: only the features of one layer are known.")
    strategy = raw.get("vision_feature_select_strategy", "default")
    return Sources(
        config={
            "model_type": "llava",
            "llm_cfg": text,
            "vision_tower_cfg": vision,
            "mm_projector_cfg": {"mm_projector_type": "mlp2x_gelu"},
            "mm_vision_select_layer": layer,
            "mm_vision_select_feature": "patch" if strategy == "default" else "cls_patch",
            "conversation": "mistral" if text.get("model_type") == "mistral" else None,
        },
        llm=Part(
            folder=folder,
            config={"model_type": "llama", **text},
            names={r"^language_model\.": "", r"^model\.language_model\.": "model."},
        ),
        vision_tower=Part(
            folder=folder,
            config={"model_type": "clip_vision_model", **vision},
            weights=folder,
            names=_ENCODER_NAMES,
        ),
        mm_projector=Part(
            folder=folder,
            weights=folder,
            names={
                r"^(model\.)?multi_modal_projector\.linear_1\.": "layers.0.",
                r"^(model\.)?multi_modal_projector\.linear_2\.": "layers.2.",
            },
        ),
        # It is that of a processor, whose messages are lists of parts.
        text_template=text.get("model_type", "llama") != "llama",
    )


def _fetched(folder: Path, key: str, named: Any, given: str | Path | None) -> Path:
    """The folder of what an argument gives, or else `config.json` names by `key`."""
    from navila.model.location import checkpoint_folder

    if given is not None:
        return checkpoint_folder(given)
    try:
        return checkpoint_folder(named)
    except CheckpointError as error:
        why = reason(error.__cause__ or error).rstrip(".")
        raise CheckpointError(
            f"{folder / 'config.json'} has {key} {named!r}, which is not in the checkpoint and cannot be had from "
            f"elsewhere ({why}): give its folder as vision_tower (--vision-tower)."
        ) from error


def _check_folders(folder: Path, raw: Mapping[str, Any]) -> None:
    for part in ("llm", "vision_tower", "mm_projector"):
        # A projector without parameters has no folder in the original's checkpoints, and an encoder may only be named.
        elsewhere = {"mm_projector": Mapping, "vision_tower": str}.get(part)
        needed = elsewhere is None or not isinstance(raw.get(f"{part}_cfg"), elsewhere)
        if needed and not (folder / part).is_dir():
            raise CheckpointError(f"{folder} has no folder {part}/: the checkpoint is partial.")


def _check_llava(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuse what came after LLaVA 1.5."""
    aspect, merge = raw.get("image_aspect_ratio"), raw.get("mm_patch_merge_type", "flat")
    if isinstance(aspect, str) and aspect.startswith("anyres"):
        raise CheckpointError(
            f"{path} has image_aspect_ratio {aspect!r}: the tiling of LLaVA 1.6 is not supported, use LLaVA 1.5."
        )
    if merge != "flat":
        raise CheckpointError(f"{path} has mm_patch_merge_type {merge!r}: only 'flat' is supported.")


def _not_composed(folder: Path, raw: Mapping[str, Any]) -> str:
    """What a folder holds that is no composed model, and what to do with it."""
    path, model_type = folder / "config.json", raw.get("model_type")
    architectures = raw.get("architectures")
    named = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    alone = not {"llm_cfg", "mm_vision_tower"} & raw.keys()
    if alone and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named):
        return (
            f"{path} has model_type {model_type!r}, a language model alone: compose it with an encoder and a projector "
            f"by `navila model build --llm {folder}`."
        )
    if any("Vision" in name for name in named):
        return (
            f"{path} has model_type {model_type!r}, a vision encoder alone: compose it with a language model and a "
            f"projector by `navila model build --encoder {folder}`."
        )
    return f"{path} has model_type {model_type!r}, no composed model: expected one of {', '.join(MODEL_TYPES)}."

"""What `config.json` says of a RADIO network, in NVIDIA's form (`args`) and in that of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from navila.errors import ConfigError
from navila.model.stochastic_depth import drop_rates


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network that `args.model` names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    patch_size: int = 16
    mlp: Literal["plain", "normed", "swiglu"] = "plain"
    """`normed` has a LayerNorm between its two layers."""
    layer_scale: bool = False
    dinov2: bool = False
    """Tensors are under `model.inner`, the patches have a bias, and there is a final norm."""


def _vit(width: int, layers: int, heads: int, **more: Any) -> Architecture:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return Architecture(**{"intermediate_size": 4 * width, **sizes, **more})


ARCHITECTURES: Mapping[str, Architecture] = {
    "vit_tiny_patch14_224": _vit(192, 12, 3, patch_size=14),
    "vit_small_patch16_224": _vit(384, 12, 6),
    "vit_base_patch16_224": _vit(768, 12, 12),
    "vit_base_patch16_v2_224": _vit(768, 12, 12, layer_scale=True),
    "vit_large_patch16_224": _vit(1024, 24, 16),
    "vit_large_patch16_v2_224": _vit(1024, 24, 16, layer_scale=True),
    "vit_so400m_patch16_224": _vit(1152, 27, 16, intermediate_size=4304),
    "vit_huge_patch14_224": _vit(1280, 32, 16, patch_size=14),
    "vit_huge_patch16_224": _vit(1280, 32, 16),
    "vit_huge_patch16_224_mlpnorm": _vit(1280, 32, 16, mlp="normed"),
    "vit_giant_patch16_224": _vit(1536, 40, 24),
    "dino_v2_g_student": _vit(
        1536, 40, 24, intermediate_size=4096, patch_size=14, mlp="swiglu", layer_scale=True, dinov2=True
    ),
}
#: Versions whose code resizes positions by the centres of pixels; the older ones let the corners coincide.
CENTRED = frozenset(["c-radio_v4-h", "c-radio_v4-so400m"])
#: Arguments of timm's constructor that change nothing here.
HARMLESS = frozenset(["weight_init", "img_size", "dynamic_img_size", "strict_img_size"])
#: Pixel statistics of CLIP.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WHERE = "in the vision tower's config"


@dataclass(frozen=True, kw_only=True)
class RadioVitConfig:
    """The network, and the square images it takes."""

    architecture: Architecture
    image_size: int
    table_size: int
    """Rows and columns of the table of positions, which is interpolated to the patches of an image."""
    num_prefix_tokens: int
    """Class tokens, one for each teacher, and registers: they come before the patches and are no features."""
    align_corners: bool
    """How positions are interpolated: see `torch.nn.functional.interpolate`."""
    drop_path_rates: tuple[float, ...]
    final_norm: bool = False
    scaled_norms: bool = False
    """Whether block n scales its normalised inputs by n^-0.5 (arXiv 2502.05795)."""
    layer_norm_eps: float = 1e-6
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def num_patches(self) -> int:
        """Of an image."""
        return (self.image_size // self.architecture.patch_size) ** 2

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read either form.

        Raises:
            ConfigError: a value is missing, or is one of a network that is not built here.
        """
        config = cls.from_args(raw) if "args" in raw else cls.from_transformers(raw)
        parts = config.architecture
        if config.image_size % parts.patch_size:
            raise ConfigError(
                f"image_size is {config.image_size} {WHERE}: use a multiple of the patch, {parts.patch_size} pixels."
            )
        if parts.hidden_size % parts.num_attention_heads:
            raise ConfigError(
                f"num_attention_heads is {parts.num_attention_heads} {WHERE}, which does not divide its hidden_size "
                f"{parts.hidden_size}: correct one of the two."
            )
        return config

    @classmethod
    def from_args(cls, raw: Mapping[str, Any]) -> Self:
        """NVIDIA's: the arguments of the training run, of which few describe the network."""
        args = raw["args"]
        if not isinstance(args, Mapping):
            raise ConfigError(f"args is {args!r} {WHERE}: it must be the table of arguments that NVIDIA published.")
        name = args.get("model")
        parts = ARCHITECTURES.get(str(name))
        if parts is None:
            raise ConfigError(f"args.model is {name!r} {WHERE}: known are {', '.join(ARCHITECTURES)}.")
        if not args.get("cpe_max_size"):
            raise ConfigError(f"args.cpe_max_size is missing {WHERE}: only RADIO with cropped positions is built here.")
        if raw.get("vitdet_window_size"):
            raise ConfigError(f"vitdet_window_size is set {WHERE}: windowed attention is not built here, use null.")
        extra: Mapping[str, Any] = args.get("model_kwargs") or {}
        unknown = set(extra) - HARMLESS - {"scaled_ln"}
        if unknown:
            raise ConfigError(f"args.model_kwargs has {min(unknown)!r} {WHERE}, which is not built here.")

        teachers = {teacher["name"] for teacher in args.get("teachers", [])}
        classes = len(teachers) if args.get("cls_token_per_teacher") else 1
        multiple = args.get("register_multiple") or 0
        registers = args.get("cpe_num_registers") or (multiple - classes % multiple if multiple else 0)
        return cls(
            architecture=parts,
            image_size=_image_size(raw),
            table_size=round(args["cpe_max_size"] / parts.patch_size),
            num_prefix_tokens=classes + registers,
            align_corners=bool(raw.get("align_corners", raw.get("version") not in CENTRED)),
            drop_path_rates=tuple(drop_rates(args.get("drop_path") or 0.0, parts.num_hidden_layers)),
            final_norm=bool(args.get("model_norm")) or parts.dinov2,
            scaled_norms=bool(extra.get("scaled_ln")),
        )

    @classmethod
    def from_transformers(cls, raw: Mapping[str, Any]) -> Self:
        """The fields of transformers' `RadioConfig`; its defaults are those of C-RADIOv4-H."""
        for key, built in (("hidden_act", "gelu"), ("use_swiglu_ffn", False), ("qkv_bias", True)):
            if raw.get(key, built) != built:
                raise ConfigError(f"{key} is {raw[key]!r} {WHERE}: only {built!r} is built here.")
        width, patch = _whole(raw, "hidden_size", 1280), _whole(raw, "patch_size", 16)
        layers = _whole(raw, "num_hidden_layers", 32)
        return cls(
            architecture=Architecture(
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=_whole(raw, "num_attention_heads", 16),
                intermediate_size=int(width * raw.get("mlp_ratio", 4.0)),
                patch_size=patch,
            ),
            image_size=_whole(raw, "image_size", 224),
            table_size=_whole(raw, "max_img_size", 2048) // patch,
            num_prefix_tokens=_whole(raw, "num_cls_tokens", 3) + _whole(raw, "num_registers", 7, least=0),
            align_corners=bool(raw.get("align_corners", False)),
            drop_path_rates=(raw.get("drop_path_rate", 0.0),) * layers,
            layer_norm_eps=raw.get("layer_norm_eps", 1e-6),
            mean=tuple(raw.get("norm_mean", MEAN)),
            std=tuple(raw.get("norm_std", STD)),
        )


def _image_size(raw: Mapping[str, Any]) -> int:
    """`image_size`, which NVIDIA's form does not have but a changed resolution adds, else the preferred resolution."""
    preferred = raw.get("preferred_resolution")
    side = preferred[0] if isinstance(preferred, list) and len(set(preferred)) == 1 else None
    if side is None and "image_size" not in raw:
        raise ConfigError(f"preferred_resolution is {preferred} {WHERE}: give image_size, the side of a square image.")
    return _whole(raw, "image_size", side)


def _whole(raw: Mapping[str, Any], key: str, default: Any, least: int = 1) -> int:
    value = raw.get(key, default)
    if type(value) is not int or value < least:
        raise ConfigError(f"{key} is {value!r} {WHERE}: give a whole number of at least {least}.")
    return value

"""What a vision encoder (vision tower) offers: images in, patch features of one of its layers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from navila.errors import CheckpointError, ConfigError, DataError, NavilaError
from navila.images import FILE_NAME, ImageProcessor
from navila.model.location import read_json
from navila.model.multiscale import Scales, at_size, resize_positions
from navila.model.weights import load_into, read_state_dict, without_init, write_json, write_state_dict
from navila.registry import one_line


class VisionEncoder(nn.Module, ABC):
    """(N, 3, H, W) pixels to (N, T, C) features: the hidden states of layer `select_layer`, without a class token.

    A concrete encoder builds its network and runs its first layers; loading, saving, and checking are here.
    """

    has_cls_token: bool = False
    """Whether the hidden states begin with a class token; `build` may set it from the config."""
    position_table: str = ""
    """Name in `self.vision_tower` of the learned positions, so that other image sizes can be had; none when empty.
    `build` may set it from the config."""
    needs_processor_file: ClassVar[bool] = True
    """Whether a folder without `preprocessor_config.json` is partial; else it means the default image processor."""
    weight_prefix: ClassVar[str] = ""
    """What the tensor names of a saved encoder begin with, before the names of `self.vision_tower`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        select_layer: int = -2,
        select_feature: str | None = None,
        attn_implementation: str | None = None,
        s2_scales: str | Iterable[int] | None = None,
        s2_max_split_size: int | None = None,
    ) -> None:
        """Build with random weights.

        Args:
            config: the encoder's `config.json`.
            select_layer: index into the hidden states, 0 being the embeddings and -1 the last layer.
            select_feature: `patch` drops a class token, `cls_patch` keeps what there is; None means every patch and no
                class token. An encoder without a class token keeps every patch whatever is asked (in NaVILA, `patch`
                cut off the first one).
            attn_implementation: name of an attention of transformers; its default when None.
            s2_scales: sides in pixels ("384,768") at which each image is seen, cut into tiles of the encoder's size,
                the features joined by channel (S2, arXiv 2403.13043); the encoder's size alone when None.
            s2_max_split_size: largest tile in pixels; the encoder's size when None.

        Raises:
            ConfigError: the encoder has no such layer, `select_feature` is neither of the two, or the scales are no
                tiles of the encoder's size.
        """
        super().__init__()
        self.config = dict(config)
        self.select_layer = select_layer
        self.vision_tower = self.build(attn_implementation)
        self.select_feature = select_feature or ("patch" if self.has_cls_token else "cls_patch")
        if self.select_feature not in ("patch", "cls_patch"):
            raise ConfigError(f"mm_vision_select_feature is {select_feature!r}: use 'patch' or 'cls_patch'.")
        if not -self.num_layers - 1 <= select_layer <= self.num_layers:
            raise ConfigError(
                f"mm_vision_select_layer is {select_layer}, but the encoder has {self.num_layers} layers: use "
                f"{-self.num_layers - 1} to {self.num_layers}."
            )
        self.scales = None if s2_scales is None else Scales.of(s2_scales, s2_max_split_size, self.image_size)
        if self.scales and self.has_cls_token and self.select_feature == "cls_patch":
            raise ConfigError("mm_vision_select_feature is 'cls_patch', but S2 has no class token: use 'patch'.")
        self._prepare_with(self.default_image_processor())

    @abstractmethod
    def build(self, attn_implementation: str | None) -> nn.Module:
        """The network of `self.config`; its tensor names, after `weight_prefix`, are those of the files."""

    @abstractmethod
    def hidden_states(self, pixel_values: Tensor, num_layers: int) -> Tensor:
        """(N, T, C) after the embeddings and the first `num_layers` layers, running nothing beyond them."""

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """Transformer layers."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square input in pixels."""

    @property
    @abstractmethod
    def num_patches(self) -> int:
        """Patches of an image, the class token not counted."""

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Channels of the hidden states."""

    @abstractmethod
    def unused_modules(self) -> Sequence[nn.Module | nn.Parameter]:
        """What the selected layer does not need: later layers, final norm, pooling head. Kept for saving, never run."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A small random encoder for tests."""

    @classmethod
    def default_config(cls, name: str) -> dict[str, Any]:
        """The config of a registered name, for an encoder built from nothing."""
        raise ConfigError(f"{cls.__name__} has no built-in size {name!r}: give a config, a folder or a Hub id.")

    def default_image_processor(self) -> ImageProcessor:
        """How images are prepared when no `preprocessor_config.json` says otherwise."""
        return ImageProcessor.square(self.image_size)

    def _prepare_with(self, processor: ImageProcessor) -> None:
        self.image_processor = self.scales.processor(processor) if self.scales else processor

    @property
    def input_size(self) -> int:
        """Side in pixels of the square images it takes: `image_size`, or the largest scale."""
        return self.scales.sides[-1] if self.scales else self.image_size

    @property
    def out_features(self) -> int:
        """Channels C of the features: `hidden_size` for each scale."""
        return self.hidden_size * (len(self.scales.sides) if self.scales else 1)

    @property
    def used_layers(self) -> int:
        """Layers that run."""
        return self.select_layer if self.select_layer >= 0 else self.num_layers + 1 + self.select_layer

    @property
    def num_tokens(self) -> int:
        """Features T of one image."""
        if self.scales:
            return self.num_patches * self.scales.tiles
        return self.num_patches + int(self.has_cls_token and self.select_feature == "cls_patch")

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.parameters()).device

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, T, C), in the dtype of the weights.

        Raises:
            DataError: the pixels are not of the encoder's size.
        """
        size = self.input_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
            made = self.image_processor.target_size
            why = "" if made == (size, size) else f", and {FILE_NAME} beside it makes {made[0]} x {made[1]} pixels"
            raise DataError(
                f"pixel_values have the shape {tuple(pixel_values.shape)}: the encoder takes (N, 3, {size}, {size})"
                f"{why}."
            )
        pixel_values = pixel_values.to(self.device, self.dtype)
        return self.scales.encode(pixel_values, self._features) if self.scales else self._features(pixel_values)

    def _features(self, pixel_values: Tensor) -> Tensor:
        """Those of the selected layer for images of `image_size`."""
        features = self.hidden_states(pixel_values, self.used_layers)
        return features[:, 1:] if self.has_cls_token and self.select_feature == "patch" else features

    def set_trainable(self, trainable: bool) -> None:
        """Train or freeze; what never runs is never trained, so that no parameter waits for a gradient."""
        self.requires_grad_(trainable)
        for module in self.unused_modules():
            module.requires_grad_(False)

    @classmethod
    def config_path(cls, folder: Path) -> Path:
        """The file that describes the encoder in a folder."""
        return folder / "config.json"

    @classmethod
    def read_weights(cls, folder: Path) -> dict[str, Tensor]:
        """The tensors of a folder whose names begin with `weight_prefix`, without it; raises CheckpointError."""
        # Since transformers 5, an encoder saved alone has no prefix.
        return read_state_dict(folder, cls.weight_prefix) or read_state_dict(folder)

    @classmethod
    def select_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The vision part of a `config.json`; the whole of it unless the file describes a larger model."""
        return dict(config)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: Mapping[str, Any] | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        image_size: int | None = None,
        **options: Any,
    ) -> Self:
        """Load from a folder with `config.json`, weights and `preprocessor_config.json`; options as in `__init__`.

        `config` and `weights` (named as in `self.vision_tower`) are used instead of the folder's, when given. With
        `image_size` the encoder takes images of that many pixels: its table of positions is resized.

        Raises:
            CheckpointError: a file or tensor is missing, corrupt or of another shape, or the config makes no sense.
        """
        folder = Path(folder)
        path = cls.config_path(folder)
        described = cls.select_config(config or read_json(path))
        if image_size is not None:
            described["image_size"] = image_size
        try:
            with without_init():
                encoder = cls(described, **options)
        except NavilaError:
            raise
        except Exception as error:
            # transformers and torch refuse sizes that do not fit together in words of their own.
            raise CheckpointError(
                f"{path} describes no vision encoder ({one_line(error)}): fetch the file again."
            ) from error
        table = encoder.position_table
        if image_size is not None and not table:
            raise ConfigError(f"{cls.__name__} has no table of positions to resize: leave vision_resolution out.")
        state = dict(weights) if weights is not None else cls.read_weights(folder)
        if image_size is not None and table in state:
            rows = encoder.vision_tower.state_dict()[table].shape[-2]
            state[table] = resize_positions(state[table], rows, prefix=rows - encoder.num_patches)
        load_into(encoder.vision_tower, state, folder)
        if cls.needs_processor_file or (folder / FILE_NAME).is_file():
            processor = ImageProcessor.from_pretrained(folder)
            # The file that NaVILA writes beside an InternViT tells nothing but its class: the defaults hold.
            if cls.needs_processor_file or not {"size", "crop_size"}.isdisjoint(processor.raw):
                encoder._prepare_with(processor if image_size is None else at_size(processor, image_size))
        return encoder

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write `config.json`, `preprocessor_config.json` and the weights under their released names."""
        folder = Path(folder)
        write_json(folder / "config.json", self.config)
        self.image_processor.save_pretrained(folder)
        state = self.state_dict() if state_dict is None else state_dict
        named = {self.weight_prefix + name.removeprefix("vision_tower."): t for name, t in state.items()}
        write_state_dict(folder, named)

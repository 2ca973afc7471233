"""What a projector offers: vision features in, language-model embeddings out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from navila.errors import CheckpointError, ConfigError
from navila.model.location import read_json
from navila.model.weights import load_into, read_state_dict, without_init, write_json, write_state_dict

MODEL_TYPE = "v2l_projector"


class Projector(nn.Module, ABC):
    """(B, N, C) vision features to (B, T, D) language-model embeddings; C is `in_features` and D `out_features`.

    The tensors live under `layers`, as in released checkpoints.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build with random weights.

        Args:
            config: `mm_projector_type`, `mm_hidden_size` (C), `hidden_size` (D), and what the type needs besides.

        Raises:
            ConfigError: a field is missing or has a value the type does not know.
        """
        super().__init__()
        for key in ("mm_projector_type", "mm_hidden_size", "hidden_size"):
            if config.get(key) is None:
                raise ConfigError(f"The projector's config has no {key}: add it to mm_projector/config.json.")
        self.config = {**config, "model_type": config.get("model_type", MODEL_TYPE)}
        self.in_features, self.out_features = int(config["mm_hidden_size"]), int(config["hidden_size"])
        self.layers = self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """The network of `self.config`."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A small random projector for tests."""

    def num_tokens(self, num_patches: int) -> int:
        """Tokens T that N = `num_patches` features become."""
        return num_patches

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, C) to (B, T, D)."""
        return self.layers(features)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: Mapping[str, Any] | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Load from a folder; `config` completes what its `config.json` lacks (older files hold no sizes).

        With `weights`, `config` and they are all there is, and the folder is that of a larger model.

        Raises:
            CheckpointError: a file or tensor is missing, corrupt or of another shape.
        """
        folder = Path(folder)
        path = folder / "config.json"
        try:
            with without_init():
                own = read_json(path) if weights is None and path.is_file() else {}
                projector = cls({**(config or {}), **own})
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if projector.state_dict():
            load_into(projector, read_state_dict(folder) if weights is None else weights, folder)
        return projector

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write `config.json` and `model.safetensors`."""
        write_json(Path(folder) / "config.json", self.config)
        write_state_dict(Path(folder), self.state_dict() if state_dict is None else state_dict)

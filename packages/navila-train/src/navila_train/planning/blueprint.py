"""A model known by the configs of its parts alone: no weight is read, and none takes memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from navila.errors import ConfigError, NavilaError
from navila.model import NavilaForCausalLM
from navila.model.components import llm_backend, projector, projector_spec, vision_encoder, vision_encoder_spec
from navila.model.config import NavilaConfig
from navila.model.layouts import MODEL_TYPES, sources
from navila.model.load import composed_config, part_type
from navila.model.location import checkpoint_folder, read_json, read_root
from navila.model.nvila import Nvila
from navila.model.weights import cast_parameters
from navila.plugins import default_host
from navila.registry import one_line

from navila_train.parse import Arguments


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What the parts are built from."""

    root: NavilaConfig
    llm: Mapping[str, Any]
    vision_tower: Mapping[str, Any]
    mm_projector: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: Arguments) -> Self:
        """The model that is to be trained; parts that are named go before those of `model_name_or_path`.

        Raises:
            NavilaError: a part is missing, unknown, or its config cannot be read.
        """
        wanted = arguments.model
        found: dict[str, Any] = {part: getattr(wanted, part) for part in ("llm", "vision_tower", "mm_projector")}
        root = NavilaConfig(
            mm_vision_select_layer=wanted.mm_vision_select_layer,
            mm_vision_select_feature=wanted.mm_vision_select_feature,
        )
        base = wanted.model_name_or_path
        if base and not all(found.values()):
            folder = config_folder(base)
            raw = read_json(folder / "config.json")
            if raw.get("model_type") in MODEL_TYPES:
                raw = read_root(folder)
                root = composed_config(raw, folder / "config.json")
                found = {**_parts_of(folder, raw), **{part: value for part, value in found.items() if value}}
            else:
                found["llm"] = found["llm"] or raw
        if missing := [part for part, value in found.items() if not value]:
            raise ConfigError(f"The model lacks a part: give --{missing[0]}, or --model_name_or_path.")
        return cls(
            root=root,
            llm=_config(found["llm"], "llm"),
            vision_tower=_config(found["vision_tower"], "vision_tower"),
            mm_projector=_config(found["mm_projector"], "mm_projector"),
        )

    @property
    def llm_config(self) -> Any:
        """The language model's config with every default that `llm` leaves out."""
        return self._backend().live_config(self.llm).get_text_config()

    def build(
        self,
        *,
        dtype: torch.dtype = torch.float32,
        attn_implementation: str | None = None,
        layers: int | None = None,
    ) -> NavilaForCausalLM:
        """The model, or one of so many `layers`, on torch's meta device.

        Raises:
            ConfigError: the parts do not fit.
        """
        try:
            with torch.device("meta"):
                model = self._build(attn_implementation, layers)
        except NavilaError:
            raise
        except Exception as error:
            # transformers and torch refuse sizes that do not fit together in words of their own.
            raise ConfigError(f"The configs of the parts describe no model ({one_line(error)}): mend them.") from error
        cast_parameters(model, dtype)
        return model

    def _build(self, attn_implementation: str | None, layers: int | None) -> NavilaForCausalLM:
        # A list of what each layer is, is made anew for another number of them.
        llm = self.llm if layers is None else {**_without(self.llm, "layer_types"), "num_hidden_layers": layers}
        encoder_class = vision_encoder(str(self.vision_tower["model_type"]))
        nvila = Nvila.of(self.root.to_dict())
        live = self._backend().build(llm, attn_implementation=attn_implementation)
        encoder = encoder_class(
            encoder_class.select_config(self.vision_tower),
            select_layer=self.root.mm_vision_select_layer,
            select_feature=self.root.mm_vision_select_feature,
            **self.root.s2_options(),
        )
        sizes = {
            "mm_hidden_size": encoder.out_features * (1 if nvila is None else nvila.width_factor),
            "hidden_size": live.config.get_text_config().hidden_size,
        }
        joint = projector(str(self.mm_projector["mm_projector_type"]))({**sizes, **self.mm_projector})
        return NavilaForCausalLM(self.root, llm=live, vision_tower=encoder, mm_projector=joint)

    def _backend(self) -> Any:
        return llm_backend(str(self.llm["model_type"]))


def config_folder(path: str) -> Path:
    """A folder with the configs of a checkpoint; of a Hub id only those are fetched.

    Raises:
        CheckpointError: there is no such folder.
        ConfigError: the Hub does not give it.
    """
    if Path(path).expanduser().is_dir() or path.count("/") != 1:
        return checkpoint_folder(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=["config.json", "*/config.json"]))
    except Exception as error:
        raise ConfigError(
            f"The config of {path!r} cannot be had from the Hugging Face Hub ({type(error).__name__}): give configs, "
            """e.g. --llm '{"model_type": "llama", …}' --vision_tower siglip-so400m-384 --mm_projector linear."""
        ) from error


def _parts_of(folder: Path, raw: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The configs of the parts of a whole checkpoint."""
    found = sources(folder, raw)
    parts: dict[str, Mapping[str, Any]] = {}
    for part in ("llm", "vision_tower", "mm_projector"):
        at = getattr(found, part)
        parts[part] = at.config if at.config is not None else read_json(at.folder / "config.json")
        if part != "mm_projector":
            parts[part] = {**parts[part], "model_type": part_type(at, raw.get(f"{part}_cfg"))}
    return parts


def _config(part: Any, name: str) -> Mapping[str, Any]:
    """The config of a part that is a mapping, a registered name, a folder or a Hub id."""
    key = "mm_projector_type" if name == "mm_projector" else "model_type"
    if not isinstance(part, Mapping):
        text, host = str(part), default_host()
        if name == "mm_projector" and not Path(text).is_dir():
            projector_spec(text)
            return {key: text}
        if name == "vision_tower" and not Path(text).is_dir() and text in host.registry("vision-encoder"):
            spec = vision_encoder_spec(text)
            return {"model_type": spec.name, **vision_encoder(spec.name).default_config(spec.name)}
        part = read_json(config_folder(text) / "config.json")
    if not isinstance(part.get(key), str):
        raise ConfigError(f"The config given as {name} has no {key}: add it, so that its component can be found.")
    return part


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}

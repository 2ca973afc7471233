"""Write a model in the released layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from navila.errors import ConfigError
from navila.model.adapters import has_adapter
from navila.model.components import llm_backend
from navila.model.config import part_config
from navila.model.quantization import check_saveable
from navila.model.weights import merged_config, replacing, write_json
from navila.plugins import default_host

if TYPE_CHECKING:
    from navila.model.modeling import NavilaForCausalLM

ARCHITECTURES = ["LlavaLlamaModel"]


def save_checkpoint(
    model: NavilaForCausalLM,
    folder: Path,
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    max_shard_size: int | str | None = None,
) -> None:
    """Write `config.json`, `llm/`, `vision_tower/` and `mm_projector/`; see `NavilaForCausalLM.save_pretrained`.

    Raises:
        ConfigError: the model has an adapter, which this layout has no place for.
    """
    if has_adapter(model):
        raise ConfigError("The model has an adapter: merge it before saving, or write it alone with save_adapter.")
    check_saveable(model.llm)
    backend = llm_backend(model.llm.config.model_type)
    source = model.llm_source
    options: dict[str, Any] = {"max_shard_size": max_shard_size} if max_shard_size else {}
    with replacing(folder) as new:
        backend.save_pretrained(model.llm, new / "llm", source, state_dict=part_state(state_dict, "llm"), **options)
        if model.tokenizer is not None:
            backend.save_tokenizer(model.tokenizer, new / "llm")
        model.vision_tower.save_pretrained(new / "vision_tower", part_state(state_dict, "vision_tower"))
        model.mm_projector.save_pretrained(new / "mm_projector", part_state(state_dict, "mm_projector"))
        write_json(new / "config.json", root_config(model, backend.config_to_save(model.llm, source)))


def part_state(state_dict: Mapping[str, Tensor] | None, part: str) -> dict[str, Tensor] | None:
    """The tensors of one part, their names as the part has them."""
    if state_dict is None:
        return None
    prefix = part + "."
    return {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}


def root_config(model: NavilaForCausalLM, llm_config: Mapping[str, Any]) -> dict[str, Any]:
    """The top `config.json`: what was read, what the parts are now, and which plugins made it."""
    config = model.config
    dtype = str(model.llm.dtype)
    return {
        **config.to_diff_dict(),
        "architectures": ARCHITECTURES,
        "model_type": config.model_type,
        "llm_cfg": merged_config(part_config(config.llm_cfg), llm_config),
        "vision_tower_cfg": merged_config(part_config(config.vision_tower_cfg), model.vision_tower.config),
        "mm_projector_cfg": merged_config(part_config(config.mm_projector_cfg), model.mm_projector.config),
        "hidden_size": model.mm_projector.out_features,
        "mm_hidden_size": model.mm_projector.in_features,
        "mm_vision_select_layer": model.vision_tower.select_layer,
        "mm_vision_select_feature": model.vision_tower.select_feature,
        "conversation": model.template.name if model.template is not None else config.conversation,
        "model_dtype": dtype,
        "navila_plugins": default_host().provenance(),
    }

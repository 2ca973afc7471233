"""Where an adapter sits on a model, and the names of its tensors in memory and in files.

Its *scope* is the module that PEFT is given: the whole model (names `llm.…` and `vision_tower.…`, as the original's
training writes them), the language model, or the encoder's network. In files all names begin with `base_model.model.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from navila.errors import CheckpointError

if TYPE_CHECKING:
    from peft import LoraConfig

    from navila.model.modeling import NavilaForCausalLM

#: Where an adapter can sit; the whole model is the empty name.
SCOPES = ("", "llm", "vision_tower.vision_tower")
#: PEFT's name of the adapter in memory; files do not have it.
NAME = "default"
PREFIX = "base_model.model."
TOWER = "vision_tower.vision_tower."


def adapter_scope(model: NavilaForCausalLM) -> str | None:
    """Where the model's adapter sits; None when it has none."""
    return next((scope for scope in SCOPES if hasattr(model.get_submodule(scope), "peft_config")), None)


def scope_of(model: NavilaForCausalLM, weights: Mapping[str, Tensor], path: Path) -> str:
    """The scope in which every name of an adapter's file is one of the model."""
    # `X.lora_A.weight` and `X.weight` (a module that was trained whole) both belong to the module X.
    names = [re.split(r"\.(?:lora_|base_layer\b|[^.]*$)", name)[0] for name in weights]
    missing = names[0] if names else ""
    for scope in SCOPES:
        inside = {name for name, _ in model.get_submodule(scope).named_modules()}
        strange = [name for name in names if name not in inside]
        if names and not strange:
            return scope
        if len(strange) < len(names):
            missing = strange[0]
    raise CheckpointError(
        f"{path} holds an adapter of {missing!r}, which the base model does not have: give the base it was trained on."
        if names
        else f"{path} holds no tensors: the adapter is partial."
    )


def memory_name(model: NavilaForCausalLM, name: str) -> str:
    """A name of a file as the model has it: transformers 5 took a level (`vision_model.`) out of vision encoders."""
    return name.replace(model.vision_tower.weight_prefix, "") if model.vision_tower.weight_prefix else name


def file_name(model: NavilaForCausalLM, name: str) -> str:
    """A name of the model as files have it."""
    if not name.startswith(TOWER):
        return name
    return TOWER + model.vision_tower.weight_prefix + name.removeprefix(TOWER)


def rename_targets(model: NavilaForCausalLM, config: LoraConfig) -> None:
    """Give the names in an adapter's config as the model has them."""
    escaped = re.escape(model.vision_tower.weight_prefix)

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            return memory_name(model, value.replace(escaped, "") if escaped else value)
        if isinstance(value, Mapping):
            return {renamed(key): item for key, item in value.items()}
        return type(value)(renamed(item) for item in value) if isinstance(value, list | set | tuple) else value

    for field in ("target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"):
        setattr(config, field, renamed(getattr(config, field, None)))


def of_adapter(name: str) -> bool:
    """Whether a parameter in memory is part of an adapter."""
    return ".lora_" in name or f".modules_to_save.{NAME}." in name or ".token_adapter." in name

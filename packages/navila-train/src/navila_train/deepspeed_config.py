"""`--deepspeed NAME|FILE`: the presets, and what a configuration lacks so that the Trainer's arguments hold."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, MissingDependencyError

#: One JSON file a preset; `recipes/deepspeed` leads here too.
PRESETS = Path(__file__).parent / "presets"

#: What must stand in a configuration for the Trainer to fill it in. Without `gradient_clipping` DeepSpeed clips
#: nothing, whatever --max_grad_norm says, and without the types it computes in float32.
_FILLED_IN: Mapping[str, Any] = {
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "zero_allow_untested_optimizer": True,
}
#: Sizes of groups within which ZeRO-3 keeps whole copies: `auto` is the processes of a machine.
_GROUP_SIZES = ("mics_shard_size", "zero_hpz_partition_size")


def preset_names() -> list[str]:
    """Names that `--deepspeed` takes besides files."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def read_deepspeed(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that `--deepspeed` names (a preset, a file, JSON, or a mapping of a recipe), completed.

    Raises:
        ConfigError: there is none, it has an optimizer or a scheduler of its own, or asks for what is no more.
        MissingDependencyError: DeepSpeed is not installed.
    """
    if find_spec("deepspeed") is None:
        raise MissingDependencyError("--deepspeed needs DeepSpeed: run `pip install 'navila-train[deepspeed]'`.")
    config = copy.deepcopy(dict(given)) if isinstance(given, Mapping) else _read(given)
    where = "--deepspeed" if isinstance(given, Mapping) else f"--deepspeed {given}"
    for block in ("optimizer", "scheduler"):
        if block in config:
            raise ConfigError(
                f"{where} has a block {block!r}, which would know no rates of parts, and decay norms and biases too: "
                "remove it, and say --optim, --learning_rate, --weight_decay and --lr_scheduler_type."
            )
    zero = config.get("zero_optimization", {})
    if "mics_shard_size" in zero and find_spec("deepspeed.runtime.zero.mics") is None:
        raise ConfigError(
            f"{where} asks for MiCS, which DeepSpeed {version('deepspeed')} no longer has: --engine fsdp2 with "
            "--fsdp_group_size divides the model in the same way, and zero3-hpz is DeepSpeed's next of kin."
        )
    for name in _GROUP_SIZES:
        if zero.get(name) == "auto":
            zero[name] = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    return {**copy.deepcopy(dict(_FILLED_IN)), **config}


def check_matches(training: Any) -> None:
    """Make sure that numbers of a DeepSpeed configuration are those of the Trainer's arguments.

    Raises:
        ConfigError: one is not.
    """
    # The Trainer's arguments have a configuration only where one was given.
    for mismatch in training.hf_deepspeed_config.mismatches if training.deepspeed else ():
        theirs, _, ours = mismatch.removeprefix("- ds ").partition(" vs hf ")
        raise ConfigError(f'--deepspeed says {theirs} and the flags say {ours}: write "auto" there, or the same.')


def _read(given: str) -> dict[str, Any]:
    text, path = given, Path(given)
    if not given.lstrip().startswith("{"):
        if given in preset_names():
            path = PRESETS / f"{given}.json"
        elif not path.is_file():
            raise ConfigError(
                f"--deepspeed {given} is neither a file nor a preset: give a file, or {', '.join(preset_names())}."
            )
        text = path.read_text(encoding="utf-8")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--deepspeed {given} is not valid JSON ({error.msg} in line {error.lineno}).") from None
    if not isinstance(config, dict):
        raise ConfigError(f"--deepspeed {given} holds no JSON object: give a configuration of DeepSpeed.")
    return config

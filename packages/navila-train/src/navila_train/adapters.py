"""`--lora_…` and `--bits`: which adapter is trained, on a base of which type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from navila.errors import ConfigError
from navila.model import NavilaForCausalLM
from navila.model.adapters import add_lora, load_adapter
from navila.model.location import ADAPTER_CONFIG, read_json
from navila.model.quantization import check_quantization

from navila_train.parse import Arguments

BIASES = ("none", "all", "lora_only")
#: What of an adapter's config flags say, and the flags.
_FLAGS = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "bias": "lora_bias",
    "use_dora": "use_dora",
}


def check_adapter(arguments: Arguments) -> None:
    """Make sure that the flags about adapters and the base's type make sense together.

    Raises:
        ConfigError: they do not.
        MissingDependencyError: the type needs a package.
    """
    wanted, training = arguments.adapter, arguments.training
    parts = [flag for flag in ("lora_llm", "lora_vt") if getattr(wanted, flag)]
    if parts and not wanted.lora_enable:
        raise ConfigError(f"--{parts[0]} needs --lora_enable.")
    if wanted.lora_enable and not parts:
        raise ConfigError("--lora_enable needs --lora_llm, --lora_vt or both: what the adapter goes on.")
    if wanted.lora_bias not in BIASES:
        raise ConfigError(f"--lora_bias is {wanted.lora_bias!r}: use {', '.join(BIASES)}.")
    if wanted.lora_llm and arguments.model.num_time_tokens and not wanted.lora_modules_to_save:
        raise ConfigError(
            "--num_time_tokens adds rows to tables that --lora_llm freezes: give --lora_modules_to_save embed_tokens "
            "lm_head, too."
        )
    if wanted.lora_enable and training.load_best_model_at_end and (training.deepspeed or training.engine != "auto"):
        raise ConfigError(
            "--load_best_model_at_end cannot put an adapter back under --deepspeed or --engine: leave it out, and take "
            "the checkpoint that is best."
        )
    if wanted.bits == 16:
        return
    if wanted.bits not in (4, 8):
        raise ConfigError(f"--bits is {wanted.bits}: use 4, 8 or 16.")
    if wanted.quant_type not in ("nf4", "fp4"):
        raise ConfigError(f"--quant_type is {wanted.quant_type!r}: use nf4 or fp4.")
    told = (training.tune_language_model, training.tune_vision_tower, training.tune_mm_projector)
    trains_llm = training.tune_language_model or (not wanted.lora_enable and all(flag is None for flag in told))
    if trains_llm and not wanted.lora_llm:
        raise ConfigError(
            f"A language model of {wanted.bits} bits cannot be trained itself: give --lora_enable --lora_llm, or only "
            "--tune_mm_projector or --tune_vision_tower."
        )
    stage = (training.deepspeed or {}).get("zero_optimization", {}).get("stage", 0)  # type: ignore[union-attr]
    if stage == 3 or training.engine != "auto":
        raise ConfigError(f"--bits {wanted.bits} packs weights, which ZeRO-3 and FSDP do not divide: use zero2.")
    check_quantization("bnb-int8" if wanted.bits == 8 else "bnb-nf4")


def quantization(arguments: Arguments) -> Any:
    """What `navila.load` needs to quantise the language model as `--bits` says; None for 16."""
    wanted, training = arguments.adapter, arguments.training
    if wanted.bits == 16:
        return None
    if wanted.bits == 8:
        return "bnb-int8"
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.quant_type,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_compute_dtype=_half(training) or torch.float32,
    )


def put_adapter(model: NavilaForCausalLM, arguments: Arguments, resume: Path | None) -> None:
    """Put the adapter that is asked for on a model whose trainable parts are chosen, or that of a checkpoint.

    Under `--bf16` and `--fp16`, frozen matrices are kept in that type; what is trained stays in float32.

    Raises:
        ConfigError: the adapter does not fit the model, or is not the checkpoint's.
    """
    wanted = arguments.adapter
    if not wanted.lora_enable:
        return
    if resume is not None:
        saved = read_json(resume / ADAPTER_CONFIG)
        for name, flag in _FLAGS.items():
            if saved.get(name) != getattr(wanted, flag):
                raise ConfigError(
                    f"--{flag} is {getattr(wanted, flag)} and {resume} has {saved.get(name)}: give the same, or train "
                    "in a new --output_dir."
                )
        load_adapter(model, resume, trainable=True)
    else:
        add_lora(
            model,
            r=wanted.lora_r,
            alpha=wanted.lora_alpha,
            dropout=wanted.lora_dropout,
            targets=wanted.lora_target_modules,
            parts=[part for part, flag in (("llm", wanted.lora_llm), ("vision_tower", wanted.lora_vt)) if flag],
            use_dora=wanted.use_dora,
            bias=wanted.lora_bias,
            modules_to_save=wanted.lora_modules_to_save,
            base_model_name_or_path=arguments.model.model_name_or_path,
        )
    half = _half(arguments.training)
    for parameter in model.parameters():
        if half is not None and not parameter.requires_grad and parameter.ndim > 1 and parameter.is_floating_point():
            parameter.data = parameter.data.to(half)


def _half(training: Any) -> torch.dtype | None:
    return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None

"""Loading the language model in 8 and 4 bits, through transformers' quantisation of torchao and bitsandbytes.

Its linear layers are quantised and nothing else: the head, the embeddings, the projector and the vision encoder stay in
the type that was asked for, as in the original.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from navila.errors import CheckpointError, ConfigError, MissingDependencyError
from navila.model.headers import stored_tensors

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin

#: Names of `navila.load(..., quantization=NAME)` and the package behind each.
SCHEMES = {
    "int8": "torchao",
    "int8-dynamic": "torchao",
    "int4": "torchao",
    "bnb-int8": "bitsandbytes",
    "bnb-nf4": "bitsandbytes",
    "bnb-fp4": "bitsandbytes",
}
#: Channels of a weight that share a scale in 4 bits; the smallest that torchao's kernels take.
GROUP = 32


def check_quantization(quantization: str | QuantizationConfigMixin | None) -> None:
    """Make sure a scheme exists and its package is installed.

    Raises:
        ConfigError: there is no such scheme.
        MissingDependencyError: it needs a package.
    """
    if quantization is None:
        return
    if not isinstance(quantization, str):
        if not hasattr(quantization, "quant_method"):
            raise ConfigError(
                f"quantization is a {type(quantization).__name__}: give a name ({', '.join(SCHEMES)}) or a "
                "quantisation config of transformers."
            )
        return
    if quantization not in SCHEMES:
        raise ConfigError(f"There is no quantization {quantization!r}: use one of {', '.join(SCHEMES)}.")
    _need(SCHEMES[quantization], f"The quantization {quantization}")


def quantization_config(
    quantization: str | QuantizationConfigMixin | None, *, device: torch.device, dtype: torch.dtype
) -> QuantizationConfigMixin | None:
    """What transformers needs to quantise while it loads, computing in `dtype`.

    Raises:
        ConfigError: the scheme does not exist, or cannot compute in `dtype` on that device.
        MissingDependencyError: it needs a package.
    """
    check_quantization(quantization)
    if quantization is None or not isinstance(quantization, str):
        return quantization
    if SCHEMES[quantization] == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        if quantization == "bnb-int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        # Scales are quantised too (QLoRA, arXiv 2305.14314), as the original loads 4 bits.
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.removeprefix("bnb-"),
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    from transformers import TorchAoConfig

    return TorchAoConfig(_torchao_config(quantization, device=device, dtype=dtype))


def default_dtype(quantization: Any, device: torch.device) -> torch.dtype:
    """What is computed in when nobody says: float16 on a GPU, as NaVILA was evaluated, and float32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    # The kernels of torchao's int4 take no other.
    return torch.bfloat16 if quantization == "int4" else torch.float16


def check_quantizable(
    quantization: str | QuantizationConfigMixin | None, folder: Path, raw: Mapping[str, Any], device: torch.device
) -> bool:
    """Whether a language model's folder, whose `config.json` is `raw`, is loaded quantised; reads headers only.

    Raises:
        ConfigError: it is quantised already, or the scheme does not fit its layers.
        CheckpointError: its files say that they are quantised, but not how.
        MissingDependencyError: they need a package.
    """
    saved = raw.get("quantization_config")
    if saved is not None:
        method = saved.get("quant_method") if isinstance(saved, dict) else None
        if not isinstance(method, str):
            raise CheckpointError(f"{folder / 'config.json'} has a quantization_config without quant_method.")
        if quantization is not None:
            raise ConfigError(f"{folder} is quantised already, by {method}: load it without quantization.")
        if method in SCHEMES.values():
            _need(method, f"{folder}, quantised by {method},")
        return True
    if not isinstance(quantization, str):
        return quantization is not None
    blocks = {"int4": (GROUP, GROUP)}
    if device.type == "cpu":
        # Its kernels pack 32 rows together, and want scales (one for 64 weights) not to go from one row into the next.
        blocks |= {"bnb-nf4": (32, 64), "bnb-fp4": (32, 64)}
    for tensor in stored_tensors(folder):
        if ".experts." in tensor.name:
            # transformers keeps them in one tensor, which is no linear layer.
            raise ConfigError(
                f"{folder} is a mixture of experts, whose experts (most of it) would stay as they are under "
                f"{quantization!r}: load it without quantization, or spread it with device_map."
            )
        linear = len(tensor.shape) == 2 and not any(part in tensor.name for part in ("embed_tokens", "lm_head"))
        block = blocks.get(quantization)
        if block and linear and any(size % step for size, step in zip(tensor.shape, block, strict=True)):
            raise ConfigError(
                f"{quantization} works in blocks of {block[0]} by {block[1]} here, but {tensor.name!r} of {folder} is "
                f"{tensor.shape[0]} by {tensor.shape[1]}: use int8."
            )
    return True


def quantised_layers(model: nn.Module) -> dict[str, str]:
    """Names of the linear layers that are quantised, and the type of their weights."""
    return {
        name: type(module.weight).__name__
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module.weight) not in (nn.Parameter, torch.Tensor)
    }


def check_saveable(model: nn.Module) -> None:
    """Make sure that a language model's weights are written as they are.

    Raises:
        ConfigError: they are in a form that only the CPU that made them can read.
    """
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if type(weight).__name__ == "Int4OpaqueTensor":
            raise ConfigError(
                "int4 on a CPU packs weights for this machine, which no file can hold: save the model before it is "
                "quantised, or load it with int8."
            )
        if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
            # On its way back from this form, bitsandbytes 0.50 puts scales to the wrong weights.
            raise ConfigError(
                f"bitsandbytes has packed {name!r} for this CPU to answer, and cannot undo it: save a model of 4 bits "
                "right after it is loaded."
            )


def _torchao_config(quantization: str, *, device: torch.device, dtype: torch.dtype) -> Any:
    # set_inductor_config changes settings of the whole process.
    from torchao.quantization import (
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
    )

    if quantization == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    if quantization == "int8-dynamic":
        return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    if device.type == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)
    if dtype != torch.bfloat16:
        raise ConfigError(f"int4 computes in bfloat16 on a GPU, not in {dtype}: give dtype='bfloat16'.")
    return Int4WeightOnlyConfig(
        group_size=GROUP,
        int4_packing_format="tile_packed_to_4d",  # pyright: ignore[reportArgumentType]  an enum of strings
        set_inductor_config=False,
    )


def _need(package: str, what: str) -> None:
    if package == "bitsandbytes":
        # It warns at every call of every layer that it computes in float16.
        logging.getLogger(package).setLevel(logging.ERROR)
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"{what} needs {package}, not installed here: run `pip install 'navila-core[quant]'`."
        )

"""Where the parts of a model go: one device, or several with what does not fit in RAM and on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from navila.errors import ConfigError
from navila.model.headers import stored_tensors

#: How transformers spreads a language model over devices.
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
SIDE_PARTS = ("vision_tower", "mm_projector")
#: Share of the free memory that is given to weights when nobody says how much; the rest is for what is computed.
FREE_SHARE = 0.9

Device = int | str | torch.device


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Devices of the three parts. The encoder and the projector are never divided, the language model may be."""

    llm: str | dict[str, Any]
    """A strategy, or a device for each of its modules ("" for all others)."""
    vision_tower: torch.device
    mm_projector: torch.device
    max_memory: dict[int | str, int] | None = None
    """Bytes on each device that are left for the language model."""
    offload_folder: Path | None = None

    def llm_options(self) -> dict[str, Any]:
        """Options of `LLMBackend.from_pretrained`."""
        folder = None if self.offload_folder is None else str(self.offload_folder)
        return {"device_map": self.llm, "max_memory": self.max_memory, "offload_folder": folder}


def spread(
    device: str | torch.device | None,
    device_map: str | Mapping[str, Device] | None,
    max_memory: Mapping[int | str, int | str] | None,
    devices: Sequence[int] | None,
) -> tuple[str | Mapping[str, Device] | None, Mapping[int | str, int | str] | None]:
    """`device_map` and `max_memory` as all these options together mean them; both None for a single device.

    Raises:
        ConfigError: they contradict each other, or a device does not exist.
    """
    if devices is not None:
        if max_memory is not None:
            raise ConfigError("devices and max_memory both limit what is used: give one of them.")
        max_memory = whole_memory(devices)
    if max_memory is not None and device_map is None:
        device_map = "auto"
    if device_map is None:
        return None, None
    if device is not None:
        raise ConfigError("device and device_map both say where the model goes: give one of them.")
    if max_memory is not None and not isinstance(device_map, str):
        raise ConfigError("max_memory limits a strategy, and device_map is a mapping: give one of them.")
    return device_map, max_memory


def main_device(
    device_map: str | Mapping[str, Device], max_memory: Mapping[int | str, int | str] | None
) -> torch.device:
    """The first GPU that is used, which also computes what lies in RAM or on disk; the CPU where there is none.

    Raises:
        ConfigError: as `from_map` or `memory_budgets`.
    """
    if isinstance(device_map, str):
        used = [d for d, size in memory_budgets(device_map, max_memory).items() if isinstance(d, int) and size > 0]
    else:
        from_map(device_map)
        used = [d for d in map(_device, device_map.values()) if d not in ("cpu", "disk")]
    return torch.device(used[0] if used else "cpu")


def from_map(device_map: Mapping[str, Device], offload_folder: Path | None = None) -> Placement:
    """As a map says, from names of modules of the whole model (`vision_tower`, `llm.model.layers.0`) to devices.

    A device is `cpu`, `disk` (the language model's modules only), a GPU's number or a device of torch; the empty name
    stands for all that is not named. What lies on `cpu` or `disk` is computed on the first GPU of the map, if there is
    one, but the encoder and the projector always where they lie.

    Raises:
        ConfigError: a name is of no part, a part has no device, or a device does not exist.
    """
    devices = {name: _device(device, f"device_map[{name!r}]") for name, device in device_map.items()}
    for name in devices:
        part = name.partition(".")[0]
        if part not in ("", "llm", *SIDE_PARTS):
            raise ConfigError(
                f"device_map names {name!r}, of no part of the model: use llm, vision_tower, mm_projector, names of "
                "modules in llm, or '' for all others."
            )
        if part in SIDE_PARTS and name != part:
            raise ConfigError(f"device_map names {name!r}, but {part} is never divided: name {part!r}.")
    llm = {name.partition(".")[2]: device for name, device in devices.items() if name.partition(".")[0] == "llm"}
    rest = devices.get("")
    if "" not in llm and rest is not None:
        llm = {"": rest, **llm}
    sides: dict[str, Any] = {part: devices.get(part, rest) for part in SIDE_PARTS}
    for part, device in {"llm": llm or None, **sides}.items():
        if device is None:
            raise ConfigError(f"device_map gives no device for {part}: add one, or one under '' for all others.")
        if device == "disk":
            raise ConfigError(f"device_map puts {part} on disk, where only modules of llm can be: name another device.")
    return Placement(
        llm=llm,
        vision_tower=torch.device(sides["vision_tower"]),
        mm_projector=torch.device(sides["mm_projector"]),
        offload_folder=offload_folder,
    )


def by_memory(
    strategy: str,
    max_memory: Mapping[int | str, int | str] | None,
    side_bytes: int,
    offload_folder: Path | None = None,
) -> Placement:
    """As much as fits on the GPUs, the rest in RAM, then on disk; the vision side whole on the first that can hold it.

    Args:
        strategy: one of `STRATEGIES`.
        max_memory: limit of each device in bytes or as text (`{0: "10GiB", "cpu": "30GiB"}`), devices not named being
            left out; what is free when None.
        side_bytes: what encoder and projector take.

    Raises:
        ConfigError: the strategy is none, a limit cannot be read, or no device can hold the vision side.
    """
    budgets = memory_budgets(strategy, max_memory)
    for device, size in budgets.items():
        if device != "disk" and size >= side_bytes:
            where = torch.device(device)
            rest = {**budgets, device: size - side_bytes}
            return Placement(
                llm=strategy, vision_tower=where, mm_projector=where, max_memory=rest, offload_folder=offload_folder
            )
    raise ConfigError(
        f"The vision encoder and the projector, which are never divided, take {-(-side_bytes // 2**20)} MiB, more than "
        "any device has: raise a limit of max_memory."
    )


def memory_budgets(strategy: str, max_memory: Mapping[int | str, int | str] | None) -> dict[int | str, int]:
    """Bytes of each device, GPUs first; arguments and errors as in `by_memory`."""
    from accelerate.utils.modeling import convert_file_size_to_int, get_max_memory

    if strategy not in STRATEGIES:
        raise ConfigError(
            f"device_map is {strategy!r}: use one of {', '.join(STRATEGIES)}, or a mapping; a single device goes into "
            "device."
        )
    if max_memory is None:
        return {device: int(size * FREE_SHARE) for device, size in get_max_memory().items()}
    budgets: dict[int | str, int] = {}
    for device, limit in max_memory.items():
        if device != "disk":
            _device(device, "max_memory")
        if not isinstance(device, int) and device not in ("cpu", "disk"):
            raise ConfigError(f"max_memory names {device!r}: use a GPU's number, 'cpu' or 'disk'.")
        try:
            budgets[device] = convert_file_size_to_int(limit)
        except (ValueError, AttributeError, TypeError):
            raise ConfigError(f"max_memory of {device!r} is {limit!r}: write it as 10GiB or in bytes.") from None
    return dict(sorted(budgets.items(), key=lambda item: (isinstance(item[0], str), str(item[0]))))


def whole_memory(devices: Sequence[int]) -> dict[int | str, int | str]:
    """`max_memory` of these GPUs, all of each, as the original's `devices` means it.

    Raises:
        ConfigError: one does not exist, or none is named.
    """
    if not devices:
        raise ConfigError("devices is empty: name GPUs by number, e.g. devices=[0, 1].")
    for number in devices:
        if not isinstance(number, int):
            raise ConfigError(f"devices names {number!r}: name GPUs by number, e.g. devices=[0, 1].")
        _device(number, "devices")
    return {number: torch.cuda.get_device_properties(number).total_memory for number in devices}


def stored_bytes(source: Path, names: Mapping[str, str] | None, dtype: torch.dtype) -> int:
    """Bytes that a part's weights take in a floating-point type; none for a part without files.

    `source` is a folder, or a file that is counted whole; of a folder those tensors that a pattern of `names` matches.
    """
    if source.is_file():
        return source.stat().st_size
    if not source.is_dir():
        return 0
    patterns = [re.compile(pattern) for pattern in names or {"": ""}]
    found = (tensor for tensor in stored_tensors(source) if any(p.search(tensor.name) for p in patterns))
    return sum(tensor.count for tensor in found) * dtype.itemsize


def divided(device_map: Mapping[str, Any], llm: nn.Module) -> dict[str, Any]:
    """The map of a language model without names inside one another, as accelerate's hooks need it.

    `llm` may be on torch's `meta` device: only its names are looked at.

    Raises:
        ConfigError: the map names a module that the model has not, or leaves one without a device.
    """
    modules = dict(llm.named_modules())
    for name in device_map:
        if name not in modules:
            raise ConfigError(f"device_map names 'llm.{name}', which the language model has not: see model.llm.")
    found: dict[str, Any] = {}

    def visit(name: str, inherited: Any) -> None:
        module, device = modules[name], device_map.get(name, inherited)
        inside = f"{name}." if name else ""
        if device is not None and not any(other != name and other.startswith(inside) for other in device_map):
            found[name] = device
            return
        if device is None and (not list(module.children()) or list(module.parameters(recurse=False))):
            raise ConfigError(f"device_map gives no device for 'llm.{name}': add one, or one under '' for all others.")
        for child, _ in module.named_children():
            visit(inside + child, device)

    visit("", None)
    return found


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes, also when its weights are brought from RAM or disk for it."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return torch.device(device) if device is not None else next(module.parameters()).device


def _device(device: Any, where: str = "device_map") -> Any:
    """A device as accelerate names it (`cpu`, `disk`, a GPU's number, …); raises ConfigError when there is no such."""
    if device == "disk":
        return device
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        resolved = None
    if resolved is None or resolved.type == "meta":
        raise ConfigError(
            f"{where} names the device {device!r}, which cannot be used here: give the number of a GPU, 'cpu', or "
            "'disk' for modules of llm."
        )
    if resolved.type == "cuda":
        return torch.cuda.current_device() if resolved.index is None else resolved.index
    return str(resolved)

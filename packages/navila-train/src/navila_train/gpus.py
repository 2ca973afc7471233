"""What the GPUs that models are trained on can do, from their makers' data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from navila.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    name: str
    memory: int
    """Bytes that the driver offers (total of nvidia-smi), somewhat less than the name says."""
    flops: float | None = None
    """Most bfloat16 operations a second, dense matrices, sums in float32; None if unknown."""
    bandwidth: float | None = None
    """Bytes of its memory a second; None if unknown."""
    device_name: str = ""
    """Pattern of the name that torch tells."""


def _gpu(name: str, mebibytes: int, teraflops: float, gigabytes_per_second: float, device_name: str) -> Gpu:
    return Gpu(
        name=name,
        memory=mebibytes << 20,
        flops=teraflops * 1e12,
        bandwidth=gigabytes_per_second * 1e9,
        device_name=device_name,
    )


#: Teraflops and bandwidth are from NVIDIA's data sheets (those "with sparsity" halved), memory as nvidia-smi tells it.
GPUS = (
    # Whitepaper "NVIDIA Ampere GA102 GPU Architecture", v2.1, appendix A (FP16 and BF16 with FP32 accumulate).
    _gpu("rtx3090", 24576, 71.2, 936, r"GeForce RTX 3090$"),
    # Whitepaper "NVIDIA Ada GPU Architecture", v2.1, appendix A.
    _gpu("rtx4090", 24564, 165.2, 1008, r"GeForce RTX 4090$"),
    # Whitepaper "NVIDIA RTX Blackwell GPU Architecture", v1.1, appendix A.
    _gpu("rtx5090", 32607, 209.5, 1792, r"GeForce RTX 5090$"),
    # Whitepaper "NVIDIA Ampere GA102 GPU Architecture", v2.1, table of the RTX A6000.
    _gpu("a6000-48gb", 49140, 154.8, 768, r"RTX A6000"),
    # Data sheet "NVIDIA L40S GPU".
    _gpu("l40s-48gb", 46068, 362.05, 864, r"L40S"),
    # Data sheet "NVIDIA A100 Tensor Core GPU"; the 80 GB one is that of SXM.
    _gpu("a100-40gb", 40960, 312, 1555, r"A100-(SXM4|PCIE)-40GB"),
    _gpu("a100-80gb", 81920, 312, 2039, r"A100(-SXM4-80GB| 80GB PCIe)"),
    # Data sheet "NVIDIA H100 Tensor Core GPU".
    _gpu("h100-80gb", 81559, 989.4, 3350, r"H100 80GB HBM3"),
    _gpu("h100-pcie-80gb", 81559, 756, 2000, r"H100 PCIe"),
    # Data sheet "NVIDIA H200 Tensor Core GPU".
    _gpu("h200-141gb", 143771, 989.4, 4800, r"H200"),
    # Data sheet "NVIDIA DGX B200", an eighth of the system: 180 GB, 2.25 petaflops without sparsity, 8 TB/s.
    _gpu("b200-180gb", 183359, 2250, 8000, r"B200"),
)


def find_gpu(text: str) -> Gpu:
    """The GPU of a name, of the beginning of exactly one (`h200`), or of an amount of memory alone (`24GB`).

    Raises:
        ConfigError: no GPU or several are meant.
    """
    wanted = text.lower().replace("_", "-").replace(" ", "-")
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)-?gi?b", wanted):
        # A card of 24 GB has 24 GiB, less what the driver keeps.
        return Gpu(name=text, memory=int(float(size[1]) * 2**30))
    found = [gpu for gpu in GPUS if gpu.name == wanted] or [gpu for gpu in GPUS if gpu.name.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(gpu.name for gpu in found or GPUS)
    raise ConfigError(f"--gpu {text} is {'several' if found else 'unknown'}: use one of {names}, or a size like 24GB.")


def gpu_called(device_name: str) -> Gpu | None:
    """The GPU that torch calls so, e.g. `NVIDIA H100 80GB HBM3`; None if it is not in the table."""
    return next((gpu for gpu in GPUS if re.search(gpu.device_name, device_name)), None)

"""The composed vision-language model: its parts, how it is built, loaded, run and saved."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from navila.model.compose import build
    from navila.model.config import NavilaConfig
    from navila.model.llm import LLMBackend
    from navila.model.modeling import NavilaForCausalLM
    from navila.model.projector import Projector
    from navila.model.vision import VisionEncoder

__all__ = ["LLMBackend", "NavilaConfig", "NavilaForCausalLM", "Projector", "VisionEncoder", "build"]

_LAZY = {
    "LLMBackend": "navila.model.llm",
    "NavilaConfig": "navila.model.config",
    "NavilaForCausalLM": "navila.model.modeling",
    "Projector": "navila.model.projector",
    "VisionEncoder": "navila.model.vision",
    "build": "navila.model.compose",
}


def _hush(logger: str, words: str) -> None:
    logging.getLogger(logger).addFilter(lambda record: words not in str(record.msg))


# transformers and PEFT import these wherever they are installed, and they then warn of what no user can mend.
_hush("torch.utils._pytree", "register_constant()")
_hush("DeepSpeed", "Setting accelerator to CPU")
_hush("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward")


def __getattr__(name: str) -> Any:
    """Import a part on first use: a projector's author need not pay for the language models (PEP 562)."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

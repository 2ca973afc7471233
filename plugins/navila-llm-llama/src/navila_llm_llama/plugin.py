"""Llama 2, 3 and 3.x."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import LLMSpec


@hookimpl
def navila_llms() -> Iterable[LLMSpec]:
    """The Llama backend."""
    yield LLMSpec(
        name="llama",
        target="navila_llm_llama.llm:LlamaBackend",
        summary="Llama 2, 3 and 3.x, and models of that shape such as Vicuna",
        model_types=("llama",),
        conversations=("llama_3", "vicuna_v1"),
        url="https://huggingface.co/docs/transformers/model_doc/llama",
    )

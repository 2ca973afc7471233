"""Mistral."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import LLMSpec


@hookimpl
def navila_llms() -> Iterable[LLMSpec]:
    """The Mistral backend."""
    yield LLMSpec(
        name="mistral",
        target="navila_llm_mistral.llm:MistralBackend",
        summary="Mistral 7B and Nemo, and models of that shape",
        model_types=("mistral",),
        conversations=("mistral",),
        url="https://huggingface.co/docs/transformers/model_doc/mistral",
    )

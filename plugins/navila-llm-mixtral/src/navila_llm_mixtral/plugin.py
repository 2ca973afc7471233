"""Mixtral."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import LLMSpec


@hookimpl
def navila_llms() -> Iterable[LLMSpec]:
    """The Mixtral backend."""
    yield LLMSpec(
        name="mixtral",
        target="navila_llm_mixtral.llm:MixtralBackend",
        summary="Mixtral, a mixture of experts",
        model_types=("mixtral",),
        conversations=("mistral",),
        url="https://huggingface.co/docs/transformers/model_doc/mixtral",
    )

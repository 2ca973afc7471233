"""Phi-3 and Phi-4-mini, and their conversation templates."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import ConversationSpec, LLMSpec


@hookimpl
def navila_llms() -> Iterable[LLMSpec]:
    """The Phi-3 backend."""
    yield LLMSpec(
        name="phi3",
        target="navila_llm_phi3.llm:Phi3Backend",
        summary="Phi-3, Phi-3.5 and Phi-4-mini, dense",
        model_types=("phi3",),
        conversations=("phi_3", "phi_4_mini"),
        url="https://huggingface.co/docs/transformers/model_doc/phi3",
    )


@hookimpl
def navila_conversations() -> Iterable[ConversationSpec]:
    """Their templates."""
    yield ConversationSpec(name="phi_3", target="navila_llm_phi3.templates:PHI_3", summary="Phi-3 and Phi-3.5")
    yield ConversationSpec(name="phi_4_mini", target="navila_llm_phi3.templates:PHI_4_MINI", summary="Phi-4-mini")

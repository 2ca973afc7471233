"""Gemma 1, 2 and 3, and their conversation template."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import ConversationSpec, LLMSpec


@hookimpl
def navila_llms() -> Iterable[LLMSpec]:
    """One backend for each architecture."""
    for name, backend, model_type, summary in (
        ("gemma", "GemmaBackend", "gemma", "Gemma 1"),
        ("gemma2", "Gemma2Backend", "gemma2", "Gemma 2"),
        ("gemma3", "Gemma3Backend", "gemma3_text", "Gemma 3, the text model"),
    ):
        yield LLMSpec(
            name=name,
            target=f"navila_llm_gemma.llm:{backend}",
            summary=summary,
            model_types=(model_type,),
            conversations=("gemma",),
            url=f"https://huggingface.co/docs/transformers/model_doc/{name}",
        )


@hookimpl
def navila_conversations() -> Iterable[ConversationSpec]:
    """Its template."""
    yield ConversationSpec(name="gemma", target="navila_llm_gemma.templates:GEMMA", summary="Gemma 1, 2 and 3")

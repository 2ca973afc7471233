"""Qwen 2, 2.5 and 3, and their conversation templates."""

from __future__ import annotations

from collections.abc import Iterable

from navila import hookimpl
from navila.specs import ConversationSpec, LLMSpec


@hookimpl
def navila_llms() -> Iterable[LLMSpec]:
    """One backend for each architecture."""
    yield LLMSpec(
        name="qwen2",
        target="navila_llm_qwen.llm:Qwen2Backend",
        summary="Qwen 2 and 2.5",
        model_types=("qwen2",),
        conversations=("qwen_2_5", "qwen_2"),
        url="https://huggingface.co/docs/transformers/model_doc/qwen2",
    )
    yield LLMSpec(
        name="qwen3",
        target="navila_llm_qwen.llm:Qwen3Backend",
        summary="Qwen 3, dense",
        model_types=("qwen3",),
        conversations=("qwen_3",),
        url="https://huggingface.co/docs/transformers/model_doc/qwen3",
    )


@hookimpl
def navila_conversations() -> Iterable[ConversationSpec]:
    """Their templates."""
    yield ConversationSpec(
        name="qwen_2", target="navila_llm_qwen.templates:QWEN_2", summary="Qwen 2, with the system text of VILA"
    )
    yield ConversationSpec(
        name="qwen_2_5", target="navila_llm_qwen.templates:QWEN_2_5", summary="Qwen 2.5, with its own system text"
    )
    yield ConversationSpec(
        name="qwen_3", target="navila_llm_qwen.templates:QWEN_3", summary="Qwen 3, answering without thinking aloud"
    )

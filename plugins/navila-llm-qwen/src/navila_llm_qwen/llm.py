"""Qwen as language models of navila: transformers' own classes, nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from navila.model.llm import LLMBackend

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Qwen2Backend(LLMBackend):
    """Qwen 2 and 2.5."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

        return Qwen2ForCausalLM

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        """The upper one of two layers has a sliding window, so that tests meet both."""
        return {
            "model_type": "qwen2",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "bos_token_id": None,
            "eos_token_id": 2,
        }


class Qwen3Backend(LLMBackend):
    """Qwen 3, dense."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

        return Qwen3ForCausalLM

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        return {**Qwen2Backend.tiny_config(), "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True}

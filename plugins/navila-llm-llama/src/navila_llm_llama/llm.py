"""Llama as a language model of navila: transformers' own class, nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from navila.model.llm import LLMBackend

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LlamaBackend(LLMBackend):
    """Llama 2, 3 and 3.x, and models of that shape such as Vicuna."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        return LlamaForCausalLM

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        return {
            "model_type": "llama",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

"""Mixtral as a language model of navila: transformers' own class, nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from navila.model.llm import LLMBackend

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MixtralBackend(LLMBackend):
    """Mixtral; its router learns to use all experts, see `router_aux_loss_coef`."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

        return MixtralForCausalLM

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        return {
            "model_type": "mixtral",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.02,
            "max_position_embeddings": 2048,
            "sliding_window": 5,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

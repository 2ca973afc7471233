"""Mistral as a language model of navila: transformers' own class, nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from navila.errors import ConfigError
from navila.model.llm import LLMBackend

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class MistralBackend(LLMBackend):
    """Mistral 7B and Nemo, and models of that shape."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.mistral.modeling_mistral import MistralForCausalLM

        return MistralForCausalLM

    @classmethod
    def live_config(cls, config: Mapping[str, Any]) -> PretrainedConfig:
        """As everywhere, but a config whose layers differ in their attention is refused.

        Raises:
            ConfigError: transformers would give every layer the same window.
        """
        if config.get("layer_types"):
            raise ConfigError(
                "model_type mistral with layer_types is a Ministral, whose layers have different windows; "
                "this backend would give them all the same: use another model."
            )
        return super().live_config(config)

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        return {
            "model_type": "mistral",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 2048,
            "sliding_window": 5,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

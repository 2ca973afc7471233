"""Gemma as language models of navila: transformers' own classes, nothing changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from navila.errors import ConfigError
from navila.model.context import stretched
from navila.model.llm import LLMBackend

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: Sizes of the tests' models, of every Gemma.
_TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_TINY_WINDOW = {
    **_TINY,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
}


class GemmaBackend(LLMBackend):
    """Gemma 1."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.gemma.modeling_gemma import GemmaForCausalLM

        return GemmaForCausalLM

    @classmethod
    def live_config(cls, config: Mapping[str, Any]) -> PretrainedConfig:
        """As everywhere, but `gelu` is the exact one where NaVILA's own Gemma wrote it.

        Raises:
            ConfigError: the model is no causal one.
        """
        if config.get("use_bidirectional_attention"):
            raise ConfigError("use_bidirectional_attention makes this Gemma an encoder, which generates nothing.")
        if config.get("hidden_act") == "gelu" and _before_gemma(str(config.get("transformers_version", ""))):
            # transformers would make `gelu` the tanh approximation, which is what Google's files mean by it.
            config = {**config, "hidden_act": "gelu_python"}
        return super().live_config(config)

    @classmethod
    def attention(cls, config: PretrainedConfig, wanted: str | None) -> str | None:
        """As everywhere, but a model that caps its attention scores runs eagerly.

        Raises:
            ConfigError: sdpa is wanted, which cannot cap them.
        """
        if getattr(config, "attn_logit_softcapping", None) is None:
            return wanted
        if wanted in ("sdpa", "packed_sdpa"):
            raise ConfigError(
                f"{wanted} attention cannot cap scores as attn_logit_softcapping asks: use attn_implementation='eager'."
            )
        return wanted or "eager"

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        return {"model_type": "gemma", **_TINY}


class Gemma2Backend(GemmaBackend):
    """Gemma 2."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM

        return Gemma2ForCausalLM

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        return {"model_type": "gemma2", **_TINY_WINDOW}


class Gemma3Backend(GemmaBackend):
    """Gemma 3, the text model."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM

        return Gemma3ForCausalLM

    @classmethod
    def stretch(cls, config: PretrainedConfig, length: int) -> None:
        """As everywhere; layers with a window see no farther for it, so theirs stay."""
        own: int = config.max_position_embeddings
        if length > own:
            rope: Any = config.rope_parameters
            config.rope_parameters = {**rope, "full_attention": stretched(rope["full_attention"], own, length)}

    @classmethod
    def config_to_save(cls, model: PreTrainedModel, raw_config: Mapping[str, Any]) -> dict[str, Any]:
        """As everywhere; the two kinds of layers have rotary frequencies of their own."""
        saved = super().config_to_save(model, raw_config)
        rope = saved["rope_parameters"]
        far = rope["full_attention"]
        scaling = {k: v for k, v in far.items() if k not in ("rope_theta", "type")}
        # Before transformers 5 these were three keys.
        saved["rope_theta"] = far["rope_theta"]
        saved["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        saved["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
        return saved

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        scaling = {"rope_type": "linear", "factor": 8.0}
        return {"model_type": "gemma3_text", **_TINY_WINDOW, "rope_scaling": scaling, "rope_theta": 500000.0}


def _before_gemma(version: str) -> bool:
    """Whether a version of transformers had no Gemma of its own, so that NaVILA's wrote the file."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (4, 38)

"""Phi-3 as a language model of navila: transformers' own class, nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from navila.model.context import stretched
from navila.model.llm import LLMBackend

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Phi3Backend(LLMBackend):
    """Phi-3, Phi-3.5 and Phi-4-mini."""

    @classmethod
    def model_class(cls) -> type[PreTrainedModel]:
        from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM

        return Phi3ForCausalLM

    @classmethod
    def stretch(cls, config: PretrainedConfig, length: int) -> None:
        """As everywhere; the only scaling transformers knows for Phi-3 divides every frequency by a factor of its own.

        Factors that are all alike are linear scaling, as long as both lengths in the config stay alike too.
        """
        own: int = config.max_position_embeddings
        if length <= own:
            return
        rope: Any = config.rope_parameters
        factors = {*rope.get("short_factor", ()), *rope.get("long_factor", ())}
        alike = len(factors) == 1 and config.original_max_position_embeddings == own
        known = {**rope, "rope_type": "linear", "factor": factors.pop()} if alike else rope
        factor = stretched(known, own, length)["factor"]
        rotated = int(config.hidden_size // config.num_attention_heads * rope.get("partial_rotary_factor", 1.0))
        factors_of_all = [factor] * (rotated // 2)
        config.original_max_position_embeddings = own
        config.rope_parameters = {
            "rope_type": "longrope",
            "rope_theta": rope["rope_theta"],
            "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0),
            "original_max_position_embeddings": own,
            "short_factor": factors_of_all,
            "long_factor": factors_of_all,
        }

    @classmethod
    def config_to_save(cls, model: PreTrainedModel, raw_config: Mapping[str, Any]) -> dict[str, Any]:
        """As everywhere; transformers 4 takes exactly three fields as the scaling of Phi-3's rotary frequencies."""
        saved = super().config_to_save(model, raw_config)
        rope = saved["rope_parameters"]
        saved["partial_rotary_factor"] = rope.get("partial_rotary_factor", 1.0)
        if saved["rope_scaling"] is not None:
            factors = {key: rope[key] for key in ("short_factor", "long_factor")}
            saved["rope_scaling"] = {"type": "longrope", **factors}
        return saved

    @classmethod
    def tiny_config(cls) -> dict[str, Any]:
        return {
            "model_type": "phi3",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "original_max_position_embeddings": 2048,
            "sliding_window": 5,
            "pad_token_id": None,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

"""Operations that a training takes, for MFU (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B).

Of a matrix of n weights a token takes 2 n operations forward, 2 n for the gradient of its input and 2 n for that of
the weights; its attention to k keys takes 4 k H C operations a layer forward (H heads of C channels) and twice as many
backward. What gradient checkpointing computes again does not count, nor do embeddings, norms and padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from navila.model import NavilaForCausalLM
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Operations of forward and backward of what a model is given."""

    image: float
    """Of an image, in vision encoder and projector."""
    token: float
    """Of a token in the language model, but for what follows."""
    label: float
    """Of a supervised token in the head."""
    pair: float
    """Of a token that sees a token, in one layer."""
    windows: tuple[int | None, ...]
    """How many tokens a layer's tokens see at most; a layer each."""

    @classmethod
    def of(cls, model: NavilaForCausalLM) -> Self:
        """Count for a model with the parts to train chosen, whose weights are whole (not yet divided by an engine)."""
        config = model.llm.config.get_text_config()
        head: Any = model.get_output_embeddings()
        share = _share_of_experts(config)
        body, body_trained = _matrices((m for m in model.llm.modules() if m is not head), share)
        width, vocabulary = head.weight.shape[1], head.weight.shape[0]
        vision_trains, projector_trains = (_trains(part) for part in (model.vision_tower, model.mm_projector))
        unused = {
            m for part in model.vision_tower.unused_modules() if isinstance(part, nn.Module) for m in part.modules()
        }
        used, used_trained = _matrices(m for m in model.vision_tower.modules() if m not in unused)
        # Gradients reach every layer: those of the language model are trained, or what is in front of it.
        back = vision_trains or projector_trains or bool(body_trained)
        vision, projector = _image_flops(model)
        channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            image=vision * (1 + vision_trains + used_trained / max(used, 1))
            + projector * (1 + vision_trains + projector_trains),
            token=2 * (body * (1 + back) + body_trained),
            label=2 * width * vocabulary * (1 + back + head.weight.requires_grad),
            pair=4 * config.num_attention_heads * channels * (1 + 2 * back),
            windows=_windows(config),
        )

    def total(self, *, lengths: Sequence[int], images: int, labels: int) -> float:
        """Of samples of so many tokens each, images encoded, and supervised tokens."""
        pairs = sum(seen(length, window) for window in self.windows for length in lengths)
        return self.image * images + self.token * sum(lengths) + self.label * labels + self.pair * pairs


def seen(length: int, window: int | None = None) -> float:
    """Pairs of tokens of which the later sees the earlier one or itself, at a distance below `window`."""
    if window is None or window >= length:
        return length * (length + 1) / 2
    return window * (window + 1) / 2 + (length - window) * window


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _matrices(modules: Iterable[nn.Module], share_of_experts: float = 1.0) -> tuple[float, float]:
    """Weights that multiply every token, all and those that are trained."""
    every = trained = 0.0
    for module in modules:
        if isinstance(module, nn.Linear):
            # Of weights packed into 4 bits the shape says nothing.
            count: float = module.in_features * module.out_features
            every += count
            trained += count * module.weight.requires_grad
            continue
        for weight in module.parameters(recurse=False):
            # Experts of a layer lie in one tensor (E, in, out), of which a token uses a few.
            if weight.ndim == 3:
                every += weight.numel() * share_of_experts
                trained += weight.numel() * share_of_experts * weight.requires_grad
    return every, trained


def _share_of_experts(config: Any) -> float:
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    return config.num_experts_per_tok / experts if experts else 1.0


def _windows(config: Any) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _image_flops(model: NavilaForCausalLM) -> tuple[float, float]:
    """Forward operations of an image in the encoder and in the projector, counted on torch's meta device."""
    side = model.vision_tower.input_size
    given: Any = torch.empty(1, 3, side, side, device="meta", dtype=model.vision_tower.dtype)
    counts = []
    for part in (model.vision_tower, model.mm_projector):
        state = {**dict(part.named_parameters()), **dict(part.named_buffers())}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            given = functional_call(part, {name: tensor.to("meta") for name, tensor in state.items()}, (given,))
        counts.append(counter.get_total_flops())
        given = given if model.nvila is None or len(counts) == 2 else given.repeat(1, 1, model.nvila.width_factor)
    return counts[0], counts[1]

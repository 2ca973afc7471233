"""From messages and images to an answer, stage by stage: what a golden bundle records and `verify` computes again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from navila.conversation import Message
from navila.errors import ConfigError

if TYPE_CHECKING:
    from navila.model.modeling import NavilaForCausalLM

#: The stages in order; each works on what the ones before gave.
STAGES = ("prompt", "input_ids", "pixel_values", "encoder", "projector", "embeddings", "logits", "greedy_ids")
#: Those whose results are tensors.
TENSORS = ("pixel_values", "encoder", "projector", "embeddings", "logits")


def prompt(model: NavilaForCausalLM, messages: Sequence[Message]) -> str:
    """The messages as the conversation template renders them."""
    if model.template is None:
        raise ConfigError("The model names no conversation template: write one as `conversation` in its config.json.")
    return model.template.render(list(messages))


def input_ids(model: NavilaForCausalLM, prompt_text: str) -> list[int]:
    """Token ids of a prompt, -200 at images."""
    return model.prompt_ids(prompt_text)


def pixel_values(model: NavilaForCausalLM, images: Sequence[Image.Image]) -> Tensor:
    """(N, 3, H, W) float32 pixels."""
    return model.process_images(images)


def encoder(model: NavilaForCausalLM, pixels: Tensor) -> Tensor:
    """(N, 3, H, W) to features (N, P, C), as the projector takes them."""
    return model.vision_features(pixels)


def projector(model: NavilaForCausalLM, features: Tensor) -> Tensor:
    """(N, P, C) to embeddings (N, T, D)."""
    return model.mm_projector(_like(model.mm_projector, features))


def embeddings(model: NavilaForCausalLM, ids: Sequence[int], projected: Tensor | None) -> Tensor:
    """(L, D), what the language model is given: text and images in their places."""
    batch = model.embed(_row(model, ids), image_features=None if projected is None else _like(model.llm, projected))
    return batch.inputs_embeds[0]


def logits(model: NavilaForCausalLM, embedded: Tensor, positions: Sequence[int]) -> Tensor:
    """(L, D) to logits (K, V) at these positions."""
    kept = torch.tensor(positions, device=model.device)
    return model(inputs_embeds=_like(model.llm, embedded)[None], logits_to_keep=kept).logits[0]


def greedy_ids(
    model: NavilaForCausalLM, ids: Sequence[int], projected: Tensor | None, max_new_tokens: int
) -> tuple[list[int], list[float]]:
    """Ids of the greedy answer, and by how much the likeliest token led at each step, in logits."""
    output: object = model.generate(
        _row(model, ids),
        image_features=None if projected is None else _like(model.llm, projected),
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        output_logits=True,
    )
    sequences, steps = output.sequences, output.logits  # pyright: ignore[reportAttributeAccessIssue]
    best = [step[0].float().topk(2).values for step in steps]
    return sequences[0].tolist(), [float(first - second) for first, second in best]


def logits_positions(length: int, keep: int) -> list[int]:
    """Positions of a prompt whose logits are recorded: all of them, or `keep`, half the last and half evenly spaced."""
    if length <= keep:
        return list(range(length))
    last = keep - keep // 2
    spaced = [place * (length - last) // (keep // 2) for place in range(keep // 2)]
    return spaced + list(range(length - last, length))


@contextmanager
def exact() -> Iterator[None]:
    """Without gradients, and without the shortened floats (TF32) that GPUs compute convolutions in by default."""
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        yield


def _row(model: NavilaForCausalLM, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=model.device)


def _like(module: torch.nn.Module, tensor: Tensor) -> Tensor:
    """On the device and in the dtype of a module's weights; as it is where a module has none."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    return tensor if weight is None else tensor.to(weight.device, weight.dtype)

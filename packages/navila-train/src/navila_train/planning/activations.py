"""Memory that a forward and backward pass takes, found by running layers on tensors that have no values.

torch's fake tensors go through the same operators as real ones and take no memory; what they would take is added up
while they live. So every language model, encoder, checkpointing and adapter is measured as it is, not as a formula has
it. A language model is run with one layer and with two: all others keep what the second keeps.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from navila.model import NavilaForCausalLM
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes besides parameters and their gradients."""

    kept: int
    """Between forward and backward."""
    forward: int
    """The most while forward runs."""
    backward: int
    """The most while backward runs; 0 where nothing is trained."""

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.forward, self.backward)

    @classmethod
    def of_layers(cls, one: Footprint, two: Footprint, layers: int) -> Footprint:
        """Of a model of `layers`, from those of models of one layer and of two.

        What backward takes beyond what is kept, one layer after the other takes, and the head in front of them.
        """
        further, kept = layers - 2, two.kept - one.kept
        return cls(
            kept=two.kept + kept * further,
            forward=two.forward + (two.forward - one.forward) * further,
            backward=two.backward + kept * further,
        )


class LiveMemory(TorchDispatchMode):
    """Adds up the bytes of all tensors, real or fake, that operators make and that still live."""

    def __init__(self, module: nn.Module) -> None:
        """The tensors of `module` are not counted."""
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            storage = tensor.untyped_storage()
            self._known[id(storage)] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def measure(module: nn.Module, forward: Callable[[], Tensor]) -> Footprint:
    """Run forward and, where something is trained, backward; gradients of parameters vanish when they are there."""
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    try:
        with LiveMemory(module) as memory:
            result = forward()
            kept, highest, memory.peak = memory.now, memory.peak, 0
            if result.requires_grad:
                result.backward(torch.ones_like(result))
            return Footprint(kept=kept, forward=highest, backward=memory.peak)
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What a model of a plan takes for any number of images and tokens.

    `build` makes it on torch's meta device, with so many layers of the language model, prepared for training (what is
    trained, adapters, gradient checkpointing) in the type that it computes in.
    """

    build: Callable[[int], NavilaForCausalLM]
    layers: int
    autocast: bool
    """Whether bfloat16 comes from autocast, weights being float32."""

    def images(self, count: int) -> Footprint:
        """Vision encoder and projector for so many images on a GPU."""
        if not count:
            return Footprint(kept=0, forward=0, backward=0)
        one, two = self._one_image_and_two
        more = count - 1
        return Footprint(
            kept=one.kept + (two.kept - one.kept) * more,
            forward=one.forward + (two.forward - one.forward) * more,
            backward=one.backward + (two.backward - one.backward) * more,
        )

    @functools.cached_property
    def _models(self) -> tuple[FakeTensorMode, NavilaForCausalLM, NavilaForCausalLM]:
        """Those of one layer and of two, with tensors that have no values, in the mode in which they are used."""
        models = [self.build(layers) for layers in (1, 2)]
        with FakeTensorMode() as mode:
            one, two = map(_on_cpu, models)
        return mode, one, two

    @functools.cached_property
    def _one_image_and_two(self) -> tuple[Footprint, Footprint]:
        mode, model, _ = self._models
        with mode:
            return self._images(model, 1), self._images(model, 2)

    def _images(self, model: NavilaForCausalLM, count: int) -> Footprint:
        side = model.vision_tower.input_size

        def forward() -> Tensor:
            pixels = torch.empty(count, 3, side, side, dtype=model.vision_tower.dtype)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                return model.encode_images(pixels)

        return measure(model, forward)

    def text(self, *, rows: int, tokens: int, labels: int) -> Footprint:
        """The language model for so many `rows` of `tokens` on a GPU, `labels` of each supervised."""
        mode, *models = self._models
        with mode:
            one, two = (self._text(model, rows, tokens, labels) for model in models)
        return Footprint.of_layers(one, two, self.layers)

    def _text(self, model: NavilaForCausalLM, rows: int, tokens: int, labels: int) -> Footprint:
        llm: Any = model.llm
        table: Any = model.get_input_embeddings().weight

        def forward() -> Tensor:
            embeds = torch.empty(rows, tokens, table.shape[1], dtype=table.dtype, requires_grad=True)
            targets = torch.zeros(rows, labels, dtype=torch.long)
            places = torch.arange(labels)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                output = llm(
                    inputs_embeds=embeds,
                    labels=targets,
                    shift_labels=targets,
                    logits_to_keep=places,
                    use_cache=False,
                )
            return output.loss

        return measure(model, forward)


def _on_cpu(model: NavilaForCausalLM) -> NavilaForCausalLM:
    """The model with its tensors of the meta device made anew on the (fake) CPU, those that are tied still tied."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                made[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            setattr(module, name, made[parameter])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model

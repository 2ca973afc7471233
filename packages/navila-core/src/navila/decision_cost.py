"""What a navigation decision costs on this machine, stage by stage, before its frame is there and afterwards."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from navila.actions import Action, Decoding
from navila.navigator import ImageLike, Navigator

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM

#: Resizing, vision encoder, projector, the prompt's way through the language model, the answer's, and what is left.
Stage = Literal["images", "encoder", "projector", "prompt", "answer", "other"]
#: Frames of history that the first decision finds: a walk is measured in its midst, where its frames are all different.
HISTORY = 24


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What something took."""

    seconds: Mapping[Stage, float]
    frames: int
    """That went through the encoder."""
    positions: int
    """Of the prompt that the language model read."""
    passes: int
    """Through the language model."""

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An action, what it took from its frame on, and what was done ahead for the next one."""

    action: Action
    now: Cost
    ahead: Cost


def measure(
    model: NavilaForCausalLM,
    images: Iterator[ImageLike],
    instruction: str,
    *,
    decisions: int = 20,
    warm_up: int = 3,
    num_frames: int | None = None,
    decoding: Decoding = "free",
    progress: Callable[[int], None] | None = None,
) -> list[Decision]:
    """Decide `warm_up + decisions` times in one walk, and tell what each of the latter took.

    Args:
        images: what the camera sees, one a primitive; as many as it takes.
        progress: told the number of each decision, from 0 on.
    """
    navigator = Navigator(model, num_frames, decoding=decoding)
    navigator.reset(instruction)
    for _ in range(HISTORY):
        navigator.observe(next(images))
    taken: list[Decision] = []
    with _Clock(model) as clock:
        for number in range(warm_up + decisions):
            if progress is not None:
                progress(number)
            image = next(images)
            clock.take()
            action = navigator.act(image)
            now = clock.take()
            navigator.anticipate()
            taken.append(Decision(action=action, now=now, ahead=clock.take()))
            for _ in action.primitives[1:]:
                navigator.observe(next(images))
    return taken[warm_up:]


class _Clock:
    """Seconds by stage, told by hooks of a model's parts: what passed since the last mark belongs to the next one."""

    def __init__(self, model: NavilaForCausalLM) -> None:
        self._model = model
        # What runs elsewhere is waited for at every mark.
        devices = {parameter.device for parameter in model.parameters()}
        self._devices = {device for device in devices if device.type not in ("cpu", "meta")}
        self._clear()

    def __enter__(self) -> Self:
        model = self._model
        self._hooks = [
            model.vision_tower.register_forward_pre_hook(self._before_encoder),
            model.vision_tower.register_forward_hook(lambda *_: self._mark("encoder")),
            # Features of a frame are repeated for NVILA's scales.
            model.mm_projector.register_forward_pre_hook(lambda *_: self._mark("encoder")),
            model.mm_projector.register_forward_hook(lambda *_: self._mark("projector")),
            model.llm.register_forward_pre_hook(self._before_llm, with_kwargs=True),
            model.llm.register_forward_hook(self._after_llm),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def take(self) -> Cost:
        """What came since the last call."""
        self._mark("other")
        cost = Cost(seconds=self._seconds, frames=self._frames, positions=self._positions, passes=self._passes)
        self._clear()
        return cost

    def _clear(self) -> None:
        self._seconds: dict[Stage, float] = dict.fromkeys(get_args(Stage), 0.0)
        self._frames = self._positions = self._passes = 0
        self._last = time.perf_counter()

    def _mark(self, stage: Stage) -> None:
        for device in self._devices:
            torch.accelerator.synchronize(device)
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def _before_encoder(self, _: Any, arguments: tuple[Any, ...]) -> None:
        self._mark("images")
        self._frames += len(arguments[0])

    def _before_llm(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self._mark("other")
        if not self._passes:
            given = inputs.get("inputs_embeds")
            self._positions = (inputs["input_ids"] if given is None else given).shape[1]

    def _after_llm(self, *_: Any) -> None:
        self._mark("answer" if self._passes else "prompt")
        self._passes += 1


def noise() -> Iterator[NDArray[np.uint8]]:
    """Pictures (480, 640, 3) without end in which nothing is to be seen, always the same ones."""
    generator = np.random.default_rng(0)
    while True:
        yield generator.integers(0, 256, (480, 640, 3), dtype=np.uint8)


def machine() -> dict[str, int]:
    """Threads of the CPU that are used, and the most bytes so far: of GPU memory, or of this process without a GPU."""
    if torch.cuda.is_available():
        most = sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"threads": torch.get_num_threads(), "peak_memory": most}

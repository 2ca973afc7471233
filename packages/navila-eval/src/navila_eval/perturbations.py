"""Disturbances of what an agent sees: late, lost and blurred images, a camera that is mounted otherwise."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from navila.errors import ConfigError
from navila.simulation import Embodiment, Episode, Observation, Position, Simulator, TopDownMap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """How images are disturbed, and how far; every choice follows from the seed, the episode and the step."""

    latency: int = 0
    """Primitives by which images arrive late; until then the one at the start is seen."""
    drop: float = 0.0
    """Chance that an image is lost and the one before it is seen again."""
    blur: float = 0.0
    """Standard deviation of a Gaussian blur, pixels."""
    noise: float = 0.0
    """Standard deviation of noise on every value of an image, of 255."""
    pitch: float = 0.0
    """Degrees that the camera looks up more."""
    height: float = 0.0
    """Metres that the camera is higher."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not math.isfinite(value):
                raise ConfigError(f"The perturbation {name} is {value}: give a finite number.")
        for name in ("latency", "blur", "noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"The perturbation {name} is {getattr(self, name):g}: give 0 or more.")
        if not 0 <= self.drop < 1:
            raise ConfigError(f"The perturbation drop is {self.drop:g}: give a chance from 0 to below 1.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """What e.g. `latency=2,blur=3` says.

        Raises:
            ConfigError: a name is unknown or there twice, or a value no number or out of range.
        """
        kinds = {field.name: int if field.name == "latency" else float for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for word in text.split(","):
            name, _, value = (part.strip() for part in word.partition("="))
            if name not in kinds:
                raise ConfigError(f"There is no perturbation {name!r}: use {', '.join(kinds)}, e.g. latency=2,blur=3.")
            if name in values:
                raise ConfigError(f"The perturbation {text!r} gives {name} twice: give --perturb once for each.")
            try:
                values[name] = kinds[name](value)
            except ValueError:
                number = "whole number" if kinds[name] is int else "number"
                raise ConfigError(f"The perturbation {name} is {value!r}: give a {number}, e.g. {name}=2.") from None
        return cls(**values)

    def facts(self) -> dict[str, float]:
        """What is perturbed, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    @property
    def label(self) -> str:
        """As part of a folder's name, e.g. `latency=2-blur=3`; empty where nothing is perturbed."""
        return "-".join(f"{name}={value:g}" for name, value in self.facts().items())

    @property
    def of_images(self) -> bool:
        """Whether images are changed after they are taken."""
        return any((self.latency, self.drop, self.blur, self.noise))

    def mount(self, body: Embodiment) -> Embodiment:
        """The body with its camera mounted so.

        Raises:
            ConfigError: that would be underground.
        """
        pitch, height = body.camera_pitch + self.pitch, body.camera_height + self.height
        if height <= 0:
            raise ConfigError(f"The perturbation height={self.height:g} puts the camera of {body.name!r} underground.")
        return dataclasses.replace(body, camera_pitch=pitch, camera_height=height)


class PerturbedSimulator(Simulator):
    """A simulator whose images are perturbed; poses and motion are its own."""

    def __init__(self, inner: Simulator, perturbation: Perturbation, seed: int = 0) -> None:
        self.inner = inner
        self.embodiment = inner.embodiment
        self.perturbation = perturbation
        self.seed = seed
        self._generator = random.Random()
        self._arriving: deque[NDArray[np.uint8]] = deque()
        self._shown: NDArray[np.uint8] | None = None

    def reset(self, episode: Episode) -> Observation:
        self.inner.render_images = self.render_images
        self._generator = random.Random(f"perturb:{self.seed}:{episode.episode_id}")
        self._arriving.clear()
        self._shown = None
        return self._perturbed(self.inner.reset(episode))

    def step(self, primitive: int) -> Observation:
        return self._perturbed(self.inner.step(primitive))

    def _perturbed(self, seen: Observation) -> Observation:
        """The observation with the image that arrives now."""
        if not self.render_images:
            return seen
        wanted = self.perturbation
        # `latency` + 1 images are on their way, the oldest of which arrives; at the start that is the first.
        self._arriving.append(seen.rgb)
        if len(self._arriving) > wanted.latency + 1:
            self._arriving.popleft()
        lost = self._generator.random() < wanted.drop
        if self._shown is None or not lost:
            self._shown = _spoilt(self._arriving[0], wanted, self._generator)
        return dataclasses.replace(seen, rgb=self._shown)

    def geodesic(self, start: Position, goals: Sequence[Position]) -> float:
        return self.inner.geodesic(start, goals)

    def shortest_path(self, start: Position, goal: Position) -> tuple[Position, ...]:
        return self.inner.shortest_path(start, goal)

    def expert_action(self, goal: Position, goal_radius: float) -> int:
        return self.inner.expert_action(goal, goal_radius)

    def expert_run(self, goals: Sequence[Position], goal_radius: float, longest: int) -> tuple[int, ...]:
        return self.inner.expert_run(goals, goal_radius, longest)

    def top_down_map(self) -> TopDownMap:
        return self.inner.top_down_map()

    def snapshot(self) -> Any:
        """The agent's state, and what is on its way to it."""
        return self.inner.snapshot(), self._generator.getstate(), tuple(self._arriving), self._shown

    def restore(self, state: Any) -> Observation:
        inner, generator, arriving, shown = state
        seen = self.inner.restore(inner)
        self._generator.setstate(generator)
        self._arriving, self._shown = deque(arriving), shown
        return seen if shown is None else dataclasses.replace(seen, rgb=shown)

    def fork(self) -> PerturbedSimulator:
        return PerturbedSimulator(self.inner.fork(), self.perturbation, self.seed)

    def close(self) -> None:
        self.inner.close()


def make_perturbed(make: Callable[[], Simulator], perturbation: Perturbation, seed: int) -> PerturbedSimulator:
    """A new simulator whose images are perturbed."""
    return PerturbedSimulator(make(), perturbation, seed)


def _spoilt(rgb: NDArray[np.uint8], wanted: Perturbation, generator: random.Random) -> NDArray[np.uint8]:
    """An image blurred, and then with noise."""
    import numpy as np
    from PIL import Image, ImageFilter

    if wanted.blur:
        rgb = np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(wanted.blur)))
    if wanted.noise:
        noise = np.random.default_rng(generator.getrandbits(64)).normal(0.0, wanted.noise, rgb.shape)
        rgb = np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)
    return rgb

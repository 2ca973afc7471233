"""Agents that walk: the model, the model told something else, random ones, and the expert."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from navila.actions import FORWARD, LEFT, LEGAL_ANSWERS, RIGHT, STOP, Action, Decoding, answer_for_primitives, parse
from navila.errors import DataError, SimulatorUnavailable
from navila.simulation import Episode, Observation, Simulator

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM
    from navila.navigator import Navigator

StateT = TypeVar("StateT")


class Agent(ABC, Generic[StateT]):
    """Decides for many episodes at once; what it knows of one episode is a state that `begin` makes."""

    name: str
    needs_images: bool = True
    """Whether it looks at `Observation.rgb`; without, nothing is rendered for it."""

    def instruction(self, episode: Episode) -> str:
        """What it is told to do."""
        return episode.instruction

    def facts(self) -> dict[str, Any]:
        """What a result says about it: how it was prompted and decoded, for a model."""
        return {"name": self.name}

    @abstractmethod
    def begin(self, episode: Episode, simulator: Simulator) -> StateT:
        """State for a new episode that `simulator` has just been reset to."""

    @abstractmethod
    def act(self, states: Sequence[StateT], observations: Sequence[Observation]) -> Sequence[Action | Exception]:
        """One decision for each of several episodes that wait for one; an error costs its episode, not the others."""

    def observe(self, state: StateT, observation: Observation) -> None:
        """See what was there before the second or a later primitive of an action."""
        return None


class ModelAgent(Agent["Navigator"]):
    """The model, told the episode's instruction or another one."""

    def __init__(
        self,
        model: NavilaForCausalLM,
        *,
        name: str = "model",
        num_frames: int | None = None,
        decoding: Decoding = "free",
        instruction: Callable[[Episode], str] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self._num_frames = num_frames
        self._decoding: Decoding = decoding
        self._instruction = instruction

    def instruction(self, episode: Episode) -> str:
        return self._instruction(episode) if self._instruction else episode.instruction

    def facts(self) -> dict[str, Any]:
        navigator = self._navigator()
        navigator.reset("INSTRUCTION")
        return {
            "name": self.name,
            "num_frames": navigator.num_frames,
            "tokens_per_image": self.model.tokens_per_image,
            "template": navigator.template.name,
            "prompt": navigator.prompt,
            "decoding": self._decoding,
            "max_new_tokens": navigator.max_new_tokens,
            "parse_profile": navigator.parse_profile,
            "on_unparsed": navigator.on_unparsed,
            "dtype": str(self.model.dtype),
            "device": str(self.model.device),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }

    def _navigator(self) -> Navigator:
        from navila.navigator import Navigator

        return Navigator(self.model, self._num_frames, decoding=self._decoding)

    def begin(self, episode: Episode, simulator: Simulator) -> Navigator:
        navigator = self._navigator()
        navigator.reset(self.instruction(episode))
        return navigator

    def act(self, states: Sequence[Navigator], observations: Sequence[Observation]) -> list[Action]:
        from navila.navigator import act_batch

        return act_batch(states, [observation.rgb for observation in observations])

    def observe(self, state: Navigator, observation: Observation) -> None:
        state.observe(observation.rgb)


def wrong_instruction(seed: int = 0) -> Callable[[Episode], str]:
    """Instructions that name another landmark of the same room, chosen by seed and episode.

    An agent that reads its instruction fails with these; one that does not scores the same as with the right ones.
    """

    def instruction(episode: Episode) -> str:
        landmark = episode.info.get("landmark")
        others = [name for name in episode.info.get("other_landmarks", ()) if name != landmark]
        if not landmark or not others:
            raise DataError(
                f"Episode {episode.episode_id} names no other landmark, so it has no wrong instruction: its info needs "
                "'landmark' and 'other_landmarks'."
            )
        other = random.Random(f"wrong-instruction:{seed}:{episode.episode_id}").choice(others)
        # "an orange box" -> "a red box": the article goes with the new name.
        pattern = re.compile(rf"\b(?:(an?)\s+)?{re.escape(landmark)}\b", re.IGNORECASE)

        def named(match: re.Match[str]) -> str:
            article = ("an" if other[0].lower() in "aeiou" else "a") + " " if match[1] else ""
            replacement = article + other
            return replacement[0].upper() + replacement[1:] if match[0][0].isupper() else replacement

        text, count = pattern.subn(named, episode.instruction)
        if not count:
            raise DataError(
                f"Episode {episode.episode_id} does not mention its landmark {landmark!r} in {episode.instruction!r}."
            )
        return text

    return instruction


def swapped_sides(seed: int = 0) -> Callable[[Episode], str]:
    """Instructions with left and right exchanged, where there are any and they surely are sides; others as they are.

    An agent that hears which way to turn walks elsewhere with these.
    """

    def instruction(episode: Episode) -> str:
        from navila_data.augment import swap_sides

        return swap_sides(episode.instruction) or episode.instruction

    return instruction


#: Agents that are the model told something else, and what they are told, by seed.
MISLEADING: Mapping[str, Callable[[int], Callable[[Episode], str]]] = {
    "wrong-instruction": wrong_instruction,
    "swapped-sides": swapped_sides,
}


class RandomAgent(Agent[random.Random]):
    """Draws one of the model's ten answers at every decision, each as likely as the others."""

    name = "random"
    needs_images = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def begin(self, episode: Episode, simulator: Simulator) -> random.Random:
        return random.Random(f"random-agent:{self.seed}:{episode.episode_id}")

    def act(self, states: Sequence[random.Random], observations: Sequence[Observation]) -> list[Action]:
        return [parse(state.choice(LEGAL_ANSWERS)) for state in states]


class ForwardRandomAgent(RandomAgent):
    """VLN-CE's random baseline: at every primitive stop 2 %, forward 68 %, left and right 15 % each."""

    name = "random-vln-ce"

    def act(self, states: Sequence[random.Random], observations: Sequence[Observation]) -> list[Action]:
        draws = [state.choices((STOP, FORWARD, LEFT, RIGHT), (0.02, 0.68, 0.15, 0.15))[0] for state in states]
        return [_say(primitive) for primitive in draws]


class PrimitiveAgent(Agent[StateT]):
    """One primitive a decision, without looking."""

    needs_images = False

    def act(self, states: Sequence[StateT], observations: Sequence[Observation]) -> Sequence[Action | Exception]:
        return [self._decision(state) for state in states]

    def _decision(self, state: StateT) -> Action | Exception:
        try:
            return _say(self.primitive(state))
        except SimulatorUnavailable:
            raise
        except Exception as error:
            return error

    @abstractmethod
    def primitive(self, state: StateT) -> int:
        """What to execute next."""


@dataclass(frozen=True)
class _Follower:
    simulator: Simulator
    episode: Episode


class ExpertAgent(PrimitiveAgent[_Follower]):
    """Follows the shortest path to the episode's first goal as the simulator's expert does: the upper bound."""

    name = "expert"

    def __init__(self, goal_radius: Callable[[Episode], float]) -> None:
        """`goal_radius(episode)`: metres to the goal within which the expert stops."""
        self._goal_radius = goal_radius

    def begin(self, episode: Episode, simulator: Simulator) -> _Follower:
        return _Follower(simulator, episode)

    def primitive(self, state: _Follower) -> int:
        return state.simulator.expert_action(state.episode.goals[0], self._goal_radius(state.episode))


def _say(primitive: int) -> Action:
    return parse(answer_for_primitives((primitive,)))

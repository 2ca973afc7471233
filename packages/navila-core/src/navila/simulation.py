"""What every simulator, embedded or remote, offers: episodes in, observations out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from navila.actions import FORWARD, LEFT, RIGHT, STOP
from navila.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A point (x, y, z) in metres, y up, as in habitat and VLN-CE.
Position = tuple[float, float, float]
#: A unit quaternion (x, y, z, w), as in VLN-CE's episode files. Yaw 0 looks along -z.
Rotation = tuple[float, float, float, float]


def yaw_of(rotation: Rotation) -> float:
    """Yaw in radians of a quaternion, in [-pi, pi], positive to the left; pitch and roll do not matter."""
    x, y, z, w = rotation
    # The agent looks along -z; turned by the quaternion that is minus the third column of its matrix.
    return math.atan2(2 * (x * z + w * y), 1 - 2 * (x * x + y * y))


def rotation_of(yaw: float) -> Rotation:
    """The quaternion of a yaw in radians, without pitch and roll."""
    return 0.0, math.sin(yaw / 2), 0.0, math.cos(yaw / 2)


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """Sensors and body of the agent; the defaults are the ones NaVILA was evaluated with on R2R-CE."""

    name: str = "navila"
    width: int = 512
    """Pixels."""
    height: int = 512
    """Pixels."""
    hfov: float = 90.0
    """Horizontal field of view in degrees."""
    camera_height: float = 1.25
    """Metres above the floor the agent stands on."""
    camera_pitch: float = 0.0
    """Degrees, positive looks up."""
    agent_radius: float = 0.1
    """Metres."""
    agent_height: float = 1.5
    """Metres."""
    forward_step: float = 0.25
    """Metres a MOVE_FORWARD primitive covers."""
    turn_angle: float = 15.0
    """Degrees a TURN primitive covers."""
    sliding: bool = True
    """Whether the agent slides along what it runs into."""
    depth: bool = False
    """Whether observations carry depth."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One navigation task, as VLN-CE's episode JSON has it (`navila.episodes` reads and writes the files)."""

    episode_id: str
    scene_id: str
    start_position: Position
    start_rotation: Rotation
    goals: tuple[Position, ...]
    goal_radius: float = 3.0
    """Success distance in metres."""
    instruction: str = ""
    reference_path: tuple[Position, ...] = ()
    """Way points of the described route."""
    gt_locations: tuple[Position, ...] = ()
    """Dense expert path, one position a step; what nDTW is measured against."""
    geodesic_distance: float | None = None
    """Metres from start to goal."""
    trajectory_id: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Everything else the file says: level, landmark, language."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the agent senses after `reset` or `step`."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    depth: NDArray[np.float32] | None = None
    """(H, W), metres along the optical axis; 0 where nothing was hit."""
    position: Position
    """Point on the floor below the camera, metres."""
    rotation: Rotation
    collided: bool = False
    """Whether the last primitive was stopped short or deflected by an obstacle."""
    done: bool = False
    """Whether STOP was executed."""


def check_step(primitive: int, episode: Episode, *, done: bool) -> None:
    """Make sure that an episode can go on by a primitive.

    Raises:
        ConfigError: it has ended with STOP, or there is no such primitive.
    """
    if done:
        raise ConfigError(f"Episode {episode.episode_id!r} has ended with STOP; reset before the next step.")
    if primitive not in (STOP, FORWARD, LEFT, RIGHT):
        raise ConfigError(f"There is no primitive {primitive!r}; choose 0 stop, 1 forward, 2 left or 3 right.")


class Simulator(ABC):
    """An environment: `reset` places the agent, `step` executes one primitive of `navila.actions`."""

    embodiment: Embodiment
    render_images: bool = True
    """Set to False while nobody looks at the images: observations may then carry a black one; motion stays the same."""

    @abstractmethod
    def reset(self, episode: Episode) -> Observation:
        """Load the episode's scene and stand at its start.

        Raises:
            SceneError: the scene cannot be loaded, the start is off the floor, or no goal can be reached.
        """

    @abstractmethod
    def step(self, primitive: int) -> Observation:
        """Execute 0 stop, 1 forward, 2 turn left, 3 turn right."""

    @abstractmethod
    def geodesic(self, start: Position, goals: Sequence[Position]) -> float:
        """Length in metres of the shortest walkable path to the nearest goal; `inf` when none is reachable."""

    @abstractmethod
    def shortest_path(self, start: Position, goal: Position) -> tuple[Position, ...]:
        """Way points of the shortest walkable path, both ends included; empty when unreachable."""

    @abstractmethod
    def expert_action(self, goal: Position, goal_radius: float) -> int:
        """The primitive the shortest-path follower takes from the current pose; 0 once within `goal_radius`."""

    @abstractmethod
    def expert_run(self, goals: Sequence[Position], goal_radius: float, longest: int) -> tuple[int, ...]:
        """The equal primitives, up to `longest`, that the shortest-path follower would take next; nothing moves."""

    @abstractmethod
    def top_down_map(self) -> TopDownMap:
        """Occupancy of the current floor, for reports."""

    @abstractmethod
    def snapshot(self) -> Any:
        """An opaque copy of the agent's state that `restore` takes."""

    @abstractmethod
    def restore(self, state: Any) -> Observation:
        """Return to a state `snapshot` gave and observe from there."""

    @abstractmethod
    def fork(self) -> Simulator:
        """One more agent, independent of this one, in the same scenes: what is loaded is shared."""

    def close(self) -> None:
        """Release what the simulator holds."""
        return None


@dataclass(frozen=True, kw_only=True)
class TopDownMap:
    """A floor seen from above."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), drawn from the scene, obstacles visible."""
    walkable: NDArray[np.bool_]
    """(H, W)."""
    origin: tuple[float, float]
    """World (x, z) in metres of the centre of pixel (0, 0); columns run along +x, rows along +z."""
    resolution: float
    """Metres a pixel."""


#: Vertical strips of an image that `Landmark.strips` tells of; at 90 degrees one spans about a turn of 15.
STRIPS = 6


@dataclass(frozen=True, kw_only=True)
class Landmark:
    """A nameable object of a scene, as seen from the agent's current pose."""

    name: str
    """What an instruction calls it, e.g. `red sofa`."""
    colour: str
    shape: str
    position: Position
    """Centre, metres."""
    room: int
    visible_fraction: float
    """Share of the current image's pixels that show it, 0 when out of view."""
    strips: tuple[float, ...]
    """The same of each of `STRIPS` vertical strips of the image, from left to right."""
    bearing: float
    """Degrees from the camera axis, positive to the left, in (-180, 180]."""
    distance: float
    """Metres from the camera to the centre, in the floor plane."""


class ProceduralSimulator(Simulator):
    """A simulator that makes its own scenes, episodes and ground truth by seed."""

    @abstractmethod
    def make_episodes(self, *, level: int, seed: int, count: int) -> tuple[Episode, ...]:
        """Make `count` episodes of one difficulty in scenes drawn from `seed`; equal arguments, equal episodes.

        `episode.info` holds `level`, `landmark` and `other_landmarks` (names of the distractors an instruction could
        have named instead).
        """

    @abstractmethod
    def retarget(self, episode: Episode, landmark: str, *, seed: int) -> Episode:
        """The task of going to another landmark of the same room from the same start.

        Goals, instruction and `info` are the landmark's; there is no reference path.

        Raises:
            ConfigError: the scene has no such landmark.
        """

    @abstractmethod
    def landmarks(self) -> tuple[Landmark, ...]:
        """All landmarks of the current scene relative to the current pose."""

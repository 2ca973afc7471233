"""The mesh simulator: procedural houses and scanned buildings behind `navila.simulation`."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from navila.actions import STOP
from navila.errors import ConfigError, SceneError
from navila.simulation import (
    STRIPS,
    Embodiment,
    Episode,
    Landmark,
    Observation,
    Position,
    ProceduralSimulator,
    TopDownMap,
    check_step,
)
from numpy.typing import NDArray

from navila_sim_mesh.agent import Pose, advance, bearing_to
from navila_sim_mesh.expert import expert_primitive, expert_primitives
from navila_sim_mesh.house_episodes import make_episodes, retarget
from navila_sim_mesh.renderer import Camera
from navila_sim_mesh.world import HouseWorld, World, house_seed

#: Scenes that stay loaded when nothing says otherwise: a scan may take a gigabyte, in every environment's process, and
#: its episodes come one after the other.
HOUSES_KEPT, SCANS_KEPT = 8, 2


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """What `snapshot` hands out."""

    episode: Episode
    pose: Pose
    collided: bool
    done: bool


class MeshSimulator(ProceduralSimulator):
    """Renders and walks triangle meshes on the CPU.

    `scene_id` is `houses/<seed>` for a procedural house, else the path of a GLB, PLY or OBJ file below `scene_root`;
    a `.navmesh` beside it tells where one can walk, else that is found from the mesh. `up` is the vertical axis of such
    files; "auto" finds it. The last `scenes_kept` scenes stay loaded, by default 8 houses or 2 scans.
    """

    def __init__(
        self,
        embodiment: Embodiment | None = None,
        scene_root: str | Path | None = None,
        *,
        up: Literal["auto", "y", "z"] = "auto",
        scenes_kept: int | None = None,
    ) -> None:
        self.embodiment = embodiment if embodiment is not None else Embodiment()
        _check(self.embodiment)
        if up not in ("auto", "y", "z"):
            raise ConfigError(f"The option up of the simulator mesh is {up!r}: give auto, y or z.")
        if scenes_kept is not None and (type(scenes_kept) is not int or scenes_kept < 1):
            raise ConfigError(f"The option scenes_kept of the simulator mesh is {scenes_kept!r}: give 1 or more.")
        self.scene_root = Path(scene_root) if scene_root is not None else Path()
        self._up: Literal["auto", "y", "z"] = up
        self._scenes_kept = scenes_kept
        self._worlds: OrderedDict[str, World] = OrderedDict()
        self._camera = Camera.of(self.embodiment)
        self._scene: World | None = None
        self._state: AgentState | None = None
        self._triangles: NDArray[np.int32] | None = None

    @classmethod
    def tiny(cls) -> MeshSimulator:
        """A simulator with 64 x 64 images, for tests."""
        return cls(Embodiment(name="tiny", width=64, height=64))

    def fork(self) -> Self:
        other = copy.copy(self)
        other._scene = other._state = other._triangles = None
        return other

    def reset(self, episode: Episode) -> Observation:
        world = self._world(episode.scene_id)
        self._scene = world
        place = world.place(episode.start_position)
        if place is None:
            x, y, z = episode.start_position
            raise SceneError(
                f"The start ({x:.2f}, {y:.2f}, {z:.2f}) of episode {episode.episode_id!r} is off the walkable floor of"
                f" {episode.scene_id!r}; check that the episode was made for this scene"
                f"{'' if world.house else ', and that its vertical axis (up) and any .navmesh beside it are right'}."
            )
        # The goals of test splits are not public.
        if episode.goals and not math.isfinite(world.distance(episode.start_position, tuple(episode.goals))):
            raise SceneError(
                f"No goal of episode {episode.episode_id!r} can be reached from its start in {episode.scene_id!r};"
                " correct its goals or leave the episode out."
            )
        pose = Pose.at(place, episode.start_rotation)
        self._state = AgentState(episode=episode, pose=pose, collided=False, done=False)
        return self._observe()

    def step(self, primitive: int) -> Observation:
        """Execute 0 stop, 1 forward, 2 turn left, 3 turn right.

        Raises:
            ConfigError: the primitive is none of these, or the episode has ended.
        """
        state = self._current()
        check_step(primitive, state.episode, done=state.done)
        pose, collided = advance(state.pose, primitive, self._here().ground, self.embodiment)
        self._state = AgentState(episode=state.episode, pose=pose, collided=collided, done=primitive == STOP)
        return self._observe()

    def geodesic(self, start: Position, goals: Sequence[Position]) -> float:
        return self._here().distance(start, tuple(goals))

    def shortest_path(self, start: Position, goal: Position) -> tuple[Position, ...]:
        return self._here().path(start, (goal,))

    def expert_action(self, goal: Position, goal_radius: float) -> int:
        """The primitive the shortest-path follower takes; 0 once well inside `goal_radius` (0.6 of it).

        When `goal` is one of the current episode's goals, the nearest of them counts, as in its success.
        """
        state = self._current()
        goals = tuple(state.episode.goals) if goal in state.episode.goals else (goal,)
        return expert_primitive(self._here(), self.embodiment, state.pose, goals, goal_radius)

    def expert_run(self, goals: Sequence[Position], goal_radius: float, longest: int) -> tuple[int, ...]:
        return expert_primitives(
            self._here(), self.embodiment, self._current().pose, tuple(goals), goal_radius, longest
        )

    def top_down_map(self) -> TopDownMap:
        return self._here().top_down_map(self._current().pose.position)

    def snapshot(self) -> AgentState:
        return self._current()

    def restore(self, state: Any) -> Observation:
        """Return to a state `snapshot` gave.

        Raises:
            ConfigError: `state` did not come from `snapshot`.
        """
        if not isinstance(state, AgentState):
            raise ConfigError("restore takes what snapshot returned.")
        self._scene = self._world(state.episode.scene_id)
        self._state = state
        return self._observe()

    def make_episodes(self, *, level: int, seed: int, count: int) -> tuple[Episode, ...]:
        return make_episodes(self._house, self.embodiment, level=level, seed=seed, count=count)

    def retarget(self, episode: Episode, landmark: str, *, seed: int) -> Episode:
        return retarget(self._house(episode.scene_id), episode, landmark, seed)

    def landmarks(self) -> tuple[Landmark, ...]:
        """Landmarks of the current procedural house; none in scanned scenes."""
        house = self._here().house
        if house is None:
            return ()
        pose = self._current().pose
        if self._triangles is None:
            self._triangles = self._here().renderer.triangles_seen(self._camera, self._eye(pose), pose.yaw)
        seen = self._triangles.reshape(self.embodiment.height, self.embodiment.width)
        shown = np.where(seen >= 0, house.landmark_of_triangle[seen], -1)
        strips = np.array_split(shown, STRIPS, axis=1)
        # (strips, landmarks): pixels of each strip that show each landmark.
        counts = np.stack([np.bincount(s[s >= 0], minlength=len(house.landmarks)) for s in strips])
        shares = counts / np.array([[strip.size] for strip in strips])
        return tuple(
            Landmark(
                name=mark.name,
                colour=mark.colour,
                shape=mark.shape,
                position=(mark.obstacle.x, mark.height / 2, mark.obstacle.z),
                room=mark.room,
                visible_fraction=float(counts[:, number].sum()) / seen.size,
                strips=tuple(shares[:, number].tolist()),
                bearing=math.degrees(bearing_to(pose, mark.obstacle.x, mark.obstacle.z)),
                distance=math.hypot(mark.obstacle.x - pose.x, mark.obstacle.z - pose.z),
            )
            for number, mark in enumerate(house.landmarks)
        )

    def close(self) -> None:
        """Forget the scenes; forks load them anew when they need them."""
        self._worlds.clear()
        self._scene = None
        self._state = None
        self._triangles = None

    def _current(self) -> AgentState:
        if self._state is None:
            raise ConfigError("No episode is running; call reset first.")
        return self._state

    def _here(self) -> World:
        if self._scene is None:
            raise ConfigError("No episode is running; call reset first.")
        return self._scene

    def _eye(self, pose: Pose) -> tuple[float, float, float]:
        return pose.x, pose.y + self.embodiment.camera_height, pose.z

    def _observe(self) -> Observation:
        state, body = self._current(), self.embodiment
        pose = state.pose
        if self.render_images:
            frame = self._here().renderer.render(self._camera, self._eye(pose), pose.yaw)
            rgb, depth, self._triangles = frame.rgb, frame.depth, frame.triangle
        else:
            rgb = np.zeros((body.height, body.width, 3), np.uint8)
            depth, self._triangles = np.zeros((body.height, body.width), np.float32), None
        return Observation(
            rgb=rgb,
            depth=depth if body.depth else None,
            position=pose.position,
            rotation=pose.rotation,
            collided=state.collided,
            done=state.done,
        )

    def _scene_file(self, scene_id: str) -> Path:
        # VLN-CE's scene ids count from `scene_datasets` below its data folder; either may be given as the root.
        below = self.scene_root / "scene_datasets" / scene_id
        return below if below.is_file() else self.scene_root / scene_id

    def _house(self, scene_id: str) -> HouseWorld:
        world = self._world(scene_id)
        if not isinstance(world, HouseWorld):
            raise ConfigError(f"The scene {scene_id!r} is no procedural house; its landmarks have no names.")
        return world

    def _world(self, scene_id: str) -> World:
        if scene_id in self._worlds:
            self._worlds.move_to_end(scene_id)
            return self._worlds[scene_id]
        seed = house_seed(scene_id)
        if seed is None:
            # Procedural houses need none of what reads files.
            from navila_sim_mesh.scan import ScanWorld

            world: World = ScanWorld.load(scene_id, self._scene_file(scene_id), self.embodiment, self._up)
        else:
            world = HouseWorld(scene_id, seed, self.embodiment.agent_radius)
        self._worlds[scene_id] = world
        kept = self._scenes_kept or (SCANS_KEPT if seed is None else HOUSES_KEPT)
        while len(self._worlds) > kept:
            self._worlds.popitem(last=False)
        return world


def _check(body: Embodiment) -> None:
    positive = (
        "width",
        "height",
        "hfov",
        "camera_height",
        "agent_radius",
        "agent_height",
        "forward_step",
        "turn_angle",
    )
    for name in positive:
        if not getattr(body, name) > 0:
            raise ConfigError(f"The embodiment {body.name!r} has {name} {getattr(body, name)!r}; it must be positive.")
    if body.hfov >= 180 or body.turn_angle > 180:
        raise ConfigError(f"The embodiment {body.name!r} needs hfov below 180 and turn_angle at most 180 degrees.")

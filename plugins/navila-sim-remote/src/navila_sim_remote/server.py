#!/usr/bin/env python3
"""Lets navila walk in a simulator that lives in another Python: habitat, Isaac, or anything with `reset` and `step`.

This file is all of it. Copy it into the simulator's environment (Python 3.8 or newer), `pip install msgpack`, and run

    python navila_sim_server.py --habitat data/scene_datasets     # habitat-sim 0.1.7 to 0.3.x, and where scenes are
    python navila_sim_server.py --env my_module:make_env          # a function that returns an environment

Each client then gets an environment in a process of its own, so that one which hangs or dies costs one episode. From
the script of a simulator that has to live in the main thread:

    from navila_sim_server import serve
    serve(lambda body: my_env, port=54322)

An environment has `reset(episode)` and `step(primitive)`, where an episode is a dict with the fields of
`navila.simulation.Episode` and a primitive is 0 stop, 1 forward, 2 left or 3 right. Both return an observation, a dict
or an object, alone or first in a tuple as gym has it: `rgb` (H, W, 3) uint8; `position` (x, y, z) in m, y up, and
`rotation` (x, y, z, w), which may be missing where `env.sim` is habitat's; `depth`, `collided` and `done` if it has
them. Any of `OPTIONAL` it also has is offered. An episode that does not fit is refused by raising `SceneError`.

The protocol: frames of 4 bytes `nvla`, 4 bytes big-endian length and one msgpack map. The client sends
`{id, do, with}`, first `hello`; the server answers each with `{id, ok}` or `{id, error, kind}`, after any number of
`{id, beat}` while it works. Arrays are `{shape, dtype, data}` or `{jpeg}`, tuples the extension type 1. No pickle.

The file reads from the wire upwards: frames, observations, habitat, the environment of one client, all clients, and
the program.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import importlib.util
import inspect
import io
import math
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Message = dict[str, Any]
    Point = Sequence[float]
    Make = Callable[[Message | None], Any]

VERSION = 1
DEFAULT_PORT = 54322
#: Longest frame that is taken, in bytes; a raw image of 512 x 512 has 0.8 million.
LIMIT = 64 * 1024 * 1024
#: Seconds between signs of life while an environment works.
BEAT = 2.0
#: Seconds within which a frame that has begun has to be there.
PATIENCE = 60.0
#: What an environment may offer beside `reset` and `step`; `snapshot` and `restore` go together.
OPTIONAL = (
    "geodesic",
    "shortest_path",
    "expert_action",
    "expert_run",
    "top_down_map",
    "snapshot",
    "restore",
    "make_episodes",
    "retarget",
    "landmarks",
)
#: Snapshots kept for a client; the oldest go first.
SNAPSHOTS = 1024
#: The body of a client that asks for none: navila's own default.
DEFAULT_EMBODIMENT = {
    "name": "navila",
    "width": 512,
    "height": 512,
    "hfov": 90.0,
    "camera_height": 1.25,
    "camera_pitch": 0.0,
    "agent_radius": 0.1,
    "agent_height": 1.5,
    "forward_step": 0.25,
    "turn_angle": 15.0,
    "sliding": True,
    "depth": False,
}
STOP = 0
#: What habitat calls the primitives 0 to 3.
ACTIONS = ("stop", "move_forward", "turn_left", "turn_right")

#: What ends a server.
_ENDS = (signal.SIGINT, signal.SIGTERM)
_MAGIC = b"nvla"
_HEADER = struct.Struct(">4sI")
_TUPLE = 1
_DEEPEST = 32


class ProtocolError(Exception):
    """What came is not of this protocol; says so in the words after 'the peer …'."""


class SceneError(Exception):
    """A scene cannot be loaded, or an episode does not fit it."""


class ConfigError(Exception):
    """The simulator is not as it has to be, for any episode."""


# ---- Frames: what goes over the wire ---------------------------------------------------------------------------------


def send(sock: socket.socket, message: Message, deadline: float | None = None) -> None:
    """Send one message; `deadline` is of `time.monotonic`. Raises ProtocolError when it is too long, and OSError."""
    send_content(sock, pack(message), deadline)


def send_content(sock: socket.socket, content: bytes, deadline: float | None = None) -> None:
    """Send the content of a frame as it is."""
    if len(content) > LIMIT:
        raise ProtocolError(f"was to get a message of {len(content)} bytes, more than the limit of {LIMIT}")
    sock.settimeout(_left(deadline))
    sock.sendall(_HEADER.pack(_MAGIC, len(content)) + content)


def receive(sock: socket.socket, deadline: float | None = None) -> Message | None:
    """The next message, a dict; None when the peer has closed. Raises as `receive_content`."""
    content = receive_content(sock, deadline)
    return None if content is None else unpack(content)


def receive_content(sock: socket.socket, deadline: float | None = None) -> bytes | None:
    """The content of the next frame; None when the peer has closed.

    Raises ProtocolError for anything else, and OSError.
    """
    header = _read_header(sock, deadline)
    if not header:
        return None
    length = _HEADER.unpack(header)[1]
    if length > LIMIT:
        raise ProtocolError(f"announced a message of {length} bytes, more than the limit of {LIMIT}")
    content = read_bytes(sock, length, deadline)
    if len(content) < length:
        raise ProtocolError(f"closed the connection after {len(content)} of {length} bytes")
    return content


def pack(message: Message) -> bytes:
    """A message as msgpack; tuples stay tuples, and numpy's numbers become plain ones."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return msgpack.ExtType(_TUPLE, msgpack.packb(list(value), default=plain, strict_types=True))
        if hasattr(value, "tolist"):
            return value.tolist()
        if isinstance(value, dict):
            return dict(value)
        raise TypeError(f"{type(value).__name__} cannot be sent")

    content: bytes = msgpack.packb(message, default=plain, strict_types=True)  # type: ignore
    return content


def unpack(content: bytes) -> Message:
    """A message from msgpack; raises ProtocolError when it is none."""
    try:
        message = _unpacked(content, 0)
    # What is in it is the peer's choice.
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        why = str(error) or type(error).__name__
        raise ProtocolError(f"sent {len(content)} bytes that are no msgpack ({why})") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"sent a {type(message).__name__} where a map belongs")
    return message


def _unpacked(content: bytes, depth: int) -> Any:
    def extension(code: int, inner: bytes) -> Any:
        if code != _TUPLE:
            raise ValueError(f"there is no extension type {code}")
        return tuple(_unpacked(inner, depth + 1))

    if depth > _DEEPEST:
        # msgpack bounds the depth of lists, but each tuple begins anew, and the stack would overflow.
        raise ValueError(f"tuples are nested more than {_DEEPEST} deep")
    return msgpack.unpackb(content, ext_hook=extension, strict_map_key=False)


def _read_header(sock: socket.socket, deadline: float | None) -> bytes:
    """The 8 bytes before a content, or none when the peer has closed; what cannot become a header is told at once."""
    got = b""
    while len(got) < _HEADER.size:
        piece = read_bytes(sock, _HEADER.size - len(got), deadline, whole=False)
        if not piece and got:
            raise ProtocolError(f"sent {got!r} and closed the connection")
        if not piece:
            return b""
        got += piece
        if got[:4] != _MAGIC[: len(got)]:
            raise ProtocolError(f"sent {got!r}, which is not of navila's simulator protocol")
    return got


def read_bytes(sock: socket.socket, size: int, deadline: float | None, whole: bool = True) -> bytes:
    """`size` bytes, fewer when the peer closes before; without `whole`, what comes first."""
    got = bytearray()
    while len(got) < size:
        sock.settimeout(_left(deadline))
        piece = sock.recv(min(size - len(got), 1 << 20))
        got += piece
        if not piece or not whole:
            break
    return bytes(got)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return left


def tuned(sock: socket.socket) -> socket.socket:
    """Send at once, and notice within minutes that the other machine is gone."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return sock


# ---- Observations: what environments return, for a message -----------------------------------------------------------


def packed_array(array: Any) -> Message:
    """A numpy array, or a tensor, for a message."""
    if hasattr(array, "cpu"):
        array = array.cpu().numpy()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "data": array.tobytes()}


def packed_image(image: Any, jpeg: int | None) -> Message:
    """An image (H, W, 3) uint8 for a message; `jpeg` is a quality of 1 to 95, or None for the bytes as they are."""
    if hasattr(image, "cpu"):
        image = image.cpu().numpy()
    if len(image.shape) == 3 and image.shape[2] == 4:
        image = image[:, :, :3]
    if len(image.shape) != 3 or image.shape[2] != 3 or str(image.dtype) != "uint8":
        raise TypeError(f"The environment's rgb is {image.dtype} {image.shape}; it has to be uint8 (H, W, 3).")
    if jpeg is None:
        return packed_array(image)
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=jpeg)
    return {"jpeg": file.getvalue()}


def observed(
    result: Any, primitive: int | None, queries: HabitatQueries | None, images: bool, jpeg: int | None
) -> Message:
    """What `reset` (`primitive` None) or `step` returned, as an observation for a message."""
    seen = result[0] if isinstance(result, (tuple, list)) else result
    value = seen.get if isinstance(seen, dict) or hasattr(seen, "get") else lambda key: getattr(seen, key, None)
    message: Message = {name: value(name) for name in ("position", "rotation", "collided", "done")}
    if queries is not None:
        message.update((name, fact) for name, fact in queries.pose().items() if message[name] is None)
    for name in ("rgb", "position", "rotation") if images else ("position", "rotation"):
        if value(name) is None and message.get(name) is None:
            raise TypeError(f"The environment's observation has no {name!r}.")
    depth = value("depth")
    return {
        "rgb": packed_image(value("rgb"), jpeg) if images else None,
        "depth": None if depth is None or not images else packed_array(depth),
        "position": tuple(float(x) for x in message["position"]),
        "rotation": tuple(float(x) for x in message["rotation"]),
        "collided": bool(message["collided"]),
        "done": primitive == STOP if message["done"] is None else bool(message["done"]),
    }


# ---- habitat: habitat-sim itself, or an environment of habitat-lab ---------------------------------------------------


class HabitatQueries:
    """What a simulator of habitat-sim tells beside images."""

    def __init__(self, sim: Any) -> None:
        self.sim: Any = sim

    def pose(self) -> Message:
        """Where the agent is, as observations have it."""
        state = self.sim.get_agent(0).get_state()
        turn = state.rotation
        collided = getattr(self.sim, "previous_step_collided", False)
        return {"position": state.position, "rotation": (turn.x, turn.y, turn.z, turn.w), "collided": collided}

    def geodesic(self, start: Point, goals: Sequence[Point]) -> float:
        return self._path(start, goals)[0]

    def shortest_path(self, start: Point, goal: Point) -> tuple[Point, ...]:
        length, points = self._path(start, [goal])
        return tuple(tuple(float(x) for x in point) for point in points) if length < float("inf") else ()

    def expert_action(self, goal: Point, goal_radius: float) -> int:
        return self._follower(goal_radius).next_action_along(self._array(goal))

    def expert_run(self, goals: Sequence[Point], goal_radius: float, longest: int) -> tuple[int, ...]:
        here = self.pose()["position"]
        nearest = min(goals, key=lambda goal: self.geodesic(here, [goal]))
        actions = self._follower(goal_radius).find_path(self._array(nearest))
        run = 1
        while run < min(longest, len(actions)) and actions[run] == actions[0] != STOP:
            run += 1
        return tuple(actions[:run])

    def top_down_map(self) -> Message:
        import numpy as np

        finder, resolution = self.sim.pathfinder, 0.05
        walkable = np.asarray(finder.get_topdown_view(resolution, float(self.pose()["position"][1])), bool)
        rgb = np.where(walkable[:, :, None], np.uint8(224), np.uint8(72)).repeat(3, axis=2)
        lowest = finder.get_bounds()[0]
        return {"rgb": rgb, "walkable": walkable, "origin": (lowest[0], lowest[2]), "resolution": resolution}

    def _path(self, start: Point, goals: Sequence[Point]) -> tuple[float, list[Any]]:
        library = importlib.import_module("habitat_sim")
        path = (getattr(library, "MultiGoalShortestPath", None) or library.nav.MultiGoalShortestPath)()
        path.requested_start = self._array(start)
        path.requested_ends = self._array(goals)
        self.sim.pathfinder.find_path(path)
        return float(path.geodesic_distance), list(path.points)

    def _follower(self, goal_radius: float) -> Any:
        # New each time: one that remembers would not answer alike after `restore`.
        keys = {"stop_key": STOP, "forward_key": 1, "left_key": 2, "right_key": 3}
        return self.sim.make_greedy_follower(0, goal_radius, **keys)

    @staticmethod
    def _array(points: Any) -> Any:
        import numpy as np

        return np.array(points, np.float32)


class HabitatSim(HabitatQueries):
    """habitat-sim with the body that the client asks for; needs no habitat-lab, no config and no dataset."""

    def __init__(self, scenes: str, embodiment: Message | None, gpu: int = 0) -> None:
        HabitatQueries.__init__(self, None)
        self.scenes = scenes
        self.gpu = gpu
        self.embodiment = embodiment or DEFAULT_EMBODIMENT
        self.scene = self.state = None
        self.library = importlib.import_module("habitat_sim")
        self.name = f"habitat-sim {getattr(self.library, '__version__', '')}"

    def reset(self, episode: Message) -> Message:
        self._load(str(Path(self.scenes, episode["scene_id"])))
        start = [float(x) for x in episode["start_position"]]
        if not self.sim.pathfinder.is_loaded:
            raise SceneError(f"There is no .navmesh beside {self.scene}; fetch it, or leave the scene's episodes out.")
        if not self.sim.pathfinder.is_navigable(self._array(start)):
            raise SceneError(
                f"The start {start} of episode {episode['episode_id']!r} is off the floor of {self.scene}; check that"
                " the episode was made for this scene."
            )
        goals = [list(goal) for goal in episode["goals"]]
        if goals and not self.geodesic(start, goals) < float("inf"):
            raise SceneError(
                f"No goal of episode {episode['episode_id']!r} can be reached from its start in {self.scene}; correct"
                " its goals or leave it out."
            )
        return self._stand(start, [float(x) for x in episode["start_rotation"]])

    def step(self, primitive: int) -> Message:
        images = self.sim.get_sensor_observations() if primitive == STOP else self.sim.step(ACTIONS[primitive])
        return self._seen(images, bool(images.get("collided", False)), primitive == STOP)

    def snapshot(self) -> Any:
        pose = self.pose()
        return self.scene, [float(x) for x in pose["position"]], [float(x) for x in pose["rotation"]], self.state

    def restore(self, state: Any) -> Message:
        path, position, rotation, (collided, done) = state
        self._load(path)
        return self._seen(self._stand(position, rotation), collided, done)

    def _seen(self, images: Message, collided: bool, done: bool) -> Message:
        self.state = (collided, done)
        return dict({k: images[k] for k in ("rgb", "depth") if k in images}, collided=collided, done=done)

    def _stand(self, position: list[float], rotation: list[float]) -> Message:
        agent = self.sim.get_agent(0)
        state = agent.get_state()
        state.position, state.rotation = position, rotation
        # The sensors' own states are absolute: without them they follow the body.
        state.sensor_states = {}
        agent.set_state(state, True)
        return self._seen(self.sim.get_sensor_observations(), False, False)

    def _load(self, path: str) -> None:
        if path == self.scene:
            return
        if not Path(path).is_file():
            raise SceneError(f"There is no scene {path}; start the server with the folder that its scenes are below.")
        configuration = self._configuration(path)
        # One in which a scene could not be loaded is not used again.
        sim, self.sim, self.scene = self.sim, None, None
        if sim is None:
            sim = self.library.Simulator(configuration)
        else:
            # As habitat-lab changes scenes: the renderer is given up before the next is made.
            sim.close()
            sim.reconfigure(configuration)
        self.sim, self.scene = sim, path

    def _configuration(self, path: str) -> Any:
        habitat_sim, body = self.library, self.embodiment
        backend = habitat_sim.SimulatorConfiguration()
        if hasattr(backend, "scene_id"):
            backend.scene_id = path
        else:
            backend.scene.id = path
        backend.allow_sliding = body["sliding"]
        backend.gpu_device_id = self.gpu
        agent = habitat_sim.agent.AgentConfiguration()
        usual = agent.height, agent.radius
        agent.height, agent.radius = body["agent_height"], body["agent_radius"]
        if (agent.height, agent.radius) != usual and hasattr(backend, "navmesh_settings"):
            # Scenes' own navmeshes are of the usual body. Older ones make another unasked.
            backend.navmesh_settings = habitat_sim.nav.NavMeshSettings()
            backend.navmesh_settings.set_defaults()
            backend.navmesh_settings.agent_height, backend.navmesh_settings.agent_radius = agent.height, agent.radius
        cameras = [("rgb", habitat_sim.SensorType.COLOR)]
        if body["depth"]:
            cameras.append(("depth", habitat_sim.SensorType.DEPTH))
        agent.sensor_specifications = [self._camera(name, kind) for name, kind in cameras]
        amounts = (("move_forward", body["forward_step"]), ("turn_left", body["turn_angle"]))
        agent.action_space = {
            name: habitat_sim.agent.ActionSpec(name, habitat_sim.agent.ActuationSpec(amount=amount))
            for name, amount in (*amounts, ("turn_right", body["turn_angle"]))
        }
        return habitat_sim.Configuration(backend, [agent])

    def _camera(self, name: str, kind: Any) -> Any:
        body = self.embodiment
        # Older ones have one specification for all sensors, and its parameters are texts.
        camera = (getattr(self.library, "CameraSensorSpec", None) or self.library.SensorSpec)()
        camera.uuid, camera.sensor_type = name, kind
        camera.resolution = [body["height"], body["width"]]
        camera.position = [0.0, body["camera_height"], 0.0]
        camera.orientation = [math.radians(body["camera_pitch"]), 0.0, 0.0]
        if hasattr(camera, "hfov"):
            camera.hfov = body["hfov"]
        else:
            camera.parameters["hfov"] = str(body["hfov"])
        return camera


class HabitatLab(HabitatQueries):
    """A `habitat.Env` or `RLEnv` as its config makes it; it walks the episodes of its own dataset, by their id."""

    def __init__(self, env: Any) -> None:
        self.env = getattr(env, "habitat_env", env)
        HabitatQueries.__init__(self, self.env.sim)
        self.name = f"habitat-lab's {type(env).__name__}"
        self.embodiment = self._body()
        # Their order is the config's, their case that of habitat-lab's version.
        names = [str(name).lower() for name in self.env.task.actions]
        if not set(ACTIONS) <= set(names):
            raise ConfigError(f"The served environment has the actions {names}; it needs {', '.join(ACTIONS)}.")
        self.numbers = [names.index(name) for name in ACTIONS]

    def reset(self, episode: Message) -> Message:
        for candidate in self.env.episodes:
            if str(candidate.episode_id) == episode["episode_id"] and candidate.scene_id.endswith(episode["scene_id"]):
                self.env.episode_iterator = iter([candidate])
                # Depth is left out: the config decides whether it is in metres.
                return {"rgb": self.env.reset().get("rgb"), "collided": False}
        raise SceneError(
            f"The dataset of the served environment has no episode {episode['episode_id']!r} in {episode['scene_id']};"
            " serve the split that is evaluated."
        )

    def step(self, primitive: int) -> Message:
        if self.env.episode_over:
            raise ConfigError("The served environment has ended the episode; raise its config's limit of steps.")
        return {"rgb": self.env.step(self.numbers[primitive]).get("rgb"), "done": primitive == STOP}

    def _body(self) -> Message | None:
        """The embodiment that the config makes, so that a client which asks for another is refused."""
        config = getattr(self.sim, "sim_config", None)
        if config is None:
            return None
        agent = config.agents[0]
        camera = next((spec for spec in agent.sensor_specifications if spec.uuid == "rgb"), None)
        if camera is None:
            names = ", ".join(spec.uuid for spec in agent.sensor_specifications)
            raise ConfigError(f"The served environment has no sensor 'rgb' but {names}; its config has to name one so.")
        amounts = {action.name: action.actuation.amount for action in agent.action_space.values() if action.actuation}
        hfov = camera.hfov if hasattr(camera, "hfov") else camera.parameters["hfov"]
        height, width = (int(side) for side in camera.resolution)
        # habitat keeps some of these in single precision.
        return {
            "name": "habitat-lab",
            "width": width,
            "height": height,
            "hfov": round(float(hfov), 4),
            "camera_height": round(float(camera.position[1]), 4),
            "camera_pitch": round(math.degrees(camera.orientation[0]), 4),
            "agent_radius": agent.radius,
            "agent_height": agent.height,
            "forward_step": amounts["move_forward"],
            "turn_angle": amounts["turn_left"],
            "sliding": config.sim_cfg.allow_sliding,
        }


# ---- The environment of one client: answers requests, one after the other --------------------------------------------


def answer(end: socket.socket, make: Make) -> None:
    """Answer a client's requests, which come through the socket `end`, in an environment that `make(body)` returns."""
    session = Session(make)
    while True:
        request = receive(end)
        if request is None:
            return
        number = request.get("id")
        try:
            reply = pack({"id": number, "ok": session.perform(request)})
            if len(reply) > LIMIT:
                raise RuntimeError(f"The answer has {len(reply)} bytes, more than the limit of {LIMIT}.")
        except Exception as error:
            if type(error).__name__ not in ("SceneError", "ConfigError", "ProtocolError"):
                traceback.print_exc()
            sentence = " ".join(str(error).split())[:1000] or type(error).__name__
            reply = pack({"id": number, "error": sentence, "kind": type(error).__name__})
        send_content(end, reply)


class Session:
    """An environment and what its client has asked of it."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.environment: Any = None
        self.jpeg: int | None = None
        self.images = True
        self.snapshots: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self.taken = 0

    def perform(self, request: Message) -> Any:
        """Carry out one request and return what its answer holds."""
        name, arguments = request.get("do"), request.get("with", [])
        if not isinstance(arguments, (list, tuple)):
            raise ProtocolError(f"The client sent {arguments!r:.60} where a list of arguments belongs.")
        if name == "hello":
            if request.get("version") != VERSION:
                raise ProtocolError(
                    f"This server speaks version {VERSION} of the protocol and the client version"
                    f" {request.get('version')!r}; replace its file by the one of the client's navila."
                )
            self.jpeg = request.get("jpeg")
            if self.jpeg is not None and importlib.util.find_spec("PIL") is None:
                raise ConfigError("JPEG needs Pillow beside the server: `pip install pillow`, or images='raw'.")
            self.environment = adapted(self.make(request.get("embodiment")))
            return described(self.environment)
        if self.environment is None:
            raise ProtocolError(f"The client asked for {name!r} before hello.")
        self.images = bool(request.get("images", True))
        if hasattr(self.environment, "render_images"):
            self.environment.render_images = self.images
        if name == "reset":
            reset = self.environment.reset
            return self._observed(reset(*arguments) if _takes_one(reset) else reset(), None)
        if name == "step":
            return self._observed(self.environment.step(*arguments), arguments[0])
        return self._optional(name, arguments)

    def _optional(self, name: Any, arguments: Sequence[Any]) -> Any:
        if name not in described(self.environment)["can"]:
            raise ProtocolError(f"The client asked for {name!r}, which this environment does not have.")
        if hasattr(self.environment, name):
            target = getattr(self.environment, name)
        else:
            target = getattr(_queries(self.environment), name)
        if name == "snapshot":
            self.taken += 1
            self.snapshots[self.taken] = target()
            while len(self.snapshots) > SNAPSHOTS:
                self.snapshots.popitem(last=False)
            return self.taken
        if name == "restore":
            if arguments[0] not in self.snapshots:
                raise RuntimeError(f"The snapshot is gone; a server keeps the last {SNAPSHOTS} of a connection.")
            return self._observed(target(self.snapshots[arguments[0]]), None)
        result = target(*arguments)
        if name == "top_down_map":
            return dict(result, rgb=packed_array(result["rgb"]), walkable=packed_array(result["walkable"]))
        return result

    def _observed(self, result: Any, primitive: int | None) -> Message:
        return observed(result, primitive, _queries(self.environment), self.images, self.jpeg)


def adapted(environment: Any) -> Any:
    """The environment itself, or what drives it where it is one of habitat-lab's."""
    lab = getattr(environment, "habitat_env", environment)
    return HabitatLab(environment) if hasattr(lab, "episode_iterator") and hasattr(lab, "sim") else environment


def described(environment: Any) -> Message:
    """What the answer to hello tells."""
    queries = _queries(environment)
    has = [name for name in OPTIONAL if hasattr(environment, name) or (queries and hasattr(queries, name))]
    body = getattr(environment, "embodiment", None)
    name = getattr(environment, "name", None)
    return {
        "version": VERSION,
        "name": name if isinstance(name, str) else type(environment).__name__,
        "can": [name for name in has if name != "snapshot" or "restore" in has],
        "embodiment": body if isinstance(body, dict) else getattr(body, "__dict__", None),
    }


def _queries(environment: Any) -> HabitatQueries | None:
    """What tells poses and distances where the environment itself does not."""
    if isinstance(environment, HabitatQueries):
        return environment
    sim = getattr(environment, "sim", None)
    return HabitatQueries(sim) if hasattr(sim, "get_agent") else None


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # gym's reset(*, seed=None, options=None) takes none.
    return any(p.kind in positional or p.kind == inspect.Parameter.VAR_POSITIONAL for p in parameters)


# ---- All clients: accepts them, starts their environments and carries frames between them ----------------------------


class Server:
    """Accepts clients and carries frames between each and its environment, which may be in another process.

    `start(end)` begins to answer at the socket `end` and returns the process that does, or None. While an environment
    works, its client gets signs of life; when the environment dies, a sentence; when the client goes, it is ended.
    """

    def __init__(
        self,
        start: Callable[[socket.socket], Any],
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        max_clients: int = 64,
    ) -> None:
        self.start = start
        self.max_clients = max_clients
        self.processes: set = set()
        self._clients = 0
        self._closed = False
        self._places = threading.Condition()
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind((host, port))
        except BaseException:
            self.socket.close()
            raise
        self.socket.listen(128)

    @property
    def address(self) -> str:
        """host:port, with the port that was found when 0 was asked for."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def accept(self) -> None:
        """Take clients until the server is closed."""
        while not self._closed:
            try:
                client, peer = self.socket.accept()
            except OSError as error:
                if not self._closed:
                    # Too many open files, say; the clients that are there may leave.
                    print(f"A client cannot be accepted ({error}).", file=sys.stderr, flush=True)
                    time.sleep(1)
                continue
            threading.Thread(target=self._serve, args=(client, f"{peer[0]}:{peer[1]}"), daemon=True).start()

    def close(self) -> None:
        """Take no more clients and end the environments' processes."""
        self._closed = True
        with contextlib.suppress(OSError):
            # Wakes up whoever waits in accept.
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for process in list(self.processes):
            process.kill()
            process.wait()

    def _serve(self, client: socket.socket, peer: str) -> None:
        process: Any = None
        with self._places:
            # One that left and is here again may be faster than its end was noticed.
            full = not self._places.wait_for(lambda: self._clients < self.max_clients, timeout=1)
            self._clients += not full
        try:
            first = receive_content(tuned(client), time.monotonic() + PATIENCE)
            if first is None:
                return
            if full:
                message = f"The server's places are taken, of which it has {self.max_clients}."
                send(client, {"id": unpack(first).get("id"), "error": message, "kind": "Full"})
                return
            near, far = socket.socketpair()
            with near:
                process = self.start(far)
                if process is not None:
                    far.close()
                    self.processes.add(process)
                self._relay(client, near, process, first)
        except ProtocolError as error:
            print(f"{peer} {error}, and is disconnected.", file=sys.stderr, flush=True)
        except OSError as error:
            print(f"{peer} is disconnected ({error}).", file=sys.stderr, flush=True)
        finally:
            client.close()
            if process is not None:
                process.kill()
                process.wait()
                self.processes.discard(process)
            with self._places:
                self._clients -= not full
                self._places.notify()

    def _relay(self, client: socket.socket, near: socket.socket, process: Any, content: bytes | None) -> None:
        while content is not None:
            number = unpack(content).get("id")
            reply = self._answered(client, near, number, content)
            if reply == b"":
                return
            if reply is None:
                end = _obituary(process)
                send(client, {"id": number, "error": end, "kind": "Died"}, time.monotonic() + PATIENCE)
                return
            send_content(client, reply, time.monotonic() + PATIENCE)
            select.select([client], [], [])
            content = receive_content(client, time.monotonic() + PATIENCE)

    def _answered(self, client: socket.socket, near: socket.socket, number: Any, content: bytes) -> bytes | None:
        """The environment's answer; None when it died, empty when the client went away."""
        try:
            send_content(near, content)
        except OSError:
            return None
        began = time.monotonic()
        while True:
            ready, _, _ = select.select([near, client], [], [], BEAT)
            if near in ready:
                try:
                    return receive_content(near)
                except (OSError, ProtocolError):
                    return None
            if client in ready:
                if client.recv(1, socket.MSG_PEEK):
                    raise ProtocolError("asked again before its answer was there")
                return b""
            send(client, {"id": number, "beat": time.monotonic() - began}, time.monotonic() + PATIENCE)


def _obituary(process: Any) -> str:
    """What became of an environment that answers no more."""
    if process is None:
        return "The environment ended; what the server printed says why."
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        return "The environment's process closed its connection and did not end."
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"The environment's process was ended by {signal.Signals(-code).name}."
    return f"The environment's process ended with exit code {code}; what the server printed says why."


def serve(make: Make, host: str = "127.0.0.1", port: int = DEFAULT_PORT, clients: int = 1) -> None:
    """Serve environments that `make(body)` returns, until Ctrl-C or SIGTERM.

    `body` is a dict with the fields of `navila.simulation.Embodiment`, or None when the client leaves it to you. One
    client at a time is answered in the calling thread, which many simulators ask for; more are answered in threads.
    """
    work: queue.Queue[Callable[[], None]] = queue.Queue()

    def start(end: socket.socket) -> None:
        if clients == 1:
            work.put(lambda: _answer_until_gone(end, make))
        else:
            threading.Thread(target=_answer_until_gone, args=(end, make), daemon=True).start()

    server = Server(start, host, port, max_clients=clients)
    handlers = {number: signal.getsignal(number) for number in _ENDS}
    try:
        _until_stopped(server, lambda: work.get()())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _answer_until_gone(end: socket.socket, make: Make) -> None:
    with end, contextlib.suppress(OSError):
        answer(end, make)


def _until_stopped(server: Server, wait: Callable[[], Any]) -> None:
    """Accept clients in a thread, and do `wait` here again and again until SIGTERM or Ctrl-C."""
    accepting = threading.Thread(target=server.accept, daemon=True)
    try:
        signal.signal(signal.SIGTERM, _stop)
        print(f"A simulator server for navila listens at {server.address}", flush=True)
        accepting.start()
        while True:
            wait()
    except (KeyboardInterrupt, SystemExit):
        # Another one would break off the closing.
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)
        print("The simulator server is closed.", flush=True)
    finally:
        server.close()
        if accepting.is_alive():
            # A thread that wakes up while the interpreter ends can take the process down.
            accepting.join(5)


def _stop(_signal: int, _frame: Any) -> None:
    raise SystemExit(0)


# ---- The program -----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Serve a simulator to navila; each client gets an environment in a process of its own."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--habitat", metavar="FOLDER", help="serve habitat-sim; an episode's scene_id is below FOLDER")
    what.add_argument("--env", metavar="MODULE:FUNCTION", help="serve what FUNCTION returns")
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="graphics card of habitat-sim (default 0)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for every machine")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default %(default)s)")
    parser.add_argument("--max-clients", type=int, default=64, help="environments at a time (default %(default)s)")
    parser.add_argument("--connection", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    # A module beside the one who starts the server, as with `python -m`.
    sys.path.insert(0, str(Path.cwd()))
    if arguments.connection is not None:
        # Ctrl-C goes to every process of a terminal; the server ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        _answer_until_gone(socket.socket(fileno=arguments.connection), lambda body: _make(arguments, body))
        return 0
    problem = _problem(arguments)
    if problem:
        print(f"Error: {problem}", file=sys.stderr)
        return 2
    given = sys.argv[1:] if argv is None else argv

    def start(end: socket.socket) -> Any:
        command = [sys.executable, str(Path(__file__).resolve()), *given, "--connection", str(end.fileno())]
        return subprocess.Popen(command, pass_fds=[end.fileno()])

    try:
        server = Server(start, arguments.host, arguments.port, arguments.max_clients)
    except (OSError, OverflowError) as error:
        where = f"{arguments.host}:{arguments.port}"
        print(f"Error: {where} cannot be listened at ({error}): give another --host or --port.", file=sys.stderr)
        return 2
    _until_stopped(server, lambda: time.sleep(3600))
    return 0


def _end_with(server: int) -> None:
    """End this process when the server is gone, in the middle of whatever the environment does."""
    while os.getppid() == server:
        time.sleep(BEAT)
    os._exit(1)


def _problem(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments, told before the first client comes; or None."""
    if arguments.habitat is not None:
        if not Path(arguments.habitat).is_dir():
            return f"--habitat {arguments.habitat} is no folder: give the one that scenes are below."
        # Looked for and not imported: that takes seconds and may take the graphics card.
        if importlib.util.find_spec("habitat_sim") is None:
            return f"habitat_sim is not installed for {sys.executable}: run this with the Python of habitat."
        return None
    module, colon, function = arguments.env.partition(":")
    if not (module and colon and function):
        return f"--env {arguments.env} has to read MODULE:FUNCTION."
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    return None if found else f"--env {arguments.env}: there is no module {module} in {Path.cwd()}."


def _make(arguments: argparse.Namespace, body: Message | None) -> Any:
    if arguments.habitat is not None:
        return HabitatSim(arguments.habitat, body, arguments.gpu)
    module, _, function = arguments.env.partition(":")
    make = getattr(importlib.import_module(module), function)
    return make(body) if _takes_one(make) else make()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

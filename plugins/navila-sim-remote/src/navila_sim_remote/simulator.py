"""The simulator at the other end of a connection, behind `navila.simulation`."""

from __future__ import annotations

import copy
import io
import json
import math
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, TypeVar

import numpy as np
from navila.errors import ConfigError, NavilaError, SceneError, SimulatorError, SimulatorUnavailable, reason
from navila.plugins import default_host
from navila.simulation import (
    Embodiment,
    Episode,
    Landmark,
    Observation,
    Position,
    ProceduralSimulator,
    TopDownMap,
)
from numpy.typing import NDArray

from navila_sim_remote.server import DEFAULT_PORT, VERSION, ProtocolError, receive, send, tuned
from navila_sim_remote.serving import BackgroundServer

#: Seconds without a sign of life after which the other machine counts as gone; servers give one every 2 s.
SILENCE = 60.0
#: Requests that need no state of the server's environment, and so may begin with a new connection.
_FRESH = frozenset({"reset", "make_episodes", "retarget"})
#: Requests that may have to load a scene.
_LOADING = _FRESH | {"hello", "restore"}
T = TypeVar("T")
_KINDS: Mapping[str, type[NavilaError]] = {"SceneError": SceneError, "ConfigError": ConfigError}


@dataclass(frozen=True, kw_only=True)
class RemoteState:
    """What `snapshot` hands out: which of the server's snapshots it is, and of which connection."""

    connection: str
    number: int


class RemoteSimulator(ProceduralSimulator):
    """Drives a simulator that `navila_sim_remote/server.py` serves; connects when first used.

    An episode that the server breaks off raises SimulatorError, and the next `reset` connects anew. Pickled or forked,
    it is one more client, with an environment of its own.
    """

    def __init__(
        self,
        embodiment: Embodiment | None = None,
        address: str = f"localhost:{DEFAULT_PORT}",
        *,
        images: Literal["raw", "jpeg"] = "raw",
        jpeg_quality: int = 90,
        timeout: float = 60.0,
        load_timeout: float = 600.0,
        connect_timeout: float = 10.0,
    ) -> None:
        """Note where the server is.

        Args:
            embodiment: what the server is asked for; what it has, when None.
            address: `host:port`.
            images: `raw` keeps every pixel; `jpeg` is smaller on a slow network, and lossy.
            timeout: seconds a step or a question may take.
            load_timeout: seconds a reset may take, with its scene.
            connect_timeout: seconds within which the server must accept a connection; it is tried again until then.

        Raises:
            ConfigError: the address or another option has a wrong value.
        """
        if images not in ("raw", "jpeg"):
            raise ConfigError(f"The simulator 'remote' sends images as 'raw' or 'jpeg', not {images!r}.")
        if type(jpeg_quality) is not int or not 1 <= jpeg_quality <= 95:
            raise ConfigError(f"jpeg_quality is {jpeg_quality!r}: give a whole number from 1 to 95.")
        times = {"timeout": timeout, "load_timeout": load_timeout, "connect_timeout": connect_timeout}
        for name, seconds in times.items():
            if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise ConfigError(f"{name} of the simulator 'remote' is {seconds!r}: give seconds above 0.")
        self.address = address
        self._where = parse_address(address)
        self._asked = embodiment
        self._jpeg = jpeg_quality if images == "jpeg" else None
        self._timeout, self._load_timeout, self._connect_timeout = timeout, load_timeout, connect_timeout
        self._socket: socket.socket | None = None
        self._connection = ""
        self._facts: dict[str, Any] = {}
        self._requests = 0
        self._own: BackgroundServer | None = None

    @classmethod
    def tiny(cls) -> RemoteSimulator:
        """The tiny mesh simulator, served by a thread of this process."""
        mesh = default_host().registry("simulator").load("mesh")
        server = BackgroundServer(lambda body: mesh.tiny())  # pyright: ignore[reportAttributeAccessIssue]
        simulator = cls(address=server.address)
        simulator._own = server
        return simulator

    @property
    def embodiment(self) -> Embodiment:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The server's, which is the one asked for or the reason for an error."""
        if not self._facts:
            self._connect()
        return self._facts["embodiment"]

    @property
    def name(self) -> str:
        """What the server calls its simulator."""
        if not self._facts:
            self._connect()
        return self._facts["name"]

    @property
    def abilities(self) -> frozenset[str]:
        """Methods that the server's environment has, beside `reset` and `step`."""
        if not self._facts:
            self._connect()
        return self._facts["can"]

    def fork(self) -> Self:
        other = copy.copy(self)
        other._socket = other._own = None
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_socket": None, "_own": None}

    def reset(self, episode: Episode) -> Observation:
        """Load the episode's scene and stand at its start, in a new connection where the last one broke.

        Raises:
            SceneError: the server refuses the episode.
            SimulatorError: the server fell silent, died or answered nonsense.
            SimulatorUnavailable: it cannot be reached.
        """
        return self._ask("reset", asdict(episode), read=self._observation)

    def step(self, primitive: int) -> Observation:
        return self._ask("step", primitive, read=self._observation)

    def geodesic(self, start: Position, goals: Sequence[Position]) -> float:
        return self._ask("geodesic", start, list(goals), read=float)

    def shortest_path(self, start: Position, goal: Position) -> tuple[Position, ...]:
        return self._ask("shortest_path", start, goal, read=lambda points: tuple(map(_triple, points)))

    def expert_action(self, goal: Position, goal_radius: float) -> int:
        return self._ask("expert_action", goal, goal_radius, read=int)

    def expert_run(self, goals: Sequence[Position], goal_radius: float, longest: int) -> tuple[int, ...]:
        return self._ask("expert_run", list(goals), goal_radius, longest, read=lambda run: tuple(map(int, run)))

    def top_down_map(self) -> TopDownMap:
        return self._ask("top_down_map", read=_floor)

    def snapshot(self) -> RemoteState:
        return RemoteState(connection=self._connection, number=self._ask("snapshot", read=int))

    def restore(self, state: Any) -> Observation:
        if not isinstance(state, RemoteState):
            raise ConfigError("restore takes what snapshot returned.")
        if state.connection != self._connection or self._socket is None:
            raise SimulatorError(
                f"The snapshot is of another connection to {self.address} than this one; reset instead."
            )
        return self._ask("restore", state.number, read=self._observation)

    def make_episodes(self, *, level: int, seed: int, count: int) -> tuple[Episode, ...]:
        read = lambda made: tuple(Episode(**facts) for facts in made)  # noqa: E731
        return self._ask("make_episodes", level, seed, count, read=read)

    def retarget(self, episode: Episode, landmark: str, *, seed: int) -> Episode:
        return self._ask("retarget", asdict(episode), landmark, seed, read=lambda facts: Episode(**facts))

    def landmarks(self) -> tuple[Landmark, ...]:
        """The landmarks; none where the server's simulator knows of none."""
        if "landmarks" not in self.abilities:
            return ()
        return self._ask("landmarks", read=lambda marks: tuple(Landmark(**facts) for facts in marks))

    def close(self) -> None:
        self._disconnect()
        if self._own is not None:
            self._own.close()

    def _connect(self) -> None:
        self._disconnect()
        deadline = time.monotonic() + self._connect_timeout
        while True:
            try:
                self._socket = socket.create_connection(self._where, max(deadline - time.monotonic(), 0.1))
                break
            except ConnectionRefusedError as error:
                # A server that is being started again.
                if time.monotonic() + 0.5 > deadline:
                    raise self._unreachable(error) from None
                time.sleep(0.25)
            except OSError as error:
                raise self._unreachable(error) from None
        tuned(self._socket)
        self._connection = secrets.token_hex(8)
        body = None if self._asked is None else asdict(self._asked)
        hello = {"version": VERSION, "embodiment": body, "jpeg": self._jpeg}
        facts = self._ask("hello", read=_facts, more=hello)
        told = facts["embodiment"]
        other = {key: told[key] for key, value in (body or {}).items() if key != "name" and told[key] != value}
        if body is not None and other:
            self._disconnect()
            key = next(iter(other))
            raise ConfigError(
                f"The simulator at {self.address} has {key} {told[key]!r}, not the {body[key]!r} that was asked for: "
                f"start it with that, or ask for its own body, as with -o embodiment='{json.dumps(other)}'."
            )
        self._facts = {**facts, "embodiment": self._asked or Embodiment(**told)}

    def _unreachable(self, error: OSError) -> SimulatorUnavailable:
        why = error.strerror or reason(error)
        return SimulatorUnavailable(
            f"No simulator server can be reached at {self.address} ({why}): start one there, or give another address."
        )

    def _ask(self, name: str, *arguments: Any, read: Callable[[Any], T], more: dict[str, Any] | None = None) -> T:
        """Send a request and return what `read` makes of the server's answer.

        Raises:
            SimulatorError: the connection is or gets lost, the time is over, or the environment failed.
            SceneError, ConfigError: as the environment raised it.
        """
        if self._socket is None and name in _FRESH:
            self._connect()
        if self._socket is None:
            raise SimulatorError(f"There is no connection to the simulator at {self.address}; call reset.")
        timeout = self._load_timeout if name in _LOADING else self._timeout
        deadline = time.monotonic() + timeout
        self._requests += 1
        request = {"id": self._requests, "do": name, "with": list(arguments), "images": self.render_images}
        try:
            send(self._socket, {**request, **(more or {})}, deadline)
            reply = self._reply(self._socket, self._requests, deadline)
        except TimeoutError:
            self._disconnect()
            silent = time.monotonic() < deadline
            why = f"gave no sign of life for {SILENCE:g} s" if silent else f"has not finished within {timeout:g} s"
            raise SimulatorError(f"The simulator at {self.address} {why} ({name}): it hangs or is gone.") from None
        except ProtocolError as error:
            self._disconnect()
            raise SimulatorError(f"{self.address} {error}: is it a simulator server of this navila?") from None
        except OSError as error:
            self._disconnect()
            why = error.strerror or reason(error)
            raise SimulatorError(f"The connection to the simulator at {self.address} broke in {name}: {why}.") from None
        except BaseException:
            # Ctrl-C, say: an answer that comes later must not be taken for the next one.
            self._disconnect()
            raise
        if "ok" in reply:
            try:
                return read(reply["ok"])
            except (TypeError, KeyError, ValueError, AttributeError, OSError) as error:
                self._disconnect()
                raise SimulatorError(
                    f"The simulator at {self.address} answered {name} with what cannot be read ({reason(error)})."
                ) from None
        kind, sentence = str(reply.get("kind")), str(reply.get("error"))
        if kind in ("Died", "Full") or name == "hello":
            self._disconnect()
        if kind in _KINDS:
            raise _KINDS[kind](sentence)
        what = "" if kind in ("Died", "Full", "ProtocolError") else f"{kind}: "
        raise SimulatorError(f"The simulator at {self.address} failed in {name}: {what}{sentence}")

    def _reply(self, connection: socket.socket, number: int, deadline: float) -> dict[str, Any]:
        while True:
            message = receive(connection, min(deadline, time.monotonic() + SILENCE))
            if message is None:
                raise ConnectionResetError(None, "the server closed it")
            if message.get("id") != number:
                raise ProtocolError(f"answered a request {message.get('id')!r} that was not made")
            if "ok" in message or "error" in message:
                return message
            if "beat" not in message:
                raise ProtocolError(f"sent {message!r:.100}, which is no answer")

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _observation(self, seen: Any) -> Observation:
        body = self.embodiment
        size, blank = (body.height, body.width), not self.render_images
        rgb = np.zeros((*size, 3), np.uint8) if blank else _image(seen["rgb"])
        if rgb.shape != (*size, 3):
            raise ValueError(f"an image of {rgb.shape[1]} x {rgb.shape[0]} pixels, not {body.width} x {body.height}")
        depth = None
        if body.depth:
            depth = np.zeros(size, np.float32) if blank else _array(seen["depth"], "float32", 2)
        x, y, z, w = map(float, seen["rotation"])
        return Observation(
            rgb=rgb,
            depth=depth,
            position=_triple(seen["position"]),
            rotation=(x, y, z, w),
            collided=bool(seen["collided"]),
            done=bool(seen["done"]),
        )


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, where the host may be an IPv6 address in brackets.

    Raises:
        ConfigError: it is not of that form.
    """
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"The simulator's address {address!r} must read HOST:PORT, e.g. localhost:{DEFAULT_PORT}.")
    return host.strip("[]"), int(port)


def _facts(told: Any) -> dict[str, Any]:
    """The answer to hello: name, abilities, and an embodiment completed with what is usual."""
    known = {field.name: field.default for field in fields(Embodiment)} | {"name": "remote"}
    body = {**known, **{key: value for key, value in (told["embodiment"] or {}).items() if key in known}}
    for key, value in body.items():
        if not isinstance(value, (type(known[key]), int)):
            raise ValueError(f"an embodiment with {key} {value!r}")
    return {"name": str(told["name"]), "can": frozenset(told["can"]), "embodiment": body}


def _floor(floor: Any) -> TopDownMap:
    x, z = floor["origin"]
    return TopDownMap(
        rgb=_array(floor["rgb"], "uint8", 3),
        walkable=_array(floor["walkable"], "bool", 2),
        origin=(float(x), float(z)),
        resolution=float(floor["resolution"]),
    )


def _triple(values: Any) -> Position:
    x, y, z = map(float, values)
    return x, y, z


def _array(packed: Any, dtype: str, dimensions: int) -> NDArray[Any]:
    """An array of a message, of this kind; raises ValueError, TypeError or KeyError when it is not."""
    shape = tuple(map(int, packed["shape"]))
    if packed["dtype"] != dtype or len(shape) != dimensions:
        raise ValueError(f"an array is {packed['dtype']} {shape}, not {dtype} with {dimensions} axes")
    # A copy: what is read from bytes cannot be written to.
    return np.frombuffer(packed["data"], dtype).reshape(shape).copy()


def _image(packed: Any) -> NDArray[np.uint8]:
    if "jpeg" not in packed:
        return _array(packed, "uint8", 3)
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(packed["jpeg"]), formats=["JPEG"]).convert("RGB"))

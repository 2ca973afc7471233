"""Simulators of navila behind the server: for tests, for another machine, and as the reference of the protocol."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from navila.simulation import Embodiment, Episode, Observation, ProceduralSimulator, Simulator

from navila_sim_remote.server import Server, answer


class Served:
    """A simulator of navila as an environment of the protocol: dicts in place of dataclasses."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.name = type(simulator).__name__
        self.embodiment = asdict(simulator.embodiment)
        self.geodesic = simulator.geodesic
        self.shortest_path = simulator.shortest_path
        self.expert_action = simulator.expert_action
        self.snapshot = simulator.snapshot
        self.restore = simulator.restore
        self.expert_run = simulator.expert_run
        if isinstance(simulator, ProceduralSimulator):
            procedural = simulator
            self.make_episodes = lambda level, seed, count: [
                asdict(episode) for episode in procedural.make_episodes(level=level, seed=seed, count=count)
            ]
            self.retarget = lambda episode, landmark, seed: asdict(
                procedural.retarget(Episode(**episode), landmark, seed=seed)
            )
            self.landmarks = lambda: [asdict(landmark) for landmark in procedural.landmarks()]

    @property
    def render_images(self) -> bool:
        return self.simulator.render_images

    @render_images.setter
    def render_images(self, wanted: bool) -> None:
        self.simulator.render_images = wanted

    def reset(self, episode: Mapping[str, Any]) -> Observation:
        return self.simulator.reset(Episode(**episode))

    def step(self, primitive: int) -> Observation:
        return self.simulator.step(primitive)

    def top_down_map(self) -> dict[str, Any]:
        floor = self.simulator.top_down_map()
        return {name: getattr(floor, name) for name in ("rgb", "walkable", "origin", "resolution")}


class BackgroundServer:
    """Serves simulators from threads of this process; clients with one embodiment share what is loaded."""

    def __init__(
        self,
        make: Callable[[Embodiment | None], Simulator],
        host: str = "127.0.0.1",
        port: int = 0,
        max_clients: int = 64,
    ) -> None:
        """Listen at once; `make` builds a simulator with the body a client asks for, or its own when that is None.

        Raises:
            OSError: the port is taken.
        """
        self._make = make
        self._first: dict[Embodiment | None, Simulator] = {}
        self._lock = threading.Lock()
        self._server = Server(self._start, host, port, max_clients)
        self._accepting = threading.Thread(target=self._server.accept, daemon=True)
        self._accepting.start()

    @property
    def address(self) -> str:
        """host:port."""
        return self._server.address

    def close(self) -> None:
        """Take no more clients."""
        self._server.close()
        self._accepting.join(5)

    def _start(self, end: socket.socket) -> None:
        threading.Thread(target=self._answer, args=(end,), daemon=True).start()

    def _answer(self, end: socket.socket) -> None:
        # A client that goes away in the middle of an answer.
        with end, contextlib.suppress(OSError):
            answer(end, self._served)

    def _served(self, body: Mapping[str, Any] | None) -> Served:
        wanted = None if body is None else Embodiment(**body)
        with self._lock:
            if wanted not in self._first:
                self._first[wanted] = self._make(wanted)
            return Served(self._first[wanted].fork())

"""A simulator in a process of its own: one that hangs, dies or answers nonsense costs an episode, not the run."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from navila.errors import NavilaError, SceneError, SimulatorError, SimulatorUnavailable
from navila.plugins import default_host
from navila.processes import end_with_parent
from navila.simulation import (
    Embodiment,
    Episode,
    Landmark,
    Observation,
    Position,
    ProceduralSimulator,
    Simulator,
    TopDownMap,
)

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: Seconds that a simulator may take for one primitive or question when nothing says otherwise.
CALL_TIMEOUT = 60.0
#: As many times as long may starting and loading a scene take.
LOADING = 10
#: Tries to start a simulator again before the run stops.
STARTS = 3
#: Seconds that a simulator gets to close itself.
CLOSING = 2.0


class SimulatorProcess(Simulator):
    """A simulator elsewhere behind the interface of one here; a broken one is replaced at the next `reset`."""

    def __init__(self, make: Callable[[], Simulator], *, task: str = "", timeout: float = CALL_TIMEOUT) -> None:
        """Start the process; it gets ready while the caller goes on.

        Args:
            make: makes the simulator there, and is sent there.
            task: the task whose plugin is loaded there first, so that `make` may come from a plugin's file.
            timeout: seconds for one primitive or question; ten times that for starting and for `reset`.
        """
        self._make = make
        self._task = task
        self._timeout = timeout
        self._process: Any = None
        self._pipe: Any = None
        self._embodiment: Embodiment | None = None
        self._started = False
        self._asked = False
        self._fate = ""
        self._start()

    def fork(self) -> SimulatorProcess:
        """One more process with such a simulator."""
        return SimulatorProcess(self._make, task=self._task, timeout=self._timeout)

    @property
    def embodiment(self) -> Embodiment:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._wait_until_ready()
        assert self._embodiment is not None
        return self._embodiment

    def reset(self, episode: Episode) -> Observation:
        """Stand at the start of an episode, in a new process where the last one broke.

        Raises:
            SimulatorUnavailable: none can be started.
            SimulatorError: this one broke.
            SceneError: the scene cannot be loaded, or the episode does not fit it.
        """
        for attempt in range(1, STARTS + 1):
            try:
                if self._pipe is None:
                    self._start()
                self._wait_until_ready()
                break
            except SimulatorUnavailable:
                if attempt == STARTS or not self._started:
                    raise
        return self._checked(self._call("reset", episode, self.render_images, patience=LOADING * self._timeout))

    def step(self, primitive: int) -> Observation:
        return self._checked(self._call("step", primitive))

    def restore(self, state: Any) -> Observation:
        return self._checked(self._call("restore", state, patience=LOADING * self._timeout))

    def geodesic(self, start: Position, goals: Sequence[Position]) -> float:
        return self._call("geodesic", start, goals)

    def shortest_path(self, start: Position, goal: Position) -> tuple[Position, ...]:
        return self._call("shortest_path", start, goal)

    def expert_action(self, goal: Position, goal_radius: float) -> int:
        return self._call("expert_action", goal, goal_radius)

    def expert_run(self, goals: Sequence[Position], goal_radius: float, longest: int) -> tuple[int, ...]:
        return self._call("expert_run", goals, goal_radius, longest)

    def top_down_map(self) -> TopDownMap:
        return self._call("top_down_map", patience=LOADING * self._timeout)

    def landmarks(self) -> tuple[Landmark, ...]:
        """Landmarks of the scene, where the simulator knows any."""
        return self._call("landmarks")

    def snapshot(self) -> Any:
        return self._call("snapshot")

    def close(self) -> None:
        """Let the simulator close itself, and end its process whether it does or not."""
        # One that is at something, as after Ctrl-C, would not hear.
        if self._pipe is not None and self._embodiment is not None and not self._asked:
            try:
                self._pipe.send(("close", ()))
                self._process.join(CLOSING)
            except (OSError, ValueError):
                pass
        self.kill()

    def kill(self, why: str = "The simulator was closed.") -> None:
        """End the process at once, and what it started; `why` is what later calls are told."""
        process, self._process, self._pipe, self._fate = self._process, None, None, why
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self._embodiment = None
        self._process = context.Process(target=_serve, args=(there, self._task), daemon=True)
        self._process.start()
        # Only the process itself holds its end, so that its death is noticed.
        there.close()
        self._pipe = here
        # Not among the arguments: those are read before the task's plugin is there to read this with.
        here.send(self._make)

    def _wait_until_ready(self) -> None:
        if self._embodiment is not None:
            return
        try:
            self._embodiment = self._answer("start", LOADING * self._timeout)
        except SimulatorError as error:
            self.kill(f"The simulator cannot be started: {error}")
            raise SimulatorUnavailable(self._fate) from None
        self._started = True

    def _call(self, method: str, *arguments: Any, patience: float | None = None) -> Any:
        if self._pipe is None:
            raise SimulatorError(self._fate)
        self._wait_until_ready()
        self._asked = True
        try:
            self._pipe.send((method, arguments))
            return self._answer(method, self._timeout if patience is None else patience)
        except OSError:
            raise self._ended() from None
        finally:
            self._asked = False

    def _answer(self, method: str, patience: float) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(patience):
                self.kill(f"The simulator did not answer {method!r} within {patience:g} s and was ended.")
                raise SimulatorError(self._fate)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, NavilaError):
            raise answer
        return answer

    def _ended(self) -> SimulatorError:
        """How the process came to its end."""
        if self._process is not None:
            self._process.join(CLOSING)
            code = self._process.exitcode
            how = "" if code is None else f" by {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"
            self.kill(f"The simulator's process ended{how}.")
        return SimulatorError(self._fate)

    def _checked(self, observation: Observation) -> Observation:
        try:
            check_observation(observation, self.embodiment)
        except SimulatorError as error:
            # Who answers nonsense once is not asked again.
            self.kill(str(error))
            raise
        return observation


def check_observation(observation: Observation, body: Embodiment) -> None:
    """See that an observation can be what an agent of this body senses.

    Raises:
        SimulatorError: it is no observation, its image has another shape or type, or its pose is none.
    """
    if not isinstance(observation, Observation):
        raise SimulatorError(f"The simulator gave {type(observation).__name__} instead of an observation.")
    rgb, expected = observation.rgb, (body.height, body.width, 3)
    shape, kind = getattr(rgb, "shape", None), str(getattr(rgb, "dtype", type(rgb).__name__))
    if shape != expected or kind != "uint8":
        raise SimulatorError(f"The simulator gave an image of {kind} {shape} instead of uint8 {expected}.")
    for name, numbers, count in (("position", observation.position, 3), ("rotation", observation.rotation, 4)):
        try:
            values = [float(number) for number in numbers]
        except (TypeError, ValueError):
            values = []
        if len(values) != count or not all(map(math.isfinite, values)):
            raise SimulatorError(f"The simulator gave the {name} {numbers!r} instead of {count} finite numbers.")
        if count == 4 and abs(math.hypot(*values) - 1) > 0.05:
            raise SimulatorError(f"The simulator gave the rotation {numbers!r}, which is no unit quaternion.")


def _serve(pipe: Connection, task: str) -> None:
    """Answer calls from a pipe until it closes."""
    # Ctrl-C reaches all processes of a terminal; who stops is the one that reads this pipe's other end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Engines that simulators start of their own end with them, however they end.
    os.setsid()
    # Many environments beside each other have a core each, at best.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What a simulator prints must not come between the results.
    os.dup2(2, 1)
    end_with_parent()
    simulator: Simulator
    try:
        if task:
            default_host().registry("benchmark").load(task)
        simulator = pipe.recv()()
        pipe.send(simulator.embodiment)
    except Exception as error:
        pipe.send(SimulatorError(told(error)))
        return
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            break
        if method == "close":
            break
        try:
            answer = _do(simulator, method, arguments)
        except Exception as error:
            answer = _portable(error)
        try:
            pipe.send(answer)
        except OSError:
            break
        except Exception as error:
            pipe.send(SimulatorError(told(error)))
    simulator.close()
    # Nothing else is left to be tidied up here.
    os._exit(0)


def _do(simulator: Simulator, method: str, arguments: tuple[Any, ...]) -> Any:
    if method == "reset":
        episode, simulator.render_images = arguments
        return simulator.reset(episode)
    if method == "landmarks":
        return simulator.landmarks() if isinstance(simulator, ProceduralSimulator) else ()
    return getattr(simulator, method)(*arguments)


def _portable(error: Exception) -> NavilaError:
    """An error as a process can read it that lacks the module of its class."""
    for kind in (SimulatorUnavailable, SceneError):
        if isinstance(error, kind):
            return kind(str(error))
    return SimulatorError(told(error))


def told(error: Exception) -> str:
    """An error as its record has it; those that are no sentence of ours begin with what they are."""
    return str(error) if isinstance(error, NavilaError) else f"{type(error).__name__}: {error}"


def start_simulators(
    make: Callable[[], Simulator], count: int, *, task: str = "", timeout: float = CALL_TIMEOUT
) -> list[SimulatorProcess]:
    """So many simulators, each in a process of its own, all of them ready.

    Raises:
        SimulatorUnavailable: one cannot be started; the others are closed.
    """
    started: list[SimulatorProcess] = []
    try:
        for _ in range(count):
            started.append(SimulatorProcess(make, task=task, timeout=timeout))
        for simulator in started:
            simulator._wait_until_ready()
    except BaseException:
        for simulator in started:
            simulator.kill()
        raise
    return started

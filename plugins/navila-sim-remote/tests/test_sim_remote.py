"""The remote simulator is the simulator it serves; servers that hang, die or talk nonsense cost one episode."""

from __future__ import annotations

import pickle
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.errors import ConfigError, SceneError, SimulatorError, SimulatorUnavailable
from navila.plugins import default_host
from navila.simulation import Embodiment, Episode
from navila.testing import SimulatorContract
from navila.testing.simulator import same_observation
from navila_sim_remote import server
from navila_sim_remote import simulator as remote_module
from navila_sim_remote.simulator import RemoteSimulator

SERVER = Path(server.__file__)
EPISODE = Episode(
    episode_id="1", scene_id="hall", start_position=(0, 0, 0), start_rotation=(0, 0, 0, 1), goals=((1.0, 0.0, 0.0),)
)
#: An environment as a user writes it: in a Python that knows nothing of navila, and needs not even numpy.
HALL = """
import os, signal, time

class Image:
    shape, dtype = (4, 6, 3), "uint8"
    def __init__(self, value): self.value = value
    def tobytes(self): return bytes([self.value]) * 72

class Hall:
    embodiment = {"width": 6, "height": 4}
    def reset(self):
        self.x = 0.0
        return self.seen(), {"info": "as gym has it"}
    def step(self, primitive):
        if primitive == 3:
            time.sleep(600)
        if primitive == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        self.x += 0.25 * (primitive == 1)
        return self.seen(), 0.0, False, {}
    def seen(self):
        return {"rgb": Image(int(4 * self.x)), "position": [self.x, 0.0, 0.0], "rotation": [0.0, 0.0, 0.0, 1.0]}
"""


#: Tuples in tuples, which would overflow the stack of whoever unpacks them.
DEEP = b"\xc0"
for _ in range(9000):
    DEEP = b"\x91" + b"\xc9" + struct.pack(">IB", len(DEEP), 1) + DEEP
DEEP = b"nvla" + struct.pack(">I", len(DEEP)) + DEEP


class TestRemote(SimulatorContract):
    name = "remote"


@pytest.fixture(scope="module")
def mesh() -> Any:
    return default_host().registry("simulator").load("mesh").tiny()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def remote() -> Iterator[RemoteSimulator]:
    simulator = RemoteSimulator.tiny()
    yield simulator
    simulator.close()


def test_an_episode_served_is_the_episode_itself(mesh: Any, remote: RemoteSimulator) -> None:
    (episode,) = mesh.make_episodes(level=2, seed=5, count=1)
    assert remote.make_episodes(level=2, seed=5, count=1) == (episode,)
    pair = (mesh.fork(), remote)
    here, there = (simulator.reset(episode) for simulator in pair)
    assert same_observation(here, there)
    goal, radius = episode.goals[0], episode.goal_radius
    for _ in range(60):
        run, same_run = (simulator.expert_run(episode.goals, radius, 3) for simulator in pair)
        assert run == same_run
        assert mesh_path(pair[0], here.position, goal) == mesh_path(pair[1], there.position, goal)
        for primitive in run:
            here, there = (simulator.step(primitive) for simulator in pair)
            assert same_observation(here, there)
            assert (here.position, here.rotation) == (there.position, there.rotation)
        if here.done:
            break
    assert there.done
    assert pair[0].landmarks() == pair[1].landmarks()
    name = episode.info["other_landmarks"][0]
    assert pair[0].retarget(episode, name, seed=1) == pair[1].retarget(episode, name, seed=1)
    floor, same_floor = (simulator.top_down_map() for simulator in pair)
    assert np.array_equal(floor.rgb, same_floor.rgb)
    assert np.array_equal(floor.walkable, same_floor.walkable)
    assert (floor.origin, floor.resolution) == (same_floor.origin, same_floor.resolution)


def mesh_path(simulator: Any, start: Any, goal: Any) -> Any:
    return simulator.geodesic(start, [goal]), simulator.shortest_path(start, goal), simulator.expert_action(goal, 1.0)


def test_forks_and_pickled_copies_are_agents_of_their_own(mesh: Any, remote: RemoteSimulator) -> None:
    (episode,) = mesh.make_episodes(level=1, seed=2, count=1)
    start = remote.reset(episode)
    state = remote.snapshot()
    others = [remote.fork(), pickle.loads(pickle.dumps(remote))]
    for other in others:
        assert same_observation(other.reset(episode), start)
        other.step(2)
        other.snapshot()
        with pytest.raises(SimulatorError, match="The snapshot is of another connection"):
            other.restore(state)
        other.close()
    assert same_observation(remote.step(1), (mesh.reset(episode), mesh.step(1))[1])


def test_jpeg_is_close_and_unseen_images_are_black(mesh: Any, remote: RemoteSimulator) -> None:
    (episode,) = mesh.make_episodes(level=1, seed=2, count=1)
    exact = mesh.reset(episode).rgb
    lossy = RemoteSimulator(address=remote.address, images="jpeg", jpeg_quality=95)
    seen = lossy.reset(episode).rgb
    assert not np.array_equal(seen, exact)
    assert np.abs(seen.astype(int) - exact).mean() < 6
    lossy.render_images = False
    assert not lossy.step(1).rgb.any()
    lossy.close()


def test_what_the_simulator_refuses_is_refused_here_and_the_connection_stays(
    mesh: Any, remote: RemoteSimulator
) -> None:
    (episode,) = mesh.make_episodes(level=1, seed=2, count=1)
    remote.reset(episode)
    lost = Episode(**{**vars(episode), "start_position": (99.0, 0.0, 99.0)})
    with pytest.raises(SceneError, match="off the walkable floor"):
        remote.reset(lost)
    assert not remote.reset(episode).done
    with pytest.raises(ConfigError, match="no primitive 7"):
        remote.step(7)


def test_another_body_than_the_served_one_is_refused(remote: RemoteSimulator) -> None:
    other = RemoteSimulator(Embodiment(width=32, height=64), remote.address)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"has width 64, not the 32 .*-o embodiment='{.width.: 64}'"):
            print(other.embodiment)


@pytest.fixture(scope="module")
def hall_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and stderr of the server's file, run as its own program with a user's environment."""
    folder = tmp_path_factory.mktemp("hall")
    (folder / "hall.py").write_text(HALL)
    (folder / "navila_sim_server.py").write_bytes(SERVER.read_bytes())
    command = [sys.executable, "navila_sim_server.py", "--env", "hall:Hall", "--port", "0"]
    with (folder / "told").open("w") as told:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=told, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1], folder / "told"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert out == "The simulator server is closed.\n"
    assert "Traceback" not in (folder / "told").read_text()


@pytest.fixture
def hall(hall_server: tuple[str, Path]) -> str:
    """Its address."""
    return hall_server[0]


def test_any_object_with_reset_and_step_is_walked(hall: str) -> None:
    simulator = RemoteSimulator(address=hall)
    assert simulator.name == "Hall"
    assert (simulator.embodiment.width, simulator.embodiment.height) == (6, 4)
    simulator.reset(EPISODE)
    seen = simulator.step(1)
    assert seen.position == (0.25, 0, 0)
    assert seen.rgb.tolist() == [[[1, 1, 1]] * 6] * 4
    assert simulator.step(0).done
    assert simulator.landmarks() == ()
    with pytest.raises(SimulatorError, match="'geodesic', which this environment does not have"):
        simulator.geodesic((0, 0, 0), [(1, 0, 0)])
    simulator.close()


def test_a_simulator_that_dies_or_hangs_costs_one_episode(hall: str) -> None:
    simulator, hasty = RemoteSimulator(address=hall), RemoteSimulator(address=hall, timeout=0.5)
    simulator.reset(EPISODE)
    with pytest.raises(SimulatorError, match="process was ended by SIGSEGV"):
        simulator.step(2)
    with pytest.raises(SimulatorError, match="no connection"):
        simulator.step(1)
    hasty.reset(EPISODE)
    with pytest.raises(SimulatorError, match=r"has not finished within 0\.5 s \(step\)"):
        hasty.step(3)
    hasty.reset(EPISODE)
    hasty.close()
    simulator.reset(EPISODE)
    assert simulator.step(1).position == (0.25, 0, 0)
    simulator.close()


def test_a_server_is_not_disturbed_by_strangers(hall: str, hall_server: tuple[str, Path]) -> None:
    host, port = hall.split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HT")
        assert stranger.recv(100) == b""
    told = hall_server[1].read_text()
    assert "sent b'GET / HT', which is not of navila's simulator protocol, and is disconnected." in told
    simulator = RemoteSimulator(address=hall)
    simulator._connect()
    assert simulator._socket is not None
    server.send(simulator._socket, {"id": 9, "do": "hello", "version": 99})
    answer = server.receive(simulator._socket, time.monotonic() + 300)
    assert answer is not None
    assert answer["error"] == (
        "This server speaks version 1 of the protocol and the client version 99; replace its file by the one of the "
        "client's navila."
    )
    simulator.close()


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            "sent b'SSH-2.0-', which is not of navila's simulator protocol: is it a simulator",
        ),
        (b"nvla\xff\xff\xff\xff", "announced a message of 4294967295 bytes, more than the limit of 67108864"),
        (b"nvla\x00\x00\x00\x03\xc1\xc1\xc1", "sent 3 bytes that are no msgpack"),
        (DEEP, "no msgpack (tuples are nested more than 32 deep)"),
        (b"nvla\x00\x00\x00\x03\x93\x01", "closed the connection after 2 of 3 bytes"),
        (b"", "broke in hello: the server closed it"),
    ],
)
def test_garbage_is_one_sentence_with_the_address_and_what_came(says: bytes, sentence: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def peer() -> None:
            connection, _ = listener.accept()
            # The client closes at once, which may reset the connection.
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(says)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(100)

        thread = threading.Thread(target=peer)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(SimulatorError) as raised:
            RemoteSimulator(address=address).reset(EPISODE)
        thread.join()
    assert address in str(raised.value)
    assert sentence in str(raised.value)


def test_signs_of_life_tell_a_slow_simulator_from_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        seconds = 6.0

        def reset(self) -> Any:
            time.sleep(self.seconds)
            return {"rgb": np.zeros((512, 512, 3), np.uint8), "position": (0, 0, 0), "rotation": (0, 0, 0, 1)}

    def start(end: socket.socket) -> None:
        threading.Thread(target=server._answer_until_gone, args=(end, lambda body: Slow()), daemon=True).start()

    served = server.Server(start, port=0)
    threading.Thread(target=served.accept, daemon=True).start()
    monkeypatch.setattr(remote_module, "SILENCE", 5.0)
    monkeypatch.setattr(server, "BEAT", 0.2)
    simulator = RemoteSimulator(address=served.address)
    assert simulator.reset(EPISODE).position == (0, 0, 0)
    monkeypatch.setattr(Slow, "seconds", 600.0)
    monkeypatch.setattr(remote_module, "SILENCE", 0.5)
    monkeypatch.setattr(server, "BEAT", 60.0)
    with pytest.raises(SimulatorError, match=r"gave no sign of life for 0\.5 s \(reset\)"):
        simulator.reset(EPISODE)
    served.close()


def test_the_environment_of_the_reference_works() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "simulators.md"
    example = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    session = server.Session(lambda body: names["Hall"]())
    assert session.perform({"do": "hello", "version": 1})["can"] == ["geodesic"]
    assert session.perform({"do": "reset", "with": [vars(EPISODE)]})["rgb"]["shape"] == [48, 64, 3]
    assert session.perform({"do": "step", "with": [1]})["position"] == (0.25, 0.0, 0.0)
    assert session.perform({"do": "geodesic", "with": [(0, 0, 0), [(2, 0, 0), (-1, 0, 0)]]}) == 1


def test_no_server_and_wrong_addresses_are_told() -> None:
    # Taken, so that nobody else gets it meanwhile, and not listened at.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SimulatorUnavailable, match=rf"reached at {address} \(Connection refused\): start one"):
            RemoteSimulator(address=address, connect_timeout=0.3).reset(EPISODE)
    for address in ("localhost", "localhost:", ":80", "localhost:99999", "a:b"):
        with pytest.raises(ConfigError, match="must read HOST:PORT"):
            RemoteSimulator(address=address)


def test_habitat_is_driven_as_its_versions_want_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against a stand-in with the names and types of habitat-sim's API: neither version of it installs here."""
    for modern in (False, True):
        library = habitat_like(modern)
        monkeypatch.setitem(sys.modules, "habitat_sim", library)
        (tmp_path / "room.glb").touch()
        (tmp_path / "broken.glb").touch()
        episode = {**vars(EPISODE), "scene_id": "room.glb", "goals": [(0.0, 0.0, -2.0)]}
        simulator = server.HabitatSim(str(tmp_path), {**server.DEFAULT_EMBODIMENT, "hfov": 79.0, "depth": True})
        session = server.Session(lambda _, simulator=simulator: simulator)
        told = session.perform({"do": "hello", "version": 1})
        assert {"geodesic", "expert_run", "snapshot", "top_down_map"} <= set(told["can"])
        seen = session.perform({"do": "reset", "with": [episode]})
        camera = library.cameras[0]
        assert (camera.hfov if modern else camera.parameters["hfov"]) == (79.0 if modern else "79.0")
        assert (seen["position"], seen["rotation"]) == ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
        assert seen["rgb"]["shape"] == [512, 512, 3]
        assert session.perform({"do": "geodesic", "with": [(0, 0, 0), [(0, 0, -2), (0, 0, -1)]]}) == 1.0
        assert session.perform({"do": "expert_run", "with": [episode["goals"], 0.5, 3]}) == (1, 1, 1)
        taken = session.perform({"do": "snapshot"})
        moved = session.perform({"do": "step", "with": [1]})
        assert (moved["position"], moved["collided"]) == ((0.0, 0.0, -0.25), True)
        assert session.perform({"do": "restore", "with": [taken]})["position"] == (0.0, 0.0, 0.0)
        assert session.perform({"do": "step", "with": [0]})["done"]
        with pytest.raises(server.SceneError, match="There is no scene"):
            session.perform({"do": "reset", "with": [{**episode, "scene_id": "attic.glb"}]})
        with pytest.raises(ValueError, match="Cannot load"):
            session.perform({"do": "reset", "with": [{**episode, "scene_id": "broken.glb"}]})
        assert session.perform({"do": "reset", "with": [episode]})["position"] == (0.0, 0.0, 0.0)
        # A navmesh that is not of this body is made anew: by older ones unasked, by newer ones when they are told.
        assert not getattr(simulator.sim.configuration.sim_cfg, "navmesh_settings", None)
        small = server.HabitatSim(str(tmp_path), {**server.DEFAULT_EMBODIMENT, "agent_radius": 0.18})
        small.reset(episode)
        assert small.sim.configuration.agents[0].radius == 0.18
        assert not modern or small.sim.configuration.sim_cfg.navmesh_settings.agent_radius == 0.18


def habitat_like(modern: bool) -> Any:
    from types import SimpleNamespace as Facts

    library = Facts(__version__="0.3.2" if modern else "0.1.7", cameras=[], SensorType=Facts(COLOR=1, DEPTH=2))

    class Camera:
        def __init__(self) -> None:
            self.parameters: dict[str, str] = {}
            if modern:
                self.hfov = 90.0
            library.cameras.append(self)

    class Simulator:
        def __init__(self, configuration: Any) -> None:
            self.load(configuration)
            self.at = Facts(position=np.zeros(3, np.float32), rotation=Facts(x=0.0, y=0.0, z=0.0, w=1.0))
            self.pathfinder = Facts(is_loaded=True, is_navigable=lambda point: True, find_path=self.find_path)

        def load(self, configuration: Any) -> None:
            scene = configuration.sim_cfg.scene_id if modern else configuration.sim_cfg.scene.id
            if "broken" in scene:
                raise ValueError(f"Cannot load: {scene}")
            self.configuration = configuration

        def close(self) -> None:
            self.pathfinder = None

        def reconfigure(self, configuration: Any) -> None:
            # What it was made with it takes for being in place, though it was closed.
            if configuration.sim_cfg != self.configuration.sim_cfg:
                self.load(configuration)

        def find_path(self, path: Any) -> None:
            path.geodesic_distance = float(np.linalg.norm(path.requested_ends - path.requested_start, axis=1).min())
            path.points = [path.requested_start, path.requested_ends[0]]

        def get_agent(self, number: int) -> Any:
            return Facts(get_state=lambda: Facts(**vars(self.at)), set_state=self.set_state)

        def set_state(self, state: Any, reset_sensors: bool) -> None:
            assert state.sensor_states == {}
            # magnum's vectors take no whole numbers.
            assert {type(x) for x in (*state.position, *state.rotation)} == {float}
            x, y, z, w = state.rotation
            self.at = Facts(position=np.array(state.position, np.float32), rotation=Facts(x=x, y=y, z=z, w=w))

        def get_sensor_observations(self) -> Any:
            return {"rgb": np.zeros((512, 512, 4), np.uint8), "depth": np.ones((512, 512), np.float32)}

        def step(self, action: str) -> Any:
            amount = self.configuration.agents[0].action_space[action].actuation.amount
            self.at.position = self.at.position - np.array([0, 0, amount], np.float32)
            return {**self.get_sensor_observations(), "collided": True}

        def make_greedy_follower(self, agent: int, radius: float, **keys: Any) -> Any:
            return Facts(find_path=lambda goal: [keys["forward_key"]] * 6 + [keys["stop_key"]])

    library.SensorSpec = Camera
    if modern:
        library.CameraSensorSpec = Camera
    library.Simulator, library.MultiGoalShortestPath = Simulator, Facts
    library.nav = Facts(NavMeshSettings=lambda: Facts(set_defaults=lambda: None))
    library.SimulatorConfiguration = lambda: (
        Facts(scene_id="", navmesh_settings=None) if modern else Facts(scene=Facts(id=""))
    )
    library.Configuration = lambda backend, agents: Facts(sim_cfg=backend, agents=agents)
    library.agent = Facts(
        AgentConfiguration=lambda: Facts(height=1.5, radius=0.1),
        ActionSpec=lambda name, actuation: Facts(name=name, actuation=actuation),
        ActuationSpec=lambda amount: Facts(amount=amount),
    )
    return library


def test_an_env_of_habitat_lab_walks_the_episodes_of_its_dataset() -> None:
    from types import SimpleNamespace as Facts

    class Lab:
        def __init__(self) -> None:
            self.episodes = [Facts(episode_id=n, scene_id=f"data/scene_datasets/mp3d/{n}.glb") for n in (1, 2)]
            self.episode_iterator = iter(self.episodes)
            pose = Facts(position=np.ones(3), rotation=Facts(x=0, y=0, z=0, w=1))
            agent = Facts(get_state=lambda: pose)
            camera = Facts(
                uuid="rgb", resolution=[2, 2], hfov=79, position=np.float32([0, 0.88, 0]), orientation=[0, 0, 0]
            )
            amounts = {"stop": None, "move_forward": Facts(amount=0.25), "turn_left": Facts(amount=30)}
            spaces = {n: Facts(name=name, actuation=amount) for n, (name, amount) in enumerate(amounts.items())}
            body = Facts(radius=0.18, height=0.88, sensor_specifications=[camera], action_space=spaces)
            config = Facts(sim_cfg=Facts(allow_sliding=False), agents=[body])
            self.sim = Facts(get_agent=lambda number: agent, previous_step_collided=True, sim_config=config)
            self.task = Facts(actions=dict.fromkeys(["MOVE_FORWARD", "STOP", "TURN_LEFT", "TURN_RIGHT", "LOOK_UP"]))
            self.episode_over = False

        def reset(self) -> Any:
            self.current = next(self.episode_iterator)
            return {"rgb": np.zeros((2, 2, 3), np.uint8), "instruction": "a sensor of its task"}

        def step(self, action: int) -> Any:
            self.episode_over = action == 1
            return {"rgb": np.full((2, 2, 3), action, np.uint8)}

    lab = Lab()
    session = server.Session(lambda body: Facts(habitat_env=lab))
    body = session.perform({"do": "hello", "version": 1})["embodiment"]
    assert (body["width"], body["camera_height"], body["turn_angle"], body["sliding"]) == (2, 0.88, 30, False)
    episode = {"episode_id": "2", "scene_id": "mp3d/2.glb"}
    assert not session.perform({"do": "reset", "with": [episode]})["collided"]
    assert lab.current.episode_id == 2
    moved = session.perform({"do": "step", "with": [1]})
    assert moved["collided"]
    assert not any(moved["rgb"]["data"]), "its config has MOVE_FORWARD as action 0"
    assert session.perform({"do": "step", "with": [0]})["done"]
    with pytest.raises(server.ConfigError, match="has ended the episode; raise its config's limit"):
        session.perform({"do": "step", "with": [1]})
    with pytest.raises(server.SceneError, match=r"no episode '3' in mp3d/2\.glb; serve the split"):
        session.perform({"do": "reset", "with": [{**episode, "episode_id": "3"}]})
    lab.task.actions.pop("TURN_LEFT")
    with pytest.raises(server.ConfigError, match=r"it needs stop, move_forward, turn_left, turn_right\."):
        server.Session(lambda body: lab).perform({"do": "hello", "version": 1})


def test_the_server_is_of_python_3_8() -> None:
    import ast

    ast.parse(SERVER.read_text(encoding="utf-8"), feature_version=(3, 8))
    imports = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(f"""
            import ast, sys
            tree = ast.parse(open({str(SERVER)!r}, encoding="utf-8").read())
            names = {{a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}}
            names |= {{n.module.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}}
            print(*sorted(names - set(sys.stdlib_module_names)))
        """)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # numpy and Pillow are asked for by those who use habitat's map and JPEG.
    assert imports.stdout.split() == ["PIL", "msgpack", "numpy"]

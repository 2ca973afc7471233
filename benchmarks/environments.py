"""Episodes an hour of `navila eval` with eight environments and with one.

    python benchmarks/environments.py [--episodes 40] [--envs 8] [--rounds 3] [--stand-in 0.2 | CHECKPOINT]

Walks the same episodes of `houses` in simulators of processes of their own, one and many at a time, in turns; records
must be the same to the byte. By default a stand-in decides, at random, in 0.2 s however many walks it decides for: the
cost of a large model whose weights have to be read for every token, whatever the batch. With a CHECKPOINT that model
decides, here. The times are wall clock, without starting processes and loading the model.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from navila.actions import Action
from navila.plugins import default_host
from navila.simulation import Observation
from navila_eval.agents import Agent, ModelAgent, RandomAgent
from navila_eval.navigation import NavigationTask, evaluate_agent
from navila_eval.run_folder import RECORDS
from navila_eval.simulator_process import SimulatorProcess, start_simulators


class StandIn(RandomAgent):
    """Decides at random, in the same time for any number of walks."""

    name = "stand-in"
    needs_images = True

    def __init__(self, seconds: float) -> None:
        super().__init__(seed=0)
        self.seconds = seconds

    def act(self, states: Sequence[random.Random], observations: Sequence[Observation]) -> list[Action]:
        time.sleep(self.seconds)
        return super().act(states, observations)


def walk(task: NavigationTask, agent: Agent[Any], simulators: Sequence[SimulatorProcess]) -> tuple[float, bytes]:
    """Seconds that the episodes take, and their records."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        evaluate_agent(task, lambda: agent, simulators, Path(folder), identity={}, report_episodes=0, quiet=True)
        return time.perf_counter() - began, (Path(folder) / RECORDS).read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a model that decides in place of the stand-in")
    parser.add_argument("--stand-in", type=float, default=0.2, help="seconds of a decision")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=40)
    asked = parser.parse_args()
    agent: Agent[Any] = StandIn(asked.stand_in)
    if asked.checkpoint:
        import navila

        agent = ModelAgent(navila.load(asked.checkpoint))
    benchmark: Any = default_host().registry("benchmark").load("houses")()  # pyright: ignore[reportCallIssue]
    simulators = start_simulators(benchmark.simulator, asked.envs, task="houses")
    try:
        task = benchmark.task("houses", "level1", simulators[0], limit=asked.episodes, max_steps=asked.max_steps)
        walk(task, agent, simulators)  # scenes are loaded, and the model is warm
        ratios, rates = [], []
        for _ in range(asked.rounds):
            (alone, one), (together, many) = (walk(task, agent, simulators[:count]) for count in (1, asked.envs))
            assert one == many, "the records of one environment and of many differ"
            ratios.append(alone / together)
            rates.append(3600 * asked.episodes / together)
    finally:
        for simulator in simulators:
            simulator.close()
    print(f"{asked.episodes} episodes, {agent.name}: the same records with 1 and {asked.envs} environments")
    print(
        f"x{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) episodes an hour with {asked.envs}"
    )
    print(f"{statistics.median(rates):.0f} episodes an hour with {asked.envs}")


if __name__ == "__main__":
    main()

"""`navila data record`: training data from a simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from navila.errors import ConfigError

#: Options that belong to one source of episodes.
_OF_RUNS = ("scene_root", "walks", "mistakes", "recover", "skip_misfits")
_OF_EPISODES = (
    "what",
    "episodes",
    "episodes_per_house",
    "levels",
    "image_size",
    "hfov",
    "perturb",
    "policy",
    "expert_share",
    "views",
    "questions",
)


@click.command()
@click.option("--sim", default="mesh", show_default=True, help="Simulator that makes the scenes; `houses` means mesh.")
@click.option(
    "--sim-option", "sim_options", multiple=True, metavar="KEY=VALUE", help="Option of the simulator, e.g. address=…."
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to record to.")
@click.option(
    "--what", type=click.Choice(["navigation", "tours", "grounding"]), default="navigation", show_default=True
)
@click.option("--episodes", default=100, show_default=True, help="Episodes to record.")
@click.option("--episodes-per-house", default=5, show_default=True, help="Episodes in one house.")
@click.option(
    "--level", "levels", multiple=True, type=int, default=(0,), help="Difficulty; may be repeated. [default: 0]"
)
@click.option("--seed", default=0, show_default=True, help="Decides houses, episodes and detours.")
@click.option("--image-size", default=96, show_default=True, help="Side of the frames in pixels.")
@click.option("--hfov", default=90.0, show_default=True, help="Horizontal field of view in degrees.")
@click.option("--image-format", type=click.Choice(["jpg", "png"]), default="jpg", show_default=True)
@click.option(
    "--perturb", default=0.0, show_default=True, help="Chance of a detour at a decision; labels stay the expert's."
)
@click.option("--policy", default="expert", show_default=True, help="Who acts: expert, or a checkpoint (DAgger).")
@click.option(
    "--expert-share",
    default=0.0,
    show_default=True,
    help="Chance that the expert acts in place of the policy at a decision.",
)
@click.option(
    "--rebalance",
    default="",
    metavar="WEIGHTS",
    help="Write records of rare actions several times: stop=5,left=1.5, or auto. [default: once each]",
)
@click.option(
    "--from-run",
    "run",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of a run of `navila eval`: its walks, labelled by the expert, in place of episodes made here.",
)
@click.option(
    "--scene-root",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder that the run's scenes are relative to, or file of graphs. [default: the working directory]",
)
@click.option(
    "--walks", type=click.Choice(["all", "failed"]), default="all", show_default=True, help="Which walks of the run."
)
@click.option("--mistakes", is_flag=True, help="Of the run's walks, only steps where the expert does otherwise.")
@click.option(
    "--recover/--no-recover", default=True, show_default=True, help="The expert goes on where a walk of the run failed."
)
@click.option("--skip-misfits", is_flag=True, help="Leave out walks that lead elsewhere in --sim, and name them.")
@click.option(
    "--every-step/--decisions",
    default=True,
    show_default=True,
    help="Write a record for each step, or for each decision.",
)
@click.option("--max-steps", default=200, show_default=True, help="Primitives after which an episode is cut off.")
@click.option("--stop-distance", type=float, help="The expert's goal radius in metres. [default: the success distance]")
@click.option("--views", default=8, show_default=True, help="Views of each episode (grounding).")
@click.option("--questions", default=6, show_default=True, help="Questions about each view (grounding).")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes; the result does not depend on them.",
)
@click.pass_context
def record(context: click.Context, output: Path, workers: int, run: Path | None, **settings: Any) -> None:
    """Record training data in a simulator.

    `navigation` writes the steps of walks in NaVILA-Dataset's format (train with `--data_mixture vln:OUTPUT`); `tours`
    does so for walks whose every point is labelled for every landmark of the room; `grounding` writes questions about
    views in LLaVA's (`--data_mixture llava:OUTPUT`). With --from-run, the walks of a model that was evaluated become
    such steps: what it saw, labelled with what the expert would have done there (DAgger), and the way back. An
    interrupted recording goes on when the same command is run again.
    """
    from navila_data.commands.progress import progress_bar
    from navila_data.procedural import RecordSettings
    from navila_data.recording import record as record_episodes
    from navila_data.replays import ReplaySettings

    other = _OF_EPISODES if run is not None else _OF_RUNS
    given = [n for n in other if context.get_parameter_source(n) is not ParameterSource.DEFAULT]
    if given:
        when = "with" if run is not None else "without"
        option = next(parameter.opts[0] for parameter in context.command.params if parameter.name == given[0])
        raise ConfigError(f"{option} has no meaning {when} --from-run: leave it out.")
    settings = {name: value for name, value in settings.items() if name not in other}
    chosen = RecordSettings(**settings) if run is None else ReplaySettings(run=run, **settings)
    with progress_bar("episodes", "finished houses" if run is None else "finished batches of walks") as progress:
        manifest = record_episodes(chosen, output, workers=workers, progress=progress)
    click.echo(f"{manifest['records']} records of {manifest['episodes']} episodes in {output}")

"""`navila data convert`: training data from episodes, and from one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from navila.errors import ConfigError

#: Options that belong to one way of converting.
_OF_EPISODES = (
    "sim",
    "sim_options",
    "scene_root",
    "expert",
    "policy",
    "perturb",
    "expert_share",
    "rebalance",
    "language",
    "limit",
    "seed",
    "image_size",
    "hfov",
    "image_format",
    "every_step",
    "max_steps",
    "stop_distance",
    "skip_misfits",
    "workers",
)
_OF_PATHS = ("connectivity",)
_OF_FORMATS = {"lerobot": ("actions", "fps"), "llava": ("num_frames", "data_path")}


@click.command()
@click.argument("source")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["vln-ce", "r2r"]),
    help="Walk VLN-CE's episodes in a simulator; or write R2R's and RxR's own paths as VLN-CE's episodes.",
)
@click.option("--to", "target", type=click.Choice(list(_OF_FORMATS)), help="Write data in another format.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to.")
@click.option("--sim", default="mesh", show_default=True, help="Simulator that renders the scenes (vln-ce).")
@click.option(
    "--sim-option",
    "sim_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the simulator, e.g. address=… (vln-ce).",
)
@click.option(
    "--scene-root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder that the episodes' scenes are relative to (vln-ce). [default: the working directory]",
)
@click.option(
    "--expert",
    type=click.Choice(["shortest-path", "reference-path"]),
    default="shortest-path",
    show_default=True,
    help="Whose actions are the labels: to the goal, or along the described route (vln-ce).",
)
@click.option("--policy", default="expert", show_default=True, help="Who acts: expert, or a checkpoint (vln-ce).")
@click.option("--perturb", default=0.0, show_default=True, help="Chance of a detour at a decision (vln-ce).")
@click.option("--expert-share", default=0.0, help="Chance that the expert acts at a decision (vln-ce).")
@click.option(
    "--rebalance", default="", metavar="WEIGHTS", help="Repeat records of rare actions: stop=5, or auto (vln-ce)."
)
@click.option("--language", default="", help="Only instructions of this language, e.g. en of RxR (vln-ce).")
@click.option("--limit", default=0, show_default=True, help="Only the first episodes of the file; 0 for all (vln-ce).")
@click.option("--seed", default=0, show_default=True, help="Decides detours (vln-ce).")
@click.option("--image-size", default=512, show_default=True, help="Side of the frames in pixels (vln-ce).")
@click.option("--hfov", default=90.0, show_default=True, help="Horizontal field of view in degrees (vln-ce).")
@click.option(
    "--image-format", type=click.Choice(["jpg", "png"]), default="jpg", show_default=True, help="Of frames (vln-ce)."
)
@click.option(
    "--every-step/--decisions",
    default=True,
    show_default=True,
    help="Write a record for each step, or for each decision.",
)
@click.option("--max-steps", default=500, show_default=True, help="Primitives after which a walk is cut off (vln-ce).")
@click.option("--stop-distance", default=0.5, show_default=True, help="Metres to which the expert approaches (vln-ce).")
@click.option(
    "--skip-misfits", is_flag=True, help="Leave out episodes that do not fit their scene, and name them (vln-ce)."
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes (vln-ce).")
@click.option(
    "--connectivity",
    type=click.Path(path_type=Path),
    default=Path("connectivity"),
    show_default=True,
    help="Folder or file of Matterport3D's connectivity graphs (r2r).",
)
@click.option(
    "--actions",
    type=click.Choice(["answer", "primitive", "id"]),
    default="answer",
    show_default=True,
    help="Metres and degrees of the whole answer or its first primitive, or that one's number (lerobot).",
)
@click.option(
    "--fps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Steps a second, by which times are made (lerobot).",
)
@click.option(
    "--num_video_frames",
    "--num-video-frames",
    "--num-frames",
    "num_frames",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Frames shown of each step (llava).",
)
@click.option(
    "--data_path",
    "--data-path",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of registered datasets (llava).",
)
@click.pass_context
def convert(
    ctx: click.Context, source: str, origin: str | None, target: str | None, output: Path, workers: int, **options: Any
) -> None:
    """Make training data of SOURCE, or write it in another format.

    \b
        navila data convert --from vln-ce train.json.gz --scene-root scenes --output runs/r2r
        navila data convert --from r2r R2R_train.json --connectivity connectivity --output runs/train
        navila data convert --to lerobot runs/r2r --output runs/r2r-lerobot

    `--from vln-ce` walks the episodes of a file and writes NaVILA-Dataset's format, as `navila data record` does; the
    result does not depend on --workers. `--from r2r` writes paths of viewpoints as VLN-CE's episodes: NAME.json.gz and
    its _gt file, in habitat's axes and on the floor below the cameras. `--to lerobot` writes navigation steps as a
    LeRobotDataset v3.0, `--to llava` a mixture of images and steps as LLaVA's conversations. An interrupted conversion
    goes on when the same command is run again.
    """
    if (origin is None) == (target is None):
        raise ConfigError("Give either --from, to start from episodes or paths, or --to FORMAT, to write another one.")
    mine = _OF_FORMATS[target] if target is not None else _OF_PATHS if origin == "r2r" else _OF_EPISODES
    everyone = {*_OF_EPISODES, *_OF_PATHS, *(name for names in _OF_FORMATS.values() for name in names)}
    for name in sorted(everyone - set(mine)):
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            way = f"--from {origin}" if target is None else f"--to {target}"
            raise ConfigError(f"--{name.replace('_', '-')} is of no use with {way}: leave it out.")

    from navila_data.commands.progress import progress_bar

    chosen = {name: options[name] for name in mine if name in options}
    if origin == "r2r":
        from navila.connectivity import ConnectivityGraphs
        from navila.episodes import write_episodes
        from navila.r2r import read_r2r

        episodes = read_r2r(source, ConnectivityGraphs(chosen["connectivity"]))
        file = output / f"{Path(source).name.removesuffix('.gz').rpartition('.')[0]}.json.gz"
        write_episodes(file, episodes)
        click.echo(f"{len(episodes)} episodes in {file}")
        return
    if origin is not None:
        from navila_data.recording import record
        from navila_data.vln_ce import ConvertSettings

        settings = ConvertSettings(episodes_file=Path(source), **chosen)
        with progress_bar("episodes", "finished episodes") as progress:
            manifest = record(settings, output, workers=workers, progress=progress)
        for skipped in manifest["skipped"]:
            click.echo(f"Left out episode {skipped['episode']}: {skipped['why']}", err=True)
        walked = manifest["episodes"] - len(manifest["skipped"])
        click.echo(f"{manifest['records']} records of {walked} of {manifest['episodes']} episodes in {output}")
        return
    if target == "lerobot":
        from navila_data.lerobot import ExportSettings, export

        with progress_bar("episodes", "finished files") as progress:
            manifest = export(Path(source), output, ExportSettings(**chosen), progress=progress)
        click.echo(f"{manifest['records']} steps of {manifest['episodes']} episodes in {output}")
        return
    from navila_data.llava_export import to_llava

    with progress_bar("records", "no records") as progress:
        manifest = to_llava(source, output, progress=progress, **chosen)
    click.echo(f"{manifest['records']} records in {output}")

"""`navila navigate`: what a model would do on a recorded walk, or before a camera."""

from __future__ import annotations

import math
import signal
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from navila.cli.loading import deciding_options, loading_options
from navila.cli.sections import SectionedCommand
from navila.errors import ConfigError, DataError

if TYPE_CHECKING:
    from navila.actions import Decoding
    from navila.replay import Camera, Recording

_NO_FRAME = "There is no frame to decide on: check the video or the camera."


@click.command(cls=SectionedCommand)
@click.option("-m", "--model", metavar="PATH", help="Checkpoint folder or Hub id.")
@click.option("-i", "--instruction", required=True, metavar="TEXT", help="What the agent is to do.")
@click.option("--video", type=click.Path(path_type=Path), metavar="FILE", help="A video, or a folder of frames.")
@click.option("--camera", metavar="INDEX|URL", help="A camera of this machine by its number, or a stream.")
@click.option(
    "--fps",
    type=click.FloatRange(min=0.01, max=100),
    default=2.0,
    show_default=True,
    help="Decisions a second of video, or at most a second before a camera; each sees the frames of those before.",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="End after N decisions.")
@click.option("--until-stop", is_flag=True, help="End when the model says stop.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.mp4",
    help="Film with the action in each picture; FILE.jsonl beside it holds the decisions. VIDEO.navigate.mp4 here by "
    "default, none of a camera.",
)
@deciding_options
@click.option("--dry-run", is_flag=True, help="Tell what would be looked at, without a model.")
@loading_options
def navigate(
    model: str | None,
    instruction: str,
    video: Path | None,
    camera: str | None,
    fps: float,
    steps: int | None,
    until_stop: bool,
    output: Path | None,
    num_frames: int | None,
    decoding: Decoding,
    template: str | None,
    dry_run: bool,
    **loading: Any,
) -> None:
    """Let a model follow an instruction through a recorded walk or before a camera, and show what it decides.

    Nothing is moved: on a video the walk goes on as it was recorded, and a camera is carried by you, or by a robot
    whose own program reads the decisions from standard output.

    \b
        navila navigate -m CHECKPOINT --video walk.mp4 -i "Go down the hall and stop at the sofa."
        navila navigate -m CHECKPOINT --camera 0 -i "Find the door."
    """
    if not instruction.strip():
        raise ConfigError("The instruction is empty: say with --instruction what the agent is to do.")
    if (video is None) == (camera is None):
        raise ConfigError("Give one of --video and --camera: where the frames come from.")
    if math.isnan(fps):
        raise ConfigError("--fps is no number: give the decisions a second, 0.01 to 100.")
    if model is None and not dry_run:
        raise ConfigError("The model is missing: give --model, or --dry-run to do without.")
    from navila.replay import Camera, Film, Recording, check_output, decide, in_words

    if output is None and video is not None:
        output = Path(f"{video.resolve().stem}.navigate.mp4")
    if output is not None:
        check_output(output)
        if video is not None and output.resolve() == video.resolve():
            raise ConfigError(f"--output {output} is the video itself: give another name.")
    with ExitStack() as open_:
        source = Recording(video, fps) if video is not None else open_.enter_context(Camera(str(camera), fps))
        total = min(len(source), steps or len(source)) if isinstance(source, Recording) else steps
        if dry_run:
            click.echo(_plan(source, fps, total, output))
            return
        from navila.cli.asking import load_for

        loaded = load_for({"model_path": model, "template": template, **loading})

        from navila.navigator import Navigator

        navigator = Navigator(loaded, num_frames, decoding=decoding)
        navigator.reset(instruction)
        film = None
        if output is not None:
            jsonl = output.with_suffix(".jsonl")
            film = open_.enter_context(Film(output, jsonl, instruction=instruction, rate=fps))
        of = "" if total is None else f"/{total}"
        done, broken = 0, None
        # Who supervises a robot's programs ends them by SIGTERM.
        open_.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        try:
            for step in islice(decide(navigator, iter(source)), steps):
                if film is not None:
                    film.add(step)
                done += 1
                click.echo(f"{done}{of}  {step.time:.1f} s  {in_words(step.action)}  {step.action.text}")
                if until_stop and step.action.kind == "stop":
                    break
            if not done:
                raise DataError(_NO_FRAME)
        except KeyboardInterrupt:
            # The usual end before a camera; of a video, half of it is not what was asked for.
            if video is not None:
                raise
        except DataError as error:
            # What came before it broke off is used.
            if not done:
                raise
            broken = error
    unread = f" ({navigator.n_unparsed} answers named no action)" if navigator.n_unparsed else ""
    shown = f": {output} and {output.with_suffix('.jsonl')}" if output is not None and done else ""
    click.echo(f"{done} decision{'s' * (done != 1)}{unread}{shown}", err=True)
    if broken is not None and camera is not None:
        # Whoever reads the decisions has to know that there are no more.
        raise broken
    if broken is not None:
        click.echo(f"Warning: {broken} What came before is used.", err=True)


def _plan(source: Recording | Camera, fps: float, total: int | None, output: Path | None) -> str:
    """What a run would do, with the first frame decoded to be sure of it."""
    first = next(iter(source), None)
    if first is None:
        raise DataError(_NO_FRAME)
    width, height = first[1].size
    many = "decisions until Ctrl-C" if total is None else f"{total} in all"
    return f"{width} x {height} pixels, {fps:g} decisions a second, {many}" + (f"; film: {output}" if output else "")

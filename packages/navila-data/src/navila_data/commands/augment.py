"""`navila data augment`: questions and captions written by a model or an endpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from navila.cli.loading import LOADING, loading_options
from navila.cli.sections import SectionedCommand
from navila.errors import ConfigError

if TYPE_CHECKING:
    from navila_data.answering import Answerer

_FOLDER = click.Path(path_type=Path, file_okay=False)
_OPTIONS = (
    click.option("--output", type=_FOLDER, required=True, help="Folder to write to."),
    click.option("-m", "--model", "model_path", metavar="PATH", help="Checkpoint folder or Hub id that answers."),
    click.option(
        "--api-base", metavar="URL", help="OpenAI-compatible endpoint that answers, e.g. http://localhost:8000/v1."
    ),
    click.option("--api-model", metavar="NAME", help="The endpoint's model. Its key is read from OPENAI_API_KEY."),
    click.option(
        "--parallel",
        type=click.IntRange(1, 256),
        default=8,
        show_default=True,
        help="Questions asked at a time.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=120.0,
        show_default=True,
        help="Seconds without a byte after which an attempt is given up.",
    ),
    click.option(
        "--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Longest answer in tokens."
    ),
    click.option(
        "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 takes the likeliest."
    ),
    click.option(
        "--max-failed",
        type=click.FloatRange(0, 1),
        default=0.05,
        show_default=True,
        help="Share of the records without an answer above which the dataset is not called complete.",
    ),
)


def _answering_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of who answers; they arrive as `answerer`, which makes one, and `sampling`."""

    @functools.wraps(command)
    def with_answerer(
        *arguments: Any,
        model_path: str | None,
        api_base: str | None,
        api_model: str | None,
        parallel: int,
        timeout: float,
        max_tokens: int,
        temperature: float,
        **options: Any,
    ) -> Any:
        loading = {name: options.pop(name) for name in LOADING}
        if (model_path is None) == (api_base is None):
            raise ConfigError("Say who answers: give either --model, or --api-base and --api-model.")
        if (api_base is None) != (api_model is None):
            raise ConfigError("--api-base and --api-model go together: give a URL and the name of its model.")
        sampling = {"max_tokens": max_tokens, "temperature": temperature}

        def answerer() -> Answerer:
            from navila_data.answering import EndpointAnswerer, ModelAnswerer

            if api_base is not None and api_model is not None:
                from navila.endpoint import Endpoint

                endpoint = Endpoint.from_environment(api_base, api_model, timeout=timeout)
                return EndpointAnswerer(endpoint, parallel=parallel, **sampling)
            from navila.cli.asking import load_for

            assert model_path is not None
            model = load_for({"model_path": model_path, "template": None, **loading})
            return ModelAnswerer(model_path, model, **sampling)

        return command(*arguments, answerer=answerer, sampling=sampling, **options)

    command_with_options: Callable[..., Any] = loading_options(with_answerer)
    for option in reversed(_OPTIONS):
        command_with_options = option(command_with_options)
    return command_with_options


@click.group()
def augment() -> None:
    """Write questions and captions with a model or an endpoint."""


@augment.command(cls=SectionedCommand)
@click.argument("data")
@_answering_options
@click.option(
    "--task",
    type=click.Choice(["cap2qa", "rephrase"]),
    default="cap2qa",
    show_default=True,
    help="Questions with answers about each caption, or the caption in other words.",
)
@click.option(
    "--questions", type=click.IntRange(1, 50), default=4, show_default=True, help="Questions about each caption."
)
@click.option("--data_path", "--data-path", type=_FOLDER, help="Folder of registered datasets.")
def caption2qa(
    data: str,
    output: Path,
    answerer: Callable[[], Answerer],
    sampling: dict[str, Any],
    task: Any,
    questions: int,
    max_failed: float,
    data_path: Path | None,
) -> None:
    """Turn the captions of DATA, a mixture, into questions and answers.

    \b
        navila data augment caption2qa video:captions --output runs/qa \\
            --api-base http://localhost:8000/v1 --api-model llama-3-8b

    The first answer of a record is its caption. The result trains as `llava:OUTPUT` or `video:OUTPUT`, and shows the
    images and videos where they lie. An interrupted run goes on when the same command is run again.
    """
    from navila_data.caption_qa import CaptionSettings, caption_to_qa
    from navila_data.commands.progress import progress_bar
    from navila_data.dataset import LoadOptions
    from navila_data.mixture import Mixture

    settings = CaptionSettings(task=task, questions=questions, most_failed=max_failed)
    # Two frames tell a navigation step, which has a history, from an image.
    mixture = Mixture.open(data, data_path, LoadOptions(num_frames=2))
    who = answerer()
    with progress_bar("captions", "answers") as progress:
        manifest = caption_to_qa(mixture, data, output, who, settings, sampling=sampling, progress=progress)
    _tell(manifest, output, "captions")


@augment.command(cls=SectionedCommand)
@click.argument("data")
@_answering_options
@click.option("--prompt", help="What asks for a caption. [default: an elaborate description]")
@click.option(
    "--num_video_frames",
    "--num-video-frames",
    "--num-frames",
    "num_frames",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Frames shown of a video.",
)
@click.option("--data_path", "--data-path", type=_FOLDER, help="Folder of registered datasets.")
def video_caption(
    data: str,
    output: Path,
    answerer: Callable[[], Answerer],
    sampling: dict[str, Any],
    prompt: str | None,
    num_frames: int,
    max_failed: float,
    data_path: Path | None,
) -> None:
    """Describe the videos of DATA: a mixture, or a folder of videos or of folders of frames.

    \b
        navila data augment video-caption clips/ --model CKPT --output runs/captions

    The result trains as `video:OUTPUT`, or as `llava:OUTPUT` where the videos are folders of frames, and shows them
    where they lie. An interrupted run goes on when the same command is run again.
    """
    from navila_data.commands.progress import progress_bar
    from navila_data.video_captions import VideoCaptionSettings, caption_videos, videos_of

    chosen = {"prompt": prompt} if prompt else {}
    settings = VideoCaptionSettings(num_frames=num_frames, most_failed=max_failed, **chosen)
    videos = videos_of(data, data_path)
    who = answerer()
    with progress_bar("videos", "captions") as progress:
        manifest = caption_videos(videos, data, output, who, settings, sampling=sampling, progress=progress)
    _tell(manifest, output, "videos")


def _tell(manifest: dict[str, Any], output: Path, what: str) -> None:
    for failed in manifest["failed"]:
        click.echo(f"No answer: {failed['record']}: {failed['why']}", err=True)
    click.echo(f"{manifest['records']} records in {output}; {len(manifest['failed'])} {what} have no answer")

"""What the commands that ask a model have in common: their options, loading, and showing what is going on."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from navila.cli import loading
from navila.errors import ConfigError

if TYPE_CHECKING:
    from navila.model.chat import Chat
    from navila.model.media import Part
    from navila.model.modeling import NavilaForCausalLM

_FILE = click.Path(path_type=Path)

_OPTIONS = (
    click.option("--image", "images", multiple=True, type=_FILE, metavar="FILE", help="An image; may be repeated."),
    click.option(
        "--video", "videos", multiple=True, type=_FILE, metavar="FILE", help="A video, or a folder of frames."
    ),
    click.option(
        "--num-frames", type=click.IntRange(min=1), help="Frames shown of a video; the model's number by default."
    ),
    click.option(
        "--fps",
        type=click.FloatRange(min=0),
        help="Frames shown of each second, at most --num-frames; 0 spreads them evenly. The model's by default.",
    ),
    click.option(
        "--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Length of the answer."
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        help="0 always takes the likeliest.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(min=0, max=1, min_open=True),
        default=1.0,
        show_default=True,
        help="Nucleus of sampling.",
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="A text that ends the answer; may be repeated."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of sampling."),
)


def asking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a question: media, sampling of videos, generation. They arrive by their names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_LOADING = (
    click.option("-m", "--model", "model_path", required=True, metavar="PATH", help="Checkpoint folder or Hub id."),
    loading.conversation_option,
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of which model is asked and how it is loaded, for `load_for`."""
    command = loading.loading_options(command)
    for option in reversed(_LOADING):
        command = option(command)
    return command


def load_for(options: Mapping[str, Any]) -> NavilaForCausalLM:
    """The model that `model_options` name."""
    # Light: a wrong path is told at once.
    from navila.model.location import checkpoint_folder, read_root, split_adapter

    folder = checkpoint_folder(options["model_path"])
    read_root(split_adapter(folder, options["model_base"])[0])
    with working(f"Loading {options['model_path']}"):
        from navila.model.load import load

        return load(folder, **{name: value for name, value in options.items() if name != "model_path"})


def settings_of(
    *, max_new_tokens: int, temperature: float, top_p: float, stop: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """The generation settings that options mean: a temperature above 0 is sampling.

    Raises:
        ConfigError: --top-p without a temperature.
    """
    if not temperature and top_p != 1:
        raise ConfigError(f"--top-p {top_p:g} is of sampling alone: give a --temperature above 0 as well.")
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature else {}
    return {"max_new_tokens": max_new_tokens, "stop": stop, "seed": seed, **sampling}


def media_of(images: tuple[Path, ...], videos: tuple[Path, ...]) -> list[Part]:
    """Images and videos as parts of a message, the images first.

    Raises:
        ConfigError: a file is missing, or an image is a folder.
    """
    missing = next((path for path in (*images, *videos) if not path.exists()), None)
    if missing is not None:
        raise ConfigError(f"{missing} does not exist: check the path given to --image or --video.")
    folder = next((path for path in images if path.is_dir()), None)
    if folder is not None:
        raise ConfigError(f"{folder} is a folder: give its files as --image, or the frames of a video as --video.")

    from navila.images import read_image
    from navila.video import Video

    return [*(read_image(path) for path in images), *(Video(path) for path in videos)]


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's stderr what is going on and for how long.

    Yields a function that says what is going on now; the empty text takes the line away.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    now, over, started = [what], threading.Event(), time.monotonic()
    signs = itertools.cycle("|/-\\")

    def show() -> None:
        click.echo(f"\r{next(signs)} {now[0]} ({time.monotonic() - started:.0f} s)\x1b[K", nl=False, err=True)

    def turn() -> None:
        while not over.wait(0.1):
            show()

    def say(text: str) -> None:
        now[0] = text
        if over.is_set():
            return
        if text:
            show()
            return
        over.set()
        thread.join()
        click.echo("\r\x1b[K", nl=False, err=True)

    thread = threading.Thread(target=turn, daemon=True)
    show()
    thread.start()
    try:
        yield say
    finally:
        say("")


def answer(chat: Chat, parts: list[Any], *, stream: bool) -> None:
    """Ask, and print the answer as it comes, or whole."""
    with working("Reading") as say:
        chat.progress = lambda done, total: say(f"Encoded {done} of {total} frames")
        try:
            if not stream:
                said = chat.ask(parts)
                say("")
                click.echo(said)
                return
            for piece in chat.stream(parts):
                say("")
                click.echo(piece, nl=False)
            click.echo()
        finally:
            chat.progress = None

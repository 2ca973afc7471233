"""`navila infer`: ask a model about images or a video."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from navila.cli.asking import answer, asking_options, load_for, media_of, model_options, settings_of
from navila.cli.sections import SectionedCommand
from navila.errors import ConfigError

_FILE = click.Path(path_type=Path)


@click.command(cls=SectionedCommand)
@click.argument("question", required=False)
@model_options
@asking_options
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Print the answer word by word; by default where it goes to a terminal.",
)
@click.option("--batch", type=_FILE, metavar="FILE", help="Answer every question of a JSON Lines file, into --output.")
@click.option(
    "--output", type=_FILE, metavar="FILE", help="JSON Lines file of answers; one that is there is completed."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Questions of --batch at a time."
)
def infer(
    question: str | None,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    num_frames: int | None,
    fps: float | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop: tuple[str, ...],
    seed: int,
    stream: bool | None,
    batch: Path | None,
    output: Path | None,
    batch_size: int,
    **loading: Any,
) -> None:
    """Ask a model QUESTION about images or a video, and print the answer.

    Images come first, then videos, each in the order given, then the question; - reads it from standard input. Without
    a question, `navila chat` opens.

    \b
        navila infer --model CKPT --image kitchen.jpg "What is on the table?"
        navila infer --model CKPT --video walk.mp4 --fps 1 "Describe the route."

    A line of --batch is {"question": "…", "images": ["a.jpg"], "videos": ["b.mp4"], "id": "…"}, where only the question
    is needed and paths are relative to the file.
    """
    settings = settings_of(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, stop=stop, seed=seed)
    if (batch is None) != (output is None):
        raise ConfigError("--batch and --output go together: give a file of questions and one for the answers.")
    if batch is not None and output is not None:
        if question is not None or images or videos:
            raise ConfigError("--batch brings its own questions, images and videos: leave the others out.")
        from navila.cli.batch import answer_file

        answer_file(batch, output, loading, settings=settings, num_frames=num_frames, fps=fps, batch_size=batch_size)
        return
    if question is None and not sys.stdin.isatty():
        raise ConfigError("The question is missing: give it, or - to read it from standard input.")
    if question == "-":
        question = sys.stdin.read().strip()
        if not question:
            raise ConfigError("Standard input holds no question: write one to it.")
    media = media_of(images, videos)
    model = load_for(loading)

    from navila.model.chat import Chat

    chat = Chat(model, num_video_frames=num_frames, fps=fps, **settings)
    if question is not None:
        answer(chat, [*media, question], stream=sys.stdout.isatty() if stream is None else stream)
        return
    from navila.cli.repl import Repl

    Repl(chat, name=loading["model_path"], media=media, shown=[*images, *videos]).run()

"""`navila chat`: talk with a model about images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from navila.cli.asking import asking_options, load_for, media_of, model_options, settings_of
from navila.cli.sections import SectionedCommand


@click.command(cls=SectionedCommand)
@model_options
@asking_options
def chat(
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    num_frames: int | None,
    fps: float | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop: tuple[str, ...],
    seed: int,
    **loading: Any,
) -> None:
    """Talk with a model; /image FILE and /video FILE show it something, /help tells the rest.

    Images and videos given here are shown with the first question.

    \b
        navila chat --model CKPT --image kitchen.jpg
    """
    settings = settings_of(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, stop=stop, seed=seed)
    media = media_of(images, videos)
    model = load_for(loading)

    from navila.cli.repl import Repl
    from navila.model.chat import Chat

    session = Chat(model, num_video_frames=num_frames, fps=fps, **settings)
    Repl(session, name=loading["model_path"], media=media, shown=[*images, *videos]).run()

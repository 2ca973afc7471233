"""`navila infer`: ask a model about images or a video."""

from __future__ import annotations

from pathlib import Path

import click

from navila.errors import ConfigError

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("question")
@click.option("-m", "--model", "model_path", required=True, metavar="PATH", help="Checkpoint folder or Hub id.")
@click.option("--model-base", "--model_base", metavar="PATH", help="The whole model under an adapter given as --model.")
@click.option("--image", "images", multiple=True, type=_FILE, metavar="FILE", help="An image; may be given many times.")
@click.option("--video", "videos", multiple=True, type=_FILE, metavar="FILE", help="A video, or a folder of frames.")
@click.option(
    "--num-frames", type=click.IntRange(min=1), help="Frames shown of a video; the model's number by default."
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Length of the answer."
)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 always takes the likeliest."
)
@click.option(
    "--top-p", type=click.FloatRange(min=0, max=1), default=1.0, show_default=True, help="Nucleus of sampling."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of sampling.")
@click.option(
    "--conversation",
    "--template",
    "template",
    metavar="NAME",
    help="Conversation template; the checkpoint's by default.",
)
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N; a GPU where there is one by default.")
@click.option(
    "--dtype", metavar="NAME", help="float16, bfloat16 or float32; float16 on a GPU, else float32, by default."
)
def infer(
    question: str,
    model_path: str,
    model_base: str | None,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    num_frames: int | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    template: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Ask a model QUESTION about images or a video, and print the answer.

    Images come first, then videos, each in the order given, then the question.

    \b
        navila infer --model CKPT --image kitchen.jpg "What is on the table?"
        navila infer --model CKPT --video walk.mp4 "Describe the route."
    """
    missing = next((path for path in (*images, *videos) if not path.exists()), None)
    if missing is not None:
        raise ConfigError(f"{missing} does not exist: check the path given to --image or --video.")

    # Both are light: a wrong path is told at once.
    from navila.model.location import checkpoint_folder, read_root, split_adapter

    folder = checkpoint_folder(model_path)
    read_root(split_adapter(folder, model_base)[0])

    import torch

    from navila.images import read_image
    from navila.model.load import load
    from navila.video import read_video

    model = load(folder, model_base=model_base, device=device, dtype=dtype, template=template)
    frames = num_frames or model.config.num_video_frames
    media = [read_image(path) for path in images]
    for path in videos:
        media += read_video(path, frames)
    torch.manual_seed(seed)
    answer = model.generate_content(
        [*media, question],
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature or 1.0,
        top_p=top_p,
    )
    click.echo(answer)

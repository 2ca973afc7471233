"""What a user hands over, as a model takes it: text with `<image>`, and frames that are decoded and encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from navila.constants import IMAGE_TOKEN
from navila.conversation import ROLES, Role
from navila.errors import DataError
from navila.images import read_image
from navila.model.tiling import dynamic_tiles, scale_tiles
from navila.tokenization import escape_user_text
from navila.video import Video, is_video, read_video

if TYPE_CHECKING:
    from navila.model.generation import ConversationalModel
    from navila.model.nvila import Nvila

#: A part of a message: text, an image (PIL or (H, W, 3) uint8), the path of an image or a video, or a `Video`.
Part = str | Image.Image | NDArray[np.uint8] | Path | Video
#: A message: text, or parts in order.
Content = str | Sequence[Part]
#: What a model is asked: a message of the user, or a conversation as (role, message) pairs, the last one the user's.
Prompt = Content | Sequence[tuple[Role, Content]]
#: Told how many frames of how many are encoded.
Progress = Callable[[int, int], None]

#: Frames that go through the vision encoder at a time.
ENCODE_BATCH = 32


@dataclass(eq=False)
class Frame:
    """An image of a prompt: itself until it is encoded, its features afterwards."""

    image: Image.Image | None = None
    features: Tensor | None = None
    """(T, D)."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message as its template takes it."""

    role: Role
    text: str
    """With `<image>` where images go."""
    frames: tuple[Frame, ...] = ()
    places: tuple[int, ...] = ()
    """How many of the frames each `<image>` stands for."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A part of a message that is no text."""

    frames: Sequence[Frame]
    places: tuple[int, ...]
    text: str


class MediaReader:
    """Turns messages into `Turn`s; a file or an image that occurs many times is one `Frame` or list of them."""

    def __init__(self, model: ConversationalModel, *, num_video_frames: int | None = None, fps: float | None = None):
        """Read for a model; how videos are sampled is what its config says unless given (see `Video`)."""
        self._tokenizer = model.tokenizer
        self._model = model
        self._config = model.config
        self._num_video_frames = model.config.num_video_frames if num_video_frames is None else num_video_frames
        self._fps = fps
        # With the part, so that its id is not given to another while it is in use here.
        self._read: dict[Any, tuple[Part, Shown]] = {}

    def turns(self, prompt: Prompt) -> list[Turn]:
        """The turns of a prompt.

        Raises:
            DataError: it is neither a text nor a list; a part is neither text nor an image, or cannot be read; a
                message is empty, or the last one not the user's.
        """
        if not isinstance(prompt, Sequence):
            raise DataError(
                f"A prompt is a text or a list of parts, got a {type(prompt).__name__}: put it into a list."
            )
        if isinstance(prompt, str) or not any(isinstance(part, tuple) for part in prompt):
            return [self.turn("user", prompt)]  # pyright: ignore[reportArgumentType]  no pairs in it
        turns: list[Turn] = []
        for number, message in enumerate(prompt):
            if not (isinstance(message, tuple) and len(message) == 2 and message[0] in ROLES):
                raise DataError(f"Message {number} of a conversation must be ('user', …) or ('assistant', …).")
            turns.append(self.turn(*message))
        if ROLES[turns[-1].role] != "user":
            raise DataError("The last message of a conversation must be the user's, for the model to answer it.")
        return turns

    def turn(self, role: Role, content: Content) -> Turn:
        """One message; raises as `turns`."""
        text, frames, places = "", [], []
        parts = [content] if isinstance(content, str) else content
        only = (
            self._model.nvila is not None
            and sum(not isinstance(part, str) and not _is_video(part) for part in parts) == 1
        )
        # Neighbouring texts are one text: a control token must not pass because two of them hold its halves.
        for is_text, neighbours in groupby(parts, lambda part: isinstance(part, str)):
            if is_text:
                text += escape_user_text("".join(map(str, neighbours)), self._tokenizer)
                continue
            for part in neighbours:
                shown = self._shown(part, only=only)
                frames += shown.frames
                places += shown.places
                text += shown.text
        if not text.strip():
            raise DataError("A message is empty: give it text, an image or a video.")
        if frames and ROLES[role] != "user":
            raise DataError("An assistant's message holds an image or a video: only the user can show any.")
        return Turn(role=role, text=text.strip(), frames=tuple(frames), places=tuple(places))

    def _shown(self, part: Any, *, only: bool) -> Shown:
        """A part that is no text; `only` says whether it is the one image of its message."""
        key = part if isinstance(part, Path | Video) else id(part), only
        if key not in self._read:
            images = self._images(part)
            # A short video repeats images.
            distinct = {id(image): Frame(image) for image in images}
            frames = [distinct[id(image)] for image in images]
            if self._model.nvila is None:
                shown = Shown(frames=frames, places=(1,) * len(frames), text=f"{IMAGE_TOKEN}\n" * len(frames))
            elif _is_video(part):
                shown = _nvila_video(self._model, self._model.nvila, frames)
            else:
                shown = _nvila_image(self._model, self._model.nvila, frames[0], only)
            self._read[key] = part, shown
        return self._read[key][1]

    def _images(self, part: Any) -> list[Image.Image]:
        if isinstance(part, Path):
            if not is_video(part):
                return [read_image(part)]
            part = Video(part)
        if not isinstance(part, Video):
            return [as_pil(part)]
        count = self._num_video_frames if part.num_frames is None else part.num_frames
        fps = self._fps if part.fps is None else part.fps
        if fps is None:
            fps = 0.0 if Path(part.path).is_dir() else float(self._config.fps)
        return read_video(part.path, count, fps=fps, start=part.start, end=part.end)


@torch.inference_mode()
def encode(
    model: ConversationalModel, frames: Sequence[Frame], progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Features (N, T, D) of the distinct frames, and which of them each frame is, (K,) long.

    Frames seen for the first time are encoded, and keep their features instead of their image.
    """
    distinct = {frame: row for row, frame in enumerate(dict.fromkeys(frames))}
    new = [frame for frame in distinct if frame.features is None]
    for start in range(0, len(new), ENCODE_BATCH):
        batch = new[start : start + ENCODE_BATCH]
        if progress is not None:
            progress(start, len(new))
        pixels = model.process_images([frame.image for frame in batch if frame.image is not None])
        encoded = model.encode_images(pixels.to(model.vision_tower.device, model.vision_tower.dtype))
        for frame, features in zip(batch, encoded, strict=True):
            # A copy: a view would keep the whole batch's features alive.
            frame.features, frame.image = features.clone(), None
    if new and progress is not None:
        progress(len(new), len(new))
    features = torch.stack([frame.features for frame in distinct if frame.features is not None])
    return features, torch.tensor([distinct[frame] for frame in frames], device=features.device)


def _is_video(part: Any) -> bool:
    return isinstance(part, Video) or (isinstance(part, Path) and is_video(part))


def _nvila_image(model: ConversationalModel, nvila: Nvila, frame: Frame, only: bool) -> Shown:
    """An image as NVILA shows it: the one of a message in tiles, where the checkpoint says so."""
    if not (only and nvila.aspect and frame.image is not None):
        return Shown(frames=[frame], places=(1,), text=IMAGE_TOKEN)
    side = model.vision_tower.image_size
    if nvila.aspect == "dynamic":
        tiles = dynamic_tiles(frame.image, min_tiles=nvila.min_tiles, max_tiles=nvila.max_tiles, side=side)
        frames = [Frame(tile) for tile in tiles]
        return Shown(frames=frames, places=(1,) * len(tiles), text=f"{IMAGE_TOKEN}\n" * len(tiles))
    tiles, grids = scale_tiles(frame.image, nvila.scales, max_tiles=nvila.max_tiles, side=side)
    with torch.inference_mode():
        pixels = model.process_images(tiles).to(model.vision_tower.device, model.vision_tower.dtype)
        frames = [Frame(features=features.clone()) for features in model.encode_scales(pixels, grids)]
    return Shown(frames=frames, places=(len(frames),), text=IMAGE_TOKEN)


def _nvila_video(model: ConversationalModel, nvila: Nvila, frames: Sequence[Frame]) -> Shown:
    """A video as NVILA shows it: neighbouring frames averaged, in every pass over it.

    Raises:
        DataError: the number of frames is no multiple of those that become one.
    """
    for pool in nvila.pool_sizes:
        if len(frames) % pool:
            raise DataError(
                f"A video of {len(frames)} frames cannot be pooled by {pool}, as pool_sizes of the checkpoint's "
                f"video_encoder ask: set num_video_frames (--num-frames) to a multiple of {pool}."
            )
    shown = list(frames)
    if nvila.pool_sizes != (1,):
        distinct, index = encode(model, frames)
        features = distinct[index]
        passes = [features.unflatten(0, (-1, pool)).mean(1) for pool in nvila.pool_sizes]
        shown = [Frame(features=one.clone()) for one in torch.cat(passes)]
    return Shown(frames=shown, places=(1,) * len(shown), text=IMAGE_TOKEN * len(shown))


def as_pil(image: Any) -> Image.Image:
    """A PIL image from one, or from an (H, W, 3) uint8 array.

    Raises:
        DataError: it is neither.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    what = f"{image.dtype} array {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(f"An image must be PIL or a uint8 array (H, W, 3), got a {what}: convert it first.")

"""A navigator on a recorded walk or before a camera: what it would do at each frame, and a film that shows it."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image, ImageDraw, ImageFont, ImageOps

from navila.actions import Action, Kind
from navila.errors import ConfigError, DataError
from navila.files import write_atomically
from navila.frames import fps_indices
from navila.images import read_image
from navila.video import IMAGE_SUFFIXES, FrameIndex, frame_index, iterate_frames

if TYPE_CHECKING:
    from navila.navigator import Navigator

#: Longest side of a film's picture in pixels.
LONGEST_SIDE = 960
#: Seconds a camera may take to open, and to give its next frame.
PATIENCE = 10.0

_INK, _SOFT, _PAPER, _ARROW, _STOP = (235, 239, 245), (150, 160, 175), (18, 24, 33), (255, 210, 63), (226, 72, 61)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A frame and what the navigator decided on it."""

    number: int
    """From 0 on."""
    time: float
    """Seconds since the beginning of the video or the session."""
    image: Image.Image
    action: Action
    seconds: float
    """That the decision took."""

    def facts(self) -> dict[str, Any]:
        """All but the picture, for a line of JSON."""
        action = self.action
        return {
            "step": self.number,
            "time": round(self.time, 3),
            "action": action.kind,
            "magnitude": action.magnitude,
            "primitives": list(action.primitives),
            "text": action.text,
            "status": action.status,
            "seconds": round(self.seconds, 3),
        }


def decide(navigator: Navigator, frames: Iterator[tuple[float, Image.Image]]) -> Iterator[Step]:
    """A decision on each frame, the ones before it being the history; the navigator has to be `reset` before."""
    for number, (when, image) in enumerate(frames):
        began = time.monotonic()
        action = navigator.act(image)
        yield Step(number=number, time=when, image=image, action=action, seconds=time.monotonic() - began)
        # A camera's next frame takes a while to come.
        navigator.anticipate(frames=1)


def in_words(action: Action) -> str:
    """`forward 75 cm`, `left 30°`, `stop`."""
    unit = {"stop": "", "forward": f" {action.magnitude} cm"}.get(action.kind, f" {action.magnitude}°")
    return action.kind + unit


class Recording:
    """Frames of a video file, or of a folder of images, at a rate: (seconds, RGB image) one after the other."""

    def __init__(self, path: Path, rate: float) -> None:
        """Index the video; nothing is decoded.

        Args:
            rate: frames taken of each second; a folder, which has no times, gives all of its images at this rate.

        Raises:
            DataError: the video is missing, empty or cannot be read.
        """
        self.path, self.rate = path, rate
        self._files: list[Path] = []
        if path.is_dir():
            self._files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not self._files:
                raise DataError(f"The folder {path} holds no images: give a video file or a folder of frames.")
            self.times: Sequence[float] = [number / rate for number in range(len(self._files))]
            return
        index = frame_index(path)
        self._missing = index.missing
        self._indices = self._choose(index)
        self.times = [index.seconds[i] for i in self._indices]

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[tuple[float, Image.Image]]:
        """One frame at a time; raises DataError in the midst, or after the last, where the file breaks off."""
        if self._files:
            yield from ((when, read_image(file)) for when, file in zip(self.times, self._files, strict=True))
            return
        frames = iterate_frames(self.path, self._choose)
        for when, (_, image) in zip(self.times, frames, strict=False):
            yield when, image
        # The end of the iterator is where it tells of frames that could not be decoded.
        next(frames, None)
        if self._missing:
            raise DataError(f"{self.path} breaks off: its last {self._missing} frames are missing; fetch it again.")

    def _choose(self, index: FrameIndex) -> list[int]:
        longest = len(index) + math.ceil(index.seconds[-1] * self.rate) + 1
        # A rate above the video's own would show frames twice.
        return list(dict.fromkeys(fps_indices(index.seconds, longest, fps=self.rate, rate=index.rate)))


class Camera:
    """The latest frame of a camera or a stream, read by a thread; a context manager."""

    def __init__(self, source: str, rate: float) -> None:
        """Open `source`: the number of a camera of this machine, or an address (rtsp://, http://, …).

        Args:
            rate: frames taken a second, at most.

        Raises:
            DataError: it cannot be opened, or has no video.
        """
        import av
        from av.error import FFmpegError

        if not source:
            raise DataError("The camera has no name: give its number or address.")
        self.source, self.rate = source, rate
        name, options = _device(source)
        try:
            self._container: Any = av.open(name, "r", timeout=PATIENCE, **options)
        except (FFmpegError, ValueError) as error:
            raise DataError(
                f"The camera {source} cannot be opened ({_reason(error)}): check its number or address, and whether "
                "another program uses it."
            ) from None
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{source} has no video: give the number or the address of a camera.")
        self._changed = threading.Condition()
        self._latest: Image.Image | None = None
        self._over = False
        self._broken: str | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._over = True
        self._thread.join(PATIENCE)

    def __iter__(self) -> Iterator[tuple[float, Image.Image]]:
        """The latest frame each time, until the stream ends: (seconds since the first was asked for, RGB image).

        Raises:
            DataError: no frame came for 10 s, or the stream broke off.
        """
        began = due = time.monotonic()
        while (image := self._next()) is not None:
            yield time.monotonic() - began, image
            due = max(due + 1 / self.rate, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))

    def _next(self) -> Image.Image | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._latest is not None or self._over, PATIENCE):
                self._broken = f"nothing for {PATIENCE:g} s"
            # Each frame is decided on once.
            image, self._latest = self._latest, None
            if image is None and self._broken is not None:
                raise DataError(f"The camera {self.source} broke off ({self._broken}): check its connection.")
            return image

    def _read(self) -> None:
        from av.error import FFmpegError

        try:
            for frame in self._container.decode(video=0):
                image = frame.to_image()
                with self._changed:
                    self._latest = image
                    self._changed.notify()
                    if self._over:
                        break
        except FFmpegError as error:
            self._broken = _reason(error)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify()
            self._container.close()


def _reason(error: Exception) -> str:
    """What ffmpeg says of a camera."""
    from av.error import ExitError

    if isinstance(error, ExitError):
        return f"nothing for {PATIENCE:g} s"
    return getattr(error, "strerror", None) or str(error)


def _device(source: str) -> tuple[str, dict[str, Any]]:
    """What ffmpeg calls a camera, and how it reads it."""
    if not source.isdecimal():
        return source, {}
    if sys.platform == "darwin":
        return source, {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
        return source, {"format": "vfwcap"}
    return f"/dev/video{source}", {"format": "v4l2"}


class Film:
    """An MP4 of steps, and their decisions as JSON lines; both are there when they are whole, or not at all.

    A context manager: leaving it by an exception throws away what was written.
    """

    def __init__(self, path: Path, decisions: Path, *, instruction: str, rate: float) -> None:
        """Begin a film of `rate` pictures a second.

        Raises:
            ConfigError: there is no such folder, or the name does not end in .mp4.
        """
        check_output(path)
        self.path, self.decisions, self._instruction = path, decisions, instruction
        self._part = path.with_name(f".{path.name}.part")
        self._rate = Fraction(rate).limit_denominator(1000)
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._container is None:
                return
            if kind is not None:
                self._container.close()
                return
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            write_atomically(self.decisions, "".join(self._lines))
            self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, step: Step) -> None:
        """Show a step, with black beside a frame that is not as wide or high as the first."""
        import av

        self._size = self._size or step.image.size
        if step.image.size != self._size:
            step = replace(step, image=ImageOps.pad(step.image, self._size))
        picture = drawn(step, self._instruction)
        if self._container is None:
            self._container = av.open(str(self._part), "w", format="mp4")
            self._stream = self._container.add_stream(_codec(), rate=self._rate)
            self._stream.width, self._stream.height = picture.size
            self._stream.pix_fmt = "yuv420p"
        for packet in self._stream.encode(av.VideoFrame.from_image(picture)):
            self._container.mux(packet)
        self._lines.append(json.dumps(step.facts(), ensure_ascii=False) + "\n")


def check_output(path: Path) -> None:
    """Raise ConfigError when a film cannot be written there."""
    if path.suffix.lower() != ".mp4" or path.is_dir():
        raise ConfigError(f"The film {path} must be a file whose name ends in .mp4.")
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent} to write {path.name} to: make it first.")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"The folder {path.parent} cannot be written to: give another --output than {path.name}.")


def _codec() -> str:
    """H.264 where ffmpeg was built with it."""
    import av

    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def drawn(step: Step, instruction: str) -> Image.Image:
    """The frame with an arrow for the action, and below it the instruction and what the model said."""
    scale = LONGEST_SIDE / max(step.image.size)
    # Encoders of YUV 4:2:0 take even sizes only; small frames are enlarged, so that text can be read.
    width, height = (max(2, round(side * scale) // 2 * 2) for side in step.image.size)
    size = 22
    line = size + 6
    font = ImageFont.load_default(size)
    columns = max(8, int((width - 24) / font.getlength("a walk along the hall") * 19))
    told = textwrap.wrap(instruction, columns, max_lines=2, placeholder=" …") or [""]
    said = textwrap.shorten(step.action.text or "(nothing)", columns, placeholder=" …")
    picture = Image.new("RGB", (width, height + 2 * 8 + (4 * line) // 2 * 2), _PAPER)
    picture.paste(step.image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    side = min(width, height) // 4
    picture.paste(_INK, ((width - side) // 2, height - side - 12), _sign_ground(side))
    _draw_sign(ImageDraw.Draw(picture), step.action.kind, (width // 2, height - side // 2 - 12), side)
    draw = ImageDraw.Draw(picture)
    state = f"step {step.number}   {step.time:.1f} s   {in_words(step.action)}"
    if step.action.status != "ok":
        state += f"   ({step.action.status})"
    for number, (text, colour) in enumerate([*((text, _INK) for text in told), (said, _ARROW), (state, _SOFT)]):
        draw.text((12, height + 8 + number * line), text, fill=colour, font=font)
    return picture


def _sign_ground(side: int) -> Image.Image:
    """How strongly the ground of a sign covers the picture: a translucent disc."""
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=96)
    return mask


def _draw_sign(draw: ImageDraw.ImageDraw, kind: Kind, centre: tuple[int, int], side: int) -> None:
    """An arrow ahead, a bent one to a side, or an octagon, within a square of `side` pixels round `centre`."""
    x, y = centre
    unit = side / 10
    if kind == "stop":
        draw.regular_polygon((x, y, 3.2 * unit), 8, rotation=22, fill=_STOP, outline=_INK)
        return
    wide = max(2, round(1.4 * unit))
    if kind == "forward":
        draw.line((x, y + 3.4 * unit, x, y - unit), fill=_ARROW, width=wide)
        draw.polygon([(x, y - 3.8 * unit), (x - 2 * unit, y - unit), (x + 2 * unit, y - unit)], fill=_ARROW)
        return
    away = -unit if kind == "left" else unit
    draw.line(
        [(x - 1.6 * away, y + 3.2 * unit), (x - 1.6 * away, y - 0.8 * unit), (x + 1.2 * away, y - 0.8 * unit)],
        fill=_ARROW,
        width=wide,
        joint="curve",
    )
    head = [(x + 3.8 * away, y - 0.8 * unit), (x + 1.2 * away, y - 2.8 * unit), (x + 1.2 * away, y + 1.2 * unit)]
    draw.polygon(head, fill=_ARROW)

"""Whether a file of pictures is what it should be: there, whole, and as long as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from navila.errors import DataError, reason
from navila.images import read_image

from navila_data.media import Base64, TarMember, open_file
from navila_data.media_facts import File
from navila_data.video_facts import probe

#: How closely files are looked at: everything is decoded, headers and packets are read, or only their size.
Depth = Literal["decode", "header", "exists"]

Problem = tuple[str, str]
"""Kind of finding, and a sentence."""


def file_problem(file: File, *, video: bool, depth: Depth) -> Problem | None:
    """What is wrong with an image or a video; None when nothing is."""
    part = file.text if isinstance(file, Base64) else file
    path = part.shard if isinstance(part, TarMember) else part
    try:
        size = path.stat().st_size if isinstance(part, Path) else part.size
    except OSError as error:
        return "missing", f"{path} cannot be found ({error.strerror}): fetch it, or take its records out."
    if not path.is_file():
        return "corrupt", f"{path} is no file: mend the record."
    if size == 0:
        return "corrupt", f"{file} is empty: fetch it again."
    if depth == "exists":
        return None
    try:
        return _video_problem(file, depth) if video else _image_problem(file, depth)
    except DataError as error:
        return "corrupt", str(error)
    except Exception as error:
        # Decoders raise what they like on damaged files.
        return "corrupt", f"{file} cannot be decoded ({reason(error)}): fetch it again."


def _image_problem(file: File, depth: Depth) -> Problem | None:
    from PIL import Image

    with open_file(file) as content:
        if depth == "header":
            Image.open(content).close()
        else:
            read_image(content)
    return None


def _video_problem(file: File, depth: Depth) -> Problem | None:
    import av
    from av.error import FFmpegError

    if isinstance(file, Base64):
        return None
    packets = probe(file).frames
    with open_file(file) as content, av.open(content, "r") as container:
        stream = container.streams.video[0]
        told = stream.frames
        if depth == "decode":
            stream.thread_type = "NONE"
            decoded = 0
            try:
                for _ in container.decode(stream):
                    decoded += 1
            except FFmpegError as error:
                why = f" ({error.strerror})"
                return "corrupt", f"{file} breaks off after {decoded} of {packets} frames{why}: fetch it again."
            if decoded < packets:
                return "corrupt", f"Only {decoded} of {packets} frames of {file} can be decoded: fetch it again."
    if told and told != packets:
        why = f"The header of {file} counts {told} frames, but {packets} are there: fetch it again, or write it anew."
        return "header", why
    return None

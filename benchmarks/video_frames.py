"""CPU time and memory of eight frames of a video, beside OpenCV reading it whole.

    python benchmarks/video_frames.py [--seconds 30] [--rounds 5] [FILE ...]

Makes a panning scene of 640 x 480 pixels at 30 frames/s (H.264, B-frames) with a keyframe every 12 and every 250
frames, or takes your files. OpenCV reads all frames and keeps them, as NaVILA's loader does, or seeks to each. All must
give the same pixels. torchcodec and decord take part where they are installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side

PEER = "OpenCV, all frames"


def opencv_all(path: str) -> list[Any]:
    """Every frame is decoded and kept."""
    import cv2

    cv2.setNumThreads(1)
    capture, frames = cv2.VideoCapture(path), []
    while True:
        found, frame = capture.read()
        if not found:
            break
        frames.append(frame)
    return [cv2.cvtColor(frames[i], cv2.COLOR_BGR2RGB) for i in chosen(len(frames))]


def opencv_seek(path: str) -> list[Any]:
    """A seek to each frame; the header says how many there are."""
    import cv2

    cv2.setNumThreads(1)
    capture, frames = cv2.VideoCapture(path), []
    for i in chosen(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))):
        capture.set(cv2.CAP_PROP_POS_FRAMES, i)
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    return frames


def navila(path: str) -> list[Any]:
    import numpy as np
    from navila.video import iterate_frames

    return [np.asarray(image) for _, image in iterate_frames(path, lambda index: chosen(len(index)))]


def torchcodec(path: str) -> list[Any]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return list(decoder.get_frames_at(chosen(len(decoder))).data.numpy())


def decord(path: str) -> list[Any]:
    from decord import VideoReader

    reader = VideoReader(path, num_threads=1)
    return list(reader.get_batch(chosen(len(reader))).asnumpy())


#: What methods import, which is not measured.
MODULES = {
    PEER: ("cv2",),
    "OpenCV, seek": ("cv2",),
    "torchcodec": ("torchcodec.decoders",),
    "decord": ("decord",),
    "navila": ("av", "navila.video"),
}
METHODS: dict[str, Callable[[str], list[Any]]] = {
    PEER: opencv_all,
    "OpenCV, seek": opencv_seek,
    "torchcodec": torchcodec,
    "decord": decord,
    "navila": navila,
}


def chosen(count: int) -> list[int]:
    """The frames a navigation sample shows."""
    from navila.frames import sample_indices

    return sample_indices(count, 8)


def digest(frames: list[Any]) -> str:
    return hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()


def make_video(path: Path, *, frames: int, group: int) -> None:
    """Pan over soft patches of colour with a little grain."""
    import av
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    patches = Image.fromarray(rng.integers(0, 256, (44, 250, 3), dtype=np.uint8)).resize((4000, 704))
    scene = (np.asarray(patches) * 0.95 + rng.integers(0, 12, (704, 4000, 3))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        options = {"g": str(group), "preset": "veryfast", "crf": "24"}
        stream: Any = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for i in range(frames):
            x, y = 2 * i % 3300, i % 200
            view = np.ascontiguousarray(scene[y : y + 480, x : x + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--seconds", type=int, default=30, help="length of the videos made (default: 30)")
    parser.add_argument("--rounds", type=int, default=5, help="times every method is measured (default: 5)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        for module in ("numpy", "navila.frames", *MODULES[options.one]):
            importlib.import_module(module)
        side_by_side.measured(lambda: digest(METHODS[options.one](options.files[0])))
        return
    methods = [name for name in METHODS if importlib.util.find_spec(MODULES[name][0].partition(".")[0]) is not None]
    side_by_side.print_machine()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(file) for file in options.files]
        if not files:
            for group in (12, 250):
                files.append(Path(folder) / f"keyframe-every-{group}.mp4")
                make_video(files[-1], frames=30 * options.seconds, group=group)
        for file in files:
            compare(file, methods, options.rounds)


def compare(file: Path, methods: list[str], rounds: int) -> None:
    """Print the table of a video."""
    measured = [{name: side_by_side.in_process("--one", name, str(file)) for name in methods} for _ in range(rounds)]
    for name in methods:
        if measured[0][name]["result"] != measured[0][PEER]["result"]:
            raise SystemExit(f"{file}: the frames of {name} differ from those of {PEER}.")
    print(f"{file.name}, {file.stat().st_size / 1e6:.1f} MB: 8 frames, the same pixels")
    peaks = {name: statistics.median(results[name]["megabytes"] for results in measured) for name in methods}
    side_by_side.print_table(
        [{name: results[name]["seconds"] for name in methods} for results in measured],
        peer=PEER,
        others={name: f"{peak:.0f} MB (1/{peaks[PEER] / peak:.1f})" for name, peak in peaks.items()},
    )


if __name__ == "__main__":
    main()

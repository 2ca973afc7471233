"""Frames are those OpenCV gives, of every codec, and no more is decoded than they need."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from navila.errors import DataError
from navila.video import _Reader, frame_index, iterate_frames, read_frames

#: Suffix, codec and options of a moving scene of 120 frames.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "short groups": (".mp4", "libx264", {"g": "12", "bf": "3"}),
    "long groups": (".mp4", "libx264", {"g": "250", "bf": "3"}),
    "no B-frames": (".mp4", "libx264", {"g": "30", "bf": "0"}),
    "B-frames that others need": (".mkv", "libx264", {"g": "48", "bf": "5", "x264-params": "b-pyramid=normal:ref=4"}),
    "open groups": (".mp4", "libx264", {"g": "24", "bf": "3", "x264-params": "open-gop=1"}),
    "periodic refresh": (".mp4", "libx264", {"g": "40", "bf": "2", "x264-params": "intra-refresh=1"}),
    "MPEG-4": (".mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "MPEG-2": (".mkv", "mpeg2video", {"g": "15", "bf": "2"}),
    "H.265": (".mp4", "libx265", {"g": "48", "bf": "4", "x265-params": "log-level=none"}),
    "VP9": (".webm", "libvpx-vp9", {"g": "30", "deadline": "realtime", "cpu-used": "8"}),
}


def moving_scene(
    path: Path, codec: str, options: dict[str, str], *, count: int = 120, milliseconds: list[int] | None = None
) -> None:
    """A video of 160 x 96 pixels that pans over noise."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (60, 200, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            view = np.ascontiguousarray(scene[i : i + 96, 3 * i : 3 * i + 160])
            frame = av.VideoFrame.from_ndarray(view, format="rgb24")
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def opencv_frames(path: Path) -> list[np.ndarray]:
    """Every frame, in RGB."""
    cv2 = pytest.importorskip("cv2")
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            return frames
        frames.append(frame[:, :, ::-1])


def decoded_frames(path: Path) -> list[np.ndarray]:
    """Every frame, decoded from the beginning."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def require_equal(path: Path, expected: list[np.ndarray], wanted: list[int]) -> None:
    for i, frame in zip(wanted, read_frames(path, wanted), strict=True):
        assert np.array_equal(frame, expected[i]), i


@pytest.mark.parametrize("kind", KINDS)
def test_frames_equal_opencvs(tmp_path: Path, kind: str) -> None:
    suffix, codec, options = KINDS[kind]
    path = tmp_path / f"a{suffix}"
    moving_scene(path, codec, options)
    expected = opencv_frames(path)
    assert len(frame_index(path)) == len(expected) == 120
    require_equal(path, expected, list(range(120)))
    for offset in range(0, 17, 4):
        require_equal(path, expected, list(range(offset, 120, 17)))
    for i in (1, 13, 50, 118, 119):
        require_equal(path, expected, [i])


def test_frames_of_interlaced_videos_are_those_of_a_full_decode(tmp_path: Path) -> None:
    # Not every version of OpenCV can convert them.
    path = tmp_path / "a.mp4"
    moving_scene(path, "libx264", {"g": "24", "bf": "2", "x264-params": "tff=1"})
    require_equal(path, decoded_frames(path), [0, 5, 23, 24, 61, 119])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_equal_opencvs_where_the_rate_varies(tmp_path: Path, suffix: str) -> None:
    shown = np.cumsum([(33, 40, 100, 21)[i % 4] for i in range(120)]).tolist()
    path = tmp_path / f"a{suffix}"
    moving_scene(path, "libx264", {"g": "30", "bf": "3"}, milliseconds=shown)
    require_equal(path, opencv_frames(path), [0, 1, 7, 40, 41, 77, 118, 119])


def test_frames_equal_opencvs_where_two_are_shown_at_one_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    moving_scene(path, "libx264", {"g": "12"}, milliseconds=[40 * (i - i % 3 // 2) for i in range(120)])
    expected = opencv_frames(path)
    assert len(set(frame_index(path).times)) < len(expected) == 120
    require_equal(path, expected, [0, 1, 2, 3, 50, 51, 52, 119])


def test_frames_of_the_golden_videos_equal_opencvs(goldens: Path) -> None:
    folder = goldens / "D_video_frames"
    for name, facts in json.loads((folder / "selected.json").read_text())["videos"].items():
        expected = opencv_frames(folder / "videos" / name)
        assert len(expected) == facts["n"]
        require_equal(folder / "videos" / name, expected, [*range(0, facts["n"], 7), facts["n"] - 1])


def test_pictures_that_no_other_needs_are_decoded_if_wanted_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    moving_scene(path, "libx264", {"g": "250", "bf": "3", "x264-params": "b-pyramid=none:b-adapt=0"})
    with _Reader(path) as reader:
        wanted = reader.index.times[50]
        reader._seek(reader.index.times[0])
        # Every fourth picture is one that others need.
        decoded = [frame.pts for frame in reader._frames({wanted})]
    assert wanted in decoded
    assert len(decoded) < 40


def test_frames_come_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    moving_scene(path, "libx264", {"g": "12"})
    frames = iterate_frames(path, lambda index: [len(index) - 1, 3, 3])
    assert next(frames)[0] == 3
    assert next(frames)[0] == 119
    assert next(frames, None) is None
    with pytest.raises(DataError, match="has 120 frames, so frame 120 is not in it"):
        list(iterate_frames(path, lambda index: [len(index)]))

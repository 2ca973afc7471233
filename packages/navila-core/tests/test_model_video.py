"""Frames of videos are exactly those asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from navila.errors import ConfigError, DataError
from navila.video import frame_index, is_video, read_frames, read_video
from PIL import Image


def written_video(
    path: Path,
    count: int,
    *,
    gop: int = 12,
    b_frames: int = 0,
    codec: str = "libx264",
    rate: int = 25,
    milliseconds: Sequence[int] | None = None,
    rotation: int = 0,
) -> list[Image.Image]:
    """Write a video whose frame i spells i in black and white bars; return its frames as a full decode gives them.

    `milliseconds` says when each frame is shown, `rotation` by how many degrees a player is to turn them.
    """
    options = {"g": str(gop), "bf": str(b_frames)} | ({"crf": "10", "sc_threshold": "0"} if codec == "libx264" else {})
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(count):
            array = np.zeros((48, 64, 3), np.uint8)
            array[:8, :16] = (255, 0, 0)
            array[16:] = np.repeat([255 * (i >> bit & 1) for bit in range(8)], 8)[None, :, None]
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def positions(frames: list[Image.Image]) -> list[int]:
    """Which frames of a `written_video` these are."""
    bars = [np.asarray(frame.convert("L"))[16:].reshape(32, 8, 8).mean((0, 2)) > 127 for frame in frames]
    return [int((1 << np.flatnonzero(bar)).sum()) for bar in bars]


def damaged(path: Path, frames: Iterable[int]) -> None:
    """Overwrite the packets of these frames, counted in the order of decoding."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for i in frames:
        position, size = packets[i]
        content[position : position + size] = bytes(size)
    path.write_bytes(content)


@pytest.mark.parametrize(("gop", "b_frames"), [(12, 2), (250, 3), (1, 0), (30, 0)])
def test_any_frame_equals_the_one_of_a_full_decode(tmp_path: Path, gop: int, b_frames: int) -> None:
    frames = written_video(tmp_path / "a.mp4", 60, gop=gop, b_frames=b_frames)
    assert len(frames) == len(frame_index(tmp_path / "a.mp4")) == 60
    for wanted in ([0], [59], [30, 3, 30, 58], list(range(60)), [11, 12, 13], []):
        got = read_frames(tmp_path / "a.mp4", wanted)
        assert all(np.array_equal(a, frames[i]) for a, i in zip(got, wanted, strict=True))


def test_the_golden_videos_show_the_frames_asked_for(goldens: Path) -> None:
    folder = goldens / "D_video_frames"
    for name, facts in json.loads((folder / "selected.json").read_text())["videos"].items():
        count = facts["n"]
        wanted = sorted({0, count // 3, count // 2, count - 1})
        for i, frame in zip(wanted, read_frames(folder / "videos" / name, wanted), strict=True):
            grey = np.asarray(frame.convert("L")).astype(float)
            shown = 16 * round((grey[16].mean() - 16) / 14) + round((grey[48].mean() - 16) / 14)
            assert shown == i, name


def test_a_short_video_repeats_frames(goldens: Path) -> None:
    frames = read_video(goldens / "D_video_frames" / "videos" / "n3_fps30.mp4", 8)
    assert len(frames) == 8
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[-1])


def test_a_folder_of_frames_is_a_video_in_the_order_of_its_names(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"frame_{i}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    assert is_video(tmp_path)
    assert [frame.getpixel((0, 0))[0] for frame in read_video(tmp_path, 3)] == [0, 2, 4]


def test_unreadable_videos_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_video(tmp_path / "none.mp4", 8)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="no video that can be read"):
        read_video(tmp_path / "text.mp4", 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_video(tmp_path / "empty", 8)
    written_video(tmp_path / "a.mp4", 5, gop=5, b_frames=0)
    with pytest.raises(DataError, match="has 5 frames"):
        read_frames(tmp_path / "a.mp4", [5])


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("a.mkv", "libx264", 2),
        ("a.webm", "libvpx-vp9", 0),
        ("a.flv", "libx264", 2),
        ("a.mov", "mpeg4", 2),
        # These do not say when a frame is shown, or cannot seek.
        ("a.avi", "libx264", 2),
        ("a.ts", "libx264", 2),
        ("a.mpg", "mpeg2video", 2),
        ("a.h264", "libx264", 2),
    ],
)
def test_frames_of_every_container_equal_those_of_a_full_decode(
    tmp_path: Path, name: str, codec: str, b_frames: int
) -> None:
    frames = written_video(tmp_path / name, 40, codec=codec, b_frames=b_frames)
    wanted = [39, 0, 5, 13, 14, 26, 5]
    got = read_frames(tmp_path / name, wanted)
    assert all(np.array_equal(a, frames[i]) for a, i in zip(got, wanted, strict=True))
    with (tmp_path / name).open("rb") as file:
        assert np.array_equal(read_frames(file, [13])[0], frames[13])


@pytest.mark.parametrize(
    ("fps", "rate", "count"), [(1, 25, 60), (2, 30, 100), (3, 10, 37), (12.5, 24, 48), (60, 30, 5)]
)
def test_frames_by_the_second_are_those_of_vilas_loader(tmp_path: Path, fps: float, rate: int, count: int) -> None:
    written_video(tmp_path / "a.mp4", count, rate=rate)
    for limit in (1, 4, 50):
        stamps = np.arange(0, count / rate, 1.0 / fps)[:limit]
        assert positions(read_video(tmp_path / "a.mp4", limit, fps=fps)) == [int(t * rate) for t in stamps]


def test_frames_by_the_second_follow_the_clock_where_the_rate_varies(tmp_path: Path) -> None:
    # Ten frames in the first second, then one every second.
    shown = [100 * i for i in range(10)] + [1000 * i for i in range(1, 11)]
    written_video(tmp_path / "a.mkv", 20, rate=10, milliseconds=shown)
    assert positions(read_video(tmp_path / "a.mkv", 8, fps=1)) == [0, 10, 11, 12, 13, 14, 15, 16]
    assert positions(read_video(tmp_path / "a.mkv", 5, fps=4)) == [0, 2, 5, 7, 10]
    assert positions(read_video(tmp_path / "a.mkv", 3)) == [0, 10, 19]


def test_a_part_of_a_video_is_chosen_by_its_seconds(tmp_path: Path) -> None:
    written_video(tmp_path / "a.mp4", 100, rate=25)
    assert positions(read_video(tmp_path / "a.mp4", 3, start=1, end=2)) == [25, 37, 49]
    assert positions(read_video(tmp_path / "a.mp4", 9, fps=2, start=2.5)) == [62, 75, 87]
    assert positions(read_video(tmp_path / "a.mp4", 2, end=99)) == [0, 99]
    for start, end in ((4, None), (3, 3), (2, 1), (None, 0)):
        with pytest.raises(DataError, match="shows nothing"):
            read_video(tmp_path / "a.mp4", 2, start=start, end=end)
    with pytest.raises(ConfigError, match="fps is -1"):
        read_video(tmp_path / "a.mp4", 2, fps=-1)


def test_a_folder_of_frames_has_no_times(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    for options in ({"fps": 1.0}, {"start": 1.0}, {"end": 1.0}):
        with pytest.raises(ConfigError, match="no times"):
            read_video(tmp_path, 2, **options)


def test_rotated_videos_are_shown_upright(tmp_path: Path) -> None:
    for rotation, corner in ((90, "bottom left"), (180, "bottom right"), (270, "top right")):
        stored = written_video(tmp_path / "a.mp4", 3, rotation=rotation)[0]
        frame = np.asarray(read_video(tmp_path / "a.mp4", 1)[0])
        assert frame.shape == ((48, 64, 3) if rotation == 180 else (64, 48, 3))
        red = (frame[:, :, 0] > 150) & (frame[:, :, 1] < 100)
        rows, columns = (np.flatnonzero(red.any(axis)).mean() for axis in (1, 0))
        assert corner == f"{'top' if rows < 24 else 'bottom'} {'left' if columns < 24 else 'right'}"
        assert np.array_equal(frame, np.rot90(np.asarray(stored), rotation // 90))


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    written_video(tmp_path / "a.mp4", 1)
    assert positions(read_video(tmp_path / "a.mp4", 3)) == [0, 0, 0]
    assert positions(read_video(tmp_path / "a.mp4", 3, fps=2)) == [0]


def test_frames_that_are_not_wanted_are_not_decoded(tmp_path: Path) -> None:
    written_video(tmp_path / "a.mp4", 60, gop=10)
    damaged(tmp_path / "a.mp4", [*range(10, 20), *range(40, 50)])
    assert positions(read_frames(tmp_path / "a.mp4", [0, 9, 20, 30, 59])) == [0, 9, 20, 30, 59]
    with pytest.raises(DataError, match="damaged at frame 15 of 60"):
        read_frames(tmp_path / "a.mp4", [0, 15, 59])
    with pytest.raises(DataError, match="damaged at frame 15 of 60"):
        read_video(tmp_path / "a.mp4", 5)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_a_video_that_breaks_off_counts_as_far_as_it_can_be_decoded(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    written_video(tmp_path / name, 60, gop=10)
    damaged(tmp_path / name, range(45, 60))
    assert positions(read_video(tmp_path / name, 3)) == [0, 22, 44]
    assert "breaks off after 45 of 60 frames" in caplog.text
    with pytest.raises(DataError, match="at frame 59 of 60"):
        read_frames(tmp_path / name, [59])


def test_a_truncated_file_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    written_video(tmp_path / "a.mkv", 60, gop=10)
    whole = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    shown = positions(read_video(tmp_path / "a.mkv", 3))
    assert shown[0] == 0
    assert 10 < shown[2] < 59
    assert shown[1] == round(shown[2] / 2)


def test_an_hour_of_video_is_sampled(tmp_path: Path) -> None:
    written_video(tmp_path / "a.mp4", 125, rate=25, milliseconds=[29_000 * i for i in range(125)])
    assert frame_index(tmp_path / "a.mp4").seconds[-1] == 3596
    assert positions(read_video(tmp_path / "a.mp4", 3)) == [0, 62, 124]
    assert positions(read_video(tmp_path / "a.mp4", 4, fps=1 / 600)) == [0, 20, 41, 62]

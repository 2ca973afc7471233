"""Frames of videos are exactly those asked for."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from navila.errors import DataError
from navila.video import frame_index, is_video, read_frames, read_video
from PIL import Image


def written_video(path: Path, count: int, *, gop: int, b_frames: int) -> list[Image.Image]:
    """Write an H.264 video whose frame i is grey 4 + 2 i; return its frames as a full decode gives them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "g": str(gop), "bf": str(b_frames)})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            array = np.full((64, 64, 3), 4 + 2 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


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

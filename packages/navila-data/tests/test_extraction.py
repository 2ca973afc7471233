"""`navila data extract-frames` writes the frames ffmpeg's filter takes, and goes on where it was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph
from navila.cli import main
from navila.errors import ConfigError
from navila.video import frame_index, read_frames
from navila_data.extraction import MARKER, FrameChoice, extract, filtered_by_fps, find_videos
from PIL import Image


def written_video(path: Path, count: int, rate: int = 10, *, side: int = 32) -> Path:
    """A video whose frame i is grey level 2 * i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"g": "12", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 2 * side, side, "yuv420p"
        for i in range(count):
            array = np.full((side, 2 * side, 3), 2 * i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return path


def taken_by_ffmpeg(path: Path, fps: float) -> list[np.ndarray]:
    """Frames after ffmpeg's own filter."""
    with av.open(str(path)) as container:
        graph = Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        filtered = graph.add("fps", f"fps={fps}")
        sink = graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        graph.configure()
        frames: list[np.ndarray] = []

        def pull() -> None:
            while True:
                try:
                    frames.append(graph.pull().to_ndarray(format="rgb24"))  # pyright: ignore
                except (av.error.BlockingIOError, av.error.EOFError):
                    return

        for frame in container.decode(video=0):
            graph.push(frame)
            pull()
        graph.push(None)
        pull()
        return frames


@pytest.mark.parametrize("fps", [1, 2, 0.5, 4])
@pytest.mark.parametrize(("count", "rate"), [(30, 10), (101, 25), (7, 10), (74, 30), (45, 24)])
def test_frames_by_the_second_are_those_of_ffmpegs_filter(tmp_path: Path, count: int, rate: int, fps: float) -> None:
    video = written_video(tmp_path / "a.mp4", count, rate)
    chosen = filtered_by_fps(frame_index(video), fps)
    expected = taken_by_ffmpeg(video, fps)
    if expected:
        frames = read_frames(video, chosen)
        assert len(frames) == len(expected)
        assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=True))
    else:
        # Too short for one frame there; here it shows its beginning.
        assert len(chosen) == 1


def levels(folder: Path) -> list[int]:
    """Which frames of a `written_video` a folder holds, in the order of its names."""
    return [round(np.asarray(Image.open(file)).mean() / 2) for file in sorted(folder.glob("*.png"))]


def test_a_folder_of_videos_becomes_a_folder_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written_video(tmp_path / "videos" / "a.mp4", 30)
    written_video(tmp_path / "videos" / "deep" / "b.mkv", 20)
    (tmp_path / "videos" / "empty.mp4").touch()
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    command = ["data", "extract-frames", str(tmp_path / "videos"), "--output", str(tmp_path / "out"), "--format", "png"]
    assert main(command) == 1
    shown = capsys.readouterr()
    assert "5 frames of 2 videos" in shown.out
    assert "1 videos failed" in shown.out
    assert "empty.mp4 is no video" in shown.err
    assert [file.name for file in sorted((tmp_path / "out" / "a").iterdir())] == [
        *("0001.png", "0002.png", "0003.png"),
        MARKER,
    ]
    assert levels(tmp_path / "out" / "a") == [4, 14, 24]
    assert len(levels(tmp_path / "out" / "deep" / "b")) == 2
    assert not (tmp_path / "out" / "empty").exists()
    (tmp_path / "videos" / "empty.mp4").unlink()
    assert main([*command, "--workers", "2"]) == 0
    assert "(2 were there already)" in capsys.readouterr().out


def test_other_choices_of_frames(tmp_path: Path) -> None:
    video = written_video(tmp_path / "a.mp4", 30)
    choices = {"n": FrameChoice(num_frames=4, image_format="png"), "e": FrameChoice(every=10, image_format="png")}
    for name, choice in choices.items():
        extract(video, tmp_path / name, choice)
    assert levels(tmp_path / "n") == [0, 10, 19, 29]
    assert levels(tmp_path / "e") == [0, 10, 20]
    extract(video, tmp_path / "s", FrameChoice(num_frames=1, size=16))
    assert Image.open(tmp_path / "s" / "0001.jpg").size == (32, 16)
    extract(video, tmp_path / "more", FrameChoice(num_frames=99))
    assert len(list((tmp_path / "more").glob("*.jpg"))) == 30


def test_half_an_extraction_is_done_again_and_nothing_else_is_deleted(tmp_path: Path) -> None:
    video = written_video(tmp_path / "a.mp4", 30)
    choice = FrameChoice(fps=1, image_format="png")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "0001.png").write_bytes(b"half a file")
    (folder / "0099.jpg").touch()
    # As a kill leaves it while the marker is written.
    (folder / f".{MARKER}.x1_y").touch()
    assert extract(video, folder, choice).frames == 3
    assert len(list(folder.iterdir())) == 3 + 1
    # Frames that were extracted to the end are not thrown away for want of a flag.
    assert "--overwrite" in extract(video, folder, FrameChoice(every=1)).problem
    assert extract(video, folder, FrameChoice(every=5), overwrite=True).frames == 6
    (folder / MARKER).unlink()
    (folder / "notes.txt").write_text("mine")
    assert "notes.txt, which is no frame" in extract(video, folder, choice).problem
    assert (folder / "notes.txt").exists()


def test_a_video_that_breaks_off_leaves_no_frames(tmp_path: Path) -> None:
    video = written_video(tmp_path / "a.mp4", 60)
    with av.open(str(video)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(video.read_bytes())
    for position, size in packets[30:]:
        content[position : position + size] = bytes(size)
    video.write_bytes(content)
    assert "breaks off" in extract(video, tmp_path / "out", FrameChoice(every=1)).problem
    assert not (tmp_path / "out").exists()


def test_an_extraction_that_was_killed_goes_on(tmp_path: Path) -> None:
    for name in "abc":
        written_video(tmp_path / "videos" / f"{name}.mp4", 100, side=128)
    arguments = ["data", "extract-frames", str(tmp_path / "videos"), "--output", str(tmp_path / "out"), "--every", "1"]
    arguments += ["--format", "png"]
    process = subprocess.Popen([sys.executable, "-m", "navila", *arguments], stderr=subprocess.DEVNULL)
    second = tmp_path / "out" / "b"
    while not (second.is_dir() and len(list(second.iterdir())) > 3) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert (tmp_path / "out" / "a" / MARKER).exists()
    before = (tmp_path / "out" / "a" / "0001.png").stat().st_mtime_ns
    assert main(arguments) == 0
    for name in "abc":
        folder = tmp_path / "out" / name
        assert json.loads((folder / MARKER).read_text())["frames"] == len(list(folder.glob("*.png"))) == 100
        for file in folder.glob("*.png"):
            Image.open(file).load()
    assert (tmp_path / "out" / "a" / "0001.png").stat().st_mtime_ns == before


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_videos(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ConfigError, match="holds no videos"):
        find_videos(tmp_path, tmp_path / "out")
    written_video(tmp_path / "videos" / "a.mp4", 3)
    (tmp_path / "videos" / "a.mkv").write_bytes((tmp_path / "videos" / "a.mp4").read_bytes())
    with pytest.raises(ConfigError, match="would share the folder"):
        find_videos(tmp_path / "videos", tmp_path / "out")
    for wrong in ({}, {"fps": 0.0}, {"fps": 1.0, "every": 2}, {"fps": float("nan")}):
        with pytest.raises(ConfigError, match="Give one of"):
            FrameChoice(**wrong)

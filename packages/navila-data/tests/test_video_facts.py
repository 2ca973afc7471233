"""Facts of videos are found once for all processes and runs, and never wrong."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from navila.errors import DataError
from navila_data.media import TarMember
from navila_data.video_facts import KnownVideos, VideoFacts, probe

PROCESSES = 4


def write_video(path: Path, frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for i in range(frames):
            picture = np.full((32, 32, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{frames}.mp4", frames) for frames in range(1, 7)]


def test_another_run_knows_what_one_found_without_opening_the_video(videos: list[Path], tmp_path: Path, monkeypatch):
    kept = tmp_path / "cache" / "videos.txt"
    assert [KnownVideos(kept).of(video) for video in videos] == [VideoFacts(n, 5.0) for n in range(1, 7)]
    monkeypatch.setattr("navila_data.video_facts.probe", lambda video: pytest.fail(f"{video} was opened"))
    again = KnownVideos(kept)
    assert [again.of(video).frames for video in videos] == [1, 2, 3, 4, 5, 6]


def look(kept: Path, videos: list[Path], order: int) -> list[int]:
    known = KnownVideos(kept)
    found = {i: known.of(videos[i]).frames for i in np.random.default_rng(order).permutation(len(videos)).tolist()}
    return [found[i] for i in range(len(videos))]


def test_many_processes_write_at_once_and_no_line_is_lost(videos: list[Path], tmp_path: Path):
    kept = tmp_path / "videos.txt"
    links = []
    for number in range(60):
        links.append(tmp_path / f"{number}.mp4")
        links[-1].symlink_to(videos[number % len(videos)])
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("fork")) as pool:
        results = list(pool.map(look, [kept] * PROCESSES, [links] * PROCESSES, range(PROCESSES)))
    assert results == [[number % len(videos) + 1 for number in range(60)]] * PROCESSES
    fresh = KnownVideos(kept)
    fresh._read_on()
    assert len(fresh._facts) == len(links)


def test_lines_that_a_crash_broke_up_are_looked_up_again(videos: list[Path], tmp_path: Path):
    kept = tmp_path / "videos.txt"
    for video in videos:
        KnownVideos(kept).of(video)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:40] + b"\xff\0garbage\n" + whole[45:-7])
    after = KnownVideos(kept)
    assert [after.of(video).frames for video in videos] == [1, 2, 3, 4, 5, 6]
    healed = KnownVideos(kept)
    healed._read_on()
    assert len(healed._facts) == len(videos)


def test_a_line_of_another_process_half_written_is_read_when_it_is_whole(videos: list[Path], tmp_path: Path):
    kept = tmp_path / "videos.txt"
    KnownVideos(kept).of(videos[0])
    line = kept.read_bytes()
    kept.write_bytes(line[:30])
    reader = KnownVideos(kept)
    reader._read_on()
    assert not reader._facts
    kept.write_bytes(line)
    reader._read_on()
    assert list(reader._facts.values()) == [VideoFacts(1, 5.0)]


def test_a_replaced_video_and_one_inside_a_shard_are_told_apart(videos: list[Path], tmp_path: Path):
    known = KnownVideos(tmp_path / "videos.txt")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(videos[2].read_bytes())
    assert known.of(clip).frames == 3
    clip.write_bytes(videos[4].read_bytes())
    assert known.of(clip).frames == 5
    shard = tmp_path / "shard.tar"
    first, second = videos[0].read_bytes(), videos[3].read_bytes()
    shard.write_bytes(first + second)
    members = [TarMember(shard, "a", 0, len(first)), TarMember(shard, "b", len(first), len(second))]
    assert [known.of(member).frames for member in members] == [1, 4]


def test_without_a_place_to_keep_them_facts_are_still_found(videos: list[Path], tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    assert KnownVideos(tmp_path / "file" / "videos.txt").of(videos[1]).frames == 2


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_a_video_that_was_not_fetched_to_its_end_is_told_although_its_beginning_can_be_shown(
    tmp_path: Path, suffix: str
):
    clip = tmp_path / f"clip.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    with av.open(str(clip), "w", options={"movflags": "faststart"} if suffix == "mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert probe(clip).frames == 20
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(DataError, match=r"clip\.\w+ breaks off after \d+ of 20 frames"):
        probe(clip)


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_broken_videos_are_told_each_time_and_not_kept(tmp_path: Path, content: bytes | None):
    clip = tmp_path / "clip.mp4"
    if content is not None:
        clip.write_bytes(content)
    known = KnownVideos(tmp_path / "videos.txt")
    for _ in range(2):
        with pytest.raises(DataError, match=r"clip\.mp4"):
            known.of(clip)
    assert not (tmp_path / "videos.txt").exists()
    write_video(clip, 3)
    os.utime(clip)
    assert known.of(clip) == probe(clip)

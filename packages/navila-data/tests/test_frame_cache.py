"""Frames on disk are those that were decoded, whatever writers and disks do to the file."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from navila.errors import ConfigError, DataError
from navila.images import ImageProcessor
from navila_data.frame_cache import FILE_NAME, FrameCache
from navila_data.frames import FrameStore, PixelPipeline
from navila_data.media import TarMember, VideoFrame
from PIL import Image

SIDE = 32
LARGE = 1 << 30


def images(folder: Path, count: int) -> list[Path]:
    files = [folder / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        noise = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    return files


def store(folder: Path, *, max_bytes: int = LARGE, aspect_ratio: str = "resize") -> FrameStore:
    """A store whose memory holds one frame, so that it is the disk that is asked."""
    pixels = PixelPipeline(ImageProcessor.square(SIDE), aspect_ratio)
    cache = FrameCache(folder, pixels.fingerprint(), max_bytes=max_bytes)
    return FrameStore(pixels.resize, read=pixels.read, cache=cache, max_bytes=1)


def test_the_second_reading_decodes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    files = images(tmp_path, 5)
    first = store(tmp_path / "cache")
    shown = first.load([*files, None])
    assert first.take_counts() == {"decoded": 5, "from_disk": 0}
    second = store(tmp_path / "cache")
    again = second.load([None, *reversed(files)])
    assert second.take_counts() == {"decoded": 0, "from_disk": 5}
    assert all(np.array_equal(again[file], shown[file]) for file in (*files, None))


def test_a_changed_file_and_another_preparation_are_decoded_anew(tmp_path: Path) -> None:
    file = images(tmp_path, 1)[0]
    store(tmp_path / "cache").load([file])
    padded = store(tmp_path / "cache", aspect_ratio="pad")
    padded.load([file])
    assert padded.take_counts()["decoded"] == 1
    Image.new("RGB", (40, 50), (9, 9, 9)).save(file)
    changed = store(tmp_path / "cache")
    assert changed.load([file])[file].max() == 9
    assert changed.take_counts()["decoded"] == 1


def test_frames_of_one_file_are_told_apart(tmp_path: Path) -> None:
    file = images(tmp_path, 1)[0]
    cache = FrameCache(tmp_path / "cache", "", max_bytes=LARGE)
    media = [VideoFrame(file, 0), VideoFrame(file, 1), TarMember(file, "a", 0, 5), TarMember(file, "a", 5, 5), file]
    cache.put({medium: np.full((2, 3, 3), i, np.uint8) for i, medium in enumerate(media)})
    assert [frame.max() for frame in cache.get(media).values()] == [0, 1, 2, 3, 4]


def test_a_full_cache_keeps_what_it_has_and_counts_the_rest(tmp_path: Path) -> None:
    files = images(tmp_path, 200)
    bound = 6 * (1 << 16)
    first = store(tmp_path / "cache", max_bytes=bound)
    for file in files:
        first.load([file])
    counts = first.take_counts()
    assert counts["decoded"] == 200
    assert 0 < counts["left_out"] < 200
    assert (tmp_path / "cache" / FILE_NAME).stat().st_size <= bound
    again = store(tmp_path / "cache", max_bytes=bound)
    again.load(files)
    counts_again = again.take_counts()
    assert counts_again["from_disk"] == 200 - counts["left_out"]


def test_a_damaged_entry_is_decoded_and_written_anew(tmp_path: Path) -> None:
    files = images(tmp_path, 3)
    shown = store(tmp_path / "cache").load(files)
    with sqlite3.connect(tmp_path / "cache" / FILE_NAME) as connection:
        connection.execute("UPDATE frames SET pixels = zeroblob(length(pixels)) WHERE rowid = 1")
        connection.execute("UPDATE frames SET pixels = x'00' WHERE rowid = 2")
        connection.execute("UPDATE frames SET pixels = 7, height = 'x' WHERE rowid = 3")
    second = store(tmp_path / "cache")
    assert all(np.array_equal(second.load([file])[file], shown[file]) for file in files)
    assert second.take_counts() == {"decoded": 3, "from_disk": 0, "damaged": 3}
    third = store(tmp_path / "cache")
    third.load(files)
    assert third.take_counts()["from_disk"] == 3


@pytest.mark.parametrize("damage", ["no database", "zeros", "cut off"])
def test_a_damaged_file_costs_its_frames_alone(tmp_path: Path, damage: str) -> None:
    files = images(tmp_path, 30)
    shown = store(tmp_path / "cache").load(files)
    path = tmp_path / "cache" / FILE_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    content = {
        "no database": b"This is no database. " * 9999,
        "zeros": whole[: len(whole) // 3] + bytes(len(whole) // 2) + whole[len(whole) // 3 + len(whole) // 2 :],
        "cut off": whole[: len(whole) // 2],
    }[damage]
    path.write_bytes(content)
    for _ in range(2):
        damaged = store(tmp_path / "cache")
        for file in files:
            assert np.array_equal(damaged.load([file])[file], shown[file])
    if damage == "no database":
        assert damaged.take_counts()["from_disk"] == 30


def _read_all(folder: Path, files: list[Path], order: int) -> None:
    mine = store(folder)
    for i in np.random.default_rng(order).permutation(len(files)):
        mine.load([files[i]])
    counts = mine.take_counts()
    os._exit(0 if not counts["damaged"] and not counts["left_out"] else 1)


def test_many_processes_write_and_one_is_killed(tmp_path: Path) -> None:
    files = images(tmp_path, 60)
    folder = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    # The folder is new: they make it at once.
    processes = [context.Process(target=_read_all, args=(folder, files, order)) for order in range(5)]
    for process in processes:
        process.start()
    time.sleep(0.01)
    processes[0].kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes[1:]] == [0, 0, 0, 0]
    last = store(folder)
    pixels = PixelPipeline(ImageProcessor.square(SIDE))
    shown = last.load(files)
    assert all(np.array_equal(shown[file], pixels.read(file)) for file in files)
    assert last.take_counts() == {"decoded": 0, "from_disk": 60}


def test_a_store_in_use_goes_to_other_processes(tmp_path: Path) -> None:
    files = images(tmp_path, 2)
    mine = store(tmp_path / "cache")
    mine.load(files)
    assert mine._cache is not None
    copy = pickle.loads(pickle.dumps(mine._cache))
    assert len(copy.get(files)) == 2

    def child() -> None:
        found = mine._cache.get(files) if mine._cache else {}
        os._exit(0 if len(found) == 2 else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(mine._cache.get(files)) == 2


def test_a_broken_image_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    files = images(tmp_path, 3)
    files[2].write_bytes(files[2].read_bytes()[:50])
    with pytest.raises(DataError, match=r"2\.png"):
        store(tmp_path / "cache").load(files)
    second = store(tmp_path / "cache")
    second.load(files[:2])
    assert second.take_counts()["from_disk"] == 2


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another folder"):
        FrameCache(tmp_path / "file", "", max_bytes=LARGE)
    (tmp_path / "taken" / FILE_NAME).mkdir(parents=True)
    with pytest.raises(ConfigError, match="choose another folder"):
        FrameCache(tmp_path / "taken", "", max_bytes=LARGE)

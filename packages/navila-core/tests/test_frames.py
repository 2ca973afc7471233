"""Frame rules against indices made by the original code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from navila.errors import ConfigError
from navila.frames import BLACK, rounded_uniform_indices, sample_indices, uniform_indices


@pytest.mark.parametrize("function", ["vlnce_frame_sampling", "sample_and_pad_images"])
def test_navigation_sampling_equals_the_original_for_every_length_and_count(goldens: Path, function: str) -> None:
    cases = json.loads((goldens / "C_frame_sampling" / "indices.json").read_text())[function]
    assert len(cases) > 1000
    for key, indices in cases.items():
        n_frames, num_frames = map(int, key.split(","))
        assert sample_indices(n_frames, num_frames) == indices, key


def test_navigation_sampling_rounds_as_numpy_where_exact_arithmetic_would_not() -> None:
    numpy = pytest.importorskip("numpy")
    for num_frames in (2, 7, 8, 33, 64, 100):
        for n_frames in range(num_frames, 700, 3):
            expected = numpy.linspace(0, n_frames - 1, num=num_frames - 1, endpoint=False, dtype=int)
            assert sample_indices(n_frames, num_frames) == [*expected.tolist(), n_frames - 1]


@pytest.mark.parametrize(
    ("n_frames", "indices"),
    [
        (1, [BLACK] * 7 + [0]),
        (5, [BLACK] * 3 + [0, 1, 2, 3, 4]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, [0, 1, 2, 3, 4, 5, 6, 8]),
        (20, [0, 2, 5, 8, 10, 13, 16, 19]),
        (100, [0, 14, 28, 42, 56, 70, 84, 99]),
    ],
)
def test_the_current_frame_is_always_last_and_short_histories_start_black(n_frames: int, indices: list[int]) -> None:
    assert sample_indices(n_frames, 8) == indices


def test_video_sampling_equals_the_original(goldens: Path) -> None:
    recorded = json.loads((goldens / "D_video_frames" / "selected.json").read_text())
    checked = 0
    for case in recorded["cases"]:
        plain = case["api"] == "opencv_extract_frames" and not case.get("max_fps") and "input" not in case
        # Cases with a frame_count of the caller's tell a wrong one.
        if not plain or case.get("frame_count"):
            continue
        # What the original makes of unreadable videos are not frames of the video.
        if "empty_720x720" not in case["indices"]:
            assert uniform_indices(recorded["videos"][case["video"]]["n"], case["frames"]) == case["indices"], case
            checked += 1
    assert checked > 50


def test_rounded_sampling_equals_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    for n_frames in (1, 2, 3, 5, 8, 9, 30, 97, 100):
        for num_frames in (1, 2, 3, 8, 16):
            expected = numpy.round(numpy.linspace(0, n_frames - 1, num_frames)).astype(int).tolist()
            assert rounded_uniform_indices(n_frames, num_frames) == expected


def test_no_frames_give_black_or_nothing() -> None:
    assert sample_indices(0, 3) == [BLACK, BLACK, BLACK]
    assert uniform_indices(0, 3) == []
    assert rounded_uniform_indices(0, 3) == []


@pytest.mark.parametrize("rule", [sample_indices, uniform_indices, rounded_uniform_indices])
def test_impossible_counts_are_refused(rule: object) -> None:
    assert callable(rule)
    with pytest.raises(ConfigError, match="num_frames is 0"):
        rule(5, 0)
    with pytest.raises(ConfigError, match="-1 frames"):
        rule(-1, 8)

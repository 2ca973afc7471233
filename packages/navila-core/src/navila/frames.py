"""Which frames of a sequence the model sees: the index rules the released checkpoints were trained with.

Every rule returns indices into the sequence, in time order; `BLACK` (-1) stands for a black frame put in front of a
sequence that is shorter than asked for. All are exact, including numpy's floating-point rounding in `linspace`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from navila.errors import ConfigError

#: Index of an inserted black frame.
BLACK = -1


def sample_indices(n_frames: int, num_frames: int) -> list[int]:
    """Pick `num_frames` of `n_frames` by the navigation rule: evenly, the last frame always, black padding in front.

    Equals NaVILA's `vlnce_frame_sampling` and `sample_and_pad_images` for every length and frame count.

    Args:
        n_frames: length of the history including the current observation, >= 0.
        num_frames: frames the model takes, >= 1.

    Returns:
        `num_frames` indices in [0, n_frames), or -1 for black.

    Raises:
        ConfigError: `n_frames` is negative or `num_frames` is below 1.
    """
    _check(n_frames, num_frames)
    if n_frames <= num_frames:
        return [BLACK] * (num_frames - n_frames) + list(range(n_frames))
    if num_frames == 1:
        return [n_frames - 1]
    step = (n_frames - 1) / (num_frames - 1)
    return [math.floor(i * step) for i in range(num_frames - 1)] + [n_frames - 1]


def uniform_indices(n_frames: int, num_frames: int) -> list[int]:
    """Pick frames of a generic video: floors of `linspace(0, n_frames - 1, num_frames)`; all of a shorter video.

    Raises:
        ConfigError: `n_frames` is negative or `num_frames` is below 1.
    """
    _check(n_frames, num_frames)
    if n_frames <= num_frames:
        return list(range(n_frames))
    return [math.floor(position) for position in _linspace(n_frames - 1, num_frames)]


def rounded_uniform_indices(n_frames: int, num_frames: int) -> list[int]:
    """Pick frames of a video in `generate_content`: `linspace` rounded half to even; short videos repeat frames.

    Returns:
        `num_frames` indices, empty when there are no frames.

    Raises:
        ConfigError: `n_frames` is negative or `num_frames` is below 1.
    """
    _check(n_frames, num_frames)
    if n_frames == 0:
        return []
    return [round(position) for position in _linspace(n_frames - 1, num_frames)]


def fps_indices(
    times: Sequence[float], num_frames: int, *, fps: float, rate: float, start: float = 0.0, end: float = math.inf
) -> list[int]:
    """Pick the frames on show every 1/`fps` s from `start` to before `end`, at most `num_frames`.

    At a constant rate it is the frame floor(t * rate), rounding for rounding as in VILA's loader; else `times` decide.

    Args:
        times: when each frame of the video is shown, in s, rising from 0.
        num_frames: most frames to pick, >= 1.
        fps: frames to pick of each second, > 0; above `rate`, frames repeat.
        rate: nominal frames/s of the video.
        start: second to begin at, >= 0.
        end: second to stop before.

    Raises:
        ConfigError: `num_frames` is below 1, or `fps` or `rate` not above 0.
    """
    _check(len(times), num_frames)
    if not (fps > 0 and rate > 0):
        raise ConfigError(f"fps is {fps} of a video with {rate} frames/s, but both must be above 0; set fps.")
    if not times:
        return []
    constant = all(abs(time - i / rate) < 0.5 / rate for i, time in enumerate(times))
    duration = len(times) / rate if constant else times[-1] + times[-1] / (len(times) - 1)
    count = min(math.ceil((min(duration, end) - start) / (1 / fps)), num_frames)
    moments = [start + i * (1 / fps) for i in range(count)]
    if constant:
        return [min(int(moment * rate), len(times) - 1) for moment in moments]
    return [bisect_right(times, moment) - 1 for moment in moments]


def _linspace(last: int, num: int) -> list[float]:
    """`numpy.linspace(0, last, num)`, rounding for rounding."""
    if num == 1:
        return [0.0]
    step = last / (num - 1)
    return [i * step for i in range(num - 1)] + [float(last)]


def _check(n_frames: int, num_frames: int) -> None:
    if n_frames < 0:
        raise ConfigError(f"A sequence cannot have {n_frames} frames; pass its length, 0 or more.")
    if num_frames < 1:
        raise ConfigError(f"num_frames is {num_frames}, but a model needs at least one; set num_video_frames.")

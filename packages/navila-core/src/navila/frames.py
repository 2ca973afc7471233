"""Which frames of a sequence the model sees: the index rules the released checkpoints were trained with.

Every rule returns indices into the sequence, in time order; `BLACK` (-1) stands for a black frame put in front of a
sequence that is shorter than asked for. All are exact, including numpy's floating-point rounding in `linspace`.
"""

from __future__ import annotations

import math

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

"""The user messages of the two tasks a navigation model is trained on, for training and acting alike."""

from __future__ import annotations

import re
from typing import Any

from navila.constants import IMAGE_TOKEN
from navila.errors import ConfigError
from navila.tokenization import escape_user_text

_FRAME = f"{IMAGE_TOKEN}\n"


def navigation_prompt(instruction: str, num_frames: int, *, tokenizer: Any = None) -> str:
    """User message that asks for the next action: `num_frames - 1` history frames, the current one, the instruction.

    The instruction goes in as it is but for `<image>` and control tokens, which are broken up (`escape_user_text`).

    Args:
        instruction: what the agent is to do.
        num_frames: history frames and the current observation, >= 1.
        tokenizer: breaks up its special tokens too, beyond the well-known ones.

    Raises:
        ConfigError: `num_frames` is below 1.
    """
    if num_frames < 1:
        raise ConfigError(f"num_frames is {num_frames}, but a decision needs the current frame; set it to 1 or more.")
    return (
        "Imagine you are a robot programmed for navigation tasks. You have been given a video of historical "
        f"observations {_FRAME * (num_frames - 1)}, and current observation {_FRAME}. Your assigned task is: "
        f'"{escape_user_text(instruction, tokenizer)}" Analyze this series of images to decide your next action, which '
        "could be turning left or right by a specific degree, moving forward a certain distance, or stop if the task "
        "is completed."
    )


def trajectory_prompt(num_frames: int) -> str:
    """User message that asks to describe the trajectory seen in `num_frames` frames.

    Raises:
        ConfigError: `num_frames` is below 1.
    """
    if num_frames < 1:
        raise ConfigError(f"num_frames is {num_frames}, but a trajectory needs frames; set it to 1 or more.")
    return (
        "Assume you are a robot designed for navigation. You are provided with captured images sequences "
        f"{_FRAME * num_frames}. Based on this image sequence, please describe the navigation trajectory of the robot."
    )


def normalise_instruction(text: str) -> str:
    """Clean an instruction as the released training data was: one line, sentence case, no space before a full stop.

    Lower-cases proper names too ("TV" -> "tv"), as the training did; the evaluation passes the text unchanged.
    """
    line = text.replace("\r\n", " ").replace("\n", " ").capitalize()
    line = re.sub(r"(?<=\.\s)[a-z]", lambda letter: letter[0].upper(), line)
    return re.sub(r"\s+\.", ".", line)

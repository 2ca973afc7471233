"""CPU seconds of a navigation decision, against transformers' `generate` on the whole prompt.

    python benchmarks/decisions.py [--decisions 16] [--walks 1] [--rounds 5] [--layers 8] [--width 256]

One or more walks side by side, decided in one batch, by a model of random weights in the 8B one's proportions: prompts
of some 1,750 positions, an encoder of a quarter of the language model's work. Three ways take turns at each view and
must give the same answers, chosen among the ten legal ones; all encode a frame once.

    generate      the whole prompt, and a pass for each token of the answer
    act           what is alike is not read again, and the answer takes one pass
    anticipated   the same where `anticipate` ran while the robot moved: what is left to do when the frame is there

Prints the median over the rounds of each one's speed-up, the extremes, and the passes through the language model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any
from unittest.mock import patch

# Before torch is imported: the figures are for one core.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

INSTRUCTION = "Walk past the table, turn left at the second door and stop next to the sofa by the window."


def make_model(layers: int, width: int) -> Any:
    """A model of 8 frames of 196 positions each."""
    import torch
    from navila.actions import LEGAL_ANSWERS
    from navila.model import build
    from navila.prompts import navigation_prompt
    from navila_train.tokenizers import build_word_tokenizer

    torch.manual_seed(0)
    return build(
        {
            **{"model_type": "llama", "hidden_size": width, "intermediate_size": 4 * width},
            **{"num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 2},
        },
        {
            **{"model_type": "siglip_vision_model", "hidden_size": 96, "intermediate_size": 384},
            **{"num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 384, "patch_size": 14},
        },
        "mlp_downsample",
        build_word_tokenizer([navigation_prompt(INSTRUCTION, 8), *LEGAL_ANSWERS], phrases=()),
        template="llama_3",
        num_video_frames=8,
        attn_implementation="sdpa",
    ).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=16, help="of a walk (default: 16)")
    parser.add_argument("--walks", type=int, default=1, help="that are decided for at once (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="times all of it is done (default: 5)")
    parser.add_argument("--layers", type=int, default=8, help="of the language model (default: 8)")
    parser.add_argument("--width", type=int, default=256, help="of the language model (default: 256)")
    asked = parser.parse_args()

    import numpy as np
    import torch
    from navila.actions import Action
    from navila.navigator import Navigator, act_batch

    torch.set_num_threads(1)
    model = make_model(asked.layers, asked.width)
    ways = ("generate", "act", "anticipated")
    navigators = {name: [Navigator(model, decoding="grammar") for _ in range(asked.walks)] for name in ways}
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    model.llm.register_forward_pre_hook(count)
    ratios: dict[str, list[float]] = {name: [] for name in navigators}
    passed = dict.fromkeys(navigators, 0)
    for number in range(asked.rounds):
        noise = np.random.default_rng(number)

        def camera(noise: np.random.Generator = noise) -> np.ndarray[Any, Any]:
            return noise.integers(0, 256, (240, 320, 3), dtype=np.uint8)

        seconds = dict.fromkeys(navigators, 0.0)
        for walks in navigators.values():
            for walk, navigator in enumerate(walks):
                navigator.reset(INSTRUCTION + " Go on." * walk)
        for _ in range(asked.decisions):
            images = [camera() for _ in range(asked.walks)]
            decided: list[list[Action]] = []
            for name, walks in navigators.items():
                if name == "anticipated":
                    for navigator in walks:
                        navigator.anticipate()
                began, passes = time.process_time(), 0
                with patch("navila.navigator.can_decide", lambda _, name=name: name != "generate"):
                    decided.append(act_batch(walks, images))
                seconds[name] += time.process_time() - began
                passed[name] += passes
            assert decided[0] == decided[1] == decided[2], "the answers differ"
            for walk, action in enumerate(decided[0]):
                for _ in action.primitives[1:]:
                    image = camera()
                    for walks in navigators.values():
                        walks[walk].observe(image)
        for name, taken in seconds.items():
            ratios[name].append(seconds["generate"] / taken)
        each = "   ".join(f"{name} {taken / asked.decisions:.3f} s" for name, taken in seconds.items())
        print(f"round {number + 1}, {asked.walks} decided: {each}", flush=True)
    for name, values in ratios.items():
        each = passed[name] / asked.decisions / asked.rounds
        print(f"{name:12} x{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f}), {each:.1f} passes")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

"""What a decision costs is told by stage, and measuring changes no decision."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import navila
import numpy as np
import pytest
from click.testing import CliRunner
from navila.cli.models.bench import bench
from navila.constants import IMAGE_TOKEN_INDEX
from navila.decision_cost import HISTORY, measure
from navila.errors import DataError
from navila.navigator import Navigator
from PIL import Image

INSTRUCTION = "Walk past the table and stop next to the sofa."
STAGES = {"images", "encoder", "projector", "prompt", "answer", "other"}


@pytest.fixture(scope="module")
def checkpoint(goldens: Path) -> Path:
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return navila.load(checkpoint, device="cpu", dtype="float32")


def camera() -> Iterator[Image.Image]:
    noise = np.random.default_rng(3)
    while True:
        yield Image.fromarray(noise.integers(0, 256, (32, 48, 3), dtype=np.uint8))


def decided(model: Any, count: int) -> list[str]:
    """What a navigator that nobody measures says on the same walk."""
    navigator, images = Navigator(model, decoding="grammar"), camera()
    navigator.reset(INSTRUCTION)
    for image in itertools.islice(images, HISTORY):
        navigator.observe(image)
    texts = []
    for _ in range(count):
        action = navigator.act(next(images))
        texts.append(action.text)
        for image in itertools.islice(images, len(action.primitives) - 1):
            navigator.observe(image)
    return texts


def test_stages_add_up_and_what_can_be_done_ahead_is_not_done_again(model: Any) -> None:
    taken = measure(model, camera(), INSTRUCTION, decisions=4, warm_up=2, decoding="grammar")
    assert [one.action.text for one in taken] == decided(model, 6)[2:]
    for one in taken:
        assert set(one.now.seconds) == STAGES
        assert min(one.now.seconds.values()) > 0
        assert one.now.total == sum(one.now.seconds.values())
        assert (one.now.frames, one.now.passes) == (1, 2), "the frame that came last; the prompt's end and the guess"
        assert one.ahead.seconds["answer"] == 0
    navigator = Navigator(model)
    navigator.reset(INSTRUCTION)
    ids = model.prompt_ids(navigator.prompt)
    # What comes before the last frame was read ahead.
    after = ids[::-1].index(IMAGE_TOKEN_INDEX)
    assert {one.now.positions for one in taken} == {model.tokens_per_image + after}
    assert {one.ahead.passes for one in taken} == {0, 1}, "none where the next prompt begins like the last"
    assert not model.llm._forward_hooks
    assert not model.vision_tower._forward_pre_hooks


def test_a_model_without_memory_is_measured_token_by_token(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("navila.navigator.can_decide", lambda _: False)
    (one,) = measure(model, camera(), INSTRUCTION, decisions=1, warm_up=0, decoding="grammar")
    tokens = model.tokenizer(one.action.text, add_special_tokens=False).input_ids
    assert one.now.passes >= len(tokens)
    assert (one.ahead.passes, one.ahead.frames) == (0, 0)


def test_the_command_tells_it_of_a_recorded_walk(checkpoint: Path, goldens: Path) -> None:
    walk = str(goldens / "H_full_model" / "frames")
    options = ["--device", "cpu", "--dtype", "float32", "--decisions", "3", "--decoding", "grammar", "--video", walk]
    done = CliRunner().invoke(bench, [str(checkpoint), *options], catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("3 decisions on 8 frames", "float32 on cpu", "vision encoder", "frames encoded", "GB of memory"):
        assert words in done.output
    done = CliRunner().invoke(bench, [str(checkpoint), *options, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert (told["device"], told["num_frames"], len(told["decisions"])) == ("cpu", 8, 3)
    assert set(told["decisions"][0]["now"]["seconds"]) == STAGES
    with pytest.raises(DataError, match="does not exist"):
        CliRunner().invoke(bench, [str(checkpoint), "--video", f"{walk}.mp4"], catch_exceptions=False)

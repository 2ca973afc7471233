"""The navigator's history, cache, prompt and decoding."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import navila
import numpy as np
import pytest
import torch
from navila.actions import FORWARD, LEGAL_ANSWERS, STOP
from navila.errors import ConfigError, DataError
from navila.frames import sample_indices
from navila.navigator import Navigator, act_batch
from PIL import Image

INSTRUCTION = "Walk past the table, turn left at the second door and stop next to the sofa."


@pytest.fixture(scope="module")
def model(goldens: Path) -> Any:
    return navila.load(goldens / "H_full_model" / "llama_siglip" / "ckpt", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "H_full_model" / "llama_siglip" / "golden.json").read_text())


@pytest.fixture(scope="module")
def frames(goldens: Path) -> list[Image.Image]:
    return [Image.open(path) for path in sorted((goldens / "H_full_model" / "frames").glob("*.png"))]


class ScriptedModel:
    """Says what it is told to, and keeps what it was shown: an image's feature is the value of its first pixel."""

    def __init__(self, answers: list[str], real: Any) -> None:
        self.answers = answers
        self.config, self.template, self.tokenizer = real.config, real.template, real.tokenizer
        self.prompt_ids = real.prompt_ids
        self.device, self.vision_tower = real.device, real.vision_tower
        self.pad_id, self.stop_ids, self.image_ids = real.pad_id, real.stop_ids, real.image_ids
        # An attention without masks, so that it is asked by `generate`.
        self.llm = SimpleNamespace(config=SimpleNamespace(_attn_implementation="flash_attention_2"))
        self.encoded: list[int] = []
        self.shown: list[list[int]] = []

    def process_images(self, images: list[Image.Image]) -> torch.Tensor:
        return torch.tensor([[float(image.getpixel((0, 0))[0])] for image in images])  # type: ignore[index]

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        self.encoded += [int(value) for value in pixels[:, 0]]
        return pixels[:, None, :]

    def generate(
        self, *, input_ids: torch.Tensor, image_features: torch.Tensor, image_index: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        rows = image_features[image_index].reshape(len(input_ids), -1).int().tolist()
        self.shown += rows
        said = [self.tokenizer.encode(self.answers.pop(0), add_special_tokens=False) for _ in rows]
        longest = max(map(len, said))
        return torch.tensor([ids + [self.tokenizer.eos_token_id] * (longest - len(ids)) for ids in said])


def picture(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


BLACK = 0


def test_the_first_decision_sees_black_padding_and_the_current_frame(model: Any) -> None:
    scripted = ScriptedModel(["The next action is move forward 25 cm."], model)
    navigator = Navigator(scripted, num_frames=4)  # type: ignore[arg-type]
    navigator.reset("Go.")
    navigator.act(picture(7))
    assert scripted.shown == [[BLACK, BLACK, BLACK, 7]]


def test_history_is_one_frame_for_each_executed_primitive_taken_before_it(model: Any) -> None:
    answers = ["The next action is move forward 75 cm.", "The next action is turn left 30 degree.", LEGAL_ANSWERS[-1]]
    scripted = ScriptedModel(list(answers), model)
    navigator = Navigator(scripted, num_frames=8)  # type: ignore[arg-type]
    navigator.reset("Go.")
    seen = 1
    while True:
        action = navigator.act(picture(seen))
        for number, _primitive in enumerate(action.primitives):
            if number:
                navigator.observe(picture(seen))
            seen += 1
        if action.primitives[-1] == STOP:
            break
    # Frame n is what was seen after n - 1 primitives; 3 + 2 primitives come before the third decision.
    assert scripted.shown == [
        [BLACK] * 7 + [1],
        [BLACK] * 4 + [1, 2, 3, 4],
        [BLACK] * 2 + [1, 2, 3, 4, 5, 6],
    ]
    assert navigator.history_length == 6


def test_step_goes_the_same_way_as_act_and_observe(model: Any) -> None:
    answers = ["The next action is turn right 45 degree.", "The next action is move forward 50 cm.", LEGAL_ANSWERS[-1]]
    scripted = ScriptedModel(list(answers), model)
    navigator = Navigator(scripted, num_frames=8)  # type: ignore[arg-type]
    navigator.reset("Go.")
    primitives = [navigator.step(picture(seen)) for seen in range(1, 7)]
    assert primitives == [3, 3, 3, 1, 1, STOP]
    assert scripted.shown[-1] == [BLACK] * 2 + [1, 2, 3, 4, 5, 6]


def test_long_histories_are_sampled_by_the_frame_rule_and_each_frame_is_encoded_once(model: Any) -> None:
    scripted = ScriptedModel(["The next action is move forward 50 cm."] * 12, model)
    navigator = Navigator(scripted, num_frames=4)  # type: ignore[arg-type]
    navigator.reset("Go.")
    for decision in range(12):
        length = 2 * decision + 1
        navigator.act(picture(length))
        expected = [BLACK if index < 0 else index + 1 for index in sample_indices(length, 4)]
        assert scripted.shown[-1] == expected
        navigator.observe(picture(length + 1))
    assert len(scripted.encoded) == len(set(scripted.encoded))
    assert set(scripted.encoded) == {value for row in scripted.shown for value in row}


def test_reset_forgets_history_pending_primitives_and_counters(model: Any) -> None:
    scripted = ScriptedModel(["The next action is move forward 75 cm.", "gibberish", "The next action is stop."], model)
    navigator = Navigator(scripted, num_frames=4)  # type: ignore[arg-type]
    navigator.reset("Go.")
    assert navigator.step(picture(1)) == FORWARD
    navigator.reset("Go elsewhere.")
    assert navigator.act(picture(9)).status == "unparsed"
    assert (navigator.n_decisions, navigator.n_unparsed) == (1, 1)
    assert scripted.shown[-1] == [BLACK, BLACK, BLACK, 9]
    navigator.reset("Go home.")
    assert (navigator.n_decisions, navigator.n_unparsed, navigator.history_length) == (0, 0, 0)
    assert navigator.step(picture(5)) == STOP
    assert scripted.encoded.count(BLACK) == 1, "the padding is encoded once for all tasks"


@pytest.mark.parametrize(("policy", "expected"), [("forward", (1,)), ("stop", (0,)), ("repeat", (2, 2))])
def test_an_answer_without_an_action_follows_the_policy_and_is_counted(
    model: Any, policy: Any, expected: tuple[int, ...]
) -> None:
    scripted = ScriptedModel(["The next action is turn left 30 degree.", "I see a sofa."], model)
    navigator = Navigator(scripted, num_frames=2, on_unparsed=policy)  # type: ignore[arg-type]
    navigator.reset("Go.")
    navigator.act(picture(1))
    action = navigator.act(picture(2))
    assert action.primitives == expected
    assert action.kind == ("forward", "stop", "left")[("forward", "stop", "repeat").index(policy)]
    assert action.text == "I see a sofa."
    assert (navigator.n_decisions, navigator.n_unparsed) == (2, 1)


def test_the_callers_image_buffer_may_be_reused(model: Any) -> None:
    scripted = ScriptedModel(["The next action is move forward 25 cm."] * 3, model)
    navigator = Navigator(scripted, num_frames=4)  # type: ignore[arg-type]
    navigator.reset("Go.")
    buffer = np.zeros((8, 8, 3), np.uint8)
    for value in (3, 4):
        buffer[:] = value
        navigator.observe(buffer)
    buffer[:] = 5
    navigator.act(buffer)
    assert scripted.shown == [[BLACK, 3, 4, 5]]


def test_the_instruction_is_used_raw_unless_normalisation_is_asked_for(model: Any) -> None:
    navigator = Navigator(model)
    navigator.reset("go to the TV .\nSTOP")
    assert '"go to the TV .\nSTOP"' in navigator.prompt
    normalised = Navigator(model, normalise=True)
    normalised.reset("go to the TV .\nSTOP")
    assert '"Go to the tv. Stop"' in normalised.prompt


def test_an_instruction_cannot_inject_images(model: Any, frames: list[Image.Image]) -> None:
    navigator = Navigator(model, num_frames=2)
    navigator.reset("Go <image> to <|eot_id|> the sofa.")
    assert navigator.prompt.count("<image>") == 2
    assert navigator.act(frames[0]).primitives


@pytest.mark.parametrize("length", [1, 5, 8, 20])
def test_answers_equal_the_original_trainers(
    model: Any, golden: dict[str, Any], frames: list[Image.Image], length: int
) -> None:
    case = golden[f"iii_nav_T{length}"]
    navigator = Navigator(model, num_frames=8)
    navigator.reset(INSTRUCTION)
    assert navigator.prompt == case["prompt"]
    for frame in frames[: length - 1]:
        navigator.observe(frame)
    assert navigator.act(frames[length - 1]).text == case["generate"]["text"].strip()


def test_cached_answers_equal_uncached_ones_along_a_walk(model: Any, frames: list[Image.Image]) -> None:
    cached = Navigator(model, num_frames=4)
    cached.reset(INSTRUCTION)
    answers = []
    for index, frame in enumerate(frames[:12]):
        fresh = Navigator(model, num_frames=4)
        fresh.reset(INSTRUCTION)
        for earlier in frames[:index]:
            fresh.observe(earlier)
        answer = fresh.act(frame).text
        answers.append(answer)
        assert cached.act(frame).text == answer
    assert len(set(answers)) > 1, "a model that always says the same shows nothing"


def test_a_batch_answers_as_its_members_do_alone(model: Any, frames: list[Image.Image]) -> None:
    instructions = ["Stop.", INSTRUCTION, "Go to the red sofa behind the table and wait there for a while."]
    alone = [Navigator(model, num_frames=4) for _ in instructions]
    together = [Navigator(model, num_frames=4) for _ in instructions]
    for navigators in (alone, together):
        for navigator, instruction in zip(navigators, instructions, strict=True):
            navigator.reset(instruction)
    # Histories of different length: the walks of a batch are never in step.
    for index in range(3):
        for frame in frames[: 3 * index]:
            alone[index].observe(frame)
            together[index].observe(frame)
    for start in (5, 9):
        views = frames[start : start + 3]
        expected = [navigator.act(view) for navigator, view in zip(alone, views, strict=True)]
        assert act_batch(together, views) == expected


def test_the_grammar_gives_legal_answers_from_any_model(model: Any, frames: list[Image.Image]) -> None:
    free, bound = Navigator(model, num_frames=4), Navigator(model, num_frames=4, decoding="grammar")
    free.reset(INSTRUCTION)
    bound.reset(INSTRUCTION)
    assert free.act(frames[0]).text not in LEGAL_ANSWERS
    for frame in frames[:4]:
        action = bound.act(frame)
        assert action.text in LEGAL_ANSWERS
        assert action.status == "ok"
    assert bound.n_unparsed == 0


def test_mistakes_are_one_sentence(model: Any, frames: list[Image.Image]) -> None:
    navigator = Navigator(model)
    with pytest.raises(ConfigError, match=r"call reset\(instruction\) before act"):
        navigator.act(frames[0])
    navigator.reset("Go.")
    with pytest.raises(ConfigError, match="uint8 array"):
        navigator.act(np.zeros((4, 4), np.uint8))
    with pytest.raises(ConfigError, match="one image a navigator"):
        act_batch([navigator], [])
    with pytest.raises(ConfigError, match="num_frames must be at least 1"):
        Navigator(model, num_frames=0)
    assert act_batch([], []) == []


def test_an_instruction_too_long_for_the_model_is_refused_before_anything_moves(model: Any):
    navigator = Navigator(model, num_frames=8)
    with pytest.raises(DataError, match="trained with at most"):
        navigator.reset("Walk to the sofa. " * 2000)

"""Greedy answers with a memory and a guess are those without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.actions import LEGAL_ANSWERS
from navila.constants import IMAGE_TOKEN_INDEX
from navila.model.decisions import ROOT, AnswerTree, Element, Memory, Question, can_decide, greedy_answers
from navila.model.media import Frame
from navila.navigator import Navigator, act_batch
from PIL import Image

INSTRUCTIONS = ["Stop.", "Walk past the table, turn left at the second door and stop.", "Go to the red sofa."]
LONGEST = 12


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest, goldens: Path) -> Any:
    folder = goldens / "H_full_model" / "llama_siglip" / "ckpt"
    return navila.load(folder, device="cpu", dtype="float32", attn_implementation=request.param)


@pytest.fixture(scope="module")
def frames(goldens: Path) -> list[Image.Image]:
    return [Image.open(path) for path in sorted((goldens / "H_full_model" / "frames").glob("*.png"))]


@contextmanager
def passes(model: Any) -> Iterator[list[int]]:
    """Positions that each pass through the language model is for, as passes come."""
    counted: list[int] = []

    def count(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        counted.append((embeds if ids is None else ids).shape[1])

    hook = model.llm.register_forward_pre_hook(count, with_kwargs=True)
    yield counted
    hook.remove()


def prompts(model: Any, frames: list[Image.Image]) -> list[tuple[Element, ...]]:
    """Prompts of different lengths, two frames each."""
    made: list[tuple[Element, ...]] = []
    for number, instruction in enumerate(INSTRUCTIONS):
        text = model.template.render([("user", f"<image>\n<image>\n{instruction}"), ("assistant", None)])
        images = iter(frames[number : number + 2])
        ids = model.prompt_ids(text)
        made.append(tuple(Frame(next(images)) if token == IMAGE_TOKEN_INDEX else token for token in ids))
    return made


def generated(model: Any, prompt: Sequence[Element]) -> list[int]:
    """What transformers' own loop says."""
    ids = [IMAGE_TOKEN_INDEX if isinstance(element, Frame) else element for element in prompt]
    images = [element.image for element in prompt if isinstance(element, Frame)]
    said = model.generate(
        input_ids=torch.tensor([ids]), pixel_values=model.process_images(images), max_new_tokens=LONGEST
    )
    return said[0].tolist()


def ask(model: Any, prompts: Sequence[tuple[Element, ...]], answers: list[list[int]]) -> list[list[int]]:
    questions = [Question(prompt=p, bound=False, max_new_tokens=LONGEST, memory=Memory()) for p in prompts]
    return greedy_answers(model, questions, AnswerTree.of(answers))


def test_a_tree_has_what_answers_begin_with_alike_once() -> None:
    tree = AnswerTree.of([[1, 2, 3, 9], [1, 2, 4, 9], [1, 5, 9], [7, 9], [9]])
    assert tree.tokens == (1, 2, 3, 4, 5, 7)
    assert tree.parents == (ROOT, 0, 1, 1, 0, ROOT)
    assert tree.children[ROOT] == {1: 0, 7: 5, 9: None}
    assert tree.children[2] == {9: None}
    assert tree.paths[3].tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize("guess", ["never right", "right", "right at first", "of another's answer"])
def test_answers_are_those_of_generate_whatever_is_guessed(model: Any, frames: list[Image.Image], guess: str) -> None:
    asked = prompts(model, frames)
    expected = [generated(model, prompt) for prompt in asked]
    assert len({tuple(answer) for answer in expected}) > 1, "a model that always says the same shows nothing"
    other = next(token for token in range(100) if token not in {token for answer in expected for token in answer})
    trees = {
        "never right": [[other, other + 1, other + 2]],
        "right": expected,
        "right at first": [[*answer[:4], other, *answer[5:]] for answer in expected],
        "of another's answer": expected[:1],
    }
    with passes(model) as positions:
        assert ask(model, asked, trees[guess]) == expected
    # The prompts, the tree, and a pass for each token that the tree does not lead to.
    tokens_left = {"never right": LONGEST - 1, "right": 0, "right at first": LONGEST - 5}
    if guess in tokens_left:
        assert len(positions) == 1 + (guess != "never right") + tokens_left[guess]


def test_what_prompts_begin_with_alike_is_read_once(model: Any, frames: list[Image.Image]) -> None:
    asked = prompts(model, frames)
    memories = [Memory() for _ in asked]
    for question in range(3):
        # One row goes on as before, one with another second frame, one anew.
        asked[1] = tuple(
            Frame(frames[question + 3]) if element is frames_of(asked[1])[1] else element for element in asked[1]
        )
        asked[2] = prompts(model, frames[question:])[2]
        questions = [
            Question(prompt=prompt, bound=False, max_new_tokens=LONGEST, memory=memory)
            for prompt, memory in zip(asked, memories, strict=True)
        ]
        with passes(model) as positions:
            answers = greedy_answers(model, questions, AnswerTree.of([[1, 2]]))
        assert answers == ask(model, [tuple(map(fresh, prompt)) for prompt in asked], [[1, 2]])
        alone = [memory.common(prompt) for prompt, memory in zip(asked, memories, strict=True)]
        assert alone == [len(prompt) - 1 for prompt in asked]
        if question:
            assert positions[0] < longest_of(model, asked), "the row that is read anew is the longest of what is read"


def frames_of(prompt: Sequence[Element]) -> list[Frame]:
    return [element for element in prompt if isinstance(element, Frame)]


def fresh(element: Element) -> Element:
    return Frame(features=element.features) if isinstance(element, Frame) else element


def longest_of(model: Any, prompts: Sequence[Sequence[Element]]) -> int:
    return max(len(prompt) + len(frames_of(prompt)) * (model.tokens_per_image - 1) for prompt in prompts)


def test_anticipating_leaves_the_latest_frame_and_the_answer(model: Any, frames: list[Image.Image]) -> None:
    plain, ahead = (Navigator(model, num_frames=4, decoding="grammar") for _ in range(2))
    for navigator in (plain, ahead):
        navigator.reset(INSTRUCTIONS[1])
    ahead.anticipate()
    text_after = model.prompt_ids(plain.prompt)[::-1].index(IMAGE_TOKEN_INDEX)
    views = iter(frames[:10] * 3)
    image = next(views)
    for _ in range(5):
        with passes(model) as needed:
            action = plain.act(image)
        with passes(model) as critical:
            assert ahead.act(image) == action
        if plain.n_decisions > 3:
            # Of the prompt, its last frame and the text after it.
            assert critical[0] == model.tokens_per_image + text_after < needed[0]
        ahead.anticipate()
        ahead.anticipate()
        for number, _ in enumerate(action.primitives):
            if number:
                plain.observe(image)
                ahead.observe(image)
            image = next(views)
    assert action.text in LEGAL_ANSWERS


def test_an_anticipation_of_other_frames_than_come_changes_no_answer(model: Any, frames: list[Image.Image]) -> None:
    plain, ahead = (Navigator(model, num_frames=3) for _ in range(2))
    for navigator in (plain, ahead):
        navigator.reset(INSTRUCTIONS[1])
    for image in frames[:6]:
        # As if the robot had executed more than it said, and then less.
        ahead.anticipate(frames=7)
        assert ahead.act(image) == plain.act(image)
        ahead.anticipate(frames=1)


def test_a_batch_of_free_and_bound_rows_answers_as_they_do_alone(model: Any, frames: list[Image.Image]) -> None:
    def navigators() -> list[Navigator]:
        made = [
            Navigator(model, num_frames=2, decoding=kind, max_new_tokens=16) for kind in ("free", "grammar", "free")
        ]
        for navigator, instruction in zip(made, INSTRUCTIONS, strict=True):
            navigator.reset(instruction)
        return made

    together, alone = navigators(), navigators()
    for view in range(3):
        views = frames[view : view + 3]
        expected = [navigator.act(image) for navigator, image in zip(alone, views, strict=True)]
        assert act_batch(together, views) == expected
        assert expected[1].text in LEGAL_ANSWERS


def test_models_that_keep_a_window_or_take_no_masks_are_left_to_generate(model: Any) -> None:
    config = model.llm.config
    assert can_decide(model)
    for name, value in (
        ("layer_types", ["sliding_attention"] * config.num_hidden_layers),
        ("rope_parameters", {**config.rope_parameters, "rope_type": "longrope"}),
        ("_attn_implementation", "flash_attention_2"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config, "sliding_window", 8, raising=False)
            patch.setattr(config, name, value, raising=False)
            assert not can_decide(model), name

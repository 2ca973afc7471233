"""Augmentations: right where left was, the same in every process, and none where words leave it open."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from navila.actions import LEGAL_ANSWERS
from navila.conversation import get_template
from navila.errors import ConfigError, NavilaError
from navila.prompts import navigation_prompt, trajectory_prompt
from navila_data.augment import (
    Jitter,
    Mirror,
    augmented,
    find_augmentations,
    jitter,
    mirror,
    mirrored_turns,
    swap_sides,
)
from navila_data.dataset import LoadOptions
from navila_data.frames import FrameStore
from navila_data.media import EditedFrame
from navila_data.mixture import Mixture
from navila_data.processor import EncodedMixture, Processor
from navila_data.sample import Sample, Turn
from navila_data.sampler import EpochIndex
from navila_train.tokenizers import build_word_tokenizer
from PIL import Image

STEPS = 6


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of real frames, whose instruction says left and right."""
    folder = tmp_path_factory.mktemp("walk")
    generator = np.random.default_rng(0)
    records = []
    for episode in range(2):
        (folder / "train" / str(episode)).mkdir(parents=True)
        for i in range(STEPS):
            pixels = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / str(episode) / f"{i}.png")
            frames = [f"{episode}/{k}.png" for k in range(i + 1)]
            question = "Turn left at the sofa. Stop on the right."
            records.append({"video_id": f"{episode}", "frames": frames, "q": question, "a": LEGAL_ANSWERS[3 + i]})
    (folder / "annotations.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return build_word_tokenizer(["Turn left right at the sofa. Stop on"])


def open_walk(walk: Path) -> Mixture:
    return Mixture.open(f"vln:{walk}", None, LoadOptions(num_frames=3))


def encoded(walk: Path, tokenizer, augment: str, *, seed: int = 0, epoch: int = 0) -> list:
    processor = Processor(
        tokenizer=tokenizer, template=get_template("llama_3"), tokens_per_image=1, max_length=2048, seed=seed
    )
    data = EncodedMixture(open_walk(walk), processor, find_augmentations(augment))
    return [data[EpochIndex(epoch, i)] for i in range(len(data))]


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Turn left.", "Turn right."),
        ("TURN LEFT, Right then left", "TURN RIGHT, Left then right"),
        ("Stop by the leftmost chair on your right-hand side", "Stop by the rightmost chair on your left-hand side"),
        ("turn clockwise, then counter-clockwise", "turn counterclockwise, then clockwise"),
        ("Turn right at the door and right again", "Turn left at the door and left again"),
        ("take a slight right into the hall", "take a slight left into the hall"),
        ("make the second right after the lamp", "make the second left after the lamp"),
        ("the lamp is left of the bed", "the lamp is right of the bed"),
        ("Go left or right past it", "Go right or left past it"),
        ("Walk to the bright, upright, lefty thing", "Walk to the bright, upright, lefty thing"),
        ("Go straight \u2014 then stop.", "Go straight \u2014 then stop."),
        # "Right" that may mean "directly" or "correct", "left" that may be of "leave": not for sure.
        ("Stop right before the door", None),
        ("stop, right there", None),
        ("Right after the sofa turn left", None),
        ("go right past the table", None),
        ("once you left the kitchen", None),
        ("the only door that is left", None),
        ("if all right, stop", None),
        ("turn at a right angle", None),
        # Other languages have other words for them.
        ("\u092c\u093e\u090f\u0902 \u092e\u0941\u0921\u093c\u0947\u0902", None),
        ("gehe zur T\u00fcr", None),
    ],
)
def test_left_and_right_are_exchanged_where_they_are_sides(text: str, mirrored: str | None):
    assert swap_sides(text) == mirrored


def test_exchanging_twice_gives_the_text_back():
    for answer in LEGAL_ANSWERS:
        once = swap_sides(answer)
        assert once is not None
        assert swap_sides(once) == answer
        assert (once == answer) == ("left" not in answer and "right" not in answer)


def step(question: str, answer: str, frames: int = 3) -> Sample:
    return Sample(turns=(Turn("user", question), Turn("assistant", answer)), media=(None, *map(Path, "ab"))[:frames])


def test_instruction_and_answer_are_mirrored_and_the_prompt_stays():
    turns = mirrored_turns(step(navigation_prompt("Turn left.", 3), LEGAL_ANSWERS[3]))
    assert turns is not None
    assert turns[0].text == navigation_prompt("Turn right.", 3)
    assert turns[1].text == LEGAL_ANSWERS[6]
    assert "turning left or right by a specific degree" in turns[0].text


def test_trajectories_are_mirrored_and_nothing_else():
    turns = mirrored_turns(step(trajectory_prompt(3), "Turn left."))
    assert turns is not None
    assert [turn.text for turn in turns] == [trajectory_prompt(3), "Turn right."]
    about_a_view = Sample(turns=(Turn("user", "<image>\nLeft?"), Turn("assistant", "Red.")), media=(Path("a"),))
    assert mirrored_turns(about_a_view) is None
    assert mirrored_turns(Sample(turns=(Turn("user", "Left?"), Turn("assistant", "Yes.")))) is None
    assert mirrored_turns(step(navigation_prompt("Stop right before it.", 3), LEGAL_ANSWERS[9])) is None
    assert mirror(about_a_view, np.random.default_rng(0)) is about_a_view


def test_frames_are_mirrored_with_the_words_and_black_ones_stay(walk: Path):
    mixture = open_walk(walk)
    store = FrameStore(lambda image: np.asarray(image))
    told = {}
    for seed in range(8):
        sample = mirror(mixture[1], np.random.default_rng(seed))
        is_mirrored = "Turn right at the sofa. Stop on the left." in sample.turns[0].text
        plain, shown = store.load(mixture[1].media), store.load(sample.media)
        for before, after in zip(mixture[1].media, sample.media, strict=True):
            expected = plain[before][:, ::-1] if is_mirrored and before is not None else plain[before]
            assert np.array_equal(shown[after], expected)
        assert sample.media[0] is None
        told[is_mirrored] = sample.turns[1].text
    assert told == {False: LEGAL_ANSWERS[4], True: LEGAL_ANSWERS[7]}


def test_jitter_changes_colours_a_little_and_by_one_leaves_them():
    frame = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert np.array_equal(Jitter(1.0, 1.0, 1.0)(frame), frame)
    grey = Jitter(1.0, 1.0, 0.0)(frame)
    assert (grey == grey[..., :1]).all()
    changed = Jitter(1.2, 0.8, 1.1)(frame)
    assert changed.dtype == np.uint8
    assert 0 < np.abs(changed.astype(int) - frame).mean() < 60
    assert np.array_equal(Mirror()(Mirror()(frame)), frame)


def test_all_frames_of_an_episode_change_alike_and_are_decoded_once(walk: Path, tokenizer):
    items = encoded(walk, tokenizer, "jitter,mirror")
    edits = [{self_and_inner(medium) for medium in item.media if medium} for item in items]
    assert all(edit == edits[0] for edit in edits[:STEPS])
    assert all(edit == edits[STEPS] for edit in edits[STEPS:])
    assert edits[0] != edits[STEPS]
    assert len({medium for item in items for medium in item.media if medium}) == 2 * STEPS


def self_and_inner(medium: EditedFrame) -> tuple:
    inner = medium.medium
    return (medium.edit, self_and_inner(inner)) if isinstance(inner, EditedFrame) else (medium.edit,)


def test_seed_and_epoch_alone_decide(walk: Path, tokenizer):
    again = [encoded(walk, tokenizer, "jitter,mirror") for _ in range(2)]
    assert again[0] == again[1]
    assert encoded(walk, tokenizer, "jitter", epoch=1) != encoded(walk, tokenizer, "jitter")
    assert encoded(walk, tokenizer, "jitter", seed=1) != encoded(walk, tokenizer, "jitter")
    assert encoded(walk, tokenizer, "") == encoded(walk, tokenizer, " ")
    assert not any(isinstance(m, EditedFrame) for item in encoded(walk, tokenizer, "") for m in item.media)


def test_over_epochs_about_half_are_mirrored(walk: Path):
    mixture = open_walk(walk)
    shown = [augmented(mixture[0], [mirror], seed=0, epoch=epoch) for epoch in range(100)]
    assert 30 < sum(sample != mixture[0] for sample in shown) < 70


def test_a_function_of_ones_own_is_found_by_its_name(walk: Path, tokenizer, tmp_path: Path, monkeypatch):
    (tmp_path / "own_augmentation.py").write_text(
        "from dataclasses import replace\n"
        "def forget(sample, generator):\n"
        "    return replace(sample, media=(None,) * len(sample.media))\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    items = encoded(walk, tokenizer, "own_augmentation:forget")
    assert all(medium is None for item in items for medium in item.media)
    with pytest.raises(ConfigError, match="is no function"):
        find_augmentations("own_augmentation:number")
    sys.modules.pop("own_augmentation", None)


@pytest.mark.parametrize("text", ["blur", "jitter,blur", "nowhere:function", "navila_data.augment:nothing"])
def test_an_unknown_augmentation_is_one_sentence(text: str):
    with pytest.raises(NavilaError, match="augmentation"):
        find_augmentations(text)


def test_the_built_in_ones_go_by_their_names():
    assert find_augmentations("jitter, mirror") == (jitter, mirror)

"""The action language: parsing as the original does, and what an answer may be."""

from __future__ import annotations

import json
from itertools import groupby, product
from pathlib import Path

import pytest
from navila.actions import (
    FORWARD,
    LEFT,
    LEGAL_ACTIONS,
    LEGAL_ANSWERS,
    MAX_PRIMITIVES,
    RIGHT,
    SHORT_STOP_ANSWER,
    STOP,
    STOP_ANSWER,
    Profile,
    action_answer,
    answer_for_primitives,
    parse,
    split_runs,
)
from navila.errors import ConfigError, DataError


def test_lenient_parsing_equals_the_original(goldens: Path) -> None:
    cases = json.loads((goldens / "J_actions" / "actions.json").read_text())["cases"]
    assert len(cases) > 80
    for case in cases:
        action = parse(case["text"])
        assert action.text == case["cleaned"]
        if case["action"] is None:
            # The original sends None to the environment, which is no action; the evident intent was a step forward.
            assert (action.status, action.primitives) == ("unparsed", (FORWARD,)), case
        else:
            assert action.status != "unparsed", case
            assert action.primitives == tuple(case["full_sequence"]), case


@pytest.mark.parametrize(
    ("text", "primitives", "status"),
    [
        ("The next action is move forward 50 cm.", (1, 1), "ok"),
        ("The next action is turn left 30 degrees.", (2, 2), "ok"),
        ("The next action is move forward.", (1,), "default-magnitude"),
        ("The next action is move forward 110 cm.", (1, 1, 1), "snapped"),
        ("The next action is turn left 0 degree.", (2,), "snapped"),
        ("The next action is turn left 90 degrees.", (2,) * 6, "out-of-range"),
        ("Do not stop. The next action is move forward 50 cm.", (0,), "ok"),
        ("Go upstairs.", (1,), "unparsed"),
    ],
)
def test_lenient_parsing_says_how_it_came_to_its_action(text: str, primitives: tuple[int, ...], status: str) -> None:
    action = parse(text)
    assert (action.primitives, action.status) == (primitives, status)


@pytest.mark.parametrize(
    ("text", "primitives", "status"),
    [
        ("The next action is move forward 50 cm.", (1, 1), "ok"),
        ("  The next action is turn right 45 degrees<|eot_id|>", (3, 3, 3), "ok"),
        ("The next action is move forward 100 cm.", (1, 1, 1), "snapped"),
        ("The next action is turn left 20 degree.", (2,), "snapped"),
        (SHORT_STOP_ANSWER, (0,), "ok"),
        (STOP_ANSWER, (0,), "ok"),
        ("The next action is move forward 0 cm.", (1,), "unparsed"),
        ("The next action is move forward.", (1,), "unparsed"),
        ("Do not stop. The next action is move forward 50 cm.", (1,), "unparsed"),
        ("The bus stop is ahead.", (1,), "unparsed"),
        ("The next action is move forward 50 cm. The next action is stop.", (1,), "unparsed"),
        ("The next action is turn right \uff14\uff15 degree.", (1,), "unparsed"),
        ("", (1,), "unparsed"),
    ],
)
def test_strict_parsing_takes_one_whole_sentence(text: str, primitives: tuple[int, ...], status: str) -> None:
    action = parse(text, "strict")
    assert (action.primitives, action.status) == (primitives, status)


@pytest.mark.parametrize("profile", ["lenient", "strict"])
def test_every_legal_answer_means_the_same_in_both_profiles(profile: Profile) -> None:
    expected = [(p,) * n for p in (FORWARD, LEFT, RIGHT) for n in (1, 2, 3)] + [(STOP,)]
    actions = [parse(answer, profile) for answer in LEGAL_ANSWERS]
    assert [action.primitives for action in actions] == expected
    assert tuple(actions) == LEGAL_ACTIONS
    assert {action.status for action in actions} == {"ok"}


def test_the_legal_answers_are_those_of_the_released_data() -> None:
    assert len(set(LEGAL_ANSWERS)) == 10
    assert "The next action is move forward 75 cm." in LEGAL_ANSWERS
    assert "The next action is turn left 15 degree." in LEGAL_ANSWERS
    assert "I think I should stop because I have finished the instruction." in LEGAL_ANSWERS


def test_kind_and_magnitude_describe_the_primitives() -> None:
    for action in LEGAL_ACTIONS:
        assert action_answer(action.kind, action.magnitude) == action.text
    assert parse("The next action is turn right 44 degree.").magnitude == 45


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 5000, "2500000000000000000000"])
@pytest.mark.parametrize("profile", ["lenient", "strict"])
def test_absurd_amounts_neither_fail_nor_fill_the_memory(profile: Profile, digits: str) -> None:
    assert 1 <= len(parse(f"The next action is move forward {digits} cm.", profile).primitives) <= MAX_PRIMITIVES


def test_primitives_and_answers_are_each_others_inverse() -> None:
    for length in range(1, 6):
        for primitives in product((STOP, FORWARD, LEFT, RIGHT), repeat=length):
            runs = split_runs(primitives)
            assert sum(runs, ()) == primitives
            assert [parse(answer_for_primitives(run)).primitives for run in runs] == list(runs)
            assert answer_for_primitives(primitives) == answer_for_primitives(runs[0])


def test_runs_are_as_long_as_an_answer_can_say() -> None:
    assert split_runs([1, 1, 1, 1, 2, 2, 3, 0]) == ((1, 1, 1), (1,), (2, 2), (3,), (0,))
    for primitives in product((FORWARD, LEFT, RIGHT), repeat=6):
        longest = sum(-(-len(list(group)) // 3) for _, group in groupby(primitives))
        assert len(split_runs(primitives)) == longest


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: answer_for_primitives(()),
        lambda: answer_for_primitives((4,)),
        lambda: action_answer("forward", 100),
        lambda: action_answer("left", 0),
        lambda: action_answer("jump", 1),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_no_answer_says_is_refused(mistake: object) -> None:
    assert callable(mistake)
    with pytest.raises(DataError, match=r"use|pass"):
        mistake()


def test_an_unknown_profile_is_refused_rather_than_read_leniently() -> None:
    with pytest.raises(ConfigError, match="no parse profile 'stict'"):
        parse("The next action is stop.", "stict")  # pyright: ignore[reportArgumentType]

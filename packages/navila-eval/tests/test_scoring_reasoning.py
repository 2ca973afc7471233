"""Letters, open answers and extracted answers are parsed and scored as MMMU's, MathVista's and others' scripts do."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from navila_eval.scoring import mathvista, mmmu
from navila_eval.scoring.choices import (
    ChoiceProfile,
    ai2d_match,
    egoschema_index,
    first_character,
    item_rng,
    letter_of_word,
    letters,
    parse_choice,
    realworldqa_match,
    scienceqa_match,
    strict_choice,
    videomme_choice,
    videomme_scores,
)


@pytest.fixture(scope="module")
def golden_mmmu(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "K_metrics" / "mmmu.json").read_text())


@pytest.fixture(scope="module")
def golden_mathvista(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "K_metrics" / "mathvista.json").read_text())


def test_choices_equal_the_golden_ones(golden_mmmu: dict[str, Any]) -> None:
    choices, options = golden_mmmu["all_choices"], golden_mmmu["index2ans"]
    for case in golden_mmmu["parse_choice"]:
        with_options = parse_choice(case["response"], choices, options, rng=random.Random(case["random_seed"]))
        without = parse_choice(case["response"], choices, rng=random.Random(case["random_seed"]))
        assert (with_options, without) == (case["pred_with_index2ans"], case["pred_no_index2ans"]), case


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B.", "B"),
        ("The answer is (C)", "C"),
        ("A dog in B", "B"),
        ("A cat", "A"),
        ("b", None),
        ("**D**", None),
        ("C) foo", None),
        ("Answer:D", None),
        ("", None),
        (None, None),
        ("\u6905\u5b50", None),
        ("word " * 5000, None),
        ("(A) (A) (B)", "B"),
    ],
)
def test_a_reply_that_names_no_option_is_wrong_and_not_random(text: str | None, choice: str | None) -> None:
    assert parse_choice(text, "ABCD") == choice


@pytest.mark.parametrize(
    ("text", "profile", "choice"),
    [
        ("WD is it", "navila", None),
        ("WD is it", "lmms", "D"),
        ("A or B", "navila", "B"),
        ("A or B", "lmms", "B"),
        ("A or B", "lmms-egoschema", "A"),
        ("C.then", "lmms", "C"),
    ],
)
def test_copies_of_mmmus_rules_differ(text: str, profile: ChoiceProfile, choice: str | None) -> None:
    assert parse_choice(text, "ABCDE", profile=profile) == choice


def test_a_random_option_depends_on_the_item_alone() -> None:
    drawn = [parse_choice("?", "ABCDE", rng=item_rng("egoschema", f"item-{index}")) for index in range(50)]
    again = [parse_choice("?", "ABCDE", rng=item_rng("egoschema", f"item-{index}")) for index in reversed(range(50))]

    assert drawn == again[::-1]
    assert set(drawn) == set("ABCDE")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("b", "B"),
        ("(B)", "B"),
        ("B) foo", "B"),
        ("**B**", "B"),
        ("Answer: B", "B"),
        ("The correct option is (B), a chair", "B"),
        ("the answer is b.", "B"),
        ("a red chair.", "B"),
        ("A cat", None),
        ("A or B", None),
        ("The answer is A or B", None),
        ("(A) and (B)", None),
        ("E", None),
        ("", None),
        (None, None),
    ],
)
def test_the_strict_rule_takes_what_is_beyond_doubt(text: str | None, choice: str | None) -> None:
    assert strict_choice(text, "ABCD", {"A": "a dog", "B": "A red chair", "C": "dog", "D": "chair"}) == choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("The best answer is:\nC", "C"),
        ("The answer is B.", "B"),
        ("Definitely", "D"),
        ("b", None),
        ("", None),
        (None, None),
        ("one two three four five six seven eight nine ten eleven", None),
        ("Best answer: D", "B"),
    ],
)
def test_videomme_takes_the_first_capital(text: str | None, choice: str | None) -> None:
    assert videomme_choice(text) == choice


def test_videomme_tells_accuracy_of_the_answered_and_of_all() -> None:
    assert videomme_scores([("A", "A"), ("B", "C"), (None, "A"), (None, "B")]) == {
        "accuracy_answered": 0.5,
        "accuracy_all": 0.25,
        "n_unparsed": 2.0,
    }
    assert videomme_scores([])["accuracy_all"] == 0.0


def test_simple_letters() -> None:
    assert first_character(" B. because") == "B"
    assert first_character("b") == "b"
    assert first_character("  ") is None
    assert letter_of_word("I say C, not D") == "C"
    assert letter_of_word("ABCD") is None
    assert letters(3) == ("A", "B", "C")
    assert [egoschema_index(letter) for letter in ("A", "E", "F", None, "")] == [0, 4, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "score"), [("B", 1.0), ("b", 1.0), (" B. a cell", 1.0), ("B)", 1.0), ("b. a", 0.0), ("", 0.0), (None, 0.0)]
)
def test_ai2d_takes_the_letter_before_a_period(text: str | None, score: float) -> None:
    assert ai2d_match(text, "B") == score


def test_scienceqa_wants_the_bare_letter() -> None:
    assert [scienceqa_match(text, "B") for text in (" b ", "B.", "B. foo", None)] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "question", "answer", "score"),
    [
        ("Three", "How many?", "3", 1.0),
        ("B.", "Which?\nA. Left\nB. Right", "B", 1.0),
        ("It is Right", "Which?\nA. Left\nB. Right", "B", 1.0),
        ("right", "Which?\nA. Left\nB. Right", "B", 0.0),
        ("Yes.", "Is it?", "yes", 1.0),
        ("", "Is it?", "yes", 0.0),
        (None, "Is it?", "yes", 0.0),
    ],
)
def test_realworldqa_finds_the_text_of_an_option(text: str | None, question: str, answer: str, score: float) -> None:
    assert realworldqa_match(text, question, answer) == score


def test_open_answers_equal_the_golden_ones(golden_mmmu: dict[str, Any]) -> None:
    for case in golden_mmmu["parse_open_response"]:
        assert set(mmmu.parse_open_response(case["response"])) == set(case["parsed_sorted"]), case
        assert mmmu.extract_numbers(case["response"]) == case["extract_numbers"]
        assert mmmu.normalise(case["response"]) == case["normalize_str"]
    for case in golden_mmmu["eval_open"]:
        values = mmmu.parse_open_response(case["response"])
        assert mmmu.open_correct(values, case["gold"]) == case["correct"], case
    for case in golden_mmmu["eval_multi_choice"]:
        assert mmmu.choice_correct(case["pred"], case["gold"]) == case["correct"]


def test_judgements_equal_the_golden_ones(golden_mmmu: dict[str, Any]) -> None:
    evaluated = golden_mmmu["evaluate"]
    for sample in evaluated["samples"]:
        answer, parsed = sample["answer"], sample["parsed_pred"]
        if sample["question_type"] == "multiple-choice":
            correct = mmmu.choice_correct(parsed, answer)
        else:
            correct = mmmu.open_correct(parsed, answer)
        assert correct == (evaluated["judge"][sample["id"]] == "Correct")


def test_tables_of_subjects_and_domains_equal_the_golden_ones(golden_mmmu: dict[str, Any]) -> None:
    script = golden_mmmu["script"]
    rows = []
    for item, facts in script["answers"].items():
        output, truth = script["output"][item], facts["ground_truth"]
        if facts["question_type"] == "multiple-choice":
            rows.append((item, mmmu.choice_correct(output, truth)))
        else:
            rows.append((item, mmmu.open_correct(mmmu.parse_open_response(output), truth)))

    table = mmmu.accuracies(rows)

    assert {name: {"num": value.num, "acc": value.acc} for name, value in table.items()} == script["result"]


def test_mmmus_edges() -> None:
    assert mmmu.parse_open_response(None) == [""]
    assert mmmu.parse_open_response("\u5341\u4e8c") == ["\u5341\u4e8c"]
    assert mmmu.open_correct(mmmu.parse_open_response("50 %"), "50%") is False
    assert mmmu.choice_correct(None, "A") is False
    assert mmmu.accuracies([])["Overall"] == mmmu.Accuracy(num=0, acc=0.0)
    assert mmmu.subject_of("test_Art_Theory_12") == "Art_Theory"
    with pytest.raises(ValueError, match="validation_Accounting_1"):
        mmmu.subject_of("12")


def test_mathvista_predictions_and_scores_equal_the_golden_ones(golden_mathvista: dict[str, Any]) -> None:
    judged = []
    for name, problem in golden_mathvista["input"].items():
        expected = golden_mathvista["after"][name]
        prediction = mathvista.normalise(
            problem["extraction"],
            problem["question_type"],
            problem["answer_type"],
            problem["choices"],
            problem["precision"],
        )
        correct = mathvista.is_correct(prediction, problem["answer"])
        assert (prediction, correct) == (expected["prediction"], expected["true_false"]), name
        judged.append((problem, correct))

    table = mathvista.scores(judged)

    assert table == golden_mathvista["scores"]
    for group, values in golden_mathvista["scores"].items():
        if group != "average":
            assert [row["accuracy"] for row in table[group].values()] == [row["accuracy"] for row in values.values()]


def test_the_most_similar_choice_equals_the_golden_one(golden_mathvista: dict[str, Any]) -> None:
    for text, choices, expected in golden_mathvista["get_most_similar"]:
        assert mathvista.most_similar(text, choices) == expected


def test_precision_of_the_published_data_makes_floats_wrong_in_one_profile() -> None:
    assert mathvista.normalise("1.26", "free_form", "float", precision=1.0, profile="published") is None
    assert mathvista.normalise("1.26", "free_form", "float", precision=1.0) == "1.3"
    assert mathvista.normalise("1.26", "free_form", "float", precision=1, profile="published") == "1.3"


@pytest.mark.parametrize(
    ("response", "question_type", "answer_type", "extracted"),
    [
        ("", "free_form", "integer", ""),
        (None, "free_form", "integer", ""),
        ("12", "free_form", "integer", "12"),
        ("12.0", "free_form", "integer", None),
        ("1e3", "free_form", "float", "1000.0"),
        ("left", "multi_choice", "text", "left"),
        ("It is left", "multi_choice", "text", None),
        ('The answer is "5".', "free_form", "list", "5"),
    ],
)
def test_rules_extract_what_is_already_an_answer(
    response: str | None, question_type: str, answer_type: str, extracted: str | None
) -> None:
    assert mathvista.extract(response, question_type, answer_type, ["left", "right"], quick=True) == extracted


@pytest.mark.parametrize("extraction", ["", "inf", "nan", "abc", None, [], "1,5"])
def test_what_is_no_number_is_no_prediction(extraction: Any) -> None:
    assert mathvista.normalise(extraction, "free_form", "integer") is None


def test_choices_are_found_by_letter_or_by_likeness() -> None:
    assert mathvista.normalise("(b) rigt", "multi_choice", "text", ["left", "right"]) == "right"
    assert mathvista.normalise("rigt", "multi_choice", "text", ["left", "right"]) == "right"
    assert mathvista.normalise(None, "multi_choice", "text", ["left", "right"]) == "left"
    assert mathvista.normalise("A", "multi_choice", "text", []) is None
    assert mathvista.is_correct(" 5", "5", trim=True)
    assert not mathvista.is_correct(None, "5")


def test_the_extraction_prompt_ends_with_query_and_reply() -> None:
    prompt = mathvista.extraction_prompt("Question: Q", "It is 5.")
    assert prompt.startswith("Please read the following example.")
    assert prompt.endswith("Extracted answer: B\n\nQuestion: Q\n\nIt is 5.\n\nExtracted answer: ")

"""Measures of captions equal coco-caption's programs, and ScanQA's profiles the evaluators they are named after.

`scanqa_vectors.json` holds 40 questions scored by pycocoevalcap 1.2 (its Java tokenizer and METEOR 1.5 included).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from navila.errors import DataError
from navila_eval.scoring import captions, scanqa
from navila_eval.scoring.meteor import Meteor, find_meteor
from navila_eval.scoring.ptb import caption_lines, caption_words, tokenise

TOLERANCE = 1e-9
VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("scanqa_vectors.json").read_text(encoding="utf-8"))
PROFILES = get_args(scanqa.Profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_equals_its_published_evaluator(profile: scanqa.Profile) -> None:
    expected = VECTORS["profiles"][profile]

    got = scanqa.score(VECTORS["predictions"], VECTORS["answers"], profile)

    assert [got.metrics[f"bleu_{order}"] for order in (1, 2, 3, 4)] == pytest.approx(expected["bleu"], abs=TOLERANCE)
    for name in ("cider", "rouge_l"):
        assert got.metrics[name] == pytest.approx(expected[name], abs=TOLERANCE)
    assert [sample["cider"] for sample in got.samples] == pytest.approx(expected["ciders"], abs=TOLERANCE)
    assert [sample["rouge_l"] for sample in got.samples] == pytest.approx(expected["rouges"], abs=TOLERANCE)
    for name in {"em", "em_refined"} & set(expected):
        assert [sample[name] for sample in got.samples] == expected[name]
        assert got.metrics[name] == pytest.approx(sum(expected[name]) / len(expected[name]), abs=TOLERANCE)


def test_textcaps_bleu_equals_the_golden_one(goldens: Path) -> None:
    golden = json.loads((goldens / "K_metrics" / "textvqa.json").read_text())["textcaps_bleu4"]
    predictions = [caption_words(prediction) for prediction, _ in golden["preds"]]
    references = [[caption_words(text) for text in texts] for _, texts in golden["preds"]]

    assert captions.bleu(predictions, references)[3] == pytest.approx(golden["bleu4"], abs=TOLERANCE)


@pytest.mark.slow  # METEOR reads its table of paraphrases, some 10 s.
def test_meteor_equals_the_published_program_where_it_is_installed() -> None:
    meteor = find_meteor()
    if meteor is None:
        pytest.skip("Java or meteor-1.5.jar is not on this machine")
    expected = VECTORS["profiles"]["video-3d-llm"]

    got = scanqa.score(VECTORS["predictions"], VECTORS["answers"], "video-3d-llm", meteor=meteor)

    assert got.metrics["meteor"] == pytest.approx(expected["meteor"], abs=TOLERANCE)
    assert [sample["meteor"] for sample in got.samples] == pytest.approx(expected["meteors"], abs=TOLERANCE)


def test_without_its_program_meteor_is_missing_and_not_zero() -> None:
    got = scanqa.score(["a chair"], [["a chair"]])

    assert got.metrics["meteor"] is None
    assert "meteor" not in got.samples[0]


def test_a_meteor_that_does_not_run_is_one_sentence(tmp_path: Path) -> None:
    java, jar = tmp_path / "java", tmp_path / "meteor-1.5.jar"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    jar.write_text("not a program")

    with pytest.raises(DataError, match="METEOR stopped"):
        Meteor(java=java, jar=jar).score(["a chair"], [["a chair"]])


# Each as Stanford's PTBTokenizer (CoreNLP 3.4.1, -lowerCase) gives it.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I can't believe it's $1,000.50 -- isn't it?", "i ca n't believe it 's $ 1,000.50 -- is n't it ?"),
        ("cannot gonna gotta lemme y'all", "can not gon na got ta lem me y' all"),
        ("'tis o'clock 'em rock'n'roll ma'am", "'t is o'clock 'em rock 'n' roll ma'am"),
        ("it\u2019s \u201cquoted\u201d \u2018x\u2019 \u2026 \u2013", "it 's `` quoted '' ` x ' ... --"),
        ("8\"x10\" 5'4\"", "8 `` x10 '' 5 ' 4 ''"),
        ("(left) [right] {c}", "-lrb- left -rrb- -lsb- right -rsb- -lcb- c -rcb-"),
        ("mr smith vs. jones, no. 5 and no. chair, no.", "mr smith vs. jones , no. 5 and no . chair , no ."),
        ("no., no.5", "no. , no. 5"),
        ("left.right left,right left;right a_b", "left.right left , right left ; right a_b"),
        ("and/or w/ sink", "and/or w / sink"),
        ("1990's '90s 10-12 50% 3 1/2 .5 1,00", "1990 's '90s 10-12 50 % 3\u00a01/2 .5 1,00"),
        ("u.s. ph.d. a.m. e.g. x. t.v. stand.", "u.s. ph.d. a.m. e.g. x. t.v. stand ."),
        ("Tex. tex. Wash. wash.", "tex. tex . wash. wash ."),
        ("café 你好 хорошо x² 30° ½", "café 你好 хорошо x ² 30 ° 1/2"),
        ("emoji 😀 end", "emoji end"),
        ("&amp; &lt; a&b A&B", "& < a & b a&b"),
        ("what?! hey!you ....", "what ?! hey!you ..."),
        ("user@example.com http://www.foo.com/x <image>", "user@example.com http://www.foo.com/x <image>"),
        ("", ""),
        ("  \t\n ", ""),
    ],
)  # fmt: skip
def test_tokens_are_those_of_the_penn_treebank_tokenizer(text: str, tokens: str) -> None:
    assert " ".join(tokenise(text)) == tokens


def test_captions_are_lines_of_one_file_to_the_tokenizer() -> None:
    lines = caption_lines(["chair no.", "2 chairs", "chair no.", "two", "no. ", "2"])

    assert lines == ["chair no.", "2 chairs", "chair no", "two", "no", "2"]
    assert caption_lines([]) == []


def test_punctuation_is_dropped_and_brackets_stay() -> None:
    assert caption_words('The "left" (brown) chair, isn\'t it?') == "the left -lrb- brown -rrb- chair is n't it"


@pytest.mark.parametrize(
    ("unit", "tokens"), [("a", 1), ("a-", 2), ("1,", 2), ("'", 10_000), ("ab ", 20_000), ("<a", 40_000)]
)
def test_endless_repetition_is_tokenised(unit: str, tokens: int) -> None:
    # A rule that looks at all of the text at every position would not come to an end here.
    assert len(tokenise(unit * 20_000)) == tokens


@pytest.mark.parametrize("profile", PROFILES)
def test_empty_missing_and_strange_predictions_are_scored(profile: scanqa.Profile) -> None:
    predictions = ["", None, "椅子 🪑", "word " * 3000, "a ||| b\nc", "."]
    answers = [["brown"], ["brown", "dark brown"], ["椅子"], ["word"], ["a b c"], ["yes"]]

    got = scanqa.score(predictions, answers, profile)

    assert len(got.samples) == len(predictions)
    assert got.samples[0]["cider"] == got.samples[1]["cider"] == got.samples[0]["rouge_l"] == 0
    assert got.samples[0]["em"] == 0
    for value in got.metrics.values():
        assert value is None or 0 <= value <= 10


def test_no_samples_score_nothing() -> None:
    got = scanqa.score([], [])

    assert got.samples == ()
    assert got.metrics["cider"] == got.metrics["em"] == 0


def test_an_answer_that_contains_the_prediction_ends_the_search_in_leo_alone() -> None:
    assert scanqa.exact_match("brown", ["dark brown", "brown"], "leo") == (0, 1)
    assert scanqa.exact_match("brown", ["dark brown", "brown"], "llava-3d") == (1, 1)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  The brigth  chai. ", "right chair"),
        ("2 chairs and a tv", "two chairs and TV"),
        ("12 oclock", "twelve o'clock"),
        ("None", "zero"),
        ("mat2, no1", "mat, no"),
        ("23 and 24", "twenty-three and 24"),
        ("backwards.  left", "backward left"),
        ("a", "a"),
    ],
)
def test_leo_cleans_answers(text: str, cleaned: str) -> None:
    assert scanqa.clean_answer(text) == cleaned


def test_exact_match_at_ten_looks_at_the_ten_best() -> None:
    ranked = [str(number) for number in range(20)]
    assert scanqa.exact_match_at(ranked, ["9"]) == 1
    assert scanqa.exact_match_at(ranked, ["10"]) == 0


def test_samples_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions do not fit 1"):
        captions.bleu(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="sample 1 has no reference"):
        scanqa.score(["a", "b"], [["a"], []])
    with pytest.raises(KeyError):
        scanqa.score(["a"], [["a"]], cast("scanqa.Profile", "other"))

"""Answers about videos: WUPS and its dictionary, judges' prompts and verdicts, needles in haystacks, intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from navila.errors import DataError
from navila_eval.scoring.judges import (
    Verdict,
    answer_prompt,
    aspect_prompt,
    consistency_prompt,
    judged_scores,
    parse_verdict,
)
from navila_eval.scoring.needle import (
    NeedleResult,
    depths,
    frame_counts,
    needle_grid,
    needle_index,
    token_match,
)
from navila_eval.scoring.wordnet import FOLDER_VARIABLE, WordNet, find_wordnet
from navila_eval.scoring.wups import STOP_WORDS, content, lemmas, nextqa_score, nextqa_scores, words, wups
from navila_eval.statistics import bootstrap_statistic

TOLERANCE = 1e-9


def likeness(first: str, second: str) -> float:
    """A stand-in for WordNet's."""
    return {frozenset({"dog", "cat"}): 0.8, frozenset({"dog", "table"}): 0.25}.get(frozenset({first, second}), 0.0)


@pytest.mark.parametrize(
    ("first", "second", "alpha", "score"),
    [
        (["dog"], ["dog"], 0.0, 1.0),
        (["dog"], ["cat"], 0.0, 0.8),
        (["dog"], ["cat"], 0.9, 0.08),
        (["dog", "dog"], ["cat", "table"], 0.0, 0.64),
        (["dog", "unknown"], ["dog"], 0.0, 1.0),
        (["unknown"], ["dog"], 0.0, 0.0),
        ([], ["dog"], 0.0, 0.0),
        (["dog"], [], 0.0, 0.0),
    ],
)
def test_wups_multiplies_the_best_likenesses(first: list[str], second: list[str], alpha: float, score: float) -> None:
    assert wups(first, second, likeness, alpha) == pytest.approx(score, abs=TOLERANCE)


def test_open_answers_score_by_the_worse_direction_and_the_best_reference() -> None:
    assert nextqa_score("dog", ["cat table"], "CW", likeness) == pytest.approx(0.8 * 0.25)
    assert nextqa_score("dog", ["table", "cat"], "CW", likeness) == 0.8
    assert nextqa_score("dog", ["cat"], "DC", likeness) == 0.0
    assert nextqa_score("2", ["two", "2"], "DC", likeness) == 1.0
    assert nextqa_score("", ["dog"], "CW", likeness) == 0.0
    assert nextqa_score("dog", [], "CW", likeness) == 0.0


def test_open_answers_are_averaged_by_type_and_group() -> None:
    scores = nextqa_scores([("CW", 1.0), ("CH", 0.0), ("TP", 0.5), ("TN", 0.0), ("DL", 1.0)])

    assert scores["overall"] == 0.5
    assert (scores["C"], scores["T"], scores["D"], scores["TN"]) == (0.5, 0.25, 1.0, 0.25)
    assert "TP" not in scores
    assert nextqa_scores([])["overall"] == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog isn't here. It's gone!", "The dog is n't here . It 's gone !"),
        ('say "hi", (he) can\'t cannot', "say `` hi '' , ( he ) ca n't can not"),
        ('"Hi," he said', "`` Hi , '' he said"),
        ("3.5 p.m. dogs' 5,000 ... a--b", "3.5 p.m. dogs ' 5,000 ... a -- b"),
        ("", ""),
        ("\u6905\u5b50 \U0001fa91", "\u6905\u5b50 \U0001fa91"),
    ],
)
def test_sentences_are_divided_as_nltk_divides_them(text: str, expected: str) -> None:
    assert words(text) == expected.split()


NOUNS = {
    "entity": [],
    "animal": ["entity"],
    "dog": ["animal"],
    "cat": ["animal"],
    "table": ["entity"],
    "man": ["animal"],
}


@pytest.fixture(params=["\n", "\r\n"], ids=["lf", "crlf"])
def dictionary(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A small dictionary in WordNet's format; a copy with CRLF has other offsets than it says."""
    synsets = {
        "noun": {word: [("@", above, "n") for above in hypernyms] for word, hypernyms in NOUNS.items()},
        "verb": {"run": [], "walk": [("@", "run", "v")]},
        "adj": {"happy": []},
        "adv": {"quickly": []},
    }
    for part, entries in synsets.items():
        kind = {"noun": "n", "verb": "v", "adj": "s", "adv": "r"}[part]
        lines = ["  1 A licence"]
        offsets: dict[str, int] = {}
        for word, pointers in entries.items():
            offsets[word] = sum(len(line) + 1 for line in lines)
            links = "".join(f"{symbol} {offsets[above]:08d} {other} 0000 " for symbol, above, other in pointers)
            lines.append(f"{offsets[word]:08d} 05 {kind} 01 {word} 0 {len(pointers):03d} {links}| a gloss")
        index = [f"{word} {kind} 1 1 @ 1 0 {offset:08d}" for word, offset in sorted(offsets.items())]
        for name, rows in ((f"data.{part}", lines), (f"index.{part}", ["  1 A licence", *index])):
            (tmp_path / name).write_bytes((request.param.join(rows) + request.param).encode())
        (tmp_path / f"{part}.exc").write_text("men man\n" if part == "noun" else "ran run\n" if part == "verb" else "")
    return tmp_path


@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [
        ("dog", "cat", 4 / 6),
        ("dogs", "Cats", 4 / 6),
        ("men", "dog", 4 / 6),
        ("dog", "table", 2 / 5),
        ("dog", "animal", 4 / 5),
        # Of what is above both and equally deep the first by name, but for the first word itself.
        ("walking", "ran", 2 / 5),
        ("ran", "walking", 2 / 3),
        ("dog", "run", 2 / 6),
        ("happy", "quickly", 2 / 4),
        ("happy", "happy", 1.0),
        ("dog", "unknown", 0.0),
        ("", "dog", 0.0),
    ],
)
def test_words_are_alike_by_their_common_ancestor(dictionary: Path, first: str, second: str, similarity: float) -> None:
    assert WordNet(dictionary).similarity(first, second) == pytest.approx(similarity, abs=TOLERANCE)


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    found = find_wordnet()
    if found is None:
        pytest.skip("WordNet 3.0 is not on this machine")
    return found


# NLTK 3.10 on WordNet 3.0.
@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [
        ("dog", "cat", 0.8571428571428571),
        ("men", "children", 0.15384615384615385),
        ("chef", "was", 0.3),
        ("chef", "fireman", 0.11764705882352941),
        ("run", "walking", 0.5714285714285714),
        ("happy", "sad", 0.5),
        ("quickly", "dog", 0.16666666666666666),
        ("table", "tables", 1.0),
        ("children", "germ_pore", 0.3333333333333333),
        ("dodoma", "frank_lloyd_wright", 0.3157894736842105),
        ("xyzzy", "dog", 0.0),
    ],
)
def test_similarities_equal_nltks(wordnet: WordNet, first: str, second: str, similarity: float) -> None:
    assert wordnet.similarity(first, second) == pytest.approx(similarity, abs=TOLERANCE)


def test_answers_are_cut_to_the_base_forms_of_words_that_matter(dictionary: Path) -> None:
    wordnet = WordNet(dictionary)

    def tag(tokens: list[str]) -> list[str]:
        return [{"walking": "VBG", "the": "DT", "men": "NNS"}.get(token, "NN") for token in tokens]

    assert lemmas("The men walking", wordnet, tag) == ["the", "man", "walk"]
    assert lemmas("doggy", wordnet, tag) == ["doggy"]
    assert lemmas("doggy kitty", wordnet, tag, lambda word: word[:3]) == ["dog", "kitty"]
    assert content("The men are walking to the dogs.", wordnet) == "man walk dog ."
    assert content(None, wordnet, tag) == ""
    assert "not" not in STOP_WORDS


def test_a_folder_without_wordnets_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=r"lacks index\.noun\. WUPS needs the files of WordNet 3\.0"):
        find_wordnet()


def test_prompts_of_judges_hold_question_answer_and_prediction() -> None:
    prompt = answer_prompt("What {is} it?", "a dog", "a cat")
    assert "Question: What {is} it?\nCorrect Answer: a dog\nPredicted Answer: a cat\n" in prompt.user
    assert prompt.user.endswith("{'pred': 'yes', 'score': 4.8}.")
    assert "##INSTRUCTIONS" in prompt.system

    aspects = [aspect_prompt(aspect, "Q", "A", "P") for aspect in ("correctness", "detail", "context", "temporal")]
    assert len({aspect.system for aspect in aspects}) == len({aspect.user for aspect in aspects}) == 4

    both = consistency_prompt(("Q1", "Q2"), "A", ("P1", "P2"))
    assert "Predicted Answer to Question 2: P2" in both.user


@pytest.mark.parametrize(
    ("reply", "yes_no", "verdict"),
    [
        ("{'pred': 'yes', 'score': 4}", True, Verdict(score=4.0, correct=True)),
        ('{"pred": "No", "score": "2"}', True, Verdict(score=2.0, correct=False)),
        ("Sure!\n```python\n{'pred': 'yes', 'score': 4.8}\n```", True, Verdict(score=4.8, correct=True)),
        ("{pred: yes, score: 3}", True, Verdict(score=3.0, correct=True)),
        ("{''score': 4.8}", False, Verdict(score=4.8)),
        ("{'score': 0}", False, Verdict(score=0.0)),
        ("{'score': 4}", True, None),
        ("{'pred': 'perhaps', 'score': 4}", True, None),
        ("{'score': 11}", False, None),
        ("{'score': -1}", False, None),
        ("{'score': nan}", False, None),
        ("4", False, None),
        ("__import__('os').abort()", True, None),
        ("", True, None),
        (None, False, None),
        ("{" * 5000, True, None),
    ],
)
def test_verdicts_are_read_out_of_any_reply(reply: str | None, yes_no: bool, verdict: Verdict | None) -> None:
    assert parse_verdict(reply, yes_no=yes_no) == verdict


def test_failed_judgements_stay_in_the_denominator_and_are_told() -> None:
    verdicts = [Verdict(score=4.8, correct=True), Verdict(score=2.0, correct=False), None, None]

    assert judged_scores(verdicts) == {
        "accuracy": 0.25,
        "score": 1.5,
        "accuracy_judged": 0.5,
        "score_judged": 3.0,
        "n_failed": 2.0,
    }
    assert judged_scores(verdicts, whole=False)["score"] == pytest.approx(1.7)
    assert judged_scores([None])["accuracy_judged"] == judged_scores([])["score"] == 0.0


def test_a_needle_grid_has_a_cell_for_every_combination_and_averages_needles() -> None:
    results = [
        NeedleResult(frames=40, depth=0.0, found=1.0),
        NeedleResult(frames=20, depth=0.0, found=1.0),
        NeedleResult(frames=20, depth=0.0, found=0.0),
        NeedleResult(frames=20, depth=0.5, found=0.0),
    ]

    grid = needle_grid(results)

    assert grid == needle_grid(reversed(results))
    assert (grid.frames, grid.depths) == ((20, 40), (0.0, 0.5))
    assert grid.scores == ((0.5, 1.0), (0.0, None))
    assert grid.score == 0.5
    assert needle_grid([]).score == 0.0


def test_the_grid_of_the_protocol() -> None:
    assert frame_counts(20, 300, 20) == list(range(20, 301, 20))
    assert depths(0.1) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert depths(0.3) == [0.0, 0.3, 0.6, 0.9]
    assert [needle_index(depth, 20) for depth in (0.0, 0.5, 1.0)] == [0, 10, 20]
    assert token_match([1, 2], (1, 2)) == 1.0
    assert token_match([1, 3], [1, 2]) == token_match([1], [1, 2]) == 0.0
    with pytest.raises(ValueError, match="depth interval"):
        depths(0.0)


def test_an_interval_of_a_figure_that_is_no_mean_is_seeded_and_holds_the_figure() -> None:
    truth = np.random.default_rng(0).integers(0, 2, 200)
    said = np.where(np.random.default_rng(1).random(200) < 0.8, truth, 1 - truth)

    def f1(rows: np.ndarray) -> float:
        hits = float((said[rows] & truth[rows]).sum())
        return 2 * hits / float(said[rows].sum() + truth[rows].sum())

    interval = bootstrap_statistic(200, f1, resamples=500)

    assert interval == bootstrap_statistic(200, f1, resamples=500)
    assert interval != bootstrap_statistic(200, f1, resamples=500, seed=1)
    assert interval is not None
    assert interval[0] < f1(np.arange(200)) < interval[1]
    assert bootstrap_statistic(0, f1) is None

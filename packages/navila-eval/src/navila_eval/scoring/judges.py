"""Answers about videos judged by a model: what it is asked, what its reply says, and the figures made of many.

The protocol is Video-ChatGPT's (Maaz et al., ACL 2024). Figures move with the judge: name it beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: What Video-ChatGPT's benchmark asks about.
Aspect = Literal["correctness", "detail", "context", "temporal", "consistency"]

_PAIR = "Please evaluate the following video-based question-answer pair:\n\n"
_QUESTION = "Question: {question}\nCorrect Answer: {answer}\nPredicted Answer: {prediction}\n\n"
_ONLY = (
    "DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. For example, "
    "your response should look like this: "
)
_HOW = "Here's how you can accomplish the task:------##INSTRUCTIONS: "
_SYNONYMS = "- Consider synonyms or paraphrases as valid matches.\n"


@dataclass(frozen=True, kw_only=True)
class JudgePrompt:
    """The two messages a judge gets."""

    system: str
    user: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge said."""

    score: float
    """0 … 5."""
    correct: bool | None = None
    """Its yes or no; None where it was not asked for one."""


def answer_prompt(question: str, answer: str, prediction: str) -> JudgePrompt:
    """Whether an answer matches, yes or no, and how well: MSVD-QA, MSR-VTT-QA and ActivityNet-QA."""
    return JudgePrompt(
        system=(
            "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for "
            "question-answer pairs. Your task is to compare the predicted answer with the correct answer and determine "
            f"if they match meaningfully. {_HOW}"
            "- Focus on the meaningful match between the predicted answer and the correct answer.\n"
            f"{_SYNONYMS}"
            "- Evaluate the correctness of the prediction compared to the answer."
        ),
        user=(
            _PAIR
            + _QUESTION.format(question=question, answer=answer, prediction=prediction)
            + "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, "
            "with 5 indicating the highest meaningful match. Please generate the response in the form of a Python "
            "dictionary string with keys 'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and "
            f"value of 'score' is in INTEGER, not STRING.{_ONLY}{{'pred': 'yes', 'score': 4.8}}."
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Wording:
    subject: str
    task: str
    instructions: str
    name: str
    best: str
    value: str


_WORDINGS: dict[Aspect, _Wording] = {
    "correctness": _Wording(
        subject="the factual accuracy of generative outputs for video-based question-answer pairs",
        task="determine if they are factually consistent",
        instructions=(
            "- Focus on the factual consistency between the predicted answer and the correct answer. The predicted "
            "answer should not contain any misinterpretations or misinformation.\n"
            "- The predicted answer must be factually accurate and align with the video content.\n"
            f"{_SYNONYMS}"
            "- Evaluate the factual accuracy of the prediction compared to the answer."
        ),
        name="factual accuracy score",
        best="level of factual consistency",
        value="the factual accuracy score",
    ),
    "detail": _Wording(
        subject="the detail orientation of generative outputs for video-based question-answer pairs",
        task="determine its level of detail, considering both completeness and specificity",
        instructions=(
            "- Check if the predicted answer covers all major points from the video. The response should not leave "
            "out any key aspects.\n"
            "- Evaluate whether the predicted answer includes specific details rather than just generic points. It "
            "should provide comprehensive information that is tied to specific elements of the video.\n"
            f"{_SYNONYMS}"
            "- Provide a single evaluation score that reflects the level of detail orientation of the prediction, "
            "considering both completeness and specificity."
        ),
        name="detail orientation score",
        best="level of detail orientation",
        value="the detail orientation score",
    ),
    "context": _Wording(
        subject="the contextual understanding of generative outputs for video-based question-answer pairs",
        task="determine if the generated response aligns with the overall context of the video content",
        instructions=(
            "- Evaluate whether the predicted answer aligns with the overall context of the video content. It should "
            "not provide information that is out of context or misaligned.\n"
            "- The predicted answer must capture the main themes and sentiments of the video.\n"
            f"{_SYNONYMS}"
            "- Provide your evaluation of the contextual understanding of the prediction compared to the answer."
        ),
        name="contextual understanding score",
        best="level of contextual understanding",
        value="contextual understanding score",
    ),
    "temporal": _Wording(
        subject="the temporal understanding of generative outputs for video-based question-answer pairs",
        task="determine if they correctly reflect the temporal sequence of events in the video content",
        instructions=(
            "- Focus on the temporal consistency between the predicted answer and the correct answer. The predicted "
            "answer should correctly reflect the sequence of events or details as they are presented in the video "
            "content.\n"
            "- Consider synonyms or paraphrases as valid matches, but only if the temporal order is maintained.\n"
            "- Evaluate the temporal accuracy of the prediction compared to the answer."
        ),
        name="temporal accuracy score",
        best="level of temporal consistency",
        value="the temporal accuracy score",
    ),
}


def aspect_prompt(
    aspect: Literal["correctness", "detail", "context", "temporal"], question: str, answer: str, prediction: str
) -> JudgePrompt:
    """How well a reply does in one aspect of Video-ChatGPT's benchmark, 0 … 5."""
    wording = _WORDINGS[aspect]
    return JudgePrompt(
        system=(
            f"You are an intelligent chatbot designed for evaluating {wording.subject}. Your task is to compare the "
            f"predicted answer with the correct answer and {wording.task}. {_HOW}{wording.instructions}"
        ),
        user=(
            _PAIR
            + _QUESTION.format(question=question, answer=answer, prediction=prediction)
            + _score_request(wording.name, wording.best, wording.value)
        ),
    )


def consistency_prompt(questions: tuple[str, str], answer: str, predictions: tuple[str, str]) -> JudgePrompt:
    """How well the replies to two like questions agree, 0 … 5 (Video-ChatGPT's consistency)."""
    return JudgePrompt(
        system=(
            "You are an intelligent chatbot designed for evaluating the consistency of generative outputs for "
            "similar video-based question-answer pairs. You will be given two very similar questions, a common "
            "answer common to both the questions and predicted answers for the two questions .Your task is to "
            "compare the predicted answers for two very similar question, with a common correct answer and determine "
            "if they are consistent. "
            f"{_HOW}"
            "- Focus on the consistency between the two predicted answers and the correct answer. Both predicted "
            "answers should correspond to the correct answer and to each other, and should not contain any "
            "contradictions or significant differences in the conveyed information.\n"
            "- Both predicted answers must be consistent with each other and the correct answer, in terms of the "
            "information they provide about the video content.\n"
            "- Consider synonyms or paraphrases as valid matches, but only if they maintain the consistency in the "
            "conveyed information.\n"
            "- Evaluate the consistency of the two predicted answers compared to the correct answer."
        ),
        user=(
            f"{_PAIR}Question 1: {questions[0]}\nQuestion 2: {questions[1]}\nCorrect Answer: {answer}\n"
            f"Predicted Answer to Question 1: {predictions[0]}\nPredicted Answer to Question 2: {predictions[1]}\n\n"
            + _score_request("consistency score", "level of consistency", "the consistency score")
        ),
    )


def _score_request(name: str, best: str, value: str) -> str:
    return (
        f"Provide your evaluation only as a {name} where the {name} is an integer value between 0 and 5, with 5 "
        f"indicating the highest {best}. Please generate the response in the form of a Python dictionary string with "
        f"keys 'score', where its value is {value} in INTEGER, not STRING.{_ONLY}{{''score': 4.8}}."
    )


_FIELD = r"""['"]{0,2}%s['"]{0,2}\s*:\s*['"]?\s*(%s)"""
_SCORE = re.compile(_FIELD % ("score", r"-?\d+(?:\.\d+)?"), re.IGNORECASE)
_PRED = re.compile(_FIELD % ("pred", r"[A-Za-z]+"), re.IGNORECASE)


def parse_verdict(reply: str | None, *, yes_no: bool) -> Verdict | None:
    """What a judge's reply says, or None where it cannot be told; nothing of it is executed.

    The dictionary may stand within other text, quoted in any way, also as the prompt's own example is, `{''score': 4}`.

    Args:
        reply: the judge's text.
        yes_no: whether it was asked for one (`answer_prompt`).
    """
    text = reply or ""
    score = _SCORE.search(text)
    if score is None or not 0 <= (value := float(score[1])) <= 5:
        return None
    if not yes_no:
        return Verdict(score=value)
    said = _PRED.search(text)
    word = said[1].lower() if said else ""
    # The published order of tests: "yes" anywhere in the word, then "no".
    correct = True if "yes" in word else False if "no" in word else None
    return None if correct is None else Verdict(score=value, correct=correct)


def judged_scores(verdicts: Sequence[Verdict | None], *, whole: bool = True) -> dict[str, float]:
    """Figures of many verdicts; None is a failed judgement, which counts as wrong and 0, and is told.

    Args:
        verdicts: one an answer.
        whole: cut scores to whole numbers, as Video-ChatGPT's script does (4.8 -> 4) and lmms-eval does not.

    Returns:
        `accuracy` (fraction) and `score` (0 … 5) over all answers; `accuracy_judged` and `score_judged` over those with
        a verdict, which is what the published script prints; `n_failed`. Without yes or no accuracies are 0.
    """
    given = [verdict for verdict in verdicts if verdict is not None]
    right = sum(verdict.correct is True for verdict in given)
    points = sum(int(verdict.score) if whole else verdict.score for verdict in given)

    def over(value: float, count: int) -> float:
        return value / count if count else 0.0

    return {
        "accuracy": over(right, len(verdicts)),
        "score": over(points, len(verdicts)),
        "accuracy_judged": over(right, len(given)),
        "score_judged": over(points, len(given)),
        "n_failed": float(len(verdicts) - len(given)),
    }

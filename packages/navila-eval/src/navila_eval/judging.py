"""Judges: models that say whether an answer is right where no rule can; every reply is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila.errors import ConfigError
from navila_data.answering import (
    Answerer,
    AnswerLog,
    EndpointAnswerer,
    ModelAnswerer,
    Question,
    answer_all,
    question_key,
)

from navila_eval.progress import SampleProgress
from navila_eval.scoring.judges import JudgePrompt

if TYPE_CHECKING:
    from navila_eval.questions import QuestionBenchmark, Record

#: File of verdicts, by the hash of what was asked and of which judge.
REPLIES = "judge.jsonl"
#: Longest reply in tokens, of a checkpoint, and of an endpoint, whose model may think first.
REPLY_TOKENS, ENDPOINT_REPLY_TOKENS = 256, 2048
#: What a judge is asked: one thing, or several by name.
AskJudge = str | JudgePrompt | Mapping[str, str | JudgePrompt]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model that judges: behind an OpenAI-compatible endpoint, or a checkpoint that is loaded here."""

    model: str
    """The name the endpoint serves, or a checkpoint."""
    api_base: str | None = None
    parallel: int = 8
    """Questions an endpoint is asked at a time."""
    only_kept: bool = False
    """Whether nothing is asked, and replies that were kept are all there is."""

    def answerer(self) -> Answerer:
        """The endpoint, or the checkpoint, loaded here.

        Raises:
            NavilaError: there is no such endpoint or checkpoint.
        """
        if self.api_base is not None:
            from navila.endpoint import Endpoint

            endpoint = Endpoint.from_environment(self.api_base, self.model)
            return EndpointAnswerer(endpoint, parallel=self.parallel, temperature=0.0, max_tokens=ENDPOINT_REPLY_TOKENS)
        import navila

        return ModelAnswerer(self.model, navila.load(self.model), max_tokens=REPLY_TOKENS, temperature=0.0)


def judge_all(
    benchmark: QuestionBenchmark, records: Sequence[Record], judge: Judge | None, folder: Path, *, quiet: bool = True
) -> list[Record]:
    """The records with a `verdict` each where the benchmark asks for one.

    A record without one, or without one of several, after all attempts, has `judge_error` and stays among those that
    are scored.

    Raises:
        ConfigError: the benchmark takes a judge and none is given.
        EndpointError: the judge cannot be asked at all; replies so far are kept.
    """
    prompts = benchmark.judge_prompts(records)
    if all(prompt is None for prompt in prompts):
        return list(records)
    if judge is None:
        return [
            record if prompt is None else {**record, "verdict": benchmark.verdict_by_rules(record)}
            for record, prompt in zip(records, prompts, strict=True)
        ]
    asked = [
        [_question(judge, prompt, f"sample {record['id']}", benchmark.verdict) for prompt in _several(prompts_of_one)]
        for prompts_of_one, record in zip(prompts, records, strict=True)
    ]
    questions = [question for questions_of_one in asked for question in questions_of_one]
    log = AnswerLog(folder / REPLIES)
    try:
        failures: dict[str, str] = {}
        unasked = [question for question in questions if question.key not in log]
        if unasked and judge.only_kept:
            why = f"{judge.model} was not asked yet: give it with --judge"
            failures = {question.key: why for question in unasked}
        elif unasked:
            with SampleProgress("judging", total=len(questions), quiet=quiet) as progress:
                failures = answer_all(questions, judge.answerer(), log, progress=progress.step)
        return [
            record if prompt is None else {**record, **_verdict(prompt, [q.key for q in of_one], log, failures)}
            for record, prompt, of_one in zip(records, prompts, asked, strict=True)
        ]
    finally:
        log.close()


def _several(prompt: AskJudge | None) -> list[str | JudgePrompt]:
    return [] if prompt is None else list(prompt.values()) if isinstance(prompt, Mapping) else [prompt]


def _question(judge: Judge, prompt: str | JudgePrompt, where: str, read: Callable[[str], Any]) -> Question:
    if isinstance(prompt, str):
        return Question(
            key=question_key({"judge": judge.model, "prompt": prompt}), where=where, prompt=prompt, read=read
        )
    key = question_key({"judge": judge.model, "system": prompt.system, "prompt": prompt.user})
    return Question(key=key, where=where, prompt=prompt.user, system=prompt.system, read=read)


def _verdict(prompt: AskJudge, keys: Sequence[str], log: AnswerLog, failures: dict[str, str]) -> dict[str, Any]:
    failed = {key: failures.get(key, "there is no reply") for key in keys if key not in log}
    verdicts = [None if key in failed else log[key] for key in keys]
    found = dict(zip(prompt, verdicts, strict=True)) if isinstance(prompt, Mapping) else verdicts[0]
    return {"verdict": found, **({"judge_error": next(iter(failed.values()))} if failed else {})}


def judge_of(model: str | None, api_base: str | None) -> Judge | None:
    """The judge that a command's options name.

    Raises:
        ConfigError: an endpoint without a model.
    """
    if model is None:
        if api_base is not None:
            raise ConfigError("--judge-api-base needs the name of the model that judges: give it with --judge.")
        return None
    return Judge(model=model, api_base=api_base)

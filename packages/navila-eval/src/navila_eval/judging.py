"""Judges: who says whether an answer is right where no rule can, with every reply kept."""

from __future__ import annotations

from collections.abc import Sequence
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

if TYPE_CHECKING:
    from navila_eval.questions import QuestionBenchmark, Record

#: Verdicts by the hash of what was asked and who was asked.
REPLIES = "judge.jsonl"
#: Longest reply in tokens.
REPLY_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model that judges: behind an OpenAI-compatible endpoint, or a checkpoint that is loaded here."""

    model: str
    """The name the endpoint serves, or a checkpoint."""
    api_base: str | None = None
    parallel: int = 8
    """Questions an endpoint is asked at a time."""

    def answerer(self) -> Answerer:
        """Who is asked.

        Raises:
            NavilaError: there is no such checkpoint, or the endpoint is none.
        """
        if self.api_base is not None:
            from navila.endpoint import Endpoint

            endpoint = Endpoint.from_environment(self.api_base, self.model)
            return EndpointAnswerer(endpoint, parallel=self.parallel, temperature=0.0, max_tokens=REPLY_TOKENS)
        import navila

        return ModelAnswerer(self.model, navila.load(self.model), max_tokens=REPLY_TOKENS, temperature=0.0)


def judge_all(
    benchmark: QuestionBenchmark, records: Sequence[Record], judge: Judge | None, folder: Path, *, quiet: bool = True
) -> list[Record]:
    """The records with a `verdict` each where the benchmark asks for one.

    A record without one, after all attempts, has `judge_error` instead and stays among those that are scored.

    Raises:
        ConfigError: the benchmark takes a judge and none is given.
        EndpointError: the judge cannot be asked at all; replies so far are kept.
    """
    prompts = [None if record["error"] else benchmark.judge_prompt(record) for record in records]
    if all(prompt is None for prompt in prompts):
        return list(records)
    if judge is None:
        return [
            record if prompt is None else {**record, "verdict": benchmark.verdict_by_rules(record)}
            for record, prompt in zip(records, prompts, strict=True)
        ]
    keys = [question_key({"judge": judge.model, "prompt": prompt}) for prompt in prompts]
    questions = [
        Question(key=key, where=f"sample {record['id']}", prompt=prompt, read=benchmark.verdict)
        for key, prompt, record in zip(keys, prompts, records, strict=True)
        if prompt is not None
    ]
    log = AnswerLog(folder / REPLIES)
    try:
        failures: dict[str, str] = {}
        unasked = [question for question in questions if question.key not in log]
        if unasked:
            with SampleProgress("judging", total=len(questions), quiet=quiet) as progress:
                failures = answer_all(questions, judge.answerer(), log, progress=progress.step)
        return [
            record if prompt is None else {**record, **_verdict(key, log, failures)}
            for record, prompt, key in zip(records, prompts, keys, strict=True)
        ]
    finally:
        log.close()


def _verdict(key: str, log: AnswerLog, failures: dict[str, str]) -> dict[str, Any]:
    if key in log:
        return {"verdict": log[key]}
    return {"verdict": None, "judge_error": failures.get(key, "there is no reply")}


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

"""Benchmarks whose answers a judge scores, by Video-ChatGPT's protocol (Maaz et al., ACL 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from navila.errors import ConfigError
from navila_eval.benchmark import Request, Results
from navila_eval.scoring.judges import parse_verdict

from navila_bench_video.benchmark import VideoBenchmark


class JudgedBenchmark(VideoBenchmark):
    """Answers that no judgement came of are wrong and worth 0; figures move with the judge, whose name is kept."""

    profiles: ClassVar[tuple[str, ...]] = ("video-chatgpt", "lmms")
    """`video-chatgpt` cuts a score to a whole number, `lmms` does not."""
    yes_no: ClassVar[bool] = True
    """Whether the judge says yes or no besides its score."""

    def __init__(
        self,
        *,
        prompt: str | None = None,
        profile: str | None = None,
        temperature: float = 0.0,
        judged: bool = True,
    ) -> None:
        """Choose the wording, the rules, and whether a judge is asked.

        Args:
            prompt: wording of the question.
            profile: rules of the score.
            temperature: of sampling; 0 answers greedily.
            judged: false only collects answers, to be judged later: `navila eval rescore RUN -o judged=true --judge …`.

        Raises:
            ConfigError: an option is not known.
        """
        super().__init__(prompt=prompt, profile=profile, temperature=temperature)
        if not isinstance(judged, bool):
            raise ConfigError(f"judged is {judged!r}: give true or false.")
        self.judged = judged

    @classmethod
    def tiny(cls) -> Self:
        benchmark = super().tiny()
        benchmark.judged = False
        return benchmark

    def run(self, request: Request) -> Results:
        if self.judged and request.judge is None:
            raise ConfigError(
                f"The task {request.task} is judged: give --judge MODEL, with --judge-api-base URL for an endpoint, or "
                "collect answers with -o judged=false and judge them later with `navila eval rescore`."
            )
        return super().run(request)

    def verdict(self, reply: str) -> dict[str, Any]:
        verdict = parse_verdict(reply, yes_no=self.yes_no)
        if verdict is None:
            wanted = "'pred' of 'yes' or 'no' and 'score' from 0 to 5" if self.yes_no else "'score' from 0 to 5"
            raise ValueError(f"it has no {wanted}")
        return {"correct": verdict.correct, "score": verdict.score}

    def points(self, verdict: Mapping[str, Any] | None) -> float:
        """Score of a verdict, 0 … 5; 0 where there is none."""
        if verdict is None:
            return 0.0
        return float(int(verdict["score"])) if self.profile == "video-chatgpt" else verdict["score"]

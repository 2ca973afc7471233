"""A checkpoint of navila as a model of lmms-eval: `python -m lmms_eval --model navila --model_args pretrained=…`."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import navila
import torch
from accelerate import Accelerator
from navila_eval.asking import answer_here, ask_model, batches_of
from navila_eval.questions import Question
from rich.progress import track

from navila_bench_lmms.requests import parts_of, settings_of

_log = logging.getLogger(__name__)
# No dependency (see pyproject.toml), so no import statement: only lmms-eval itself imports this module.
_Model: Any = importlib.import_module("lmms_eval.api.model").lmms
_register: Any = importlib.import_module("lmms_eval.api.registry").register_model


@_register("navila")
class Navila(_Model):
    """Answers requests in batches; one that cannot be answered is told and counts as an empty answer."""

    def __init__(
        self,
        pretrained: str,
        conv_mode: str | None = None,
        num_frames: int | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        seed: int = 0,
        max_batch_size: int | None = None,
    ) -> None:
        """A checkpoint, its conversation template and the frames of a video, its own where they are not given.

        Raises:
            NavilaError: the checkpoint cannot be loaded so.
        """
        super().__init__()
        self._rank = int(os.environ.get("RANK", "0"))
        self._world_size = int(os.environ.get("WORLD_SIZE", "1"))
        # lmms-eval's processes meet in it.
        self.accelerator = Accelerator()
        if self._world_size > 1 and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.model = navila.load(pretrained, template=conv_mode, device=device, dtype=dtype)
        self.device = self.model.device
        self.batch_size = int(batch_size)
        self.num_frames = num_frames
        self.seed = seed

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request, in their order."""
        ask = ask_model(self.model, num_frames=self.num_frames, seed=self.seed)
        answers: dict[str, str] = {}
        # A batch's pictures at a time: thousands, decoded, do not fit into memory.
        starts = range(0, len(requests), self.batch_size)
        for start in track(starts, description="navila", disable=self._rank != 0):
            batch_of_requests = requests[start : start + self.batch_size]
            questions = [self._question(start + i, request) for i, request in enumerate(batch_of_requests)]
            for batch, outcomes in answer_here(batches_of(questions, {}, self.batch_size), ask):
                for question, outcome in zip(batch.questions, outcomes, strict=True):
                    if outcome.error:
                        _log.error("Request %s counts as an empty answer: %s", question.id, outcome.error)
                    answers[question.id] = outcome.output
        return [answers[str(number)] for number in range(len(requests))]

    def _question(self, number: int, request: Any) -> Question:
        context, settings, doc_to_visual, doc_id, task, split = request.args
        visuals = doc_to_visual(self.task_dict[task][split][doc_id])
        return Question(id=str(number), prompt=parts_of(visuals, context), settings=settings_of(settings))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered; raises NotImplementedError."""
        raise NotImplementedError("navila writes answers: take a task of the type generate_until.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered; raises NotImplementedError."""
        raise NotImplementedError("navila answers once: take a task of the type generate_until.")

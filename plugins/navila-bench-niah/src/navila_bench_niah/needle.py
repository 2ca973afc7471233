"""Vision needle in a haystack (LongVA, Zhang et al., 2024): one picture among many frames, and a question about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from navila.errors import ConfigError
from navila_eval.questions import Question, QuestionBenchmark, Record, Scores
from navila_eval.scoring.needle import NeedleResult, depths, frame_counts, needle_grid, needle_index

from navila_bench_niah.haystack import Needle, frames_of, made_frames, made_needles, needles_of

if TYPE_CHECKING:
    from navila.model.media import Part

#: Where made frames and needles lie below the data root.
FOLDER = "niah"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How many frames, and how deep among them the needle; the defaults fit on a screen."""

    min_frames: int = 8
    max_frames: int = 64
    frame_interval: int = 8
    depth_interval: float = 0.1

    def __post_init__(self) -> None:
        for name in ("min_frames", "max_frames", "frame_interval"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"The task niah takes a whole number above 0 as {name}, not {value!r}.")
        if self.max_frames < self.min_frames:
            raise ConfigError(f"The task niah has max_frames {self.max_frames} below min_frames {self.min_frames}.")
        if not isinstance(self.depth_interval, int | float) or not 0 < self.depth_interval <= 1:
            raise ConfigError(
                f"The task niah takes a number above 0, at most 1, as depth_interval, not {self.depth_interval!r}."
            )

    def cells(self) -> Iterable[tuple[int, float]]:
        """(frames, depth) of each cell, by rising numbers of frames, so that prompts of a batch are about as long."""
        for frames in frame_counts(self.min_frames, self.max_frames, self.frame_interval):
            for depth in depths(self.depth_interval):
                yield frames, depth


class NeedleInHaystack(QuestionBenchmark):
    """`score` is LongVA's: every token of the answer is the likeliest one, so that greedy decoding says just that."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 16}
    asks_by = ("haystack", "needles", "min_frames", "max_frames", "frame_interval", "depth_interval")

    def __init__(
        self,
        *,
        haystack: str | None = None,
        needles: str | None = None,
        min_frames: int = 8,
        max_frames: int = 64,
        frame_interval: int = 8,
        depth_interval: float = 0.1,
    ) -> None:
        """A video file or a folder of frames, and a file of needles; both are made where they are not given.

        Raises:
            ConfigError: the grid makes no sense.
        """
        self.haystack = haystack
        self.needles = needles
        self.grid = Grid(
            min_frames=min_frames,
            max_frames=max_frames,
            frame_interval=frame_interval,
            depth_interval=depth_interval,
        )

    @classmethod
    def tiny(cls) -> NeedleInHaystack:
        return _Tiny(min_frames=2, max_frames=4, frame_interval=2, depth_interval=1)

    def questions(self, split: str, data_root: Path) -> list[Question]:
        folder, count = data_root / FOLDER, self.grid.max_frames
        frames = made_frames(folder, count) if self.haystack is None else frames_of(Path(self.haystack), count, folder)
        needles = made_needles(folder) if self.needles is None else needles_of(Path(self.needles))
        return self.asked(frames, needles)

    def asked(self, frames: Sequence[Part], needles: Sequence[Needle]) -> list[Question]:
        """A question for each needle in each cell of the grid."""
        questions = []
        for count, depth in self.grid.cells():
            place = needle_index(depth, count)
            for number, needle in enumerate(needles):
                prompt = [*frames[:place], needle.image, *frames[place:count], needle.question]
                questions.append(
                    Question(
                        id=f"frames-{count}-depth-{depth:g}-needle-{number}",
                        prompt=prompt,
                        reference=needle.answer,
                        facts={"frames": count, "depth": depth, "needle": number, "question": needle.question},
                    )
                )
        return questions

    def score_sample(self, record: Record) -> dict[str, float]:
        reply, answer = record["answer"] or "", re.escape(record["reference"])
        # `73` does not begin with the token of 7.
        return {
            "score": float(re.match(rf"{answer}(?!\w)", reply) is not None),
            "score_anywhere": float(re.search(rf"(?<!\w){answer}(?!\w)", reply, re.IGNORECASE) is not None),
        }

    def score(self, records: Sequence[Record]) -> Scores:
        samples = [self.score_sample(record) for record in records]
        grids = {name: needle_grid(_results(records, samples, name)) for name in ("score", "score_anywhere")}
        shown = grids["score"]
        by_needle: dict[str, list[float]] = {}
        for record, sample in zip(records, samples, strict=True):
            by_needle.setdefault(record["facts"]["question"].partition("\n")[0], []).append(sample["score"])
        return Scores(
            metrics={name: grid.score for name, grid in grids.items()},
            samples=samples,
            heat_maps={
                "Needles found": {
                    "values": shown.scores,
                    "columns": shown.frames,
                    "rows": shown.depths,
                    "x": "frames",
                    "y": "depth",
                }
            },
            tables={"By needle": {text: {"found": f"{sum(v) / len(v):.3f}"} for text, v in by_needle.items()}},
        )


def _results(records: Sequence[Record], samples: Sequence[Mapping[str, float]], name: str) -> Iterable[NeedleResult]:
    for record, sample in zip(records, samples, strict=True):
        facts = record["facts"]
        yield NeedleResult(frames=facts["frames"], depth=facts["depth"], found=sample[name])


class _Tiny(NeedleInHaystack):
    """A red picture among two and four grey ones, at both ends."""

    def questions(self, split: str, data_root: Path) -> list[Question]:
        from PIL import Image

        grey, red = (Image.new("RGB", (32, 32), colour) for colour in ("grey", "red"))
        return self.asked([grey] * 4, [Needle(image=red, question="Which colour stands out?", answer="red")])

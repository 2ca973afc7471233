"""What the tasks of this plugin share: rows of official files, questions made of them, marks and their means."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from navila.errors import DataError
from navila_eval.jsonl import dumps
from navila_eval.questions import Question, QuestionBenchmark, Record, Scores, find
from navila_eval.rows import checked, read_json, reading, text, texts
from navila_eval.scoring.text import mean

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample as its official file has it."""

    where: str
    """The file and its place there, for messages."""
    values: Mapping[str, Any]
    images: Path | Image
    """The folder its images are in; a picture stands for any of them."""

    def image(self, name: str | Path) -> Path | Image:
        """An image by its name in the folder, or by its path."""
        if not isinstance(self.images, Path):
            return self.images
        return name if isinstance(name, Path) else self.images / name

    def text(self, name: str) -> str:
        """A field that must be a text; raises KeyError or TypeError where it is not."""
        return text(self.values, name)

    def number(self, name: str) -> int:
        """A field that must be a whole number from 0; raises TypeError or ValueError where it is not."""
        if (value := int(self.values[name])) < 0:
            raise ValueError(f"{name} must not be negative")
        return value

    def texts(self, name: str) -> list[str]:
        """A field that must be a list of texts, one at least; raises KeyError or TypeError where it is not."""
        return texts(self.values[name], name)


class ImageTask(QuestionBenchmark):
    """A task whose figures are means of marks; a concrete one reads its files, asks, and marks an answer."""

    metrics: ClassVar[Sequence[str]] = ("accuracy",)
    """Names of all figures; the mark itself is the first."""
    download: ClassVar[str]
    """Where the files come from."""
    submission_file: ClassVar[str] = ""
    """Name of what a server takes for splits without a published truth."""
    parts: ClassVar[Sequence[str]] = ()
    """Facts of samples by which the report has tables."""
    tiny_rows: ClassVar[Sequence[Mapping[str, Any]]]
    """A few rows in the official form, about a grey wall."""

    @abstractmethod
    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        """The rows of a split, in the order of its file.

        Raises:
            DataError: a file is missing or damaged.
        """

    @abstractmethod
    def question(self, row: Row) -> Question:
        """What is asked about a row; a KeyError, TypeError, ValueError or IndexError says that it is malformed."""

    def mark(self, record: Record) -> float:
        """How right `record["answer"]` is, from 0 to 1; None is an empty reply."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither mark nor score_sample")

    def groups(self, record: Record) -> Sequence[str]:
        """Metrics besides the first that this record counts in."""
        return ()

    def submitted(self, record: Record) -> Iterable[Mapping[str, Any]]:
        """A record's entries in the submission."""
        return ()

    def questions(self, split: str, data_root: Path) -> list[Question]:
        return [self._asked(row) for row in self.load(split, data_root)]

    def _asked(self, row: Row) -> Question:
        with reading(row.where, self.download):
            return self.question(row)

    def score_sample(self, record: Record) -> Mapping[str, float]:
        # An empty reply may be right by a published rule; where there is no reply at all, nothing is.
        mark = 0.0 if record["error"] else self.mark(record)
        return dict.fromkeys((self.metrics[0], *self.groups(record)), mark)

    def score(self, records: Sequence[Record]) -> Scores:
        if is_blind(records):
            return Scores(metrics=dict.fromkeys(self.metrics), samples=[{} for _ in records])
        scores = super().score(records)
        metrics = {name: scores.metrics.get(name) for name in self.metrics}
        return replace(scores, metrics=metrics, tables=self.tables(records, scores.samples))

    def tables(self, records: Sequence[Record], samples: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """The first metric over samples that have a fact in common, for each of `parts`."""
        name = self.metrics[0]
        found: dict[str, Any] = {}
        for part in self.parts:
            marks: dict[str, list[float]] = {}
            for record, sample in zip(records, samples, strict=True):
                marks.setdefault(str(record["facts"][part]), []).append(sample[name])
            rows = {key: {"samples": len(marks[key]), name: f"{mean(marks[key]):.3f}"} for key in sorted(marks)}
            found[f"{name.capitalize()} by {part}"] = rows
        return found

    def submission(self, records: Sequence[Record]) -> Mapping[str, str] | None:
        if not self.submission_file or not is_blind(records):
            return None
        return {self.submission_file: dumps([entry for record in records for entry in self.submitted(record)]) + "\n"}

    @classmethod
    def tiny(cls) -> ImageTask:
        from PIL import Image

        class Tiny(cls):
            def load(self, split: str, data_root: Path) -> Iterable[Row]:
                wall = Image.new("RGB", (32, 32), (128, 128, 128))
                return [Row(where="tiny", values=values, images=wall) for values in cls.tiny_rows]

        return Tiny()  # pyright: ignore[reportAbstractUsage] - it is as concrete as its task

    def read_json(self, data_root: Path, path: str) -> Any:
        """A JSON file of the benchmark.

        Raises:
            DataError: it is missing or no JSON.
        """
        return read_json(find(data_root, path, self.download), self.download)

    def read_list(self, data_root: Path, path: str, key: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """(where, object) of a JSON file that is a list of objects, or has one under `key`.

        Raises:
            DataError: it is missing or has no such list.
        """
        content, file = self.read_json(data_root, path), data_root / path
        items = content if key is None else content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list):
            what = "is no list" if key is None else f"has no list {key!r}"
            raise DataError(f"{file} {what}: {self.download}.")
        return [checked(f"{file}, item {number}", item, self.download) for number, item in enumerate(items, 1)]


def from_hub(repository: str, folder: str) -> str:
    """How to get a data set of the Hugging Face Hub into a folder of the data root."""
    return f"run `hf download {repository} --repo-type dataset --local-dir DATA_ROOT/{folder}`"


def parquet_rows(folder: Path, split: str, download: str) -> Iterable[Row]:
    """The rows of a split's Parquet files, numbered from 1.

    Raises:
        DataError: there are none.
    """
    # Not before it is needed: pyarrow takes its time.
    from navila_eval.parquet import parquet_files, read_parquet

    files = parquet_files(folder, split)
    if not files:
        raise DataError(f"There is no {split}-*.parquet in {folder}: {download}.")
    rows = (row for file in files for row in read_parquet(file))
    for number, row in enumerate(rows, 1):
        yield Row(where=f"{folder}, row {number} of {split}", values={**row, "line": number}, images=folder)


def is_blind(records: Sequence[Record]) -> bool:
    """Whether the truth of these records is not published."""
    return all(record["reference"] is None for record in records)

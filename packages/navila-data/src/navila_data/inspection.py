"""Walks through every record of a mixture, in as many processes as wanted, and reports what it sees of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, field
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from navila.errors import DataError, reason
from numpy.typing import NDArray

from navila_data.dataset import Dataset, LoadOptions
from navila_data.datasets_file import named_datasets
from navila_data.findings import Finding
from navila_data.media import Medium
from navila_data.media_facts import Contents, file_of
from navila_data.mixture import Part, expand, open_item
from navila_data.records import RecordFile
from navila_data.sample import Sample
from navila_data.seen_files import SeenFiles, seen_files
from navila_data.statistics import Statistics, answer_problem, instruction, navigation_answer

#: Records that a process looks at in one go.
CHUNK = 256

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is looked at, and how closely; the same in every process."""

    mixture: str
    root: Path | None = None
    options: LoadOptions = field(default_factory=LoadOptions)
    limit: int | None = None
    """Records of each dataset at most, from its first on."""
    model: str | None = None
    """Checkpoint whose tokens are counted."""
    compare: Literal["contents", "names"] | None = None
    """By what samples are compared (`Seen.keys`): the contents of their files, which costs reading them, or the names;
    then the files are noted too (`Seen.media`)."""
    motion: bool = False
    """Whether turns are compared with what the next frame shows."""
    seen: Path | None = None
    """What was found of files before an interruption (`seen_files`)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset and the records of it that a mixture shows, each once."""

    dataset: Dataset
    indices: Sequence[int]
    """Sorted."""
    start: int
    """Position of the first one among those of all sources."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The datasets of a mixture, and those that cannot be opened."""

    found: tuple[Source, ...]
    findings: tuple[Finding, ...]

    def __len__(self) -> int:
        """Records of all sources."""
        return sum(len(source.indices) for source in self.found)

    def locate(self, position: int) -> tuple[Dataset, int]:
        """The dataset a position falls into, and the number of the record there."""
        source = next(source for source in reversed(self.found) if source.start <= position)
        return source.dataset, int(source.indices[position - source.start])


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a chunk of records."""

    statistics: Statistics
    findings: tuple[Finding, ...]
    turns: int
    """Navigation steps whose turn was compared with what the next frame shows."""
    keys: NDArray[np.uint64]
    """(N, 3) of N samples: of all they show and say, of the first frame with the question, of the first frame; 0 where
    there is nothing to compare."""
    media: NDArray[np.int64]
    """(M, 4): key of a file, position and number of the first medium that shows it, samples that do."""


@cache
def open_sources(job: Job) -> Sources:
    """Open every dataset of a mixture once, however often the mixture repeats it; the same object for equal jobs.

    Raises:
        ConfigError: the mixture is malformed.
        UnknownComponentError: it names a dataset that nobody offers.
    """
    named = named_datasets()
    findings: list[Finding] = []
    datasets: dict[str, Dataset] = {}
    indices: dict[str, Collection[int]] = {}
    for item in expand(job.mixture, named):
        name = item.name or str(item.folder)
        try:
            dataset = open_item(item, job.root, job.options, named)
            parts = Part.of(dataset, item)
        except DataError as error:
            findings.append(Finding(kind="dataset", source=name, file=str(item.folder or ""), reason=str(error)))
            continue
        # A range of a million records stays one; only shares and overlapping ranges are put together.
        key = f"{item.name}:{item.folder or ''}"
        known = datasets.setdefault(key, dataset)
        for part in parts:
            before = indices.setdefault(key, part.indices)
            if before != part.indices:
                indices[key] = {*before, *part.indices}
        if not len(known):
            findings.append(Finding(kind="dataset", source=name, reason=f"{known.name} holds no record: fill it."))
    sources: list[Source] = []
    start = 0
    for key, dataset in datasets.items():
        chosen = indices.get(key, range(0))
        chosen = chosen if isinstance(chosen, range) else sorted(chosen)
        sources.append(Source(dataset=dataset, indices=chosen[: job.limit], start=start))
        start += len(sources[-1].indices)
    return Sources(found=tuple(sources), findings=tuple(findings))


def chunks(sources: Sources, size: int = CHUNK) -> list[tuple[int, int, int]]:
    """(source, first, stop) of every chunk."""
    return [
        (number, first, min(first + size, len(source.indices)))
        for number, source in enumerate(sources.found)
        for first in range(0, len(source.indices), size)
    ]


def inspect_chunk(job: Job, chunk: tuple[int, int, int]) -> Seen:
    """Look at the records of a chunk."""
    number, first, stop = chunk
    source = open_sources(job).found[number]
    dataset = source.dataset
    seen = None if job.seen is None else seen_files(job.seen)
    statistics, contents = Statistics(), Contents(read=job.compare == "contents", seen=seen)
    findings: list[Finding] = []
    turns = 0
    keys = np.zeros((stop - first, 3), np.uint64)
    media: dict[int, list[int]] = {}
    following: Sample | Finding | None = None
    for place in range(first, stop):
        index = int(source.indices[place])
        sample = following if following is not None else read_sample(dataset, index)
        # The step after the last one of a chunk is read twice, and belongs to the next chunk.
        following = read_sample(dataset, index + 1) if index + 1 < len(dataset) else None
        if isinstance(sample, Finding):
            findings.append(sample)
        else:
            statistics.add(sample)
            after = following if isinstance(following, Sample) else None
            ends = after.group != sample.group if after is not None else following is None or not sample.history
            if ends:
                statistics.frames.update(contents.frames(dataset, index, sample))
            if problem := answer_problem(navigation_answer(sample)) if sample.history else "":
                findings.append(finding(dataset, index, "answer", problem, sample.media[-1:]))
            if job.model is not None:
                findings += _count_tokens(job.model, dataset, index, sample, statistics)
            if job.motion:
                compared, told = _motion(dataset, index, sample, after, seen)
                turns += compared
                findings += told
            if job.compare is not None:
                keys[place - first] = _keys(sample, contents)
                for which, medium in enumerate(sample.media):
                    if medium is not None:
                        key = _digest(str(file_of(medium))) >> 1
                        media.setdefault(key, [source.start + place, which, 0])[2] += 1
        if place + 1 < stop and int(source.indices[place + 1]) != index + 1:
            following = None
    if seen is not None:
        seen.keep()
    rows = [[key, *row] for key, row in media.items()]
    return Seen(
        statistics=statistics,
        findings=tuple(findings),
        turns=turns,
        keys=keys,
        media=np.asarray(rows, np.int64).reshape(-1, 4),
    )


def read_sample(dataset: Dataset, index: int) -> Sample | Finding:
    """The sample of a record, or why there is none."""
    try:
        return dataset[index]
    except DataError as error:
        kind = "json" if _is_no_json(dataset, index) else "record"
        return finding(dataset, index, kind, str(error))
    except Exception as error:
        # A plugin that trips over a record is a finding too: the others are still looked at.
        raised = f"{type(error).__name__}, {reason(error)}"
        why = f"{dataset.name}, record {index}: it cannot be read ({raised}); mend it, or tell the plugin's authors."
        return finding(dataset, index, "record", why)


def finding(
    dataset: Dataset,
    index: int,
    kind: str,
    why: str,
    pictures: Sequence[Medium | None] = (),
    confidence: float | None = None,
) -> Finding:
    """A finding about a record."""
    records = record_file(dataset)
    return Finding(
        kind=kind,
        source=dataset.name,
        file="" if records is None else str(records.path),
        record=index,
        line=None if records is None else records.line(index),
        reason=why,
        confidence=confidence,
        pictures=tuple(medium for medium in pictures if medium is not None),
    )


def record_file(dataset: Dataset) -> RecordFile | None:
    """The annotation file that a dataset's samples are the records of, where there is one."""
    records = getattr(dataset, "records", None)
    return records if isinstance(records, RecordFile) and len(records) == len(dataset) else None


def _is_no_json(dataset: Dataset, index: int) -> bool:
    records = record_file(dataset)
    if records is None:
        return False
    try:
        records[index]
    except DataError:
        return True
    return False


def _count_tokens(model: str, dataset: Dataset, index: int, sample: Sample, into: Statistics) -> Iterator[Finding]:
    from navila_data.tokens import processors_of

    whole, limited = processors_of(model)
    try:
        length = whole.length(whole.encode(sample))
        into.tokens[length] += 1
        if length > limited.max_length:
            limited.encode(sample)
            into.shortened[sample.source] += 1
    except DataError as error:
        yield finding(dataset, index, "length", str(error))


def _motion(
    dataset: Dataset, index: int, sample: Sample, after: Sample | None, seen: SeenFiles | None
) -> tuple[bool, list[Finding]]:
    """Whether a turn could be compared with what the next frame shows, and what is to be told of it."""
    from navila_data.motion import Observed, observe_frames, opposite_turn

    def look(before: Medium, later: Medium) -> Observed:
        if seen is None:
            return observe_frames(before, later)
        return Observed(*seen.recall("motion", [before, later], lambda: astuple(observe_frames(before, later))))

    compared, shown = opposite_turn(sample, after, look)
    if shown is None or after is None:
        return compared, []
    answer = navigation_answer(sample)
    why = f"The answer is {answer[:120]!r}, and the next frame shows a turn to the {shown.motion}."
    pictures = (sample.media[-1], after.media[-1])
    return compared, [finding(dataset, index, "motion", why, pictures, shown.confidence)]


def _keys(sample: Sample, contents: Contents) -> tuple[int, int, int]:
    """What equal samples have in common, wherever their files lie and whatever they are called."""
    shown = [contents.digest(medium) for medium in sample.media]
    first = next((digest for digest, medium in zip(shown, sample.media, strict=True) if medium is not None), "")
    texts = [(turn.role, turn.text) for turn in sample.turns]
    return (
        _digest(f"{shown} {texts}"),
        _digest(f"{first} {instruction(sample)}"),
        _digest(first) if first else 0,
    )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def run_all(
    function: Callable[[Job, TaskT], ResultT], job: Job, tasks: Sequence[TaskT], workers: int
) -> Iterator[ResultT]:
    """The results of all tasks in their order, whatever the number of processes.

    Raises:
        DataError: a process died.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from map(function, repeat(job, len(tasks)), tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(function, repeat(job, len(tasks)), tasks)
        except BrokenProcessPool:
            raise DataError(
                "A process died while it looked at the data, perhaps for want of memory: lower --workers."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

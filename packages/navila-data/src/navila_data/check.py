"""Looks at every record and every file of a mixture, and reports what is broken, doubtful or there twice."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from navila.errors import ConfigError
from navila.files import write_atomically
from navila.plugins import default_host
from numpy.typing import NDArray

from navila_data.dataset import LoadOptions
from navila_data.findings import KINDS, Finding
from navila_data.inspection import Job, Seen, Sources, chunks, finding, inspect_chunk, open_sources, run_all
from navila_data.media import VideoFrame
from navila_data.media_check import Depth, Problem, file_problem
from navila_data.media_facts import File, file_of
from navila_data.record_index import cache_folder
from navila_data.seen_files import forget, seen_files
from navila_data.statistics import Statistics

#: Findings of a kind that are kept for the reports; all of them go to `findings.jsonl`.
KEPT = 100
#: Files that a process looks at in one go.
FILES = 64
#: Navigation steps from which on every one of the ten answers is to be expected.
ENOUGH_STEPS = 1000

#: Follows the work: what is counted, how many are done, of how many.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What is checked."""

    mixture: str
    root: Path | None = None
    """`--data_path`."""
    num_frames: int = 8
    limit: int | None = None
    depth: Depth = "decode"
    against: str | None = None
    """A mixture that is to have no frames in common with this one."""
    model: str | None = None
    workers: int = 1

    @property
    def seen(self) -> Path:
        """Where what was found of files is kept until the end; also that of another depth or other `workers`."""
        identity = f"{self.mixture}\0{self.against}\0{'' if self.root is None else self.root.absolute()}\0{Path.cwd()}"
        return cache_folder() / "checks" / f"{sha256(os.fsencode(identity)).hexdigest()[:32]}.sqlite"


@dataclass(kw_only=True)
class CheckResult:
    """What was found."""

    settings: CheckSettings
    statistics: Statistics = field(default_factory=Statistics)
    counts: Counter[str] = field(default_factory=Counter)
    """Findings by kind, all of them."""
    findings: list[Finding] = field(default_factory=list)
    """The first `KEPT` of each kind."""
    records: int = 0
    files: int = 0
    turns: int = 0
    """Turns whose next frame was looked at."""

    @property
    def errors(self) -> int:
        """Findings that training would trip over."""
        return sum(count for kind, count in self.counts.items() if KINDS[kind].severity == "error")

    @property
    def warnings(self) -> int:
        """Findings that may be meant."""
        return sum(self.counts.values()) - self.errors

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "mixture": self.settings.mixture,
            "against": self.settings.against,
            "media": self.settings.depth,
            "records": self.records,
            "files": self.files,
            "turns_compared": self.turns,
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": {kind: self.counts[kind] for kind in KINDS if self.counts[kind]},
            "findings": [each.to_dict() for each in self.findings],
            "statistics": self.statistics.to_dict(),
            "versions": default_host().provenance(),
        }


def check(
    settings: CheckSettings, output: Path | None = None, progress: Progress = lambda what, done, total: None
) -> CheckResult:
    """Check a mixture; with `output`, write `findings.jsonl`, `report.html` and, last, `report.json` there.

    Raises:
        ConfigError, UnknownComponentError: the mixture names what there is not, or `output` cannot be written.
        CheckpointError: the model cannot be read.
        DataError: a process died.
    """
    # Files may have changed since an earlier check in this process.
    open_sources.cache_clear()
    seen_files.cache_clear()
    if settings.model is not None:
        from navila_data.tokens import processors_of

        # A model that cannot be read is told before anything is looked at.
        processors_of(settings.model)
    result = _check(settings, output, progress)
    forget(settings.seen)
    return result


def _check(settings: CheckSettings, output: Path | None, progress: Progress) -> CheckResult:
    if output is None:
        return _Check(settings, None, progress).run()
    from navila_data.check_report import write_page

    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.json").unlink(missing_ok=True)
        lines = (output / "findings.jsonl").open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}): choose another --output.") from None
    with lines:
        result = _Check(settings, lines, progress).run()
    write_page(output / "report.html", result)
    write_atomically(output / "report.json", json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n")
    return result


class _Check:
    """One run; what grows with the data is 24 bytes a record, 32 a file, a few times over, and the vocabulary."""

    def __init__(self, settings: CheckSettings, lines: TextIO | None, progress: Progress) -> None:
        self.settings = settings
        self.result = CheckResult(settings=settings)
        self._lines = lines
        self._progress = progress
        self._job = self._job_of(settings.mixture)

    def _job_of(self, mixture: str) -> Job:
        settings = self.settings
        return Job(
            mixture=mixture,
            root=settings.root,
            options=LoadOptions(num_frames=settings.num_frames),
            limit=settings.limit,
            model=settings.model,
            compare="names" if settings.depth == "exists" else "contents",
            motion=True,
            seen=settings.seen,
        )

    def run(self) -> CheckResult:
        sources = open_sources(self._job)
        # The other mixture's name is told wrong before an hour is spent on this one.
        other = open_sources(self._other()) if self.settings.against else None
        self._tell_all(sources.findings)
        seen = list(self._records(sources))
        keys = np.concatenate([np.zeros((0, 3), np.uint64), *(keys for keys, _ in seen)])
        media = np.concatenate([np.zeros((0, 4), np.int64), *(media for _, media in seen)])
        del seen
        self._tell_all(self._repeated(sources, keys[:, 0]))
        if other is not None:
            self._tell_all(other.findings)
            self._tell_all(self._leaks(sources, keys, other))
        self._tell_all(self._files(sources, media))
        self._tell_all(self._balance())
        return self.result

    def _tell_all(self, findings: Iterator[Finding] | tuple[Finding, ...]) -> None:
        for each in findings:
            self.result.counts[each.kind] += 1
            if self.result.counts[each.kind] <= KEPT:
                self.result.findings.append(each)
            if self._lines is not None:
                self._lines.write(json.dumps(each.to_dict(), ensure_ascii=False) + "\n")

    def _records(self, sources: Sources) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        for seen in self._walk(self._job, sources, "records"):
            self.result.statistics += seen.statistics
            self.result.turns += seen.turns
            self.result.records += len(seen.keys)
            self._tell_all(seen.findings)
            yield seen.keys, seen.media

    def _walk(self, job: Job, sources: Sources, what: str) -> Iterator[Seen]:
        done, total = 0, len(sources)
        self._progress(what, done, total)
        for seen in run_all(inspect_chunk, job, chunks(sources), self.settings.workers):
            done += len(seen.keys)
            self._progress(what, done, total)
            yield seen

    def _repeated(self, sources: Sources, keys: NDArray[np.uint64]) -> Iterator[Finding]:
        """Samples that show and say what an earlier one does."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] + np.uint64(1)))
        firsts = np.repeat(order[starts], np.diff(np.append(starts, len(ordered))))
        again = np.flatnonzero((firsts != order) & (ordered != 0))
        again = again[np.argsort(order[again])]
        for position, earlier in zip(order[again].tolist(), firsts[again].tolist(), strict=True):
            (dataset, index), (before, number) = sources.locate(position), sources.locate(earlier)
            if dataset is before:
                yield finding(dataset, index, "duplicate", f"Shows and says what record {number} does.")
            else:
                yield finding(dataset, index, "shared", f"Shows and says what record {number} of {before.name} does.")

    def _other(self) -> Job:
        return replace(self._job_of(self.settings.against or ""), model=None, motion=False)

    def _leaks(self, sources: Sources, keys: NDArray[np.uint64], other: Sources) -> Iterator[Finding]:
        """Samples whose first frame, and perhaps instruction, is that of a sample of the other mixture."""
        seen = self._walk(self._other(), other, "records of the other mixture")
        theirs = np.concatenate([np.zeros((0, 3), np.uint64), *(chunk.keys for chunk in seen)])
        if not len(theirs):
            return
        said, shown = (_places(theirs[:, column], keys[:, column]) for column in (1, 2))
        for number, position in enumerate(np.flatnonzero((said >= 0) | (shown >= 0)).tolist()):
            dataset, index = sources.locate(position)
            same = said[position] >= 0
            their, record = other.locate(int(said[position] if same else shown[position]))
            what = "the same question" if same and not keys[position, 2] else "the same first frame"
            words = "" if not keys[position, 2] else " and instruction" if same else " under other words"
            why = f"Record {record} of {their.name} in the other mixture has {what}{words}: take one of them out."
            pictures = [medium for medium in dataset[index].media if medium is not None][:1] if number < KEPT else ()
            yield finding(dataset, index, "leak", why, pictures)

    def _files(self, sources: Sources, media: NDArray[np.int64]) -> Iterator[Finding]:
        """Every distinct file, once."""
        _, firsts, inverse = np.unique(media[:, 0], return_index=True, return_inverse=True)
        samples = np.bincount(inverse.reshape(-1), weights=media[:, 3], minlength=len(firsts)).astype(np.int64)
        rows = np.stack([media[firsts, 1], media[firsts, 2], samples], axis=1)
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        tasks = [
            FileTask(depth=self.settings.depth, rows=rows[first : first + FILES])
            for first in range(0, len(rows), FILES)
        ]
        self._progress("files", 0, len(rows))
        for task, found in zip(tasks, run_all(check_files, self._job, tasks, self.settings.workers), strict=True):
            self.result.files += len(task.rows)
            self._progress("files", self.result.files, len(rows))
            yield from found

    def _balance(self) -> Iterator[Finding]:
        answers = self.result.statistics.balance()
        if (total := sum(answers.values())) < ENOUGH_STEPS:
            return
        if never := [repr(answer) for answer, count in answers.items() if not count]:
            why = f"None of {total} navigation steps has the answer {' or '.join(never)}: a model will not learn it."
            yield Finding(kind="balance", source=self.settings.mixture, reason=why)


@dataclass(frozen=True, kw_only=True)
class FileTask:
    """Files that are looked at in one go."""

    depth: Depth
    rows: NDArray[np.int64]
    """(N, 3): position of the first sample that shows a file, number of the medium there, samples that do."""


def check_files(job: Job, task: FileTask) -> list[Finding]:
    """What is wrong with some files."""
    sources = open_sources(job)
    seen = None if job.seen is None else seen_files(job.seen)

    def look(file: File, video: bool) -> Problem | None:
        if seen is None:
            return file_problem(file, video=video, depth=task.depth)
        known = f"video {task.depth}" if video else f"image {task.depth}"
        return seen.recall(known, [file], lambda: file_problem(file, video=video, depth=task.depth))

    found: list[Finding] = []
    for position, which, samples in task.rows.tolist():
        dataset, index = sources.locate(position)
        medium = dataset[index].media[which]
        if medium is None:
            continue
        file = file_of(medium)
        problem = look(file, isinstance(medium, VideoFrame))
        if problem is not None:
            kind, why = problem
            shown = "1 sample shows it" if samples == 1 else f"{samples} samples show it"
            found.append(replace(finding(dataset, index, kind, f"{why} ({shown})"), medium=str(file)))
    if seen is not None:
        seen.keep()
    return found


def _places(among: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For every key, where it stands among others; -1 where it does not, and of 0, which stands for nothing."""
    order = np.argsort(among, kind="stable")
    found = np.searchsorted(among[order], keys).clip(max=len(among) - 1)
    return np.where((among[order][found] == keys) & (keys != 0), order[found], -1)

"""Runs a benchmark of questions: asks what has no answer yet, keeps every answer, and scores when all are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.errors import ConfigError
from navila.files import write_atomically

from navila_eval.asking import (
    Batch,
    Outcome,
    answer_by_endpoint,
    answer_here,
    answer_in_processes,
    ask_model,
    batches_of,
    model_facts,
)
from navila_eval.benchmark import DATA_ROOT, Request, Results
from navila_eval.claims import Claims
from navila_eval.jsonl import drop_cut_line, dumps, strict
from navila_eval.judging import Judge, judge_all
from navila_eval.manifest import options_of
from navila_eval.progress import SampleProgress
from navila_eval.question_report import write_question_report
from navila_eval.question_results import summarise
from navila_eval.questions import QuestionBenchmark, Record, check_questions, questions_digest
from navila_eval.results import results_of
from navila_eval.run_folder import CLAIMS, RUN, SAMPLE_FIELDS, SAMPLES, RecordReader, RunFolder, by_id
from navila_eval.shared_batches import SharedBatches

#: Fields of a record that follow from the others and are made anew whenever it is scored.
DERIVED = ("answer", "verdict", "judge_error", "score")


def run_questions(benchmark: QuestionBenchmark, request: Request) -> Results:
    """Do what is asked, going on where an earlier call was stopped, and together with others that do the same.

    Raises:
        NavilaError: data are missing, nobody answers, or the folder holds another run.
    """
    if request.agent != "model":
        raise ConfigError(f"--agent {request.agent} is for navigation: leave it out for the task {request.task}.")
    questions = list(benchmark.questions(request.split, request.data_root or DATA_ROOT))[: request.limit]
    check_questions(questions, request.task)
    settings = dict(benchmark.settings)
    blank = {question.id: question.record(settings) for question in questions}
    run = {
        "task": request.task,
        "split": request.split,
        "samples": len(blank),
        "questions_sha256": questions_digest(list(blank.values())),
        "settings": settings,
        **request.identity,
        **({"judge": request.judge.model} if request.judge is not None and benchmark.takes_judge else {}),
        "seed": request.seed,
    }
    folder = RunFolder(request.output_dir, records=SAMPLES, fields=SAMPLE_FIELDS)
    claims = Claims(folder.path / CLAIMS)
    shared = bool(claims.others())
    if request.force or not request.resume:
        claims.check_alone()
    if not request.force:
        _take_judge(folder, run)
    cut = folder.open(run, force=request.force, resume=request.resume, shared=shared)
    reader = RecordReader(folder)
    answered = by_id(reader.new(), folder.key)
    done = {name for name in blank if name in answered and not answered[name]["error"]}
    finished = folder.results()
    if finished is not None and len(done) == len(blank) and not finished["counters"].get("without_verdict"):
        return results_of(request.output_dir, finished)
    with claims:
        # Whole batches, those with some answers included: which samples are asked together decides nothing, but the
        # last bits of what is computed.
        whole = batches_of(questions, settings, request.batch_size, sampled_alone=request.endpoint is None)
        with SampleProgress(f"{request.task} {request.split}", total=len(blank), quiet=request.quiet) as progress:
            batches = SharedBatches(whole, claims, reader, set(done), seen=progress.advance)
            first = claims.take(SAMPLES)
            cut |= first and drop_cut_line(folder.path / SAMPLES)
            progress.start(len(done), cut=cut, path=folder.path / SAMPLES)
            if len(batches):
                with folder.writer("" if first else claims.owner) as writer:
                    for batch, outcomes in _answers(batches, request, folder):
                        for question, outcome in zip(batch.questions, outcomes, strict=True):
                            if question.id not in batches.done:
                                writer.append({**blank[question.id], "output": outcome.output, "error": outcome.error})
                                progress.advance(question.id, outcome.error)
                        batches.finish(batch)
        claims.wait_for("results")
        if (now := folder.results_since(finished)) is not None:
            # Another process was the first to see that all is answered.
            return results_of(request.output_dir, now)
        records = folder.records()
        return finish(benchmark, folder, [records[name] for name in blank], run, request.judge, quiet=request.quiet)


def _take_judge(folder: RunFolder, run: Mapping[str, Any]) -> None:
    """Let an unfinished run have another judge: its answers are the same.

    Raises:
        ConfigError: it is finished.
    """
    if not (folder.path / RUN).exists():
        return
    there = folder.run()
    if there.get("judge") == run.get("judge") or not folder.is_same({**there, "judge": 0}, {**run, "judge": 0}):
        return
    if folder.results() is not None:
        raise ConfigError(
            f"{folder.path} was judged by {there.get('judge') or 'rules'}: `navila eval rescore {folder.path} --judge "
            "MODEL` has its answers judged by another."
        )
    folder.note_run(run)


def _answers(batches: SharedBatches, request: Request, folder: RunFolder) -> Iterator[tuple[Batch, list[Outcome]]]:
    def note(facts: Mapping[str, Any]) -> None:
        folder.note_agent({"name": request.model_name, **facts})

    asked: dict[str, Any] = {"num_frames": request.num_frames, "seed": request.seed}
    if request.endpoint is not None:
        note({})
        return answer_by_endpoint(batches, request.endpoint, threads=request.batch_size, **asked)
    if request.processes > 1 and request.model_loader is not None:
        return answer_in_processes(batches, request.model_loader, processes=request.processes, told=note, **asked)
    model = request.load_model()
    note(model_facts(model))
    return answer_here(batches, ask_model(model, **asked))


def finish(
    benchmark: QuestionBenchmark,
    folder: RunFolder,
    records: Sequence[Record],
    run: Mapping[str, Any],
    judge: Judge | None = None,
    *,
    quiet: bool = True,
) -> Results:
    """Read and score all answers, put `samples.jsonl` in order with the scores, and write `results.json` last."""
    parsed = [{name: value for name, value in record.items() if name not in DERIVED} for record in records]
    parsed = [{**r, "answer": None if r["error"] else benchmark.parse(r)} for r in parsed]
    if folder.results() is None:
        # In order even if there is no judge to be had now.
        _write(folder, parsed)
    judged = judge_all(benchmark, parsed, judge, folder.path, quiet=quiet)
    scores = benchmark.score(judged)
    scored = [{**record, "score": dict(score)} for record, score in zip(judged, scores.samples, strict=True)]
    _write(folder, scored)
    submission = benchmark.submission(scored) or {}
    for name, text in submission.items():
        write_atomically(folder.path / name, text)
    content = summarise(scored, scores, run, folder.agent(), options_of(benchmark, run.get("options") or {}))
    content = strict({**content, "submission": list(submission)})
    write_question_report(folder.path, content, title=f"{folder.agent().get('name')} on {run['task']} {run['split']}")
    folder.finish(content)
    return results_of(folder.path, content)


def _write(folder: RunFolder, records: Sequence[Record]) -> None:
    """Put all records into one file, in place of those that several processes wrote."""
    write_atomically(folder.path / SAMPLES, "".join(dumps(record) + "\n" for record in records))
    for path in folder.parts():
        path.unlink()


def rescore_questions(benchmark: QuestionBenchmark, path: Path, judge: Judge | None = None) -> Results:
    """Score the recorded answers of a complete run again; judges are asked only what they have not been asked.

    Without a `judge`, what the run's own one said is taken, and it is asked nothing.

    Raises:
        ConfigError: answers are missing.
    """
    folder = RunFolder(path, records=SAMPLES, fields=SAMPLE_FIELDS)
    run = folder.run()
    records = list(folder.records().values())
    if len(records) < run["samples"]:
        raise ConfigError(
            f"{path} has answers to {len(records)} of {run['samples']} samples: finish the run with `navila eval`."
        )
    if judge is not None and benchmark.takes_judge and judge.model != run.get("judge"):
        run = {**run, "judge": judge.model}
        folder.note_run(run)
    if judge is None and run.get("judge"):
        judge = Judge(model=run["judge"], only_kept=True)
    return finish(benchmark, folder, records, run, judge)

"""A run that several processes work on, and that is killed, comes out as if one had done it undisturbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from navila.errors import ConfigError, NavilaError
from navila_eval.asking import answer_in_processes, batches_of
from navila_eval.benchmark import Request
from navila_eval.claims import Claims
from navila_eval.question_run import run_questions
from navila_eval.questions import Question, QuestionBenchmark, Record
from navila_eval.run_folder import RecordReader, RunFolder
from navila_eval.shared_batches import SharedBatches
from PIL import Image

demo = pytest.importorskip("navila_demo", reason="needs the model of navila-demo")
CHECKPOINT = Path(demo.__file__).parent / "checkpoint"
FORK = multiprocessing.get_context("fork")


class Colours(QuestionBenchmark):
    """Which colour a picture has."""

    settings: ClassVar[dict[str, Any]] = {"max_new_tokens": 4}

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    @classmethod
    def tiny(cls) -> Colours:
        raise NotImplementedError

    def questions(self, split: str, data_root: Path) -> list[Question]:
        return [
            Question(id=f"s{n}", prompt=[self.folder / f"{n % 3}.png", f"Colour {n}?"], reference=n % 3)
            for n in range(self.count)
        ]

    def score_sample(self, record: Record) -> dict[str, float]:
        return {"length": float(len(record["output"])), "accuracy": float(record["answer"] == record["reference"])}


@pytest.fixture
def colours(tmp_path: Path) -> Colours:
    for number, colour in enumerate([(200, 0, 0), (0, 200, 0), (0, 0, 200)]):
        Image.new("RGB", (48, 48), colour).save(tmp_path / f"{number}.png")
    return Colours(tmp_path, 24)


@pytest.fixture(scope="module")
def model() -> Any:
    import navila

    return navila.load(CHECKPOINT)


class Echo:
    """A model that is loaded in no time, and says what it is asked last."""

    def generate_contents(self, prompts: list[list[Any]], **settings: Any) -> list[str]:
        return [f"{prompt[-1]} {settings['seed']}" for prompt in prompts]


def request(folder: Path, load_model: Callable[[], Any], **changes: Any) -> Request:
    facts: dict[str, Any] = {
        "task": "colours",
        "split": "val",
        "output_dir": folder,
        "model_name": "demo",
        "load_model": load_model,
        "identity": {"model": "demo"},
        "batch_size": 1,
        "quiet": True,
    }
    return Request(**facts | changes)


def outcome(folder: Path) -> tuple[bytes, dict[str, Any]]:
    # But for hidden files: a kill may leave one that was to take another's place.
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "report.html",
        "results.json",
        "run.json",
        "samples.jsonl",
    ]
    results = json.loads((folder / "results.json").read_text())
    return (folder / "samples.jsonl").read_bytes(), {**results, "manifest": None}


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("samples*.jsonl"))


class Held:
    """A model that waits where a run has so many answers: whoever wants to kill it before its end comes in time."""

    def __init__(self, model: Any, folder: Path, most: int) -> None:
        self.model, self.folder, self.most = model, folder, most

    def generate_contents(self, prompts: list[list[Any]], **settings: Any) -> list[str]:
        while lines(self.folder) >= self.most:
            time.sleep(0.01)
        return self.model.generate_contents(prompts, **settings)


def test_processes_and_kills_change_nothing(colours: Colours, model: Any, tmp_path: Path) -> None:
    def together(name: str, count: int, model: Any = model) -> list[Any]:
        """Processes that were started side by side, each with the command of a run."""
        run = partial(run_questions, colours, request(tmp_path / name, lambda: model))
        processes = [FORK.Process(target=run) for _ in range(count)]
        for process in processes:
            process.start()
        return processes

    run_questions(colours, request(tmp_path / "one", lambda: model))
    alone = outcome(tmp_path / "one")
    assert alone[1]["results"]["colours"]["length"] > 0

    for count in (2, 4):
        processes = together(str(count), count)
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert outcome(tmp_path / str(count)) == alone

    for _ in range(3):
        before = lines(tmp_path / "killed")
        processes = together("killed", 2, Held(model, tmp_path / "killed", before + 6))
        while lines(tmp_path / "killed") < before + 3:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.001)
        for process in processes:
            process.kill()
            process.join()
        assert before < lines(tmp_path / "killed") < 24, "killed in the midst of it"
    assert any((tmp_path / "killed" / "claims").iterdir())
    run_questions(colours, request(tmp_path / "killed", lambda: model))
    assert outcome(tmp_path / "killed") == alone


def test_processes_that_a_run_starts_change_nothing(colours: Colours, tmp_path: Path) -> None:
    run_questions(colours, request(tmp_path / "one", Echo))
    run_questions(colours, request(tmp_path / "two", Echo, processes=2, model_loader=Echo))
    assert outcome(tmp_path / "two") == outcome(tmp_path / "one")


def test_a_claim_is_held_by_one_living_process(tmp_path: Path) -> None:
    with Claims(tmp_path / "claims") as first, Claims(tmp_path / "claims") as second:
        assert first.take("7")
        assert not second.take("7")
        assert second.others() == [first.owner]
        first.release("7")
        assert second.take("7")

        program = (
            "import sys, pathlib, navila_eval.claims as c; a = c.Claims(pathlib.Path(sys.argv[1])).__enter__(); "
            "print(a.take('8'), flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "claims"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert not first.take("8")
        other.send_signal(signal.SIGKILL)
        other.communicate()
        assert first.take("8"), "at once: its process is known to be dead"
        assert not second.take("8")
    assert not (tmp_path / "claims").exists()


def test_a_process_of_another_machine_is_dead_when_it_is_silent(tmp_path: Path) -> None:
    (tmp_path / "far-1-x.alive").touch()
    (tmp_path / "3").write_text("far-1-x")
    (tmp_path / "4").touch()
    with Claims(tmp_path) as claims:
        assert claims.others() == ["far-1-x"]
        assert not claims.take("3")
        assert not claims.take("4"), "its owner is about to write its name"
        for name in ("far-1-x.alive", "4"):
            os.utime(tmp_path / name, (time.time() - 600, time.time() - 600))
        assert claims.take("3")
        assert claims.take("4")


def test_a_run_that_others_are_at_is_not_started_over(colours: Colours, tmp_path: Path) -> None:
    with Claims(tmp_path / "run" / "claims"):
        with pytest.raises(ConfigError, match="Other processes are at work in"):
            run_questions(colours, request(tmp_path / "run", Echo, force=True))
        (tmp_path / "run" / "run.json").write_text('{"run": {"task": "another"}}')
        with pytest.raises(ConfigError, match="holds another run"):
            run_questions(colours, request(tmp_path / "run", Echo))


def test_a_process_that_dies_is_told_in_a_sentence(colours: Colours, tmp_path: Path) -> None:
    whole = batches_of(colours.questions("val", tmp_path)[:4], {}, 2)
    with Claims(tmp_path / "claims") as claims:
        batches = SharedBatches(whole, claims, RecordReader(RunFolder(tmp_path)), set())
        exits: Any = partial(os._exit, 9)
        with pytest.raises(NavilaError, match="died, most likely for want of memory"):
            list(answer_in_processes(batches, exits, processes=2, num_frames=None, seed=0))

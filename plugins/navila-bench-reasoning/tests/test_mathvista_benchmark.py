"""The tasks `mathvista-*`, from the official files to their figures."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from navila.errors import DataError
from navila.plugins import default_host
from navila.testing import BenchmarkContract
from navila_bench_reasoning.mathvista import MathVista, find_answer
from navila_eval.benchmark import Request
from navila_eval.judging import Judge
from PIL import Image


def problem(pid: int, kind: str, answer: str, **facts: Any) -> dict[str, Any]:
    """A problem as the official files have it; `kind` is the form of its answer, or `choice`."""
    choice = kind == "choice"
    metadata = {
        "category": "math-targeted-vqa",
        "context": "geometry diagram",
        "grade": "high school",
        "img_height": 4,
        "img_width": 4,
        "language": "english",
        "skills": ["geometry reasoning", "arithmetic reasoning"][: 1 + pid % 2],
        "source": "Geometry3K",
        "split": "testmini",
        "task": "geometry problem solving",
    }
    return {
        "pid": str(pid),
        "question": f"Wie groß ist ∠{pid}?",
        "image": f"images/{pid}.jpg",
        "choices": ["30°", "145°"] if choice else None,
        "unit": None,
        "precision": 1.0 if kind == "float" else None,
        "answer": answer,
        "question_type": "multi_choice" if choice else "free_form",
        "answer_type": "text" if choice else kind,
        "metadata": metadata,
        **facts,
    }


PROBLEMS = [
    problem(1, "choice", "145°"),
    problem(2, "integer", "14", unit="$"),
    problem(3, "float", "1.2"),
    problem(4, "list", "[1, 2]"),
    problem(5, "integer", "7"),
]
PERFECT = ["(B) 145°", "14", "1.2", "[1, 2]", "7"]


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), "white").save(data, "JPEG")
    return data.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with the Parquet files of the Hub."""
    folder = tmp_path / "data" / "mathvista" / "data"
    folder.mkdir(parents=True)
    for split, start in (("testmini", 0), ("test", 0), ("test", 3)):
        rows = PROBLEMS[start : start + 3 if split == "test" else None]
        shown = {"bytes": picture(), "path": "1.jpg"}
        rows = [{**row, "decoded_image": shown, "query": f"Hint: …\nQuestion: {row['question']}"} for row in rows]
        rows = [{**row, "answer": ""} for row in rows] if split == "test" else rows
        name = f"{split}-0000{start // 3}-of-0000{2 if split == 'test' else 1}-abc.parquet"
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return tmp_path / "data"


class Said:
    """A model that says one thing after the other."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = list(answers)
        self.prompts: list[Any] = []

    def generate_contents(self, prompts: list[Any], **settings: Any) -> list[str]:
        assert settings["max_new_tokens"] == 128
        self.prompts += prompts
        return [self.answers.pop(0) for _ in prompts]


class TestMathVista(BenchmarkContract):
    name = "mathvista-testmini"

    @pytest.fixture
    def load_model(self, spec: Any) -> Callable[[], Any]:
        return lambda: Said(["4", "It is 0.50."])


def run(data: Path, output: Path, model: Said, split: str = "testmini", judge: Judge | None = None) -> Any:
    return (
        default_host()
        .registry("benchmark")
        .load(f"mathvista-{split}")()
        .run(
            Request(
                task=f"mathvista-{split}",
                split=split,
                output_dir=output,
                model_name="said",
                load_model=lambda: model,  # type: ignore[arg-type,return-value]
                identity={},
                data_root=data,
                judge=judge,
                quiet=True,
            )
        )
    )


def test_perfect_answers_are_all_right_and_floats_are_not_to_the_published_script(data: Path, tmp_path: Path) -> None:
    model = Said(PERFECT)
    results = run(data, tmp_path / "run", model)
    assert results.metrics == {"accuracy": 100.0, "accuracy_published": 80.0}
    image, query = model.prompts[0]
    assert (query, image.read_bytes()) == ("Hint: …\nQuestion: Wie groß ist ∠1?", picture())
    skills = results.content["tables"]["Accuracy by skills"]
    assert skills["arithmetic reasoning"] == {"accuracy": "100.00", "correct": 3, "total": 3}
    assert skills["geometry reasoning"]["total"] == 5
    before = image.stat().st_mtime_ns
    run(data, tmp_path / "again", Said(PERFECT))
    assert image.stat().st_mtime_ns == before, "pictures are put into files once"


def test_wrong_and_wordy_answers_score_what_the_rules_say(data: Path, tmp_path: Path) -> None:
    # By rules alone: an empty reply is wrong, but "" is as near to "30°" as it gets to the published script; two
    # options named are none; 13.9 is cut to 13; the last number counts; a list is taken from its sentence.
    said = ["", "13.9 and then 13.9", "So 3 x 0.4 = 1.2.", "Between [1, 2] and no other", "7,000"]
    results = run(data, tmp_path / "run", Said(said))
    assert results.metrics == {"accuracy": 40.0, "accuracy_published": 20.0}
    assert results.content["counters"] == {"failed": 0, "unparsed": 1, "beyond_rules": 4}


def test_a_figure_that_is_rounded_has_an_interval_all_the_same() -> None:
    benchmark = MathVista.tiny()
    said = zip(benchmark.questions("testmini", Path()), ["4", "0.1", "[3]"], strict=False)
    scores = benchmark.score(
        [{**question.record({}), "output": text, "answer": text, "error": ""} for question, text in said]
    )
    assert scores.metrics["accuracy"] == 33.33
    assert scores.intervals["accuracy"] == (0.0, 100.0)


@pytest.mark.parametrize(
    ("reply", "kind", "found"),
    [
        ("It is 145°, not more", "choice", "B"),
        ("30° or 145°", "choice", None),
        ("Answer: B", "choice", "B"),
        ("That makes 1,234.5 in all", "float", "1234.5"),
        ("from 2007-2008", "integer", "2008"),
        ("x = \N{MINUS SIGN}5 of H2O", "integer", "-5"),
        ("There are none", "integer", None),
        ("Nothing", "list", None),
        ("Paris.", "text", "Paris."),
    ],
)
def test_rules_of_our_own_find_one_answer_or_none(reply: str, kind: str, found: str | None) -> None:
    facts = problem(1, kind, "")
    assert find_answer(reply, facts["question_type"], facts["answer_type"], facts["choices"]) == found


@pytest.fixture
def judge() -> Iterator[tuple[Judge, list[str]]]:
    """A judge that extracts, says garbage, or nothing at all, with what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
            asked.append(prompt if isinstance(prompt, str) else prompt[0]["text"])
            replies = {"∠1": " B\n", "∠2": "fourteen, I'd say \N{SNOWMAN}", "∠3": "1.21", "∠4": "Extracted answer: "}
            text = next((reply for mark, reply in replies.items() if mark in asked[-1]), "none")
            body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Judge(model="extractor", api_base=f"http://127.0.0.1:{server.server_port}/v1"), asked
    server.shutdown()
    server.server_close()


def test_a_judge_extracts_what_rules_do_not_and_its_garbage_stays_in_the_denominator(
    data: Path, tmp_path: Path, judge: tuple[Judge, list[str]]
) -> None:
    said = ["The second one", "Fourteen it is", "About 1.21", "From one to two", "7"]
    results = run(data, tmp_path / "run", Said(said), judge=judge[0])
    # 1: B; 2: garbage, no integer; 3: 1.21 rounds to 1.2; 4: no verdict; 5: by rules, without the judge.
    assert results.metrics == {"accuracy": 60.0, "accuracy_published": 40.0}
    assert results.content["counters"]["without_verdict"] == 1
    assert results.count == 5
    (first,) = [prompt for prompt in judge[1] if "∠1" in prompt]
    assert first.startswith("Please read the following example.")
    assert first.endswith("Question: Wie groß ist ∠1?\n\nThe second one\n\nExtracted answer: ")
    assert not [prompt for prompt in judge[1] if "∠5" in prompt]


def test_the_test_split_gives_the_file_its_server_takes(data: Path, tmp_path: Path) -> None:
    results = run(data, tmp_path / "run", Said(PERFECT), split="test")
    assert results.metrics == {"accuracy": None, "accuracy_published": None}
    sent = json.loads((tmp_path / "run" / "mathvista.json").read_text())
    assert list(sent) == ["1", "2", "3", "4", "5"]
    assert (sent["1"]["response"], sent["1"]["extraction"]) == ("(B) 145°", "B")
    assert sent["3"]["precision"] == 1.0
    assert "decoded_image" not in sent["3"]


def test_the_json_file_of_the_repository_is_asked_in_the_same_words(data: Path, tmp_path: Path) -> None:
    folder = data / "mathvista" / "data"
    next(folder.glob("testmini-*")).unlink()
    (folder / "testmini.json").write_text(json.dumps({str(p["pid"]): p for p in PROBLEMS}))
    model = Said(PERFECT)
    (data / "mathvista" / "images").mkdir()
    for number in range(1, 6):
        (data / "mathvista" / "images" / f"{number}.jpg").write_bytes(picture())
    assert run(data, tmp_path / "run", model).metrics["accuracy"] == 100
    assert model.prompts[0] == [
        data / "mathvista" / "images" / "1.jpg",
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
        "Question: Wie groß ist ∠1?\nChoices:\n(A) 30°\n(B) 145°",
    ]
    assert model.prompts[1][1].endswith("Question: Wie groß ist ∠2? (Unit: $)")
    assert "one decimal place" in model.prompts[2][1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "no problems by their pid"),
        ("{}", "no samples"),
        (json.dumps({"1": 3}), "problem 1, is no object but 3"),
        (json.dumps({"1": {**PROBLEMS[0], "answer_type": "word"}}), "answer_type is 'word'"),
        (json.dumps({"1": {**PROBLEMS[0], "choices": None}}), "no list of choices"),
        (json.dumps({"1": {**PROBLEMS[0], "metadata": {}}}), "metadata lack language"),
    ],
)
def test_a_damaged_file_is_one_sentence(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "mathvista" / "data").mkdir(parents=True)
    (tmp_path / "mathvista" / "data" / "testmini.json").write_text(text)
    with pytest.raises(DataError, match=match):
        run(tmp_path, tmp_path / "run", Said([]))


def test_what_is_missing_or_cut_short_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mathvista is not below .*: download"):
        run(tmp_path, tmp_path / "run", Said([]))
    folder = data / "mathvista" / "data"
    next(folder.glob("test-00001*")).unlink()
    with pytest.raises(DataError, match="1 of the 2 files test-"):
        run(data, tmp_path / "run", Said([]), split="test")
    whole = next(folder.glob("testmini-*.parquet"))
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        run(data, tmp_path / "run", Said([]))

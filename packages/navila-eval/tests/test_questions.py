"""A benchmark of questions, from files to figures: the one of the documentation, answered by a small model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from navila.errors import ConfigError, DataError, NavilaError
from navila_eval.asking import batches_of
from navila_eval.benchmark import Request
from navila_eval.comparison import compare, compare_all
from navila_eval.judging import Judge
from navila_eval.question_run import rescore_questions, run_questions
from navila_eval.questions import Question, QuestionBenchmark, Record, Scores
from navila_eval.run_folder import RunFolder
from navila_eval.runner import report_runs
from navila_eval.scoring.judges import JudgePrompt
from PIL import Image

Command = Callable[..., subprocess.CompletedProcess[str]]

demo = pytest.importorskip("navila_demo", reason="needs the model of navila-demo")
CHECKPOINT = Path(demo.__file__).parent / "checkpoint"
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "evaluation.md"
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve pictures in the layout of the documentation's task."""
    folder = tmp_path / "data" / "my-colours"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(12):
        name = list(COLOURS)[number % 3]
        Image.new("RGB", (48, 48), COLOURS[name]).save(folder / "images" / f"{number}.png")
        rows.append({"id": f"s{number}", "image": f"{number}.png", "colour": name})
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside this package")
    sources = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "my_colours.py"
    path.write_text(next(source for source in sources if "my-colours" in source), encoding="utf-8")
    return path


def test_the_task_of_the_documentation_is_listed_asked_and_scored_again(
    navila_eval: Command, plugin: Path, data: Path, tmp_path: Path
) -> None:
    task = ("--plugin", plugin, "-t", "my-colours")
    listed = json.loads(navila_eval(*task, "--list", "--json", "--data-root", data).stdout)
    assert [(entry["name"], entry["present"]) for entry in listed] == [("my-colours", True)]
    assert not json.loads(navila_eval(*task, "--list", "--json", "--data-root", tmp_path).stdout)[0]["present"]
    missing = navila_eval(*task, "-m", CHECKPOINT, "--data-root", tmp_path, "--output-dir", tmp_path / "none")
    assert missing.returncode == 2
    assert "my-colours/test.jsonl is not below" in missing.stderr
    assert "download it from https://example.org/my-colours" in missing.stderr

    done = navila_eval(*task, "-m", CHECKPOINT, "--data-root", data, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "checkpoint" / "my-colours"
    results = json.loads((folder / "results.json").read_text())
    records = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [f"s{number}" for number in range(12)]
    right = sum(record["answer"] == record["reference"] for record in records) / 12
    assert results["results"]["my-colours"]["accuracy"] == pytest.approx(right)
    assert json.loads((tmp_path / "out" / "checkpoint" / "metrics.json").read_text()) == {"my-colours/accuracy": right}
    page = (folder / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "What colour is this?" in page

    # Neither model nor data: only what was recorded, here with one answer changed.
    shutil.rmtree(data)
    records[0]["output"] = "It is purple."
    (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    again = navila_eval("--plugin", plugin, "rescore", folder)
    assert again.returncode == 0, again.stderr
    results = json.loads((folder / "results.json").read_text())
    assert results["results"]["my-colours"]["accuracy"] == pytest.approx(right - 1 / 12)
    assert json.loads((folder / "samples.jsonl").read_text().splitlines()[0])["answer"] == "purple"


def test_a_task_that_fails_costs_the_others_nothing(
    navila_eval: Command, plugin: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("navila_bench_vln", reason="needs the plugin navila-bench-vln")
    (data / "my-colours" / "test.jsonl").write_text("{\n")
    flags = ("--plugin", plugin, "-t", "my-colours,houses", "-m", CHECKPOINT, "--data-root", data, "--limit", 1)
    done = navila_eval(*flags, "--max-steps", 2, "--output-dir", tmp_path / "out")
    assert done.returncode == 1
    assert "my-colours: failed:" in done.stdout
    assert "line 1, is not JSON" in done.stdout
    assert (tmp_path / "out" / "checkpoint" / "houses" / "results.json").is_file()


def test_tags_choose_tasks(navila_eval: Command, plugin: Path, tmp_path: Path) -> None:
    def names(*flags: str) -> set[str]:
        listed = navila_eval("--plugin", plugin, "--list", "--json", *flags)
        return {entry["name"] for entry in json.loads(listed.stdout)}

    assert "my-colours" in names("-i", "image,nothing")
    misspelt = navila_eval("--plugin", plugin, "--list", "-e", "locla")
    assert (misspelt.returncode, misspelt.stderr) == (2, "Error: No task has the tag 'locla'; did you mean 'local'?\n")
    assert "my-colours" not in names("-i", "navigation")
    assert "my-colours" not in names("-i", "image", "-e", "local")
    assert names("-t", "my-colours", "-i", "navigation") == set()
    nothing = navila_eval("--plugin", plugin, "-m", "x", "-i", "no-such-tag", "--output-dir", tmp_path)
    assert nothing.returncode == 2
    assert "-i names no task" in nothing.stderr


class Colours(QuestionBenchmark):
    """Pictures made on the spot; with a judge where asked for."""

    def __init__(self, questions: list[Question], *, judged: bool = False) -> None:
        self.made = questions
        self.judged = judged

    @classmethod
    def tiny(cls) -> Colours:
        return cls([])

    def questions(self, split: str, data_root: Path) -> list[Question]:
        return self.made

    def judge_prompt(self, record: Record) -> str | None:
        return f"Is {record['output']!r} right?" if self.judged else None

    def verdict(self, reply: str) -> bool:
        if reply not in ("yes", "no"):
            raise ValueError(f"{reply!r} is neither yes nor no")
        return reply == "yes"

    def score_sample(self, record: Record) -> dict[str, float]:
        right = record.get("verdict") if self.judged else record["answer"] == record["reference"]
        return {"accuracy": float(bool(right))}


class Said:
    """A model that says of a prompt the text it ends with."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []

    def generate_contents(self, prompts: list[list[Any]], **settings: Any) -> list[str]:
        self.asked.append(prompts)
        for number, prompt in enumerate(prompts):
            for part in prompt:
                if isinstance(part, Path) and not part.exists():
                    raise DataError(f"Prompt {number}: the image {part} does not exist.")
        return [str(prompt[-1]) for prompt in prompts]


def request(folder: Path, model: Any = None, **changes: Any) -> Request:
    facts: dict[str, Any] = {
        "task": "colours",
        "split": "val",
        "output_dir": folder,
        "model_name": "said",
        "load_model": lambda: model or Said(),
        "identity": {"model": "said"},
        "batch_size": 4,
        "quiet": True,
    }
    return Request(**facts | changes)


def questions(count: int, *, folder: Path | None = None) -> list[Question]:
    return [
        Question(
            id=f"q{n}", prompt=[*([folder / f"{n}.png"] if folder else []), f"answer {n % 3}"], reference="answer 0"
        )
        for n in range(count)
    ]


def test_a_broken_medium_costs_its_own_sample_and_is_tried_again(tmp_path: Path) -> None:
    for number in range(6):
        if number != 3:
            Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    benchmark, model = Colours(questions(6, folder=tmp_path)), Said()
    results = run_questions(benchmark, request(tmp_path / "run", model))
    assert results.failed == 1
    assert results.metrics["accuracy"] == pytest.approx(1 / 6), "the broken one stays in the denominator"
    assert results.content["failed_samples"] == [
        {"id": "q3", "error": f"the image {tmp_path / '3.png'} does not exist."}
    ]
    Image.new("RGB", (4, 4)).save(tmp_path / "3.png")
    model.asked.clear()
    results = run_questions(benchmark, request(tmp_path / "run", model))
    assert results.failed == 0
    assert results.metrics["accuracy"] == pytest.approx(2 / 6)
    assert len(model.asked) == 1, "only the batch of the broken one"
    assert model.asked[0] == [list(question.prompt) for question in benchmark.made[:4]]
    model.asked.clear()
    assert run_questions(benchmark, request(tmp_path / "run", model)).metrics == results.metrics
    assert not model.asked


def test_a_checkpoint_that_was_moved_is_the_same_run() -> None:
    one = {"model": "runs/vln", "model_sha256": "ab", "seed": 0}
    assert RunFolder.is_same(one, {**one, "model": "/data/vln/"})
    assert not RunFolder.is_same(one, {**one, "model_sha256": "cd"})
    assert not RunFolder.is_same({**one, "model_sha256": None}, {**one, "model": "org/vln", "model_sha256": None})


def test_empty_results_are_none(tmp_path: Path) -> None:
    results = run_questions(Colours(questions(2)), request(tmp_path / "run"))
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="is complete: finish one"):
        report_runs(tmp_path)
    assert run_questions(Colours(questions(2)), request(tmp_path / "run")).metrics == results.metrics


def test_other_questions_are_another_run(tmp_path: Path) -> None:
    run_questions(Colours(questions(3)), request(tmp_path / "run"))
    with pytest.raises(ConfigError, match="holds another run"):
        run_questions(Colours(questions(4)), request(tmp_path / "run"))
    with pytest.raises(ConfigError, match="holds another run"):
        run_questions(Colours(questions(3)), request(tmp_path / "run", seed=1))
    assert run_questions(Colours(questions(4)), request(tmp_path / "run", force=True)).count == 4
    # One that broke before its first answer, most likely for the very argument that is mended now, left nothing.
    with pytest.raises(ZeroDivisionError):
        run_questions(Colours(questions(4)), request(tmp_path / "broken", load_model=lambda: 1 // 0))
    assert run_questions(Colours(questions(3)), request(tmp_path / "broken")).count == 3


@pytest.mark.parametrize(
    ("made", "match"),
    [([], "no samples"), ([*questions(3), *questions(1)], "the sample 'q0' twice")],
)
def test_odd_files_are_one_sentence(made: list[Question], match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match):
        run_questions(Colours(made), request(tmp_path / "run"))


def test_a_record_that_lacks_something_is_named(tmp_path: Path) -> None:
    run_questions(Colours(questions(2)), request(tmp_path / "run"))
    path = tmp_path / "run" / "samples.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"error": "", ', "", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"samples\.jsonl has a line without 'error'"):
        rescore_questions(Colours([]), tmp_path / "run")


def test_empty_and_strange_answers_are_kept(tmp_path: Path) -> None:
    texts = ["", " \n", "日本 \u2028 \x00 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), '"}\n{']
    made = [Question(id=f"q{n}", prompt=["x", text], reference="?") for n, text in enumerate(texts)]
    results = run_questions(Colours(made), request(tmp_path / "run"))
    assert results.content["counters"]["unparsed"] == 2
    rescored = rescore_questions(Colours(made), tmp_path / "run")
    assert rescored.metrics == results.metrics
    kept = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().split("\n")[:-1]]
    assert [record["output"] for record in kept] == texts


def test_what_a_server_scores_is_written_beside_the_results(tmp_path: Path) -> None:
    class Sent(Colours):
        """Its truth is not published."""

        def score_sample(self, record: Record) -> dict[str, float]:
            return {}

        def submission(self, records: Sequence[Record]) -> dict[str, str]:
            return {"answers.csv": "".join(f"{record['id']},{record['answer']}\n" for record in records)}

    results = run_questions(Sent(questions(3)), request(tmp_path / "run"))
    assert results.metrics == {}
    assert (tmp_path / "run" / "answers.csv").read_text() == "q0,answer 0\nq1,answer 1\nq2,answer 2\n"
    assert results.content["submission"] == ["answers.csv"]


def test_two_runs_are_compared_sample_by_sample(navila_eval: Command, tmp_path: Path) -> None:
    class Better(Said):
        def generate_contents(self, prompts: list[list[Any]], **settings: Any) -> list[str]:
            return ["answer 0"] * len(prompts)

    run_questions(Colours(questions(30)), request(tmp_path / "one"))
    run_questions(Colours(questions(30)), request(tmp_path / "two", Better()))
    found = compare(tmp_path / "one", tmp_path / "two")
    (difference,) = found.differences
    assert (difference.count, difference.first, difference.second) == (30, pytest.approx(1 / 3), 1.0)
    assert difference.difference == pytest.approx(2 / 3)
    assert 0 < difference.interval[0] < 2 / 3 < difference.interval[1] < 1
    assert len(found.samples) == 20
    assert found.samples["q1"] == {"accuracy": (0.0, 1.0)}
    with pytest.raises(ConfigError, match="no complete run"):
        compare(tmp_path / "one", tmp_path)

    class F1(Colours):
        """A figure that is no mean over samples, and another truth."""

        def score(self, records: Sequence[Record]) -> Scores:
            scores = super().score(records)
            return Scores(metrics={**scores.metrics, "f1": scores.metrics["accuracy"]}, samples=scores.samples)

    for name, model in (("a", Said()), ("b", Better())):
        run_questions(F1(questions(30)), request(tmp_path / name / "colours", model, seed=len(name)))
        run_questions(Colours(questions(9)), request(tmp_path / name / f"only-{name}"))
    run_questions(Colours(questions(9)), request(tmp_path / "b" / "colours-val", seed=9, limit=4))
    run_questions(Colours(questions(9)), request(tmp_path / "a" / "colours-val"))
    pairs, alone = compare_all(tmp_path / "a", tmp_path / "b")
    assert list(pairs) == ["colours", "colours-val"]
    assert alone == (["only-a"], ["only-b"])
    assert [(d.metric, d.second, d.interval is None) for d in pairs["colours"].differences] == [
        ("accuracy", 1.0, False),
        ("f1", 1.0, True),
    ]
    assert (pairs["colours-val"].alone, pairs["colours-val"].settings) == ((5, 0), ("seed",))
    with pytest.raises(ConfigError, match="no complete run of one name in common"):
        compare_all(tmp_path / "a" / "only-a", tmp_path / "b")
    other = [Question(id=q.id, prompt=q.prompt, reference="answer 2") for q in questions(30)]
    run_questions(Colours(other), request(tmp_path / "other"))
    with pytest.raises(ConfigError, match="The truth of sample q0 is another in"):
        compare(tmp_path / "one", tmp_path / "other")
    told = navila_eval("compare", tmp_path / "one", tmp_path / "two", "--samples", 2)
    assert told.returncode == 0
    assert "+0.667 *" in told.stdout
    assert "Samples that differ: 20" in told.stdout


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict], list[str]]]:
    """An endpoint that says what it is told to say; the requests it had."""
    asked: list[dict] = []
    replies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            body = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", asked, replies
    httpd.shutdown()
    httpd.server_close()


def test_a_judge_is_asked_once_and_its_garbage_counted(server: Any, tmp_path: Path) -> None:
    url, asked, replies = server
    judge = Judge(model="wise", api_base=url, parallel=1)
    benchmark = Colours(questions(6), judged=True)
    with pytest.raises(ConfigError, match="needs a judge: run the same command again with --judge MODEL"):
        run_questions(benchmark, request(tmp_path / "none"))
    replies[:] = ["yes"]
    late = run_questions(benchmark, request(tmp_path / "none", lambda: 1 // 0, judge=judge))
    assert (late.metrics["accuracy"], late.content["run"]["judge"]) == (1.0, "wise")
    other = Judge(model="wiser", api_base=url)
    with pytest.raises(ConfigError, match=r"was judged by wise: `navila eval rescore .* has its answers judged"):
        run_questions(benchmark, request(tmp_path / "none", judge=other))
    assert rescore_questions(benchmark, tmp_path / "none", other).content["run"]["judge"] == "wiser"

    class Unjudged(Colours):
        judge_prompt = QuestionBenchmark.judge_prompt

    assert "judge" not in run_questions(Unjudged(questions(1)), request(tmp_path / "no", judge=judge)).content["run"]
    asked.clear()
    replies[:] = ["yes", "perhaps", "perhaps", "perhaps", "no"]
    results = run_questions(benchmark, request(tmp_path / "run", judge=judge))
    # Three different answers: one right, one without a verdict, one wrong; each is asked about once.
    assert len(asked) == 5
    assert results.metrics["accuracy"] == pytest.approx(2 / 6)
    assert results.content["counters"]["without_verdict"] == 2
    assert results.failed == 2
    assert results.content["manifest"]["options"] == {"judged": True}
    page = (tmp_path / "run" / "report.html").read_text()
    assert (page.count('class="sample failed"'), page.count('class="sample zero"')) == (2, 2)
    asked.clear()
    replies[:] = ["yes"]
    results = run_questions(benchmark, request(tmp_path / "run", judge=judge))
    assert len(asked) == 1, "only the one without a verdict"
    assert results.metrics["accuracy"] == pytest.approx(4 / 6)
    assert results.failed == 0
    asked.clear()
    assert rescore_questions(benchmark, tmp_path / "run", judge).metrics == results.metrics
    assert rescore_questions(benchmark, tmp_path / "run").metrics == results.metrics, "with the replies that are kept"
    assert not asked


def test_a_judge_is_asked_several_things_and_told_of_its_task(server: Any, tmp_path: Path) -> None:
    class Aspects(Colours):
        """Asks about two aspects of the last answer, knowing the first one."""

        def judge_prompts(self, records: Sequence[Record]) -> list[Any]:
            user = f"{records[0]['output']} and {records[1]['output']}?"
            names = {"detail": JudgePrompt(system="Look closely.", user=user), "context": "And all of it?"}
            return [None, names]

        def score_sample(self, record: Record) -> dict[str, float]:
            return {name: float(verdict is True) for name, verdict in record.get("verdict", {}).items()}

    url, asked, replies = server
    replies[:] = ["yes", "perhaps"]
    judge = Judge(model="wise", api_base=url, parallel=1)
    results = run_questions(Aspects(questions(2)), request(tmp_path / "run", judge=judge))
    assert asked[0]["messages"] == [
        {"role": "system", "content": "Look closely."},
        {"role": "user", "content": "answer 0 and answer 1?"},
    ]
    assert [message["role"] for message in asked[1]["messages"]] == ["user"]
    assert results.metrics == {"detail": 1.0, "context": 0.0}
    assert results.failed == 1


def test_a_checkpoint_judges_too(tmp_path: Path) -> None:
    """The small model never says yes or no to this: its replies are useless, and counted as such."""
    judge = Judge(model=str(CHECKPOINT))
    results = run_questions(Colours(questions(2), judged=True), request(tmp_path / "run", judge=judge))
    assert results.content["counters"]["without_verdict"] == 2
    record = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])
    assert "is neither yes nor no" in record["judge_error"]
    assert record["verdict"] is None


def test_an_endpoint_answers_in_place_of_a_model(server: Any, tmp_path: Path) -> None:
    from navila.endpoint import Endpoint

    url, asked, replies = server
    replies[:] = ["answer 0"]
    for number in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    endpoint = Endpoint(url=url, model="far")
    results = run_questions(Colours(questions(4, folder=tmp_path)), request(tmp_path / "run", endpoint=endpoint))
    assert results.metrics["accuracy"] == pytest.approx(3 / 4)
    assert results.failed == 1
    content = asked[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    replies[:] = [""]
    empty = run_questions(Colours(questions(2)), request(tmp_path / "empty", endpoint=endpoint))
    assert (empty.failed, empty.content["counters"]["unparsed"]) == (0, 2), "nothing is an answer, too"
    assert asked[0]["max_tokens"] == 64
    assert asked[0]["temperature"] == 0.0


def test_an_endpoint_out_of_reach_stops_the_run_and_keeps_what_is_answered(tmp_path: Path) -> None:
    from navila.endpoint import Endpoint

    nobody = Endpoint(url="http://127.0.0.1:9/v1", model="far", attempts=1)
    with pytest.raises(NavilaError, match="run the same command again"):
        run_questions(Colours(questions(4)), request(tmp_path / "run", endpoint=nobody))
    assert not (tmp_path / "run" / "results.json").exists()


def test_questions_of_other_settings_are_asked_apart() -> None:
    made = [Question(id=str(n), prompt=["x"], settings={"max_new_tokens": 2} if n % 2 else {}) for n in range(5)]
    batches = batches_of(made, {"max_new_tokens": 9}, 2)
    told = [([question.id for question in batch.questions], batch.settings["max_new_tokens"]) for batch in batches]
    assert told == [(["0", "2"], 9), (["4"], 9), (["1", "3"], 2)]
    # What is drawn for one must not depend on which others are asked with it.
    sampled = batches_of(made, {"do_sample": True}, 2)
    assert [len(batch.questions) for batch in sampled] == [1] * 5
    assert len(batches_of(made, {"do_sample": True}, 2, sampled_alone=False)) == 3


def test_walks_are_scored_again_and_compared_too(navila_eval: Command, tmp_path: Path) -> None:
    pytest.importorskip("navila_bench_vln", reason="needs the plugin navila-bench-vln")
    for agent in ("expert", "random"):
        done = navila_eval("-t", "houses", "--agent", agent, "--limit", 3, "--max-steps", 30, "--output-dir", tmp_path)
        assert done.returncode == 0, done.stderr
    before = (tmp_path / "random" / "houses" / "results.json").read_text()
    assert navila_eval("rescore", tmp_path).returncode == 0
    after = (tmp_path / "random" / "houses" / "results.json").read_text()
    assert json.loads(after)["results"] == json.loads(before)["results"]
    other = navila_eval("rescore", tmp_path / "random" / "houses", "-o", "image_size=64")
    assert other.returncode == 2
    assert "was made with image_size=" in other.stderr
    assert (tmp_path / "random" / "houses" / "results.json").read_text() == after
    told = json.loads(navila_eval("compare", tmp_path / "random/houses", tmp_path / "expert/houses", "--json").stdout)
    assert next(d for d in told["differences"] if d["metric"] == "sr")["second"] == 1.0
    elsewhere = shutil.copytree(tmp_path / "expert" / "houses", tmp_path / "elsewhere" / "houses")
    walks = [json.loads(line) for line in (elsewhere / "episodes.jsonl").read_text().splitlines()]
    moved = "".join(json.dumps({**walk, "goals": [[0.0, 0.0, 0.0]]}) + "\n" for walk in walks)
    (elsewhere / "episodes.jsonl").write_text(moved)
    with pytest.raises(ConfigError, match="truth of sample houses-0-0-0 is another"):
        compare(tmp_path / "expert" / "houses", elsewhere)
    shutil.rmtree(elsewhere.parent)
    image = tmp_path / "[b]0.png"
    Image.new("RGB", (4, 4), "red").save(image)
    for name in ("one", "two"):
        made = [Question(id="<b>&", prompt=[image, "<i>?"], reference=name)]
        run_questions(Colours(made), request(tmp_path / name / "colours"))
    report = Path(navila_eval("report", tmp_path).stdout.strip())
    assert report == tmp_path / "report.html"
    page = report.read_text()
    assert "Evaluation of expert, random, one, two" in page
    for shown in ("houses level0", "colours val", "data:image/jpeg;base64,", "&lt;b&gt;&amp;", "<polyline"):
        assert shown in page
    assert "<b>&" not in page

"""All video tasks, from official files to figures."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from navila.errors import ConfigError, DataError, MissingDependencyError
from navila.plugins import default_host
from navila.testing import BenchmarkContract
from navila.video import read_video
from navila_eval.benchmark import Request, Results
from navila_eval.judging import Judge
from navila_eval.questions import Question
from navila_eval.runner import rescore_runs
from navila_eval.scoring.wordnet import FOLDER_VARIABLE

sys.path.insert(0, str(Path(__file__).parent))
from video_cases import CASES, MME, Case, put_json, put_parquet

TASKS = list(dict.fromkeys(case.task for case in CASES))
EVERY_TASK = pytest.mark.parametrize("case", [next(c for c in CASES if c.task == task) for task in TASKS], ids=TASKS)
#: Each of a family of its own.
FAMILIES = ("activitynet-qa", "video-chatgpt", "nextqa", "cinepile", "videomme-subtitles")


class Said:
    """A model that watches each video and says what it is to say of it."""

    def __init__(self, questions: Sequence[Question], answers: Sequence[str]) -> None:
        self.answers = {str(question.prompt): answer for question, answer in zip(questions, answers, strict=True)}
        self.settings: dict[str, Any] = {}

    def generate_contents(self, prompts: list[Any], **settings: Any) -> list[str]:
        self.settings = settings
        for video, _ in prompts:
            assert len(read_video(video, 2)) == 2
        return [self.answers[str(prompt)] for prompt in prompts]


@pytest.mark.parametrize("task", FAMILIES, scope="class")
class TestContract(BenchmarkContract):
    @pytest.fixture
    def entry(self, registry: Any, task: str) -> Any:
        return registry.entry(task)

    @pytest.fixture
    def load_model(self) -> Callable[[], Any]:
        class Yes:
            def generate_contents(self, prompts: list[Any], **_: Any) -> list[str]:
                return ["A"] * len(prompts)

        return Yes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eval")
    for write in dict.fromkeys(case.write for case in CASES):
        write(root)
    return root


@pytest.fixture(scope="module", autouse=True)
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A few nouns in WordNet's format."""
    folder = tmp_path_factory.mktemp("dict")
    above = {"entity": None, "animal": "entity", "dog": "animal", "cat": "animal", "table": "entity"}
    lines, offsets = [], {}
    for word, hypernym in above.items():
        offsets[word] = sum(len(line) + 1 for line in lines)
        link = "000" if hypernym is None else f"001 @ {offsets[hypernym]:08d} n 0000"
        lines.append(f"{offsets[word]:08d} 05 n 01 {word} 0 {link} | a gloss")
    index = [f"{word} n 1 1 @ 1 0 {offset:08d}" for word, offset in offsets.items()]
    for part in ("noun", "verb", "adj", "adv"):
        noun = part == "noun"
        (folder / f"data.{part}").write_text("\n".join(lines) + "\n" if noun else "")
        (folder / f"index.{part}").write_text("\n".join(index) + "\n" if noun else "")
        (folder / f"{part}.exc").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        yield


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """A judge that compares to the letter, gives wrong answers 2.7 of 5, and loses its mind over `garbage`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
            assert messages[0]["role"] == "system"
            asked = messages[1]["content"]
            truth = re.findall(r"^Correct Answer: (.*)$", asked, re.MULTILINE)[0]
            said = re.findall(r"^Predicted Answer(?: to Question \d)?: (.*)$", asked, re.MULTILINE)
            right = all(words.lower().rstrip(".") == truth.lower().rstrip(".") for words in said)
            verdict = {"score": 5 if right else 2.7}
            if "yes/no" in asked:
                verdict |= {"pred": "yes" if right else "no"}
            reply = "¯\\_(ツ)_/¯ __import__('os')" if "garbage" in said else f"Sure! {verdict}"
            body = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Judge(model="strict", api_base=f"http://127.0.0.1:{server.server_port}/v1", parallel=4)
    server.shutdown()
    server.server_close()


def make(task: str, **options: Any) -> Any:
    return default_host().registry("benchmark").load(task)(**options)


def run(case: Case, root: Path, output: Path, answers: Sequence[str], judge: Judge | None, **options: Any) -> Results:
    """A run of a case; the options replace those of the case, as `split` does."""
    split = options.pop("split", case.split) or default_host().registry("benchmark").spec(case.task).default_split
    keywords = {**case.options, **options}
    benchmark = make(case.task, **keywords)
    model = Said(benchmark.questions(split, root), answers)
    return benchmark.run(
        Request(
            task=case.task,
            split=split,
            output_dir=output,
            model_name="said",
            load_model=lambda: model,  # type: ignore[arg-type,return-value]
            identity={"options": keywords},
            data_root=root,
            batch_size=3,
            judge=judge,
            quiet=True,
        )
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join([c.task, *map(str, c.options.values())]))
def test_official_files_are_asked_and_scored_as_published(case: Case, data: Path, tmp_path: Path, judge: Judge) -> None:
    spec = default_host().registry("benchmark").spec(case.task)
    question = make(case.task, **case.options).questions(case.split or spec.default_split, data)[0]
    assert question.prompt[1] == case.first
    perfect = run(case, data, tmp_path / "right", case.right, judge)
    scales = {metric.name: float(metric.scale.rpartition("-")[2]) for metric in spec.metrics}
    assert set(perfect.metrics) == set(scales)
    reached = {name: value for name, value in perfect.metrics.items() if value is not None}
    assert reached == pytest.approx({name: scales[name] for name in reached})
    assert perfect.failed == 0
    results = run(case, data, tmp_path / "said", case.said, judge)
    for name, value in case.figures.items():
        assert results.metrics[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name
    assert results.failed == sum("garbage" in answer for answer in case.said)


@EVERY_TASK
def test_what_is_missing_is_one_sentence_with_where_to_get_it(case: Case, data: Path, tmp_path: Path) -> None:
    spec = default_host().registry("benchmark").spec(case.task)
    benchmark = make(case.task, **case.options)
    with pytest.raises(DataError, match=r"is not below .*: (get|download|unpack) .*, put it there") as told:
        benchmark.questions(spec.default_split, tmp_path)
    assert str(told.value).count(". ") == 0
    assert all((data / path).exists() for path in spec.data), "what the list looks for is what the loader reads"


def test_a_missing_video_counts_as_wrong(data: Path, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.task == "egoschema")
    video = data / "egoschema/videos/00-1.mp4"
    away = video.rename(tmp_path / "away.mp4")
    try:
        results = run(case, data, tmp_path / "run", case.right, None)
    finally:
        away.rename(video)
    assert results.metrics["accuracy"] == pytest.approx(200 / 3)
    assert results.failed == 1
    assert "00-1.mp4" in results.content["failed_samples"][0]["error"]


def test_answers_are_collected_first_and_judged_later(data: Path, tmp_path: Path, judge: Judge) -> None:
    case = CASES[0]
    with pytest.raises(ConfigError, match=r"msvd-qa is judged: give --judge MODEL.*judged=false"):
        run(case, data, tmp_path / "run", case.said, None)
    results = run(case, data, tmp_path / "run", case.said, None, judged=False)
    assert (results.metrics["exact_match"], results.metrics["accuracy"]) == (40.0, None)
    kept = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for options, refused in (({"judged": True}, "needs a judge"), ({"temperature": 0.2}, "made with temperature=0.0")):
        with pytest.raises(ConfigError, match=refused):
            rescore_runs(tmp_path / "run", options=options)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == kept
    ((_, later),) = rescore_runs(tmp_path / "run", judge, options={"judged": True})
    assert not isinstance(later, Exception)
    assert {name: later.metrics[name] for name in case.figures} == pytest.approx(case.figures)
    replies = [json.loads(line)["answer"] for line in (tmp_path / "run" / "judge.jsonl").read_text().splitlines()]
    assert {"correct": False, "score": 2.7} in replies, "verdicts are kept as they came, cut only when scored"


def test_servers_get_the_files_they_take(data: Path, tmp_path: Path) -> None:
    full = next(case for case in CASES if case.task == "egoschema_full")
    results = run(full, data, tmp_path / "ego", full.said, None)
    # As the published converter has it, what names no option is the first.
    assert (results.path / "submission.csv").read_text() == "q_uid,answer\n00-0,0\n00-1,0\n00-2,3\n00-3,1\n"
    case = next(case for case in CASES if case.task == "perception-test")
    results = run(case, data, tmp_path / "test", ["C", "Both", "B", ""], None, split="test")
    assert results.metrics["accuracy"] is None
    sent = json.loads((results.path / "submission.json").read_text())
    assert sent["video_10"] == [
        {"id": 0, "answer_id": 2, "answer": "behind"},
        {"id": 1, "answer_id": 1, "answer": "right"},
    ]
    assert [answer["answer_id"] for answer in sent["video_11"]] == [1, 0]
    assert not (run(case, data, tmp_path / "valid", case.said, None).path / "submission.json").exists()


def test_the_report_breaks_figures_down_further(data: Path, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.task == "perception-test")
    results = run(case, data, tmp_path / "run", case.said, None)
    assert results.content["tables"] == {"Accuracy by skill": {"occlusion": {"accuracy": "25.0", "samples": 4}}}
    assert "Accuracy by skill" in (results.path / "report.html").read_text(encoding="utf-8")


def test_subtitles_are_those_on_show_at_the_frames_that_are_asked_for(data: Path) -> None:
    def told(**options: Any) -> str:
        prompt = make("videomme-subtitles", **options).questions("test", data)[0].prompt[1]
        return prompt.partition("below:\n")[2].partition("\nSelect")[0]

    # Frames of the second are at 0, 0.2, … 0.8 s; of two, the last is after all that is said.
    assert told(subtitle_frames=2) == "Hello, Zoë."
    assert told(subtitle_frames=3) == "Hello, Zoë.\nHow are you?"
    silent = make("videomme-subtitles").questions("test", data)[1].prompt[1]
    assert silent.startswith("This video's subtitles are listed below:\nNo subtitles available\nSelect")


def test_the_list_of_videos_of_navilas_script_is_read_too(data: Path, tmp_path: Path) -> None:
    row = MME[0]
    asked = {**row, "choices": row["options"], "answer": "C"}
    listed = {
        "video_id": "000",
        "duration_category": "short",
        "video_category": "Knowledge",
        "video_subcategory": "Technology",
        "url": f"https://www.youtube.com/watch?v={row['videoID']}",
        "questions": [{key: asked[key] for key in ("question_id", "task_type", "question", "choices", "answer")}],
    }
    put_json(tmp_path / "videomme/Video-MME.json", [listed])
    (tmp_path / "videomme/data").symlink_to(data / "videomme/data")
    (from_list,) = make("videomme").questions("test", tmp_path)
    from_hub = make("videomme").questions("test", data)[0]
    assert (from_list.id, from_list.prompt[1], from_list.facts) == (from_hub.id, from_hub.prompt[1], from_hub.facts)


def test_an_option_drawn_for_an_answer_without_one_does_not_depend_on_the_order() -> None:
    benchmark = make("cinepile", profile="navila-random")
    records = [{"id": f"{n}", "output": "?", "facts": {"options": dict.fromkeys("ABCDE", "")}} for n in range(40)]
    drawn = [benchmark.parse(record) for record in records]
    assert [benchmark.parse(record) for record in records[::-1]] == drawn[::-1]
    assert set(drawn) == set("ABCDE")


@pytest.mark.parametrize(
    ("task", "options", "match"),
    [
        ("egoschema", {"prompt": "lmm"}, "no prompt 'lmm': use navila, lmms"),
        ("videomme", {"profile": "lmms"}, "no profile 'lmms': use videomme"),
        ("cinepile", {"temperature": -1}, "temperature is -1"),
        ("nextqa", {"tagger": "spacy"}, "no tagger 'spacy'"),
        ("nextqa", {"alpha": "much"}, "alpha is 'much'"),
        ("msvd-qa", {"judged": "no"}, "judged is 'no'"),
        ("videomme-subtitles", {"subtitle_frames": 0}, "subtitle_frames is 0"),
    ],
)
def test_a_wrong_option_is_one_sentence(task: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(task, **options)


def test_wups_as_published_asks_for_its_tagger_before_any_model(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(MissingDependencyError, match=r"navila-bench-video\[nextqa\].*-o tagger=none"):
        make("nextqa").questions("test", data)


BROKEN = [
    ("msvd-qa", "test_q.json", "{", "test_q.json is not JSON"),
    ("msvd-qa", "test_q.json", "{}", "is no list"),
    ("msvd-qa", "test_q.json", "[1]", "entry 1, is no object but 1"),
    ("msvd-qa", "test_q.json", '[{"question_id": 0}]', "1 questions and .* 5 answers"),
    ("msvd-qa", "test_a.json", json.dumps([{"answer": "x", "question_id": 9}] * 5), "it is the answer to 9, not to 0"),
    ("video-chatgpt", "temporal_qa.json", '[{"Q": 1, "A": "x", "video_name": "b"}]', "entry 1, .*Q is 1, not text"),
    ("nextqa", "oe/test.csv", "video,question,answer,qid,type\n1,a, b,c,0,CW\n", "line 2, is malformed .*5 fields"),
    ("nextqa", "oe/test.csv", 'video,question,answer,qid,type\n1,"a\n', "line 2, is malformed"),
    ("nextqa", "oe/test.csv", "video,question,answer,qid,type\n1,a,b,0,XX\n", "line 2, .*'XX' is no type"),
    ("nextqa", "oe/test.csv", b"video\n\xff\xfe", "test.csv cannot be read"),
    ("nextqa-mc", "mc/test.csv", "video,qid\n1,2\n", "line 2, is malformed .it has no 'a0'"),
    ("egoschema", "subset_answers.json", '{"00-0": 7}', "the answer is 7, of 5 options"),
    ("egoschema", "subset_answers.json", '{"absent": 1}', "an answer to absent, which is no question"),
    ("egoschema", "questions.json", '[{"q_uid": "00-0", "question": "?"}]', "entry 1, .*option 0"),
    ("videomme", "videomme/test-00000-of-00001.parquet", "none", "cannot be read as Parquet"),
    ("perception-test", "mc_question_valid.json", "[]", "is no object of videos"),
    ("perception-test", "mc_question_valid.json", '{"v": {"metadata": {}}}', "video v, is malformed .*video_id"),
    ("cinepile", "test.jsonl", '{"choices": []}\n', "line 1, is malformed .options must be a list of texts"),
    ("cinepile", "test.jsonl", "\n{,}\n", "line 2, is not JSON"),
]


@pytest.mark.parametrize(("task", "name", "content", "match"), BROKEN)
def test_a_broken_file_is_one_sentence(
    task: str, name: str, content: str | bytes, match: str, data: Path, tmp_path: Path
) -> None:
    folder = {"nextqa-mc": "nextqa"}.get(task, task)
    (tmp_path / folder).mkdir()
    for item in (data / folder).iterdir():
        if item.name not in (name.partition("/")[0], "v2"):
            (tmp_path / folder / item.name).symlink_to(item)
    path = tmp_path / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    benchmark = make(task, **({"tagger": "none"} if task == "nextqa" else {}))
    split = default_host().registry("benchmark").spec(task).default_split
    with pytest.raises(DataError, match=match):
        benchmark.questions(split, tmp_path)


def test_a_question_that_stands_twice_is_named(data: Path, tmp_path: Path) -> None:
    put_parquet(tmp_path / "videomme/test.parquet", [MME[0], MME[1], MME[0]])
    (tmp_path / "videomme/data").symlink_to(data / "videomme/data")
    case = Case(task="videomme", write=lambda _: None, first="", right=[], said=[], figures={})
    with pytest.raises(DataError, match="videomme has the sample '000-1' twice"):
        run(case, tmp_path, tmp_path / "run", ["C"] * 3, None)

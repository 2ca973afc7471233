"""Every task of the plugin, from its official files to its figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from navila.errors import ConfigError, DataError
from navila.plugins import default_host
from navila.testing import BenchmarkContract
from navila_eval.benchmark import Request, Results
from navila_eval.runner import rescore_runs

sys.path.insert(0, str(Path(__file__).parent))
from image_cases import CASES, Case, put

EVERY_CASE = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join([case.task, *case.options.values(), Path(case.file).suffix[1:]])
)
EVERY_TASK = pytest.mark.parametrize(
    "case", list({case.task: case for case in CASES[::-1]}.values()), ids=lambda c: c.task
)


class Said:
    """A model that says one thing after the other."""

    def __init__(self, answers: Any) -> None:
        self.answers = list(answers)
        self.prompts: list[Any] = []

    def generate_contents(self, prompts: list[Any], **_: Any) -> list[str]:
        self.prompts += prompts
        return [self.answers.pop(0) for _ in prompts]


class TestVQAv2(BenchmarkContract):
    name = "vqav2"

    @pytest.fixture
    def load_model(self, spec: Any) -> Callable[[], Any]:
        return lambda: Said(["yes", "1"])


def run(case: Case, root: Path, output: Path, model: Any, *, split: str = "", **options: Any) -> Results:
    entry = default_host().registry("benchmark").entry(case.task)
    keywords = {**case.options, **options}
    benchmark = default_host().registry("benchmark").load(case.task)(**keywords)
    return benchmark.run(
        Request(
            task=case.task,
            split=split or entry.spec.default_split,
            output_dir=output,
            model_name="said",
            load_model=lambda: model,
            identity={"options": keywords},
            data_root=root,
            batch_size=4,
            quiet=True,
        )
    )


@EVERY_CASE
def test_official_files_are_asked_and_scored_as_published(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path)
    spec = default_host().registry("benchmark").spec(case.task)
    assert all((tmp_path / path).exists() for path in spec.data)

    model = Said(case.right)
    results = run(case, tmp_path, tmp_path / "right", model)
    *images, text = model.prompts[0]
    assert text == case.prompt
    media = [part for prompt in model.prompts for part in prompt if isinstance(part, Path)]
    assert images
    assert all(path.is_file() for path in media)
    assert set(results.metrics) == {metric.name for metric in spec.metrics}
    assert (results.failed, results.content["submission"]) == (0, [])
    assert {name: results.metrics[name] for name in case.best} == pytest.approx(dict(case.best))

    results = run(case, tmp_path, tmp_path / "said", Said(case.said))
    assert {name: results.metrics[name] for name in case.scores} == pytest.approx(dict(case.scores))
    for name, interval in results.intervals.items():
        value = results.metrics[name]
        assert interval is None or value is None or interval[0] - 1e-9 <= value <= interval[1] + 1e-9, name


@EVERY_TASK
def test_where_the_model_fails_nothing_is_right(case: Case, tmp_path: Path) -> None:
    class Blind:
        def generate_contents(self, prompts: list[Any], **_: Any) -> list[str]:
            raise DataError("Prompt 0: no image.")

    case.write(tmp_path)
    results = run(case, tmp_path, tmp_path / "run", Blind())
    assert results.failed == results.count
    assert not any(results.metrics.values())


@EVERY_TASK
def test_what_is_missing_or_damaged_is_one_sentence(case: Case, tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(DataError) as caught:
            run(case, tmp_path, tmp_path / "run", Said([]))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"is not below {tmp_path}: " in refused()
    case.write(tmp_path)
    path = tmp_path / case.file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff{")
    assert path.name in refused()
    if path.suffix in (".json", ".jsonl") and not whole.startswith(b'{"question_id'):
        put(path, [1])
        assert path.name in refused()


@EVERY_TASK
def test_a_few_samples_come_without_files(case: Case, tmp_path: Path) -> None:
    benchmark = default_host().registry("benchmark").load(case.task).tiny()
    questions = benchmark.questions("val", tmp_path / "nowhere")
    assert len({question.id for question in questions}) == len(questions) >= 2


@pytest.mark.parametrize(
    ("task", "change", "match"),
    [
        ("vqav2", lambda text: text.replace('"answers"', '"anwsers"', 1), "item 5, is malformed .*no 'answers'"),
        (
            "gqa",
            lambda text: text.replace('"Is it overcast?"', "3"),
            "question 200, is malformed .*question is 3, not text",
        ),
        ("docvqa", lambda text: text.replace('["abc"]', "[]"), "item 3, is malformed .*list of texts"),
        ("docvqa", lambda text: text.replace('"questionId": 338', '"questionId": 337'), "'337' twice"),
        ("pope", lambda text: text.replace('"no"', '"maybe"'), "line 2, is malformed .*yes or no"),
        ("pope", lambda text: text + "{", "line 3, is not JSON"),
        ("mme", lambda text: text.splitlines()[0], "two lines"),
        ("textvqa-ocr", lambda text: text.replace("camera", "canary", 1), "line 1, asks nothing that"),
        ("refcoco", lambda text: text.replace("[0, 0, 200, 200]", "[0, 0]"), "item 3, is malformed"),
        (
            "seedbench",
            lambda text: text.replace('"answer": "A"', '"answer": "E"'),
            "item 1, is malformed .*A, B, C and D",
        ),
        ("scienceqa", lambda text: text.replace('"answer": 2', '"answer": 3'), "problem 2, is malformed"),
        ("scienceqa", lambda text: text.replace('"5": {', '"6": {'), "problem 5, is no object"),
    ],
)
def test_a_malformed_sample_is_named(task: str, change: Callable[[str], str], match: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.task == task)
    case.write(tmp_path)
    path = tmp_path / (case.file if task != "pope" else "pope/coco_pope_random.json")
    text = path.read_text(encoding="utf-8")
    put(path, change(text))
    assert path.read_text(encoding="utf-8") != text
    with pytest.raises(DataError, match=match):
        run(case, tmp_path, tmp_path / "run", Said([]))


@pytest.mark.parametrize(
    ("task", "split", "answers", "expected"),
    [
        (
            "vqav2",
            "test-dev",
            ["A Dog.", ""],
            [(7001, "dog"), (7000, ""), (7004, ""), (7002, ""), (7003, "")],
        ),
        ("vqav2", "test", list("abcde"), [(7000 + n, "" if n == 0 else "abcde"[n]) for n in range(5)]),
        ("textvqa", "test", ["Two"], [(39602, "2")]),
        ("vizwiz", "test", ["Unanswerable"], [("VizWiz_test_00000000.jpg", "unanswerable")]),
        ("docvqa", "test", ["1/8/93 ", "Société"], [(337, "1/8/93"), (338, "Société")]),
    ],
)
def test_answers_without_a_published_truth_become_what_the_server_takes(
    task: str, split: str, answers: list[str], expected: list[tuple[Any, str]], tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.task == task)
    case.write(tmp_path)
    results = run(case, tmp_path, tmp_path / "run", Said(answers), split=split)
    assert set(results.metrics.values()) == {None}
    rows = json.loads((tmp_path / "run" / f"{task}_submission.json").read_text(encoding="utf-8"))
    assert [tuple(row.values()) for row in rows] == expected
    key = {"docvqa": "questionId", "vizwiz": "image"}.get(task, "question_id")
    assert list(rows[0]) == [key, "answer"]


def test_answers_are_scored_again_by_another_rule(tmp_path: Path) -> None:
    lmms, llava = (case for case in CASES if case.task == "pope")
    lmms.write(tmp_path)
    run(lmms, tmp_path, tmp_path / "run", Said(llava.said))
    ((_, results),) = rescore_runs(tmp_path / "run", options={"profile": "llava"})
    assert not isinstance(results, Exception)
    assert results.metrics["recall"] == pytest.approx(llava.scores["recall"])


@pytest.mark.parametrize(
    ("task", "title", "row", "expected"),
    [
        ("ocrbench", "Accuracy by kind", "Handwriting Recognition", {"samples": 1, "accuracy": "1.000"}),
        ("seedbench", "Accuracy by kind", "Instances Counting", {"samples": 3, "accuracy": "0.333"}),
        ("scienceqa", "Accuracy by grade", "grade2", {"samples": 1, "accuracy": "1.000"}),
        ("gqa", "Accuracy by structural type", "query", {"samples": 5, "accuracy": "0.400"}),
        (
            "pope",
            "By category",
            "popular",
            {"accuracy": "0.000", "precision": "0.000", "recall": "0.000", "f1": "0.000", "yes_ratio": "0.000"},
        ),
    ],
)
def test_reports_have_tables_of_published_parts(
    task: str, title: str, row: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.task == task)
    case.write(tmp_path)
    benchmark = default_host().registry("benchmark").load(task)()
    questions = benchmark.questions(default_host().registry("benchmark").spec(task).default_split, tmp_path)
    said = [
        {**question.record({}), "output": output, "error": ""}
        for question, output in zip(questions, case.said, strict=True)
    ]
    scores = benchmark.score([{**record, "answer": benchmark.parse(record)} for record in said])
    assert scores.tables[title][row] == expected


def test_an_unknown_profile_or_format_of_boxes_is_refused(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.task == "refcoco")
    with pytest.raises(ConfigError, match="no profile 'lava': use lmms, navila"):
        run(case, tmp_path, tmp_path / "run", Said([]), profile="lava")
    with pytest.raises(ConfigError, match="box_format=vilo"):
        run(case, tmp_path, tmp_path / "run", Said([]), profile="navila", box_format="vilo")


@pytest.mark.parametrize(("profile", "center"), [("lmms", 1.0), ("navila", 0.0)])
def test_a_reply_without_a_box_is_none_or_one_in_the_corner_as_its_profile_has_it(profile: str, center: float) -> None:
    benchmark = default_host().registry("benchmark").load("refcoco")(profile=profile)
    record = {"output": "the dog", "error": "", "reference": [0, 0, 20, 10], "facts": {"height": 20, "width": 30}}
    record["answer"] = benchmark.parse(record)
    assert benchmark.score_sample(record) == {"accuracy": 0.0, "iou": 0.0, "center_accuracy": center}
    assert not any(benchmark.score_sample({**record, "error": "no image"}).values())


def test_annotations_of_vizwiz_may_lie_in_the_folder_they_are_unpacked_into(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.task == "vizwiz")
    case.write(tmp_path)
    (tmp_path / "vizwiz/Annotations").mkdir()
    (tmp_path / "vizwiz/val.json").rename(tmp_path / "vizwiz/Annotations/val.json")
    assert run(case, tmp_path, tmp_path / "run", Said(case.right)).metrics["accuracy"] == case.best["accuracy"]


def test_half_a_pair_of_questions_is_left_out(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.task == "mme")
    benchmark = default_host().registry("benchmark").load("mme")()
    case.write(tmp_path)
    questions = benchmark.questions("test", tmp_path)[:3]
    records = [{**question.record({}), "output": "yes", "error": ""} for question in questions]
    scores = benchmark.score([{**record, "answer": benchmark.parse(record)} for record in records])
    assert scores.counts == {"questions_without_their_pair": 1}
    shown = {name: scores.metrics[name] for name in ("existence", "perception", "count", "cognition")}
    assert shown == {"existence": 50.0, "perception": 50.0, "count": None, "cognition": None}


def test_a_model_answers_one_task(goldens: Path, tmp_path: Path) -> None:
    import navila

    case = next(case for case in CASES if case.task == "scienceqa")
    case.write(tmp_path)
    model = navila.load(goldens / "H_full_model" / "llama_siglip" / "ckpt")
    results = run(case, tmp_path, tmp_path / "run", model)
    assert (results.count, results.failed) == (5, 0)
    assert results.metrics["accuracy"] is not None

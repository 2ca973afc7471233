"""The task `scanqa`, from the official file to its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from navila.errors import ConfigError, DataError
from navila.plugins import default_host
from navila.testing import BenchmarkContract
from navila_eval.benchmark import Request
from navila_eval.runner import rescore_runs
from navila_eval.scoring.scanqa import score
from PIL import Image

#: The official format: fields that nobody needs, unicode, answers that need cleaning, one that is but a stop.
ROWS = [
    {
        "scene_id": f"scene00{number // 3:02}_00",
        "object_ids": [number],
        "object_names": ["chair"],
        "question_id": f"val-scene00{number // 3:02}-{number}",
        "question": question,
        "answers": answers,
    }
    for number, (question, answers) in enumerate(
        [
            ("What colour is the chair?", ["brown", "dark brown"]),
            ("Where is the table?", ["in the middle of the room", "to the left of the chair"]),
            ("How many windows are there?", ["2", "two"]),
            ("What is on the desk?", ["a computer monitor.", "monitor"]),
            ("Which side is the café's door on?", ["left side", "left"]),
            ("What is beside the bed?", ["."]),
        ]
    )
]
SAID = ["Brown", "in the middle of the room", "two", "a monitor on the desk", "", "night stand"]


class Said:
    """A model that says one thing after the other."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = list(answers)
        self.prompts: list[Any] = []

    def generate_contents(self, prompts: list[Any], **_: Any) -> list[str]:
        self.prompts += prompts
        return [self.answers.pop(0) for _ in prompts]


class TestScanQA(BenchmarkContract):
    name = "scanqa"

    @pytest.fixture
    def load_model(self, spec: Any) -> Callable[[], Any]:
        return lambda: Said(["grey", "pillow"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "scanqa"
    for scene in ("scene0000_00", "scene0001_00"):
        (folder / "videos" / scene).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "videos" / scene / "0.jpg")
    (folder / "ScanQA_v1.0_val.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return tmp_path / "data"


def run(data: Path, output: Path, model: Said, **options: Any) -> Any:
    benchmark = default_host().registry("benchmark").load("scanqa")(**options)
    return benchmark.run(
        Request(
            task="scanqa",
            split="val",
            output_dir=output,
            model_name="said",
            load_model=lambda: model,  # type: ignore[arg-type,return-value]
            identity={"options": options},
            data_root=data,
            batch_size=4,
            quiet=True,
        )
    )


def test_the_official_file_is_asked_as_navila_was_trained(data: Path, tmp_path: Path) -> None:
    model = Said(SAID)
    results = run(data, tmp_path / "run", model)
    assert model.prompts[0] == [data / "scanqa" / "videos" / "scene0000_00", "What colour is the chair?"]
    assert results.count == 6
    assert results.content["counters"] == {"failed": 0, "unparsed": 1}
    assert results.metrics["em"] == pytest.approx(100 * 2 / 6), "an empty answer stays in the denominator"
    low, high = results.intervals["bleu_1"]
    assert low < results.metrics["bleu_1"] < high
    assert results.intervals["bleu_4"] is not None
    assert results.intervals["cider"] is not None


def test_a_room_without_a_video_counts_as_wrong(data: Path, tmp_path: Path) -> None:
    class Blind(Said):
        def generate_contents(self, prompts: list[Any], **_: Any) -> list[str]:
            raise DataError("Prompt 0: no video.")

    results = run(data, tmp_path / "run", Blind([]))
    assert results.failed == 6
    assert {name: value for name, value in results.metrics.items() if value} == {}


@pytest.mark.parametrize("profile", ["scanqa-official", "leo", "llava-3d", "video-3d-llm"])
def test_a_profile_gives_its_scorers_figures_and_a_run_is_scored_again_by_another(
    profile: str, data: Path, tmp_path: Path
) -> None:
    results = run(data, tmp_path / "run", Said(SAID), profile=profile)
    answers = [row["answers"] for row in ROWS]
    expected = score(SAID, answers, profile)  # type: ignore[arg-type]
    for name in ("cider", "bleu_1", "bleu_4", "rouge_l", "em", "em_refined"):
        value = expected.metrics[name]
        assert value is not None
        assert results.metrics[name] == pytest.approx(100 * value, abs=1e-9)
    ((_, other),) = rescore_runs(tmp_path / "run", options={"profile": "leo"})
    leo = score(SAID, answers, "leo").metrics["em"]
    assert not isinstance(other, Exception)
    assert leo is not None
    assert other.metrics["em"] == pytest.approx(100 * leo)
    assert other.content["run"]["options"] == {"profile": "leo"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("{}", "is no list"),
        (json.dumps([{**ROWS[0], "answers": []}]), "entry 1, is malformed"),
        (json.dumps([ROWS[0], {"scene_id": "x"}]), "entry 2, is malformed .*it has no .answers"),
        (json.dumps([ROWS[0], ROWS[0]]), "'val-scene0000-0' twice"),
        ("[]", "no samples"),
    ],
)
def test_a_damaged_file_is_one_sentence(text: str, match: str, data: Path, tmp_path: Path) -> None:
    (data / "scanqa" / "ScanQA_v1.0_val.json").write_text(text)
    with pytest.raises(DataError, match=match):
        run(data, tmp_path / "run", Said([]))


def test_what_is_missing_is_named_with_where_it_comes_from(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ScanQA_v1\.0_val\.json is not below .*download"):
        run(tmp_path, tmp_path / "run", Said([]))
    with pytest.raises(ConfigError, match="no profile 'lea'"):
        run(data, tmp_path / "run", Said([]), profile="lea")

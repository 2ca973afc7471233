"""Tasks of lmms-eval through navila and the model `navila` in lmms-eval, with a stand-in of its official layout.

The stand-in has lmms-eval's interfaces (0.7.3) and none of its 150 packages; the README says what was run for real.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import DataError, NavilaError
from navila.plugins import default_host
from navila.testing import BenchmarkContract
from navila_bench_lmms.names import installed_names, read_names
from navila_bench_lmms.plugin import navila_benchmarks
from navila_bench_lmms.requests import parts_of, settings_of
from navila_eval.benchmark import Request
from navila_eval.metric_paths import pick
from navila_eval.runner import rescore_runs
from PIL import Image

STAND_IN = {
    "lmms_eval/__init__.py": "",
    "lmms_eval/api/__init__.py": "",
    "lmms_eval/api/model.py": """
class lmms:
    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}
""",
    "lmms_eval/api/registry.py": """
def register_model(*names):
    return lambda cls: cls
""",
    "lmms_eval/models/__init__.py": "",
    "lmms_eval/models/registry_v2.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()
""",
    "lmms_eval/evaluator.py": """
import json, os
from dataclasses import dataclass
from pathlib import Path
from PIL import Image

SETTINGS = {"max_new_tokens": 3, "temperature": 0, "top_p": 1.0, "num_beams": 1, "until": ["\\n\\n"], "aspect": ""}
TASKS = {
    "pope": {"test": [{"colour": c, "answer": a} for c, a in [("red", "yes"), ("green", "no"), ("blue", "no")]]},
    "mme": {"test": [{"colour": "red", "answer": "no"}]},
    "vqav2_test": {"test": [{"colour": "red", "answer": None}]},
    "gqa": {"test": [{}]},
    "mmvet": {"test": [{"colour": "red", "answer": "no"}]},
    "docvqa_val": {"test": [{"colour": None, "answer": "no"}]},
}
GROUPS = {"scienceqa_full": ["pope", "mme"]}

@dataclass
class Instance:
    request_type: str
    args: tuple

def visuals(doc):
    if doc["colour"] is None:
        raise SystemExit("video path:x.mp4 does not exist, please check")
    return [Image.new("RGB", (4, 4), doc["colour"])]

def get_model(name):
    raise ValueError(f"Model {name} not found in available models.")

def simple_evaluate(model, tasks, batch_size, limit, bootstrap_iters, log_samples, cli_args):
    if tasks == ["vqav2_test"]:  # as version 0.2 does
        model = get_model(model).create_from_arg_string(None, {"batch_size": batch_size, "device": None})
    assert os.environ.get("WORLD_SIZE", "1") == "1" and model._world_size == 1
    print("lmms-eval talks")
    (name,) = tasks
    if name == "mmmu_val":
        raise RuntimeError("not to be retried") from ConnectionError("no network")
    names = GROUPS.get(name, [name])
    model.task_dict.update({task: TASKS[task] for task in names})
    asked = [(task, doc_id) for task in names for doc_id in range(min(limit or 99, len(TASKS[task]["test"])))]
    method = "loglikelihood" if name == "gqa" else "generate_until"
    requests = [
        Instance(method, (f"Is it red? ({task})", dict(SETTINGS), visuals, number, task, "test"))
        for task, number in asked
    ]
    said = getattr(model, method)(requests)
    results, samples = {}, {}
    for task in names:
        right = []
        for (of, doc_id), reply in zip(asked, said):
            if of == task:
                answer = TASKS[task]["test"][doc_id]["answer"]
                right.append(float(reply.lower() == answer))
                samples.setdefault(task, []).append({"doc_id": doc_id, "pope_accuracy": right[-1], "target": answer})
        rate = sum(right) / len(right)
        results[task] = {"alias": task, "pope_accuracy,none": rate, "pope_accuracy_stderr,none": 0.1, "f,strict": 0.5}
        if task == "mme":
            results[task] = {"mme_perception_score,none": 7.0, "mme_perception_score_stderr,none": "N/A"}
    if name == "vqav2_test":
        folder = Path(cli_args.output_path) / "submissions"
        folder.mkdir()
        (folder / "vqav2.json").write_text(json.dumps(said))
        results, samples = {name: {"submission,none": None}}, {}
    return {"results": results, "samples": samples}
""",
    "lmms_eval/tasks/pope/pope.yaml": """dataset_path: x
task: "pope"
process_results: !function utils.process
metric_list:
  - metric: pope_accuracy
    aggregation: mean
  - metric: "pope_recall" # of those that are there
""",
    "lmms_eval/tasks/refcoco/testA.yaml": "task: refcoco_testA\ngroup: refcoco\nmetric_list:\n  - metric: IoU\n",
    "lmms_eval/tasks/mmlu/group.yaml": "group: mmlu\ntask:\n  - mmlu_law\n  - mmlu_art\n",
    "lmms_eval/tasks/mmlu/_template.yaml": "output_type: generate_until\ntag: [a, b]\n",
    "lmms_eval/tasks/broken/broken.yaml": "\udcff",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for name, text in STAND_IN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    (folder / "lmms_eval-0.7.3.dist-info").mkdir()
    (folder / "lmms_eval-0.7.3.dist-info" / "METADATA").write_text("Name: lmms_eval\nVersion: 0.7.3\n")
    return folder


@pytest.fixture(autouse=True)
def installed(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # All plugins, in a host of its own: other tests of this process are not to see the stand-in's tasks.
    monkeypatch.setenv("NAVILA_PLUGINS", ",")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "lmms_eval"]:
        del sys.modules[name]


class Said:
    """A model that says one thing after the other."""

    device = torch.device("cpu")

    def __init__(self, answers: list[str]) -> None:
        self.answers = list(answers)
        self.prompts: list[Any] = []
        self.settings: list[dict[str, Any]] = []

    def generate_contents(self, prompts: list[Any], **settings: Any) -> list[str]:
        self.prompts += [list(prompt) for prompt in prompts]
        self.settings.append(settings)
        if "fail" in self.answers[:1]:
            raise DataError(f"Prompt 0: {self.answers.pop(0)}")
        return [self.answers.pop(0) for _ in prompts]


class TestLmms(BenchmarkContract):
    name = "lmms-pope"

    @pytest.fixture
    def load_model(self, spec: Any) -> Callable[[], Any]:
        return lambda: Said(["yes", "yes"])


def run(output: Path, model: Any, task: str, limit: int | None = None) -> Any:
    spec = default_host().registry("benchmark").spec(f"lmms-{task}")
    return (
        default_host()
        .registry("benchmark")
        .load(f"lmms-{task}")()
        .run(
            Request(
                task=spec.name,
                split=spec.default_split,
                output_dir=output,
                model_name="said",
                load_model=lambda: model,
                identity={"options": {}},
                limit=limit,
                quiet=True,
            )
        )
    )


def test_lmms_eval_asks_and_scores_and_its_paths_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    model = Said(["Yes", "no", "yes"])
    results = run(tmp_path / "run", model, "pope")
    assert os.environ["WORLD_SIZE"] == "4"
    assert capsys.readouterr().out == "", "what lmms-eval prints is no result"
    image, text = model.prompts[0]
    assert (image.getpixel((0, 0)), text) == ((255, 0, 0), "Is it red? (pope)")
    assert model.settings[0] == {"num_video_frames": None, "seed": 0, "max_new_tokens": 3, "stop": ["\n\n"]}
    assert results.metrics == {"accuracy": 2 / 3, "precision": None, "recall": None, "f1": None}
    assert results.intervals["accuracy"] == pytest.approx((2 / 3 - 0.196, 2 / 3 + 0.196))
    assert pick(results.content, "results/pope/pope_accuracy,none") == 2 / 3
    records = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [record["score"] for record in records] == [{"accuracy": 1}, {"accuracy": 1}, {"accuracy": 0}]
    ((_, again),) = rescore_runs(tmp_path / "run")
    assert not isinstance(again, Exception)
    assert again.metrics == results.metrics


def test_a_group_takes_its_limit_of_each_task_and_tells_all_its_figures(tmp_path: Path) -> None:
    results = run(tmp_path / "run", Said(["yes", "no", "no"]), "scienceqa_full", limit=2)
    assert results.count == 3, "two of one, and the only one of the other"
    assert results.metrics == {"full": None, "image": None}, "VILA's figures are not in this one"
    assert results.content["tables"]["As lmms-eval has it"]["pope"]["pope_accuracy,none"] == 1
    results = run(tmp_path / "mme", Said(["no"]), "mme")
    assert results.metrics == {"cognition": None, "perception": 7.0}, "its later spelling"
    assert pick(results.content, "results/mme/mme_perception_score,none") == 7.0


def test_a_task_whose_figures_nobody_declared_tells_them_all(tmp_path: Path) -> None:
    results = run(tmp_path / "run", Said(["no"]), "mmvet")
    assert results.metrics == {"pope_accuracy": 1, "f,strict": 0.5}
    assert pick(results.content, "results/mmvet/f,strict") == 0.5


def test_what_lmms_eval_writes_for_a_server_is_kept(tmp_path: Path) -> None:
    results = run(tmp_path / "run", Said(["two"]), "vqav2_test")
    assert results.metrics == {}
    assert json.loads((tmp_path / "run" / "submissions" / "vqav2.json").read_text()) == ["two"]


def test_a_sample_that_failed_is_asked_again_and_the_others_are_not(tmp_path: Path) -> None:
    model = Said(["fail", "fail", "no", "no"])
    assert run(tmp_path / "run", model, "pope").failed == 1
    # Its whole batch is asked, so that the answer is what it would have been; those that were there are kept.
    results = run(tmp_path / "run", Said(["yes", "yes", "yes"]), "pope")
    assert (results.failed, results.metrics["accuracy"]) == (0, 1)


def test_what_navila_cannot_do_or_lmms_eval_lacks_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NavilaError, match="how likely answers are"):
        run(tmp_path / "gqa", Said([]), "gqa")
    with pytest.raises(NavilaError, match=r"cannot run its task mmmu_val \(ConnectionError: no network\)"):
        run(tmp_path / "mmmu", Said([]), "mmmu_val")
    with pytest.raises(DataError, match=r"cannot show its document 0 \(video path:x.mp4 does not exist"):
        run(tmp_path / "docvqa", Said([]), "docvqa_val")
    with pytest.raises(DataError, match="shows a dict"):
        parts_of([{"array": [0.0], "sampling_rate": 16000}], "What is said?")


def test_prompts_go_to_other_processes_with_their_pictures() -> None:
    task = default_host().registry("benchmark").load("lmms-pope")(limit=1)
    (question,) = task.questions("pope", Path())
    image, text = pickle.loads(pickle.dumps(question.prompt))
    assert (image.size, text) == ((4, 4), "Is it red? (pope)")


def test_names_are_read_from_files_once_an_installation(package: Path, tmp_path: Path) -> None:
    expected = {"mmlu": [], "pope": ["pope_accuracy", "pope_recall"], "refcoco": [], "refcoco_testA": ["IoU"]}
    assert dict(read_names(package / "lmms_eval" / "tasks")) == expected
    assert installed_names() == expected
    (kept,) = (tmp_path / "cache" / "navila").iterdir()
    kept.write_text(kept.read_text().replace("refcoco_testA", "refcoco_testB"))
    assert "refcoco_testB" in installed_names()
    (package / "lmms_eval-0.7.3.dist-info").rename(package / "lmms_eval-0.8.0.dist-info")
    assert installed_names() == expected

    specs = {spec.name: spec for spec in navila_benchmarks()}
    assert specs["lmms-refcoco_testa"].aliases == ("lmms-refcoco_testA",)
    assert specs["lmms-refcoco_testa"].metrics[0].path == "results/refcoco_testA/IoU,none"
    assert specs["lmms-mmlu"].tags == ("lmms", "more")
    assert specs["lmms-pope"].tags == ("lmms", "local", "regression"), "VILA's registry comes first"
    assert "lmms_eval" not in sys.modules


def test_without_lmms_eval_the_registry_of_vila_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "lmms_eval").is_dir()])
    assert installed_names() == {}
    names = [spec.name for spec in navila_benchmarks()]
    assert len(names) == 20
    with pytest.raises(NavilaError, match="run `pip install lmms-eval`"):
        default_host().registry("benchmark").load("lmms-pope")


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({}, {"max_new_tokens": 1024}),
        ({"max_new_tokens": 16, "do_sample": False, "temperature": 0.7, "top_p": 0.9}, {"max_new_tokens": 16}),
        ({"temperature": 0.7, "top_p": None}, {"max_new_tokens": 1024, "do_sample": True, "temperature": 0.7}),
        ({"num_beams": 5, "until": "###", "modalities": []}, {"max_new_tokens": 1024, "num_beams": 5, "stop": ["###"]}),
    ],
)
def test_settings_of_generation_are_those_navila_has(asked: dict[str, Any], settings: dict[str, Any]) -> None:
    assert settings_of(asked) == settings


def test_a_checkpoint_answers_in_lmms_eval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = importlib.import_module("navila_bench_lmms.models")
    manifest = models.manifest()
    assert (manifest.model_id, models.AVAILABLE_MODELS) == ("navila", {"navila": "Navila"})
    module, _, name = manifest.simple_class_path.rpartition(".")
    said = Said(["a", "b", "fail", "fail", "d"])
    monkeypatch.setattr(navila, "load", lambda path, **_: said)
    model = getattr(importlib.import_module(module), name)(pretrained="checkpoint", batch_size="2", num_frames=4)
    model.task_dict = {"t": {"test": [{"n": n} for n in range(4)]}}

    class Asks:
        def __init__(self, n: int) -> None:
            film = str(tmp_path / "film.mp4") if n == 1 else Image.new("RGB", (2, 2))
            self.args = (f"question {n}", {"max_new_tokens": 5}, lambda doc: [film], n, "t", "test")

    assert model.generate_until([Asks(n) for n in range(4)]) == ["a", "b", "", "d"], "a failure is an empty answer"
    assert said.prompts[1] == [tmp_path / "film.mp4", "question 1"]
    assert said.settings[0]["num_video_frames"] == 4
    with pytest.raises(NotImplementedError):
        model.loglikelihood([])

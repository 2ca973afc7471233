"""Figures have paths as lmms-eval's results and the registries of LLaVA's line have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from navila.errors import ConfigError
from navila.specs import MetricSpec
from navila_eval.benchmark import Results
from navila_eval.command import evaluate
from navila_eval.metric_paths import numbers, pick, results_tree
from navila_eval.runner import _add_metrics, figures_of

#: As lmms-eval 0.2 writes it.
LMMS = {
    "results": {
        "pope": {"alias": "pope", "pope_f1_score,none": 0.875, "pope_f1_score_stderr,none": "N/A"},
        "scienceqa": {"exact_match,none": 0.5},
        "scienceqa_img": {"exact_match,none": 0.25},
    },
    "config": {"limit": None},
}


def test_only_slashes_divide_a_path() -> None:
    assert pick(LMMS, "results/pope/pope_f1_score,none") == 0.875
    with pytest.raises(KeyError):
        pick(LMMS, "results/pope/pope_f1_score")
    with pytest.raises(KeyError):
        pick(LMMS, "results/pope/pope_f1_score,none/deeper")
    assert dict(numbers(LMMS["results"], "results")) == {
        "results/pope/pope_f1_score,none": 0.875,
        "results/scienceqa/exact_match,none": 0.5,
        "results/scienceqa_img/exact_match,none": 0.25,
    }


def test_a_metric_stands_where_its_path_says_too() -> None:
    paths = {"full": "results/scienceqa/exact_match,none", "image": "results/scienceqa_img/exact_match,none"}
    tree = results_tree("scienceqa", {"full": 0.5, "image": 0.25, "other": 1.0}, paths)
    assert tree["scienceqa"] == {"full": 0.5, "image": 0.25, "other": 1.0, "exact_match,none": 0.5}
    assert {name: pick({"results": tree}, path) for name, path in paths.items()} == {"full": 0.5, "image": 0.25}
    for wrong in ("pope/f1", "results/f1", "results//f1"):
        with pytest.raises(ValueError, match="is not of the form results/TASK/NAME"):
            MetricSpec(name="f1", summary="F1", path=wrong)


def test_metrics_json_holds_the_runs_of_a_model_and_a_path_picks_one(tmp_path: Path) -> None:
    for task, value in (("one", 0.5), ("two", 0.1 + 0.2)):
        folder = tmp_path / "model" / task
        folder.mkdir(parents=True)
        content = {"task": task, "results": {task: {"accuracy": value}}, "confidence_95": {"accuracy": None}}
        (folder / "results.json").write_text(json.dumps(content))
        (folder / "run.json").write_text("{}")
    # As by a benchmark that writes results of its own form, or by one that was removed.
    (tmp_path / "model" / "metrics.json").write_text('{"one/accuracy": 0.1, "one/gone": 1, "gone/accuracy": 0.2}')
    results = Results(path=tmp_path, metrics={"f1": 1.0}, intervals={}, count=1, content={})
    _add_metrics(tmp_path / "model", "own", results)
    assert json.loads((tmp_path / "model" / "metrics.json").read_text()) == {
        "gone/accuracy": 0.2,
        "one/accuracy": 0.5,
        "own/f1": 1.0,
        "two/accuracy": 0.1 + 0.2,
    }
    assert figures_of(tmp_path)["model/one"] == {"results/one/accuracy": 0.5}
    picked = CliRunner().invoke(evaluate, ["metrics", str(tmp_path), "results/two/accuracy"])
    assert picked.output == "0.30000000000000004\n"
    listed = CliRunner().invoke(evaluate, ["metrics", str(tmp_path)])
    assert [line.split() for line in listed.output.splitlines()][1] == ["model/one", "results/one/accuracy", "0.5"]
    wrong = CliRunner().invoke(evaluate, ["metrics", str(tmp_path), "results/two/f1"])
    assert isinstance(wrong.exception, ConfigError)
    assert "take one of results/one/accuracy, results/two/accuracy" in str(wrong.exception)

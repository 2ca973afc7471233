"""Contracts of datasets and benchmarks."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from navila.errors import DataError
from navila.plugins import default_host
from navila.registry import import_target
from navila.testing.contract import ComponentContract

# navila-data and navila-eval are named as strings: core does not depend on them, whoever tests a dataset has them.
_SAMPLE = "navila_data.sample:Sample"
_REQUEST = "navila_eval.benchmark:Request"
_FRAME_STORE = "navila_data.frames:FrameStore"
_LOAD_OPTIONS = "navila_data.dataset:LoadOptions"


class DatasetContract(ComponentContract):
    """Tests every dataset passes."""

    kind = "dataset"

    def test_it_yields_samples(self, tiny: Any) -> None:
        sample_type = import_target(_SAMPLE, "type of a sample")
        assert len(tiny) > 0
        samples = [tiny[index] for index in range(len(tiny))]
        assert all(isinstance(sample, sample_type) for sample in samples)
        assert all(sample.source and sample.record for sample in samples), "errors name the record by these"

    def test_a_record_reads_the_same_twice(self, tiny: Any) -> None:
        assert [tiny[index] for index in range(len(tiny))] == [tiny[index] for index in range(len(tiny))]

    def test_its_media_exist_and_decode(self, tiny: Any) -> None:
        import numpy as np

        frames = import_target(_FRAME_STORE, "reader of media")(lambda image: np.asarray(image.resize((8, 8))))
        for index in range(len(tiny)):
            media = tiny[index].media
            assert set(frames.load(media)) == set(media)

    def test_groups_are_those_of_the_samples(self, tiny: Any) -> None:
        assert [tiny.group(index) for index in range(len(tiny))] == [tiny[index].group for index in range(len(tiny))]

    def test_there_is_nothing_past_its_end(self, tiny: Any) -> None:
        with pytest.raises(IndexError):
            tiny[len(tiny)]

    def test_a_missing_folder_is_one_sentence(self, component: Any, tmp_path: Path) -> None:
        options = import_target(_LOAD_OPTIONS, "options of a dataset")()
        with pytest.raises(DataError, match="nowhere"):
            component.open(self.name, tmp_path / "nowhere", options)

    def test_a_worker_process_reads_the_same(self, tiny: Any) -> None:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as workers:
            assert workers.submit(_first, tiny).result() == tiny[0]


def _first(dataset: Any) -> Any:
    """What a worker does with the dataset it was given."""
    return dataset[0]


class BenchmarkContract(ComponentContract):
    """Tests every benchmark passes. One that drives no simulator overrides the fixture `load_model`."""

    kind = "benchmark"

    @pytest.fixture
    def load_model(self, spec: Any) -> Callable[[], Any]:
        """Loads the model that is scored; navigation is scored with a random agent instead."""

        def load() -> Any:
            pytest.fail("override the fixture `load_model`: this benchmark drives no simulator")

        return load

    @pytest.fixture
    def make_request(self, spec: Any, load_model: Callable[[], Any]) -> Callable[..., Any]:
        """Builds a request for a short run into a folder."""
        request_type = import_target(_REQUEST, "request of a benchmark")

        def make(output_dir: Path, **changes: Any) -> Any:
            facts: dict[str, Any] = {
                "task": spec.name,
                "split": spec.default_split,
                "output_dir": output_dir,
                "model_name": "tiny",
                "load_model": load_model,
                "identity": {"model": "tiny"},
                "agent": "random" if spec.simulator else "model",
                "limit": 2,
                "batch_size": 2,
                "max_steps": 10,
                "quiet": True,
            }
            return request_type(**facts | changes)

        return make

    def test_splits_and_metrics_are_declared(self, spec: Any) -> None:
        assert spec.default_split in spec.splits
        assert spec.metrics, "a benchmark reports at least one number"
        assert len({metric.name for metric in spec.metrics}) == len(spec.metrics)
        assert spec.tags

    def test_its_simulator_is_registered(self, spec: Any) -> None:
        assert spec.simulator is None or spec.simulator in default_host().registry("simulator")

    def test_a_run_reports_the_declared_numbers(
        self, tiny: Any, spec: Any, make_request: Callable[..., Any], tmp_path: Path
    ) -> None:
        results = tiny.run(make_request(tmp_path / "run"))
        assert set(results.metrics) == {metric.name for metric in spec.metrics}
        assert results.count == 2
        for name, value in results.metrics.items():
            assert value is None or math.isfinite(value), name
        scales = {metric.name: metric.scale for metric in spec.metrics}
        fractions = [value for name, value in results.metrics.items() if scales[name] == "0-1" and value is not None]
        assert all(0 <= value <= 1 for value in fractions)
        written = json.loads((results.path / "results.json").read_text())
        assert written == json.loads(json.dumps(results.content))

    def test_equal_seeds_give_equal_numbers(self, tiny: Any, make_request: Callable[..., Any], tmp_path: Path) -> None:
        first, second = (tiny.run(make_request(tmp_path / name, seed=3)) for name in ("first", "second"))
        assert first.metrics == second.metrics

    def test_a_finished_run_is_not_done_again(
        self, tiny: Any, make_request: Callable[..., Any], tmp_path: Path
    ) -> None:
        first = tiny.run(make_request(tmp_path / "run"))
        records = {path: path.stat().st_size for path in (tmp_path / "run").rglob("*.jsonl")}
        assert records, "a run appends one record a sample"
        again = tiny.run(make_request(tmp_path / "run"))
        assert again.metrics == first.metrics
        assert {path: path.stat().st_size for path in (tmp_path / "run").rglob("*.jsonl")} == records

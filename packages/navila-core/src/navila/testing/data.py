"""Contracts of datasets and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from navila.errors import DataError
from navila.registry import import_target
from navila.testing.contract import ComponentContract

# navila-data and navila-eval are named as strings: core does not depend on them, whoever tests a dataset has them.
_SAMPLE = "navila_data.sample:Sample"
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
        from PIL import Image

        for index in range(len(tiny)):
            for medium in tiny[index].media:
                if medium is not None and Path(medium).suffix.lower() in (".jpg", ".jpeg", ".png"):
                    with Image.open(medium) as image:
                        image.load()
                elif medium is not None:
                    assert Path(medium).is_file()

    def test_groups_are_those_of_the_samples(self, tiny: Any) -> None:
        assert [tiny.group(index) for index in range(len(tiny))] == [tiny[index].group for index in range(len(tiny))]

    def test_there_is_nothing_past_its_end(self, tiny: Any) -> None:
        with pytest.raises(IndexError):
            tiny[len(tiny)]

    def test_a_missing_folder_is_one_sentence(self, component: Any, tmp_path: Path) -> None:
        options = import_target(_LOAD_OPTIONS, "options of a dataset")()
        with pytest.raises(DataError, match="nowhere"):
            component.open(self.name, tmp_path / "nowhere", options)

    def test_it_crosses_to_a_worker_process(self, tiny: Any) -> None:
        import pickle

        # What a data loader does with the dataset it is given: our own object, in memory.
        again = pickle.loads(pickle.dumps(tiny))
        assert len(again) == len(tiny)
        assert again[0] == tiny[0]


class BenchmarkContract(ComponentContract):
    """Tests every benchmark passes."""

    kind = "benchmark"

    def test_splits_and_metrics_are_declared(self, spec: Any) -> None:
        assert spec.default_split in spec.splits
        assert spec.metrics, "a benchmark reports at least one number"
        assert len({metric.name for metric in spec.metrics}) == len(spec.metrics)
        assert spec.tags

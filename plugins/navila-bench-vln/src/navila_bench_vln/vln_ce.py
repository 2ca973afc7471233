"""R2R-CE, RxR-CE and EnvDrop: episode files of VLN-CE, and of R2R and RxR themselves."""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from navila.connectivity import ConnectivityGraphs
from navila.episodes import ground_truth_path, language_of, read_episodes
from navila.errors import ConfigError, DataError
from navila.r2r import is_r2r, read_r2r
from navila.simulation import Episode, Simulator
from navila_eval.navigation import NavigationTask
from navila_eval.walk import Record

from navila_bench_vln.predictions import r2r_predictions, rxr_predictions
from navila_bench_vln.scenes import SceneBenchmark, by_scene, path_of

GET_SCENES = (
    "sign Matterport3D's terms (https://niessner.github.io/Matterport/), run its download_mp.py with --task habitat "
    "and unpack so that there is scene_datasets/mp3d/SCAN/SCAN.glb, or give the folder above mp3d with "
    "-o scenes=FOLDER."
)
#: What instructions carry that nobody here is told; the times of every word are most of RxR's files.
_UNUSED = ("instruction_tokens", "timed_instruction")
_RXR_SPLIT = re.compile(r"(?P<base>\w+)_(?P<role>guide|follower)(?:_(?P<language>en|en_us|en_in|hi|te))?")


class R2rCe(SceneBenchmark):
    """R2R in continuous environments: stop within 3 m of the goal, at most 500 primitives."""

    published: ClassVar[str] = "R2R_VLNCE_v1-3_preprocessed"
    """Folder of the data set as its archive unpacks."""

    def __init__(
        self,
        *,
        simulator: str = "mesh",
        embodiment: str | Mapping[str, Any] = "navila",
        scenes: str | None = None,
        episodes: str | None = None,
        dataset: str | None = None,
        sample: bool = False,
        simulator_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what is asked for; `SceneBenchmark` tells of the other options.

        Args:
            episodes: a file in place of the split's own: VLN-CE's, or R2R's or RxR's with paths of viewpoints.
            dataset: folder below `datasets`, e.g. `R2R_VLNCE_v1-2_preprocessed`.
            sample: let a limit draw from the whole split, by seed, where it takes the first otherwise.
        """
        super().__init__(simulator=simulator, embodiment=embodiment, scenes=scenes, simulator_options=simulator_options)
        if not isinstance(sample, bool):
            raise ConfigError(f"sample is {sample!r}: give true or false.")
        self._file = path_of(episodes)
        self._dataset = str(dataset or self.published)
        self._sample = sample

    def episodes(
        self, split: str, *, seed: int = 0, limit: int | None = None, data_root: Path | None = None
    ) -> Sequence[Episode]:
        """Episodes of a split, scene by scene in the order of the file.

        Raises:
            DataError: the file or a scene is missing; says what to download and where to put it.
        """
        if self._in_houses:
            return self.houses(limit)
        file = self._file or self._published_file(split, data_root or self.data_root)
        episodes = [_slim(episode) for episode in self._read(file, data_root) if self.belongs(episode, split)]
        if not episodes:
            raise DataError(f"{file} has no episode of the split {split}: give another file or split.")
        if limit is not None and self._sample:
            drawn = random.Random(f"sample:{seed}").sample(range(len(episodes)), min(limit, len(episodes)))
            episodes = [episodes[place] for place in sorted(drawn)]
        episodes = by_scene(episodes[:limit])
        self.check_scenes(episodes, data_root, GET_SCENES)
        return episodes

    def file_of(self, split: str) -> str:
        """The file of a split in the folder of the data set."""
        return f"{split}/{split}.json.gz"

    def belongs(self, episode: Episode, split: str) -> bool:
        """Whether an episode of a split's file is one of the split."""
        return True

    def submission(self, records: Sequence[Record]) -> Mapping[str, str]:
        """The leaderboard's file, where the goals are not public."""
        return {} if any(record["goals"] for record in records) else {"predictions.json": r2r_predictions(records)}

    def _published_file(self, split: str, data_root: Path) -> Path:
        folder = Path("datasets") / self._dataset
        packed = data_root / folder / self.file_of(split)
        file = next((path for path in (packed, packed.with_suffix("")) if path.is_file()), None)
        if file is None:
            raise DataError(
                f"{folder / self.file_of(split)} is not below {data_root}: download {self._dataset}.zip, linked from "
                f"https://github.com/jacobkrantz/VLN-CE, and unpack it as {data_root / folder}, name another folder "
                "that has datasets/ with --data-root, or a file with -o episodes=FILE."
            )
        return file

    def _read(self, file: Path, data_root: Path | None) -> Sequence[Episode]:
        if not file.is_file():
            raise DataError(f"There is no episode file {file}: check -o episodes=FILE.")
        if self._file is not None and is_r2r(file):
            if not self.on_graphs:
                raise ConfigError(
                    f"{file} has paths of viewpoints, which only the simulator 'graph' knows: add -o simulator=graph, "
                    "or write episodes of it with `navila data convert --from r2r`."
                )
            return read_r2r(file, ConnectivityGraphs(self.scene_root(data_root)))
        episodes = read_episodes(file)
        # Without the expert's paths nDTW has nothing to compare with; test splits have neither those nor goals.
        expected = self._file is None and self._dataset == self.published
        if expected and episodes and episodes[0].goals and not any(episode.gt_locations for episode in episodes):
            raise DataError(f"{ground_truth_path(file)}, which belongs beside {file}, is missing: unpack it, too.")
        return episodes


class EnvDrop(R2rCe):
    """R2R's training paths under other instructions, made by a speaker model (EnvDrop's augmentation)."""


class RxrCe(R2rCe):
    """RxR in continuous environments, by role and language."""

    published: ClassVar[str] = "RxR_VLNCE_v0"

    def file_of(self, split: str) -> str:
        base, role, _ = rxr_split(split)
        return f"{base}/{base}_{role}.json.gz"

    def belongs(self, episode: Episode, split: str) -> bool:
        return language_of(episode).lower().replace("-", "_").startswith(rxr_split(split)[2])

    def task(self, name: str, split: str, simulator: Simulator, **options: Any) -> NavigationTask:
        """The task; what is sent to the leaderboard goes by ids that episodes have besides their own."""
        task = super().task(name, split, simulator, **options)
        ids = {e.episode_id: (e.info.get("instruction") or {}).get("instruction_id") for e in task.episodes}
        return dataclasses.replace(task, submission=functools.partial(_rxr_submission, ids))

    def submission(self, records: Sequence[Record]) -> Mapping[str, str]:
        """Nothing: files of leaderboards are written with the episodes at hand."""
        return {}


def rxr_split(split: str) -> tuple[str, str, str]:
    """Folder, role and beginning of the language of e.g. `val_unseen_guide_en_us`; the language is empty for all.

    Raises:
        ConfigError: it is no such name.
    """
    match = _RXR_SPLIT.fullmatch(split)
    if match is None:
        raise ConfigError(f"The task rxr-ce has no split {split!r}: name one like val_unseen_guide_en.")
    return match["base"], match["role"], match["language"] or ""


def _rxr_submission(ids: Mapping[str, Any], records: Sequence[Record]) -> Mapping[str, str]:
    """RxR's file, where the goals are not public."""
    if any(record["goals"] for record in records):
        return {}
    return {"predictions.jsonl": rxr_predictions(records, ids)}


def _slim(episode: Episode) -> Episode:
    """An episode without the bulk that nobody here reads."""
    instruction = episode.info.get("instruction")
    if not isinstance(instruction, Mapping) or not any(key in instruction for key in _UNUSED):
        return episode
    kept = {key: value for key, value in instruction.items() if key not in _UNUSED}
    return dataclasses.replace(episode, info={**episode.info, "instruction": kept})

"""Navigation steps as a LeRobotDataset v3.0: Parquet files of episodes with the images inside, as they are.

The layout is that of huggingface/lerobot, version 3.0: `data/` and `meta/episodes/` in chunks of files, and
`meta/info.json`, `meta/stats.json` and `meta/tasks.parquet`.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from navila.actions import FORWARD, LEFT, STOP, UNITS
from navila.errors import ConfigError, DataError, MissingDependencyError, reason
from navila.files import write_atomically
from navila.images import read_image
from numpy.typing import NDArray
from PIL import Image

from navila_data.job_folder import JobFolder
from navila_data.walk_records import Episode, Walks

Actions = Literal["answer", "primitive", "id"]

VERSION = "v3.0"
CAMERA = "observation.images.front"
#: One file a data file, until the export is complete: histograms of its episodes' pixels.
PARTS = "parts"
#: Bytes of images after which a data file is full, and files in a chunk.
FILE_BYTES = 100_000_000
CHUNK_FILES = 1000
#: Images an episode whose pixels are counted.
COUNTED_IMAGES = 8
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
#: What pandas notes in a file: the column `task` is the index.
_TASKS_INDEX = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, kind, numpy_type in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ],
    "pandas_version": "2.2.0",
}
#: (3, 256): how often a channel of an image has a value.
Histogram = NDArray[np.int64]
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is written of a step."""

    actions: Actions = "answer"
    """`answer`: metres forward and degrees to the left of the whole answer; `primitive`: of its first primitive, which
    leads to the next image where every step was recorded; `id`: the number of that primitive."""
    fps: int = 1
    """Steps a second that time stamps tell; the steps themselves have no times."""

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise ConfigError(f"fps is {self.fps}: give 1 or more.")

    def feature(self) -> dict[str, Any]:
        """How `meta/info.json` describes the action."""
        if self.actions == "id":
            return {"dtype": "int64", "shape": [1], "names": ["primitive"]}
        return {"dtype": "float32", "shape": [2], "names": ["forward_m", "turn_left_deg"]}

    def action(self, primitive: int, count: int) -> list[float]:
        """The action vector of an answer of `count` equal primitives."""
        if self.actions == "id":
            return [primitive]
        amount = UNITS[primitive] * (count if self.actions == "answer" else 1)
        if primitive == FORWARD:
            return [amount / 100, 0.0]
        return [0.0, float(amount if primitive == LEFT else -amount)]


def export(
    source: Path,
    output: Path,
    settings: ExportSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the navigation steps of a folder as a LeRobotDataset, or finish an export that was interrupted.

    Args:
        source: `annotations.json` and frames, as `navila data record` and the release have them.
        output: the folder of the new dataset.
        settings: what is written of a step.
        progress: told (episodes done, episodes).

    Returns:
        The manifest that marks the export complete; `repeated` counts the steps that were there twice.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        ConfigError: `output` holds something else.
        DataError: a record or image is missing or malformed, or images differ in size.
    """
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "The LeRobot export needs pyarrow, not installed here: run `pip install 'navila-data[lerobot]'`."
        ) from None
    walks = Walks(folder=source)
    episodes, repeated = walks.episodes()
    facts = {**dataclasses.asdict(settings), "steps": sum(len(e.steps) for e in episodes), "source": source.name}
    job = JobFolder(output, "export", facts, scratch=(PARTS,))
    finished = job.finished()
    if finished is not None:
        progress(len(episodes), len(episodes))
        return finished
    table = _Table(walks.frames, settings, episodes)
    files = list(_files(walks.frames, episodes))
    job.claim(begun=any((output / PARTS).glob("*.json")), leftovers=("data", "meta"))
    histograms: list[Histogram] = []
    for number, members in enumerate(files):
        part = output / PARTS / f"{number}.json"
        if not part.exists():
            content, counted = table.data_file(members)
            write_atomically(output / _DATA.format(**_place(number)), content)
            write_atomically(part, json.dumps([histogram.tolist() for histogram in counted]))
        histograms += [np.asarray(histogram) for histogram in json.loads(part.read_text(encoding="utf-8"))]
        progress(members[-1].number + 1, len(episodes))
    for name, content in table.meta_files(files, histograms).items():
        write_atomically(output / name, content)
    return job.complete(
        {
            "format": "lerobot",
            "records": facts["steps"],
            "episodes": len(episodes),
            "repeated": repeated,
            "versions": {"navila-data": version("navila-data")},
        }
    )


def _files(frames: Path, episodes: Sequence[Episode]) -> Iterator[Sequence[Episode]]:
    """Which episodes share a data file, by the size of their images."""
    start, size = 0, 0
    for episode in episodes:
        try:
            own = sum((frames / step.image).stat().st_size for step in episode.steps)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read ({error.strerror}): fetch the frames again.") from None
        if size and size + own > FILE_BYTES:
            yield episodes[start : episode.number]
            start, size = episode.number, 0
        size += own
    yield episodes[start:]


def _place(file: int) -> dict[str, int]:
    return {"chunk_index": file // CHUNK_FILES, "file_index": file % CHUNK_FILES}


class _Table:
    """The rows of an export and what is told about them."""

    def __init__(self, frames: Path, settings: ExportSettings, episodes: Sequence[Episode]) -> None:
        self.frames = frames
        self.settings = settings
        self.episodes = episodes
        self.tasks = {text: n for n, text in enumerate(dict.fromkeys(e.instruction for e in episodes))}
        self.size = read_image(frames / episodes[0].steps[0].image).size
        width, height = self.size
        number = {"dtype": "int64", "shape": [1], "names": None}
        self.features: dict[str, dict[str, Any]] = {
            CAMERA: {"dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]},
            "action": settings.feature(),
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), number),
        }

    def numbers(self, episode: Episode) -> dict[str, NDArray[Any]]:
        """The columns of an episode that are numbers."""
        count = len(episode.steps)
        action = [self.settings.action(step.primitive, step.count) for step in episode.steps]
        columns: dict[str, Any] = {
            "action": action if len(action[0]) > 1 else [number for (number,) in action],
            "next.done": [step.primitive == STOP for step in episode.steps],
            "timestamp": np.arange(count) / self.settings.fps,
            "frame_index": np.arange(count),
            "episode_index": np.full(count, episode.number),
            "index": np.arange(episode.start, episode.start + count),
            "task_index": np.full(count, self.tasks[episode.instruction]),
        }
        return {name: np.asarray(column, self.features[name]["dtype"]) for name, column in columns.items()}

    def data_file(self, members: Sequence[Episode]) -> tuple[bytes, list[Histogram]]:
        """A Parquet file of episodes, and how often each has which pixel value."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        types = {name: image if name == CAMERA else _arrow_type(feature) for name, feature in self.features.items()}
        # What reads columns as images without lerobot, as the Hugging Face hub does, goes by this note.
        note = {"info": {"features": {name: _hub_type(feature) for name, feature in self.features.items()}}}
        schema = pa.schema(list(types.items()), metadata={"huggingface": json.dumps(note)})
        data = io.BytesIO()
        histograms: list[Histogram] = []
        with pq.ParquetWriter(data, schema) as writer:
            for episode in members:
                counted = np.linspace(0, len(episode.steps) - 1, COUNTED_IMAGES).round().astype(int)
                histogram = np.zeros((3, 256), np.int64)
                images = []
                for number, step in enumerate(episode.steps):
                    images.append({"bytes": self._checked(step.image), "path": step.image.rpartition("/")[2]})
                    if number in counted:
                        histogram += _histogram(self.frames / step.image)
                histograms.append(histogram)
                columns = {CAMERA: images, **{name: c.tolist() for name, c in self.numbers(episode).items()}}
                writer.write_table(pa.table([pa.array(columns[name], types[name]) for name in types], schema=schema))
        return data.getvalue(), histograms

    def meta_files(self, files: Sequence[Sequence[Episode]], histograms: Sequence[Histogram]) -> dict[str, bytes]:
        """Everything below `meta/`."""
        import pyarrow as pa

        file_of = {episode.number: number for number, members in enumerate(files) for episode in members}
        rows = []
        for episode, histogram in zip(self.episodes, histograms, strict=True):
            place = _place(file_of[episode.number])
            stats = self._statistics([episode], histogram)
            rows.append(
                {
                    "episode_index": episode.number,
                    "tasks": [episode.instruction],
                    "length": len(episode.steps),
                    "data/chunk_index": place["chunk_index"],
                    "data/file_index": place["file_index"],
                    "dataset_from_index": episode.start,
                    "dataset_to_index": episode.start + len(episode.steps),
                    **{f"stats/{name}/{key}": value for name, told in stats.items() for key, value in told.items()},
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                }
            )
        # The tasks are what pandas would write: a table whose index are the instructions.
        tasks = pa.table({"task_index": list(self.tasks.values()), "task": list(self.tasks)})
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(_TASKS_INDEX)})
        info = {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": len(self.episodes),
            "total_frames": sum(len(episode.steps) for episode in self.episodes),
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": FILE_BYTES // 10**6,
            "video_files_size_in_mb": 200,
            "fps": self.settings.fps,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": _DATA,
            "video_path": None,
            "features": self.features,
        }
        stats = self._statistics(self.episodes, np.sum(histograms, axis=0))
        return {
            _EPISODES: _parquet(pa.Table.from_pylist(rows)),
            "meta/tasks.parquet": _parquet(tasks),
            "meta/stats.json": (json.dumps(stats, indent=4) + "\n").encode(),
            "meta/info.json": (json.dumps(info, indent=4, ensure_ascii=False) + "\n").encode(),
        }

    def _statistics(self, episodes: Sequence[Episode], histogram: Histogram) -> dict[str, dict[str, Any]]:
        """Minimum, maximum, mean, deviation and quantiles of every column, of images by channel in 0..1."""
        columns = [self.numbers(episode) for episode in episodes]
        stats = {CAMERA: _pixel_statistics(histogram, count=sum(_counted(episode) for episode in episodes))}
        for name in columns[0]:
            values = np.concatenate([column[name] for column in columns]).astype(np.float64)
            values = values.reshape(len(values), -1)
            told = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
            told |= {key: np.quantile(values, share, axis=0) for key, share in QUANTILES.items()}
            stats[name] = {key: value.tolist() for key, value in told.items()} | {"count": [len(values)]}
        return stats

    def _checked(self, name: str) -> bytes:
        """The bytes of an image of the common size.

        Raises:
            DataError: it is missing, no image or of another size.
        """
        path = self.frames / name
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                size = image.size
        except (OSError, Image.DecompressionBombError) as error:
            raise DataError(f"The frame {path} cannot be read ({reason(error, 100)}): fetch it again.") from None
        if size != self.size:
            raise DataError(
                f"The frame {path} has {size[0]} x {size[1]} pixels, others {self.size[0]} x {self.size[1]}: a "
                "LeRobotDataset has one size; bring them to one."
            )
        return content


def _counted(episode: Episode) -> int:
    """How many images of an episode have their pixels counted."""
    return min(len(episode.steps), COUNTED_IMAGES)


def _histogram(path: Path) -> Histogram:
    pixels = np.asarray(read_image(path))
    return np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)])


def _pixel_statistics(histogram: Histogram, *, count: int) -> dict[str, Any]:
    """The statistics of (3, 256) counts, each (3, 1, 1), as LeRobot has them of images."""
    values, total = np.arange(256) / 255, histogram.sum(1)
    mean = histogram @ values / total
    below = histogram.cumsum(1)

    def quantile(share: float) -> NDArray[np.float64]:
        return values[[int(np.searchsorted(row, share * last)) for row, last in zip(below, total, strict=True)]]

    told = {
        "min": values[(histogram > 0).argmax(1)],
        "max": values[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(histogram @ values**2 / total - mean**2, 0)),
        **{key: quantile(share) for key, share in QUANTILES.items()},
    }
    return {key: value.reshape(3, 1, 1).tolist() for key, value in told.items()} | {"count": [count]}


def _arrow_type(feature: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    return kind if feature["shape"] == [1] else pa.list_(kind, feature["shape"][0])


def _hub_type(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A column as the library `datasets` writes it."""
    if feature["dtype"] == "image":
        return {"_type": "Image"}
    value = {"dtype": feature["dtype"], "_type": "Value"}
    return value if feature["shape"] == [1] else {"feature": value, "length": feature["shape"][0], "_type": "List"}


def _parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    data = io.BytesIO()
    pq.write_table(table, data)
    return data.getvalue()

"""EnvDrop of NaVILA-Dataset: videos of walks, to be described by the instruction they follow."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import mkdtemp

from navila.frames import BLACK, sample_indices
from navila.prompts import trajectory_prompt
from navila.tokenization import escape_user_text
from navila_data.dataset import Dataset, LoadOptions, release_folder
from navila_data.media import VideoFrame, frame_count
from navila_data.records import RecordFile, text_field, video_path
from navila_data.sample import Sample, Turn


class EnvDropDataset(Dataset):
    """One sample a walk: `{"video_id" or "video", "instruction"}`, shown by the frame rule of navigation."""

    def __init__(self, name: str, annotations: Path, videos: Path, options: LoadOptions) -> None:
        self.name = name
        self.annotations = annotations
        self.videos = videos
        self.options = options
        self.records = RecordFile(annotations)

    @classmethod
    def open(cls, name: str, root: Path, options: LoadOptions) -> EnvDropDataset:
        """Open `root/EnvDrop`, or `root` itself when it holds the annotations.

        Raises:
            DataError: there is no annotation file or folder of videos, or the file is malformed.
        """
        given = {"annotations.json": options.annotations, "videos": options.media}
        base = release_folder(name, root, "EnvDrop", [file for file, place in given.items() if place is None])
        return cls(name, options.annotations or base / "annotations.json", options.media or base / "videos", options)

    @classmethod
    def tiny(cls) -> EnvDropDataset:
        """A walk longer and a walk shorter than what is shown, in a temporary folder."""
        import av
        import numpy as np

        root = Path(mkdtemp(prefix="navila-envdrop-"))
        (root / "videos").mkdir()
        for name, frames in (("1", 5), ("2", 1)):
            with av.open(str(root / "videos" / f"{name}.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=1)
                stream.width = stream.height = 32
                for i in range(frames):
                    picture = np.full((32, 32, 3), 40 * i, np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                container.mux(stream.encode(None))
        records = [
            {"video_id": "1", "instruction": "Exit the bedroom and wait near the sink."},
            {"video": "2.mp4", "instruction": "Turn left."},
        ]
        (root / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
        return cls.open("envdrop", root, LoadOptions(num_frames=3))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        where = f"{self.annotations}, record {index}"
        video = video_path(self.videos, record, where)
        answer = escape_user_text(text_field(record, "instruction", where).strip())
        shown = sample_indices(frame_count(video), self.options.num_frames)
        return Sample(
            turns=(Turn("user", trajectory_prompt(self.options.num_frames)), Turn("assistant", answer)),
            media=tuple(None if i == BLACK else VideoFrame(video, i) for i in shown),
            source=self.name,
            record=f"{index} ({video.stem})",
            group=self.group(index),
        )

    def group(self, index: int) -> str:
        """The video: walks with several descriptions share their frames."""
        record = self.records[index]
        return str(video_path(Path(), record, f"{self.annotations}, record {index}"))

    def fingerprint(self) -> str:
        """The annotation file and the number of frames, which is the same whatever the video's length."""
        return f"{self.records.fingerprint()} {self.options.num_frames}"

"""Navigation steps in NaVILA-Dataset's format: frames up to now, an instruction, the next action."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

from navila.actions import LEGAL_ANSWERS, parse
from navila.errors import DataError
from navila.frames import BLACK, sample_indices
from navila.prompts import navigation_prompt, normalise_instruction
from navila.tokenization import escape_user_text
from navila_data.dataset import Dataset, LoadOptions, release_folder, require_folder
from navila_data.records import RecordFile, media_path, text_field
from navila_data.sample import Sample, Turn

#: Sub-folder of the data root and folder of the frames below it, by registered name.
LAYOUTS = {"r2r": ("R2R", "train"), "rxr": ("RxR", "train"), "human": ("Human", "raw_frames"), "vln": ("", "train")}


class VLNDataset(Dataset):
    """One sample a step: `{"video_id", "frames": [oldest, …, current], "q": instruction, "a": answer}`."""

    def __init__(self, name: str, annotations: Path, frames: Path, options: LoadOptions) -> None:
        self.name = name
        self.annotations = annotations
        self.frames = frames
        self.options = options
        self.records = RecordFile(annotations)

    @classmethod
    def open(cls, name: str, root: Path, options: LoadOptions) -> VLNDataset:
        """Open `root/R2R`, `root/RxR`, `root/Human`, or `root` itself when it holds the annotations.

        Raises:
            DataError: there is no annotation file, or it is malformed; of a release, the folder of frames is missing.
        """
        folder, frames = LAYOUTS[name]
        if folder:
            given = {"annotations.json": options.annotations, frames: options.media}
            base = release_folder(name, root, folder, [file for file, place in given.items() if place is None])
        else:
            base = require_folder(root, name)
        return cls(name, options.annotations or base / "annotations.json", options.media or base / frames, options)

    @classmethod
    def tiny(cls) -> VLNDataset:
        """Three steps of one walk in a temporary folder."""
        import json

        from PIL import Image

        root = Path(mkdtemp(prefix="navila-vln-"))
        (root / "train" / "1").mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (80 * i, 40, 200)).save(root / "train" / "1" / f"frame_{i}.jpg")
        records = [
            {
                "video_id": f"1-{i}",
                "frames": [f"1/frame_{k}.jpg" for k in range(i + 1)],
                "q": "Go to the red sofa.",
                "a": LEGAL_ANSWERS[-i],
            }
            for i in range(3)
        ]
        (root / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
        return cls.open("vln", root, LoadOptions(num_frames=2))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        where = f"{self.annotations}, record {index}"
        frames = record.get("frames")
        if not isinstance(frames, list) or not frames:
            raise DataError(f'{where}: "frames" must be a list of at least the current frame; mend the record.')
        video_id = text_field(record, "video_id", where)
        instruction = text_field(record, "q", where, empty=True)
        if self.options.normalise_instructions:
            instruction = normalise_instruction(instruction)
        shown = sample_indices(len(frames), self.options.num_frames)
        return Sample(
            turns=(
                Turn("user", navigation_prompt(instruction, self.options.num_frames)),
                Turn("assistant", escape_user_text(text_field(record, "a", where).strip())),
            ),
            media=tuple(None if i == BLACK else media_path(self.frames, frames[i], where) for i in shown),
            history=len(shown) - 1,
            source=self.name,
            # The release uses an id for several records.
            record=f"{index} ({video_id})",
            group=self.group(index),
        )

    def group(self, index: int) -> str:
        """The folder of the current frame: one an episode."""
        frames = self.records[index].get("frames")
        last = frames[-1] if isinstance(frames, list) and frames else ""
        return last.rpartition("/")[0] if isinstance(last, str) else ""

    def label(self, index: int) -> str:
        """The kind of action that is to be taken; empty where the record tells none."""
        try:
            answer = self.records[index].get("a")
        except DataError:
            return ""
        action = parse(answer) if isinstance(answer, str) else None
        return action.kind if action and action.status != "unparsed" else ""

    def fingerprint(self) -> str:
        """The annotation file, and what is shown of its records."""
        return f"{self.records.fingerprint()} {self.options.num_frames} {self.options.normalise_instructions}"

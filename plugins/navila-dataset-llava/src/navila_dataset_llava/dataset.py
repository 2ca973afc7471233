"""Conversations in LLaVA's JSON format."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from navila.constants import IMAGE_TOKEN
from navila.errors import DataError
from navila.tokenization import escape_user_text, normalise_image_placeholders
from navila_data.conversations import read_conversation
from navila_data.dataset import Dataset, LoadOptions, release_folder, require_folder
from navila_data.records import Record, RecordFile, media_path
from navila_data.sample import Sample, Turn

#: Folder below the data root and folders of images in it, the first of which that exists, by registered name.
#: NaVILA's registry has the images of this source in `videos`.
LAYOUTS = {"sharegpt4v_sft": ("sharegpt4v_sft", ("images", "videos"))}


class LlavaDataset(Dataset):
    """One sample a record: `{"id", "image": path or paths, "conversations": [{"from": "human"|"gpt", "value"}, …]}`."""

    def __init__(self, name: str, root: Path, annotations: Path) -> None:
        self.name = name
        self.root = root
        self.annotations = annotations
        self.records = RecordFile(annotations)

    @classmethod
    def open(cls, name: str, root: Path, options: LoadOptions) -> LlavaDataset:
        """Open `root/annotations.json`, or `root/annotations.jsonl` where only that exists; or a registered dataset.

        Raises:
            DataError: there is neither, or it is malformed.
        """
        folder, images = LAYOUTS.get(name, ("", ()))
        if folder:
            base = release_folder(name, root, folder, [] if options.annotations else ["annotations.json"])
        else:
            base = require_folder(root, name)
        usual, lines = base / "annotations.json", base / "annotations.jsonl"
        annotations = options.annotations or (lines if lines.exists() and not usual.exists() else usual)
        media = options.media or next((base / name for name in images if (base / name).is_dir()), base)
        return cls(name, media, annotations)

    @classmethod
    def tiny(cls) -> LlavaDataset:
        """One conversation about an image and one about none, in a temporary folder."""

        from PIL import Image

        root = Path(mkdtemp(prefix="navila-llava-"))
        Image.new("RGB", (32, 32), (200, 30, 30)).save(root / "1.jpg")
        question = {"from": "human", "value": "<image>\nWhat colour is it?"}
        records = [
            {"id": "1", "image": "1.jpg", "conversations": [question, {"from": "gpt", "value": "Red."}]},
            {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]},
        ]
        (root / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
        return cls.open("llava", root, LoadOptions())

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        where = f"{self.annotations}, record {index}"
        media = tuple(media_path(self.root, name, where) for name in _media_names(record, where))
        return Sample(
            turns=_turns(record, where, has_media=bool(media)),
            media=media,
            source=self.name,
            record=f"{index} ({record['id']})" if "id" in record else str(index),
            group=self.group(index),
        )

    def group(self, index: int) -> str:
        """The images it shows: records about the same ones share them."""
        record = self.records[index]
        names = record.get("image", record.get("images"))
        return json.dumps(names) if names else f"record {index}"

    def fingerprint(self) -> str:
        """The annotation file."""
        return self.records.fingerprint()


def _media_names(record: Record, where: str) -> list[Any]:
    for key in ("video", "video_id"):
        if key in record:
            raise DataError(f'{where} shows a video ("{key}"): use a video dataset for it.')
    names = record.get("image", record.get("images"))
    if names is None:
        return []
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list):
        raise DataError(f'{where}: "image" must be a path or a list of paths, not {names!r}; mend the record.')
    return [name.get("path") if isinstance(name, dict) else name for name in names]


def _turns(record: Record, where: str, *, has_media: bool) -> tuple[Turn, ...]:
    """The conversation with control tokens broken up; an `<image>` without an image stays, to be told by `Sample`."""
    turns = read_conversation(record, where)
    texts = [(turn.role, IMAGE_TOKEN.join(map(escape_user_text, turn.text.split(IMAGE_TOKEN)))) for turn in turns]
    if has_media:
        texts = [(role, str(text)) for role, text in normalise_image_placeholders(texts)]
    return tuple(Turn(turn.role, text.strip()) for turn, (_, text) in zip(turns, texts, strict=True))

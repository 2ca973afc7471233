"""Conversations in LLaVA's JSON format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from navila.constants import IMAGE_TOKEN
from navila.errors import DataError
from navila.tokenization import escape_user_text, normalise_image_placeholders
from navila_data.dataset import Dataset, LoadOptions
from navila_data.records import RecordFile, media_path
from navila_data.sample import Role, Sample, Turn

ROLES: Mapping[str, Role] = {"human": "user", "gpt": "assistant"}


class LlavaDataset(Dataset):
    """One sample a record: `{"id", "image": path or paths, "conversations": [{"from": "human"|"gpt", "value"}, …]}`."""

    def __init__(self, name: str, root: Path, annotations: Path) -> None:
        self.name = name
        self.root = root
        self.annotations = annotations
        self.records = RecordFile(annotations)

    @classmethod
    def open(cls, name: str, root: Path, options: LoadOptions) -> LlavaDataset:
        """Open `root/annotations.json`, or `root/annotations.jsonl` where only that exists.

        Raises:
            DataError: there is neither, or it is malformed.
        """
        usual, lines = root / "annotations.json", root / "annotations.jsonl"
        annotations = options.annotations or (lines if lines.exists() and not usual.exists() else usual)
        return cls(name, options.media or root, annotations)

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


def _media_names(record: Mapping[str, Any], where: str) -> list[Any]:
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


def _turns(record: Mapping[str, Any], where: str, *, has_media: bool) -> tuple[Turn, ...]:
    conversation = record.get("conversations")
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise DataError(f'{where}: "conversations" must be a list of turns; mend the record.')
    turns = []
    for number, turn in enumerate(conversation):
        speaker, text = turn.get("from"), turn.get("value")
        if speaker not in ROLES or not isinstance(text, str):
            raise DataError(
                f'{where}, turn {number}: needs "from" (human or gpt) and a text "value", got {speaker!r} and {text!r}.'
            )
        turns.append(Turn(ROLES[speaker], text))
    if turns and turns[0].role == "assistant":
        turns = turns[1:]
    if any(turn.role != ("assistant" if number % 2 else "user") for number, turn in enumerate(turns)):
        raise DataError(f"{where}: human and gpt must take turns, beginning with human; mend the record.")
    if not has_media:
        return tuple(turns)
    escaped = [(turn.role, IMAGE_TOKEN.join(map(escape_user_text, turn.text.split(IMAGE_TOKEN)))) for turn in turns]
    spaced = normalise_image_placeholders(escaped)
    return tuple(Turn(turn.role, str(text).strip()) for turn, (_, text) in zip(turns, spaced, strict=True))

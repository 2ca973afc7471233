"""Questions, dialogues and captions about videos."""

from __future__ import annotations

import json
import zlib
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

from navila.constants import IMAGE_TOKEN
from navila.errors import DataError
from navila.tokenization import escape_user_text
from navila_data.conversations import read_conversation
from navila_data.dataset import Dataset, LoadOptions, release_folder, require_folder
from navila_data.media import VideoFrame
from navila_data.records import Record, RecordFile, require_unicode, text_field, video_path
from navila_data.sample import Sample, Turn
from navila_data.video_facts import VideoFacts, frames_shown, known_videos

#: Folder below the data root and annotation file in it, by registered name; the videos lie in `videos/` beside it.
LAYOUTS = {
    "video_chatgpt": ("video_chatgpt", "annotations.json"),
    "sharegpt_video": ("sharegpt_video", "annotations.json"),
    "scanqa": ("ScanQA", "annotations/ScanQA_v1.0_train_reformat.json"),
}
#: What asks for a caption.
CAPTION_QUESTION = "Elaborate on the visual and narrative elements of the video in detail."


class VideoDataset(Dataset):
    """One sample a record: a video with `conversations`, with `q` and `a`, or with `captions`."""

    def __init__(self, name: str, annotations: Path, videos: Path, options: LoadOptions) -> None:
        self.name = name
        self.annotations = annotations
        self.videos = videos
        self.options = options
        self.records = RecordFile(annotations)

    @classmethod
    def open(cls, name: str, root: Path, options: LoadOptions) -> VideoDataset:
        """Open a registered dataset below `root`, or `root` itself when it holds the annotations.

        Raises:
            DataError: there is no annotation file or folder of videos, or the file is malformed.
        """
        if name in LAYOUTS:
            folder, annotations = LAYOUTS[name]
            given = {annotations: options.annotations, "videos": options.media}
            base = release_folder(name, root, folder, [file for file, place in given.items() if place is None])
            videos = base / "videos"
        else:
            base = require_folder(root, name)
            lines = not (base / "annotations.json").exists() and (base / "annotations.jsonl").exists()
            annotations = "annotations.jsonl" if lines else "annotations.json"
            videos = base / "videos" if (base / "videos").is_dir() else base
        return cls(name, options.annotations or base / annotations, options.media or videos, options)

    @classmethod
    def tiny(cls) -> VideoDataset:
        """A dialogue, a question and a caption about one video, in a temporary folder."""
        import av
        import numpy as np

        root = Path(mkdtemp(prefix="navila-video-"))
        (root / "videos").mkdir()
        with av.open(str(root / "videos" / "1.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=1)
            stream.width = stream.height = 32
            for i in range(5):
                picture = np.full((32, 32, 3), 40 * i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        question = {"from": "human", "value": "<video>\nWhat happens?"}
        records = [
            {"video": "1.mp4", "conversations": [question, {"from": "gpt", "value": "It gets brighter."}]},
            {"video_id": "1", "q": "What colour is it?", "a": ["grey", "white"]},
            {"video_id": "1", "captions": [{"idx": "-1", "content": "It gets brighter and brighter."}]},
        ]
        (root / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
        return cls.open("video", root, LoadOptions(num_frames=3))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        where = f"{self.annotations}, record {index}"
        video = video_path(self.videos, record, where)
        turns = _turns(record, where)
        facts = _told_facts(record, where) or known_videos().of(video)
        shown = frames_shown(facts, self.options.num_frames, self.options.fps)
        texts = [f"{IMAGE_TOKEN}\n" * len(shown) + turns[0].text, *(turn.text for turn in turns[1:])]
        return Sample(
            turns=tuple(Turn(turn.role, text.strip()) for turn, text in zip(turns, texts, strict=True)),
            media=tuple(VideoFrame(video, i) for i in shown),
            source=self.name,
            record=f"{index} ({record.get('id', video.stem)})",
            group=self.group(index),
        )

    def group(self, index: int) -> str:
        """The video: questions about the same one share its frames."""
        return str(video_path(Path(), self.records[index], f"{self.annotations}, record {index}"))

    def fingerprint(self) -> str:
        """The annotation file, how frames are chosen, and the state of every video whose length has a say in it."""
        return f"{self.records.fingerprint()} {self.options.num_frames} {self.options.fps} {self._videos_state}"

    @cached_property
    def _videos_state(self) -> str:
        digest = sha256(str(self.videos.absolute()).encode())
        for index in range(len(self)):
            try:
                record = self.records[index]
                if _told_facts(record, "") is None:
                    state = video_path(self.videos, record, "").stat()
                    digest.update(b"%d %d\n" % (state.st_size, state.st_mtime_ns))
            except (DataError, OSError):
                digest.update(b"broken\n")
        return digest.hexdigest()


def _told_facts(record: Record, where: str) -> VideoFacts | None:
    """The facts of its video that a record tells; only both together spare a look at the file.

    Raises:
        DataError: one is no number, less than nothing or beyond any video.
    """
    told = {key: record.get(key) or 0 for key in ("frame_count", "fps")}
    for key, value in told.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise DataError(f'{where}: "{key}" must be a number, not {value!r}; mend the record or leave it out.')
    frames, rate = int(told["frame_count"]), float(told["fps"])
    return VideoFacts(frames, rate) if frames and rate else None


def _turns(record: Record, where: str) -> tuple[Turn, ...]:
    """Questions and answers, without marks of media and with control tokens broken up."""
    if "captions" in record:
        return Turn("user", CAPTION_QUESTION), Turn("assistant", escape_user_text(_caption(record, where)))
    if "conversations" not in record and "q" in record:
        turns = (Turn("user", text_field(record, "q", where)), Turn("assistant", _answer(record, where)))
    else:
        turns = read_conversation(record, where)
        if len(turns) < 2:
            raise DataError(f"{where}: has no answer to learn; mend the record.")
    return tuple(Turn(turn.role, escape_user_text(_without_marks(turn.text))) for turn in turns)


def _without_marks(text: str) -> str:
    """A text without `<image>` and `<video>`, which stand anywhere in it: the frames go in front."""
    for mark in (IMAGE_TOKEN, "<video>"):
        for spelled in (f"{mark}\n", f"\n{mark}", mark):
            text = text.replace(spelled, "")
    return text


def _answer(record: Record, where: str) -> str:
    """The text at `a`; of several, which are equally right, always the same one of a record, drawn by its question."""
    answers = record.get("a")
    answers = answers if isinstance(answers, list) else [answers]
    texts = [str(a) for a in answers if isinstance(a, str | int | float) and not isinstance(a, bool)]
    if not texts or len(texts) < len(answers) or not all(map(str.strip, texts)):
        raise DataError(f'{where}: "a" must be a text or a list of texts, not {record.get("a")!r}; mend the record.')
    drawn = zlib.crc32(f"{record.get('video_id')} {record['q']}".encode()) % len(texts)
    return require_unicode(texts[drawn], where)


def _caption(record: Record, where: str) -> str:
    """The caption of the whole video, the last one, whose `idx` is -1."""
    captions = record["captions"]
    last = captions[-1] if isinstance(captions, list) and captions else None
    if not isinstance(last, dict) or str(last.get("idx")) != "-1":
        raise DataError(f'{where}: the last of "captions" must be the whole video\'s, of "idx" "-1"; mend the record.')
    return text_field(last, "content", where)

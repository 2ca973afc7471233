"""What the files of a sample say: a caption, a dialogue, or a document with images among its sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from navila.constants import IMAGE_TOKEN
from navila.errors import DataError
from navila.tokenization import escape_user_text, normalise_image_placeholders
from navila_data.conversations import read_conversation
from navila_data.media import Base64, Medium, TarMember, VideoFrame, open_file
from navila_data.records import Record, require_unicode, text_field
from navila_data.sample import Sample, Turn
from navila_data.shards import ShardSample
from navila_data.video_facts import frames_shown, known_videos

#: The first of these that a sample has is its image.
IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tiff", "tif")
VIDEOS = ("mp4", "mkv", "webm", "avi", "mov")
#: Images of a document and of a question that are shown; VILA's numbers.
MAX_DOCUMENT_IMAGES, MAX_QUESTION_IMAGES = 6, 8
#: Letters from which on a name is no file's: it is looked at as base64 alone.
LONGEST_NAME = 1024

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+=*\s*")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How samples are read."""

    source: str
    num_frames: int
    """Frames of a video."""
    fps: float
    chat: bool
    """Whether a caption is the answer to its image, in the model's conversation format, or a text learned whole."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A sample, its JSON read."""

    files: Mapping[str, TarMember]
    record: Record
    raw: bytes
    where: str

    def images(self) -> list[TarMember]:
        """Its image files in the order of their names, numbers by value."""
        names = [name for name in self.files if name.rpartition(".")[2] in IMAGES]
        names.sort(key=lambda name: [(text, int(n or 0)) for text, n in re.findall(r"([^0-9]*)([0-9]*)", name)])
        return [self.files[name] for name in names]

    def image(self, name: Any, alone: bool) -> Medium:
        """The image a record names: one of its files, or base64 where it stands.

        `alone`: it is the record's only image, and may have been renamed when it was put into the shard.

        Raises:
            DataError: there is no such file.
        """
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{self.where}: an image must be a file name or base64, not {name!r}; mend the record.")
        file = self._file(name, alone) if len(name) < LONGEST_NAME else None
        if file is not None:
            return file
        begin = name.index(",") + 1 if name.startswith("data:") and "," in name else 0
        if len(name) - begin >= 64 and _BASE64.fullmatch(name, begin):
            return self._inline(name[begin:])
        raise DataError(f"{self.where}: there is no image {name[:80]!r} in the sample; write the shard again.")

    def _file(self, name: str, alone: bool) -> TarMember | None:
        """The image file of a name: whole, without its folder, or the extension it has in the sample."""
        images = {spelled: file for spelled, file in self.files.items() if spelled.rpartition(".")[2] in IMAGES}
        last = PurePosixPath(name).name
        for spelled, file in images.items():
            if name == file.name or last in (PurePosixPath(file.name).name, spelled):
                return file
        return next(iter(images.values())) if alone and len(images) == 1 else None

    def _inline(self, text: str) -> Base64:
        member = self.files["json"]
        for spelled in (text, text.replace("/", "\\/")):
            place = self.raw.find(spelled.encode())
            if place >= 0:
                return Base64(TarMember(member.shard, member.name, member.offset + place, len(spelled)))
        raise DataError(f"{self.where}: a base64 image is written with escapes; write the record again.")


def read_sample(sample: ShardSample, reading: Reading) -> Sample:
    """The sample that some files make up.

    A record with `conversations` is a dialogue, one with `text_list` a document, one with `question` a question and its
    answer; else an image or a video has its caption in a text file, or in the record at `caption` or `text`.

    Raises:
        DataError: a file is missing, or what it says is malformed.
    """
    where = f"{sample.shard}, sample {sample.key}"
    raw = _content(sample.files["json"]) if "json" in sample.files else b""
    found = _Found(files=sample.files, record=_record(raw, where) if raw else {}, raw=raw, where=where)
    if "conversations" in found.record:
        turns, media = _dialogue(found)
    elif "text_list" in found.record:
        turns, media = _document(found)
    elif "question" in found.record:
        turns, media = _question(found)
    else:
        turns, media = _caption(found, reading)
    return Sample(
        turns=turns,
        media=media,
        source=reading.source,
        record=f"{sample.key} of {sample.shard.name}",
        group=f"{sample.shard.name}/{sample.key}",
    )


def _caption(found: _Found, reading: Reading) -> tuple[tuple[Turn, ...], tuple[Medium, ...]]:
    """An image or frames of a video, then what is said about them.

    As a text it reads `<image>caption`, and `<image>` with a line break for each frame of a video, as in VILA's
    training on shards.
    """
    caption = escape_user_text(_caption_text(found)).strip()
    video = next((found.files[name] for name in VIDEOS if name in found.files), None)
    if video is not None:
        shown = frames_shown(known_videos().of(video), reading.num_frames, reading.fps)
        media: tuple[Medium, ...] = tuple(VideoFrame(video, i) for i in shown)
        places = f"{IMAGE_TOKEN}\n" * len(media)
    else:
        media = (_one_image(found),)
        places = f"{IMAGE_TOKEN}\n" if reading.chat else IMAGE_TOKEN
    if reading.chat:
        return (Turn("user", places.strip()), Turn("assistant", caption)), media
    return (Turn("assistant", places + caption),), media


def _caption_text(found: _Found) -> str:
    if "txt" in found.files:
        try:
            text = _content(found.files["txt"]).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{found.where}: its text is not UTF-8 (byte {error.start}); write it again.") from None
        if not text.strip():
            raise DataError(f"{found.where}: its caption is empty; leave it out of the shard.")
        return text
    key = next((key for key in ("caption", "text") if found.record.get(key) is not None), None)
    if key is None:
        names = ", ".join(sorted(found.files))
        raise DataError(
            f'{found.where}: has no caption, neither a .txt nor a "caption" in a .json ({names} are there).'
        )
    return text_field(found.record, key, found.where)


def _one_image(found: _Found) -> Medium:
    for name in IMAGES:
        if name in found.files:
            return found.files[name]
    for key in ("image", "rawbytes"):
        if found.record.get(key) is not None:
            return found.image(found.record[key], alone=True)
    names = ", ".join(sorted(found.files))
    raise DataError(f"{found.where}: has no image or video beside its text ({names} are there); write the shard again.")


def _dialogue(found: _Found) -> tuple[tuple[Turn, ...], tuple[Medium, ...]]:
    """A dialogue in LLaVA's format about the images it names, else about all the sample has."""
    record = found.record
    for name in VIDEOS:
        if name in found.files:
            raise DataError(f"{found.where}: a dialogue about a video is not read from shards; use the dataset video.")
    names = record.get("image", record.get("images"))
    if names is None:
        media: tuple[Medium, ...] = tuple(found.images())
    else:
        listed = names if isinstance(names, list) else [names]
        paths = [name.get("path") if isinstance(name, dict) else name for name in listed]
        media = tuple(found.image(path, alone=len(paths) == 1) for path in paths)
    turns = read_conversation(record, found.where)
    texts = [(turn.role, _escaped_around_images(turn.text)) for turn in turns]
    if media:
        texts = [(role, str(text).strip()) for role, text in normalise_image_placeholders(texts)]
    return tuple(Turn(turn.role, text) for turn, (_, text) in zip(turns, texts, strict=True)), media


def _document(found: _Found) -> tuple[tuple[Turn, ...], tuple[Medium, ...]]:
    """Sentences and the first six images, each before the sentence it was matched to (MMC4); one text to learn."""
    sentences, infos = found.record["text_list"], found.record.get("image_info") or []
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise DataError(f'{found.where}: "text_list" must be a list of texts; mend the record.')
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise DataError(f'{found.where}: "image_info" must be a list of objects; mend the record.')
    placed: list[tuple[int, Medium]] = []
    for number, info in enumerate(infos[:MAX_DOCUMENT_IMAGES]):
        place = info.get("matched_text_index")
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(sentences):
            raise DataError(
                f'{found.where}: "matched_text_index" of image {number} is {place!r}, and there are {len(sentences)} '
                "sentences; mend the record."
            )
        spelled = next((info[key] for key in ("image_base64", "image_name") if info.get(key) is not None), None)
        placed.append((place, found.image(spelled, alone=len(infos) == 1)))
    placed.sort(key=lambda pair: pair[0])
    pieces = [escape_user_text(require_unicode(sentence, found.where)) for sentence in sentences]
    for place, _ in placed:
        pieces[place] = f"{IMAGE_TOKEN}\n{pieces[place]}"
    text = " ".join(pieces).replace(f"{IMAGE_TOKEN} ", IMAGE_TOKEN).replace(f" {IMAGE_TOKEN}", IMAGE_TOKEN)
    if not text.replace(IMAGE_TOKEN, "").strip():
        raise DataError(f"{found.where}: the document has no text; leave it out of the shard.")
    return (Turn("assistant", text),), tuple(medium for _, medium in placed)


def _question(found: _Found) -> tuple[tuple[Turn, ...], tuple[Medium, ...]]:
    """A question about up to eight images and its answer (VFlan); a dialogue in one question becomes turns."""
    record, where = found.record, found.where
    question = text_field(record, "question", where)
    answer = text_field(record, "answer:" if "answer:" in record else "answer", where).rstrip()
    listed = record.get("image:", record.get("image"))
    names = [] if listed is None else listed if isinstance(listed, list) else [listed]
    if len(names) > MAX_QUESTION_IMAGES:
        raise DataError(f"{where}: shows {len(names)} images, more than {MAX_QUESTION_IMAGES}; split the record.")
    media = tuple(found.image(name, alone=len(names) == 1) for name in names) if names else tuple(found.images())
    if "Image Descriptions" in question:
        pairs = [pair.split("\nAnswer: ") for pair in question.split("\nQuestion: ")[1:]]
        if not pairs or len(pairs[-1]) != 1 or any(len(pair) != 2 for pair in pairs[:-1]):
            raise DataError(f"{where}: questions and answers in its question do not take turns; mend the record.")
        pairs[-1] = [pairs[-1][0].replace("\n", ""), answer]
    else:
        pairs = [[question, answer]]
    texts = [_without_marks(text).strip() for pair in pairs for text in pair]
    texts[0] = f"{IMAGE_TOKEN}\n" * len(media) + texts[0]
    return tuple(Turn("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)), media


def _without_marks(text: str) -> str:
    for spelled in (f"{IMAGE_TOKEN}\n", f"\n{IMAGE_TOKEN}", IMAGE_TOKEN):
        text = text.replace(spelled, "")
    return escape_user_text(text)


def _escaped_around_images(text: str) -> str:
    return IMAGE_TOKEN.join(map(escape_user_text, text.split(IMAGE_TOKEN)))


def _content(file: TarMember) -> bytes:
    with open_file(file) as content:
        return content.read()


def _record(raw: bytes, where: str) -> Record:
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its .json cannot be read ({error}); write it again.") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: its .json must be an object, not {type(record).__name__}; write it again.")
    return record

"""From a sample to token ids, labels and the files of its frames."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from navila.constants import IGNORE_INDEX, IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from navila.conversation import Span
from navila.errors import DataError
from navila.tokenization import enclose_images, tokenize_supervised
from torch.utils.data import Dataset as TorchDataset

from navila_data.augment import Augmentation, augmented
from navila_data.failures import Failure
from navila_data.media import Medium
from navila_data.mixture import Mixture
from navila_data.sample import Sample, Turn, messages
from navila_data.sampler import EpochIndex

if TYPE_CHECKING:
    from navila.conversation import Template
    from transformers import PreTrainedTokenizerBase

CACHED_CONVERSATIONS = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A tokenised sample; `input_ids` holds -200 once for each medium."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    """As long as `input_ids`, -100 where nothing is learned."""
    media: tuple[Medium | None, ...]
    where: str
    """Dataset and record, for messages."""
    shortened: bool = False
    """Whether history frames or late turns were left out because the sample was longer than the model takes."""


class Processor:
    """Renders a conversation with the model's template and tokenises it; labels come from the template's spans."""

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        tokens_per_image: int,
        max_length: int,
        history_dropout: float = 0.0,
        seed: int = 0,
        enclose: bool = False,
        image_ids: Sequence[int] | None = None,
    ) -> None:
        """Prepare to encode samples.

        Args:
            tokenizer: the language model's.
            template: the conversation template of the model.
            tokens_per_image: positions an image takes in the language model.
            max_length: longest sequence, images expanded.
            history_dropout: probability that a navigation step loses its whole history (black frames, as at the start
                of an episode), drawn anew each epoch. Without it a model can read the goal off its own past motion.
            seed: of the random choices.
            enclose: images stand between `<im_start>` and `<im_end>` (`mm_use_im_start_end`).
            image_ids: what an `<image>` becomes where prompts are tokenised at once (`model.image_ids`).
        """
        self.tokenizer = tokenizer
        self.template = template
        self.tokens_per_image = tokens_per_image
        self.max_length = max_length
        self.history_dropout = history_dropout
        self.seed = seed
        self.enclose = enclose
        self.image_ids = image_ids
        self._tokenized: dict[tuple[Turn, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def _tokenize(self, turns: tuple[Turn, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        # Steps of an episode repeat the same few (instruction, answer) pairs.
        if turns not in self._tokenized:
            if len(self._tokenized) >= CACHED_CONVERSATIONS:
                self._tokenized.clear()
            said = messages(turns)
            if self.enclose:
                said = [(role, enclose_images(text)) for role, text in said]
            spans = self._document(str(said[0][1])) if is_document(turns) else self.template.spans(said)
            ids, labels = tokenize_supervised(spans, self.tokenizer, self.image_ids)
            self._tokenized[turns] = (tuple(ids), tuple(labels))
        return self._tokenized[turns]

    def _document(self, text: str) -> list[Span]:
        """A text as it stands, and the token that ends it; one in front is the tokenizer's affair."""
        return [Span(text, "answer"), Span(str(self.tokenizer.eos_token or ""), "stop")]

    def encode(self, sample: Sample, *, epoch: int = 0) -> Encoded:
        """Tokenise a sample; seed, epoch and its frames decide what is random.

        Of a sample that is longer than the model takes, the oldest history frames are left out, or the last turns of a
        dialogue; never a part of an answer. A document is cut off.

        Raises:
            DataError: the sample is too long even so.
        """
        whole = sample
        ids, labels = self._tokenize(sample.turns)
        if is_document(sample.turns) and self._positions(ids, sample.media) > self.max_length:
            sample, ids, labels = self._cut(sample, ids, labels)
        while (length := self._positions(ids, sample.media)) > self.max_length:
            shorter = without_oldest_frame(sample) or without_last_turns(sample)
            if shorter is None:
                raise DataError(
                    f"{sample.source} record {sample.record} takes {length} tokens at least and the model "
                    f"{self.max_length}: raise --model_max_length, or lower --num_video_frames."
                )
            sample = shorter
            ids, labels = self._tokenize(sample.turns)
        media = sample.media
        if sample.history and self.history_dropout:
            # Samples that show the same frames keep or lose them together, so that they still begin alike; where the
            # data lie does not matter.
            shown = "/".join(str(media[-1] or "").split("/")[-2:])
            draw = np.random.default_rng([self.seed, epoch, zlib.crc32(shown.encode())]).random()
            if draw < self.history_dropout:
                media = (None,) * sample.history + media[sample.history :]
        return Encoded(
            input_ids=ids,
            labels=labels,
            media=media,
            where=f"{sample.source} record {sample.record}",
            shortened=sample is not whole,
        )

    def _cut(
        self, sample: Sample, ids: Sequence[int], labels: Sequence[int]
    ) -> tuple[Sample, tuple[int, ...], tuple[int, ...]]:
        """The beginning of a document that the model takes; no image ends it, for nothing would be said about it."""
        takes = np.cumsum([self.tokens_per_image if i == IMAGE_TOKEN_INDEX else 1 for i in ids])
        kept = int(np.searchsorted(takes, self.max_length, side="right"))
        while kept and labels[kept - 1] == IGNORE_INDEX:
            kept -= 1
        if kept:
            media = sample.media[: ids[:kept].count(IMAGE_TOKEN_INDEX)]
            # Its text is not shortened with it: nobody reads it any more.
            sample = replace(sample, turns=(Turn("assistant", IMAGE_TOKEN * len(media)),), media=media)
            return sample, tuple(ids[:kept]), tuple(labels[:kept])
        return sample, tuple(ids), tuple(labels)

    def length(self, encoded: Encoded) -> int:
        """Positions that a sample takes in the language model, images expanded."""
        return self._positions(encoded.input_ids, encoded.media)

    def _positions(self, ids: Sequence[int], media: Sequence[Medium | None]) -> int:
        return len(ids) + len(media) * (self.tokens_per_image - 1)

    def fingerprint(self) -> str:
        """What decides the lengths it gives samples."""
        tokenizer = self.tokenizer
        rust = getattr(tokenizer, "backend_tokenizer", None)
        words = rust.to_str() if rust is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
        facts = (self.template, self.tokens_per_image, self.max_length, self.enclose, self.image_ids)
        return f"{hashlib.sha256(words.encode()).hexdigest()} {facts}"


def is_document(turns: Sequence[Turn]) -> bool:
    """Whether turns are a text that is learned as it stands: nobody asked for it."""
    return len(turns) == 1 and turns[0].role == "assistant"


def without_oldest_frame(sample: Sample) -> Sample | None:
    """A navigation step that shows one history frame less; None when it has none."""
    if not sample.history:
        return None
    turns = list(sample.turns)
    for number, turn in enumerate(turns):
        if IMAGE_TOKEN in turn.text:
            # The line break belongs to the place: what is left reads as if there had been fewer frames.
            mark = f"{IMAGE_TOKEN}\n" if f"{IMAGE_TOKEN}\n" in turn.text else IMAGE_TOKEN
            turns[number] = replace(turn, text=turn.text.replace(mark, "", 1))
            break
    return replace(sample, turns=tuple(turns), media=sample.media[1:], history=sample.history - 1)


def without_last_turns(sample: Sample) -> Sample | None:
    """A dialogue without its last question and answer, and what they showed; None when there is but one answer."""
    turns = sample.turns[: -2 if sample.turns[-1].role == "assistant" else -1]
    if not any(turn.role == "assistant" for turn in turns):
        return None
    return replace(sample, turns=turns, media=sample.media[: sum(turn.text.count(IMAGE_TOKEN) for turn in turns)])


class EncodedMixture(TorchDataset[Encoded | Failure]):
    """A mixture seen through a processor, indexed by `EpochIndex`; a malformed record comes out as a `Failure`."""

    def __init__(self, mixture: Mixture, processor: Processor, augmentations: Sequence[Augmentation] = ()) -> None:
        self.mixture = mixture
        self.processor = processor
        self.augmentations = augmentations

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, item: EpochIndex) -> Encoded | Failure:
        try:
            sample = augmented(
                self.mixture[item.number], self.augmentations, seed=self.processor.seed, epoch=item.epoch
            )
            return self.processor.encode(sample, epoch=item.epoch)
        except DataError as error:
            dataset, index = self.mixture.locate(item.number)
            where = f"{dataset.name} record {index}"
            return Failure(where, f"{where}: {error}")


def masked(encoded: Encoded) -> Encoded:
    """The sample with black frames and nothing to learn."""
    return replace(encoded, labels=(IGNORE_INDEX,) * len(encoded.labels), media=(None,) * len(encoded.media))

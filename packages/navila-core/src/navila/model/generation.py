"""Prompts in, text out: what a composed model offers beyond its forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import PreTrainedModel

from navila.constants import IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from navila.conversation import Template
from navila.errors import ConfigError, DataError, NavilaError
from navila.images import ImageProcessor, process_images
from navila.model.config import NavilaConfig
from navila.model.media import MediaReader, Progress, Prompt, Turn, as_pil, encode
from navila.model.nvila import Nvila
from navila.model.packed_attention import rows_of_one
from navila.model.settings import GenerationSettings, StopAtText, seeded
from navila.model.splice import Spliced
from navila.model.streaming import stream_text
from navila.model.tiling import Grid
from navila.model.vision import VisionEncoder
from navila.tokenization import enclose_images, stop_token_ids, tokenize_with_images


def padded_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids (B, L) of rows of different lengths, padded in front, and which are real, (B, L) bool."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, row_ids in enumerate(rows):
        ids[row, longest - len(row_ids) :] = torch.tensor(row_ids)
        real[row, longest - len(row_ids) :] = True
    return ids, real


class ConversationalModel(PreTrainedModel, GenerationMixin):
    """Tokenizer, image processor and template of a composed model, and what can be said with them."""

    config: NavilaConfig
    llm: Any
    vision_tower: VisionEncoder
    tokenizer: Any = None
    """A tokenizer of transformers."""
    template: Template | None = None
    llm_source: Mapping[str, Any] = MappingProxyType({})
    """The language model's `config.json` as it was read; what transformers does not keep of it is saved from here."""

    embed: Callable[..., Spliced]
    """The batch as the language model takes it."""
    encode_images: Callable[[Tensor], Tensor]
    """(N, 3, H, W) pixels to (N, T, D) embeddings of the language model."""
    encode_scales: Callable[[Tensor, Sequence[Grid]], Tensor]
    """The tiles of one image at several scales to (K, T, D) embeddings."""
    nvila: Nvila | None = None
    """How images go into a prompt, where the checkpoint is of NVILA."""

    @property
    def tokens_per_image(self) -> int:
        """Positions that an image takes in the language model."""
        raise NotImplementedError

    def attach(self, *, tokenizer: Any, template: Template | None, llm_source: Mapping[str, Any] | None = None) -> None:
        """Give the model its tokenizer, its conversation template and the config its language model was read from."""
        self.tokenizer = tokenizer
        self.template = template
        if llm_source is not None:
            self.llm_source = dict(llm_source)

    @property
    def image_processor(self) -> ImageProcessor:
        """How images become pixels."""
        return self.vision_tower.image_processor

    def process_images(self, images: Sequence[Image.Image | NDArray[np.uint8]]) -> Tensor:
        """(N, 3, H, W) float32 pixels on the CPU, resized as the config's `image_aspect_ratio` says."""
        pictures = [as_pil(image) for image in images]
        return torch.from_numpy(process_images(pictures, self.image_processor, self.config.image_aspect_ratio))

    def prepare(self, prompt_text: str, images: Sequence[Image.Image | NDArray[np.uint8]] = ()) -> dict[str, Tensor]:
        """Inputs of `forward` and `generate` for one rendered prompt, on the model's device.

        Args:
            prompt_text: a prompt as a template renders it, with `<image>` where an image goes.
            images: one for each `<image>`, in order.

        Returns:
            `input_ids` (1, L) with -200 at images and `pixel_values` (N, 3, H, W) in the model's dtype, the latter only
            when there are images.

        Raises:
            DataError: the number of images is not that of `<image>`, or the prompt is longer than the model takes.
        """
        marks = prompt_text.count(IMAGE_TOKEN)
        if marks != len(images):
            raise DataError(
                f"The prompt holds {marks} times <image>, but {len(images)} images were given: make them equal."
            )
        ids = self.prompt_ids(prompt_text)
        inputs = {"input_ids": torch.tensor([ids], device=self.device)}
        if images:
            inputs["pixel_values"] = self.process_images(images).to(self.vision_tower.device, self.vision_tower.dtype)
        return inputs

    @property
    def image_ids(self) -> tuple[int, ...] | None:
        """What an `<image>` of a prompt becomes, see `navila.tokenization.tokenize_with_images`."""
        return None if self.nvila is None else self.nvila.image_ids(self.tokenizer)

    def prompt_ids(self, prompt_text: str, places: Sequence[int] | None = None) -> list[int]:
        """Token ids of a rendered prompt, -200 at images, in `<im_start>…<im_end>` where the config says so.

        `places` says how many times -200 each `<image>` takes, for images of more than `tokens_per_image` features.

        Raises:
            DataError: the prompt is longer than the model takes; cutting its end would cut the question.
        """
        text = enclose_images(prompt_text) if self.config.mm_use_im_start_end else prompt_text
        ids = tokenize_with_images(text, self.tokenizer, self.image_ids)
        if places is not None:
            counts = iter(places)
            ids = [i for i in ids for _ in range(next(counts) if i == IMAGE_TOKEN_INDEX else 1)]
        images = ids.count(IMAGE_TOKEN_INDEX)
        taken = len(ids) + images * (self.tokens_per_image - 1)
        limit = getattr(self.llm.config, "tokenizer_model_max_length", None)
        if limit and taken > limit:
            raise DataError(
                f"The prompt takes {taken} positions ({images} images of {self.tokens_per_image}), but the model "
                f"was trained with at most {limit}: use fewer images or a shorter text."
            )
        return ids

    def stop_ids(self) -> list[int]:
        """Ids that end an answer: those of the language model's generation config and of the template."""
        configured = self.llm.generation_config.eos_token_id if self.llm.generation_config is not None else None
        ids = set(configured if isinstance(configured, list) else [] if configured is None else [configured])
        if self.tokenizer is not None and self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        if self.tokenizer is not None and self.template is not None:
            ids.update(stop_token_ids(self.tokenizer, self.template))
        return sorted(ids)

    @torch.inference_mode()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]  named inputs instead of one `inputs`
        self,
        input_ids: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        **options: Any,
    ) -> Tensor:
        """New ids only, (B, at most `max_new_tokens`), rows that ended earlier padded.

        Inputs as in `forward`; rows may differ in length (`attention_mask` says which positions are real). Answers end
        at `eos_token_id`, by default at `stop_ids()`. `options` are those of `GenerationSettings`, and further ones of
        transformers' `generate`, e.g. `streamer`; what a checkpoint's `generation_config.json` says is not used.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        if input_ids is None:
            raise DataError("generate needs input_ids: make them with model.prepare(prompt, images).")
        settings, rest = GenerationSettings.split(options)
        criteria = StoppingCriteriaList(rest.pop("stopping_criteria", ()))
        if settings.stops:
            criteria.append(StopAtText(self.tokenizer, settings.stops))
        batch = self.embed(
            input_ids,
            pixel_values=pixel_values,
            image_features=image_features,
            image_index=image_index,
            attention_mask=attention_mask,
            padding_side="left",
        )
        stops = self.stop_ids() if eos_token_id is None else eos_token_id
        with seeded(settings.seed), rows_of_one(self.llm):
            return self.llm.generate(
                inputs_embeds=batch.inputs_embeds,
                attention_mask=batch.attention_mask.long(),
                stopping_criteria=criteria,
                **{
                    **settings.options(),
                    "eos_token_id": stops if isinstance(stops, int) else list(stops),
                    "pad_token_id": self.pad_id(),
                    **rest,
                },
            )

    def pad_id(self) -> int:
        """The id rows are padded with: the tokenizer's, else an end-of-text id."""
        tokenizer = self.tokenizer
        for candidate in (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)):
            if candidate is not None:
                return int(candidate)
        return 0

    def generate_content(
        self, prompt: Prompt, *, num_video_frames: int | None = None, fps: float | None = None, **settings: Any
    ) -> str:
        """The answer to a message of text, images and videos in any order, or to a conversation.

        Args:
            prompt: a text, or a list of parts: texts, PIL images, (H, W, 3) uint8 arrays, paths of images, videos and
                folders of frames, and `Video`s; or a list of ("user" or "assistant", text or parts).
            num_video_frames: frames shown of a video; the config's when None.
            fps: frames shown of each second of a video, at most `num_video_frames`; the config's when None, and spread
                evenly when 0.
            settings: as in `GenerationSettings`.

        Raises:
            ConfigError: the model has no conversation template, or a setting is unknown or out of range.
            DataError: a part is neither text nor an image, or cannot be read; or the prompt is longer than the model
                takes.
        """
        chosen = GenerationSettings.of(settings)
        turns = MediaReader(self, num_video_frames=num_video_frames, fps=fps).turns(prompt)
        return self.answers(self.inputs_of([turns]), chosen)[0]

    def stream_content(
        self, prompt: Prompt, *, num_video_frames: int | None = None, fps: float | None = None, **settings: Any
    ) -> Iterator[str]:
        """The answer of `generate_content` piece by piece, as it is generated; joined, the pieces are that answer.

        Mistakes in the arguments are raised here; what goes wrong later is raised by the iterator. Closing it ends the
        generation.
        """
        chosen = GenerationSettings.of(settings)
        turns = MediaReader(self, num_video_frames=num_video_frames, fps=fps).turns(prompt)
        return self.answer_pieces(self.inputs_of([turns]), chosen)

    def generate_contents(
        self,
        prompts: Sequence[Prompt],
        *,
        num_video_frames: int | None = None,
        fps: float | None = None,
        **settings: Any,
    ) -> list[str]:
        """The answers to many prompts, made in one batch; media that several of them show are encoded once.

        Arguments and errors as in `generate_content`; an error names the prompt, counted from 0.
        """
        if isinstance(prompts, str):
            raise DataError(
                "generate_contents takes a list of prompts, got a text: give [text], or use generate_content."
            )
        chosen = GenerationSettings.of(settings)
        reader = MediaReader(self, num_video_frames=num_video_frames, fps=fps)
        conversations: list[list[Turn]] = []
        for number, prompt in enumerate(prompts):
            try:
                conversations.append(reader.turns(prompt))
                self.turns_ids(conversations[-1])
            except NavilaError as error:
                raise type(error)(f"Prompt {number}: {error}") from None
        return self.answers(self.inputs_of(conversations), chosen) if conversations else []

    def turns_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of a conversation with an open answer, -200 at images; raises as `generate_content`."""
        if self.template is None:
            raise ConfigError(
                "The model names no conversation template: load it with template=NAME (--conversation NAME)."
            )
        messages = [(turn.role, turn.text) for turn in turns]
        places = [count for turn in turns for count in turn.places]
        return self.prompt_ids(self.template.render([*messages, ("assistant", None)]), places)

    def inputs_of(
        self, conversations: Sequence[Sequence[Turn]], progress: Progress | None = None
    ) -> dict[str, Tensor | None]:
        """Inputs of `generate`: rows padded on the left, every distinct frame encoded once in its life."""
        ids, mask = padded_left([self.turns_ids(turns) for turns in conversations], self.pad_id())
        inputs: dict[str, Tensor | None] = {
            "input_ids": ids.to(self.device),
            "attention_mask": mask.to(self.device),
        }
        frames = [frame for turns in conversations for turn in turns for frame in turn.frames]
        if frames:
            inputs["image_features"], inputs["image_index"] = encode(self, frames, progress)
        return inputs

    def answers(self, inputs: Mapping[str, Tensor | None], settings: GenerationSettings) -> list[str]:
        """What the model says to each row of `inputs_of`."""
        ids = self.generate(**inputs, **vars(settings))
        read = self._reader(settings)
        return [read(row) for row in ids.tolist()]

    def answer_pieces(self, inputs: Mapping[str, Tensor | None], settings: GenerationSettings) -> Iterator[str]:
        """What the model says to the one row of `inputs_of`, piece by piece.

        Raises:
            ConfigError: beam search, which knows the answer only in the end.
        """
        if settings.num_beams > 1:
            raise ConfigError(f"num_beams is {settings.num_beams}, but beams cannot be streamed: leave it out.")

        def generate(streamer: BaseStreamer, left: StoppingCriteria) -> Tensor:
            return self.generate(**inputs, **vars(settings), streamer=streamer, stopping_criteria=[left])

        return stream_text(generate, self._reader(settings), stops=settings.stops)

    def _reader(self, settings: GenerationSettings) -> Callable[[Sequence[int]], str]:
        """What makes text of new ids, without what ends it."""
        ends = set(self.stop_ids())

        def read(ids: Sequence[int]) -> str:
            said = list(takewhile(lambda token: token not in ends, ids))
            text = self.tokenizer.decode(said, skip_special_tokens=True)
            return text[: min((text.find(stop) for stop in settings.stops if stop in text), default=None)].strip()

        return read

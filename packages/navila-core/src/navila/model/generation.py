"""Prompts in, text out: what a composed model offers beyond its forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import PreTrainedModel

from navila.constants import IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from navila.conversation import Template
from navila.errors import ConfigError, DataError
from navila.images import ImageProcessor, process_images, read_image
from navila.model.config import NavilaConfig
from navila.model.splice import Spliced
from navila.model.vision import VisionEncoder
from navila.tokenization import escape_user_text, stop_token_ids, tokenize_with_images
from navila.video import is_video, read_video

#: A part of a message: text, an image (PIL or (H, W, 3) uint8), or the path of an image or a video.
Part = str | Image.Image | NDArray[np.uint8] | Path

#: Settings that change nothing; what is not set would come from the checkpoint's `generation_config.json`.
_NEUTRAL = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "early_stopping": False,
    "num_return_sequences": 1,
}


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
            inputs["pixel_values"] = self.process_images(images).to(self.device, self.vision_tower.dtype)
        return inputs

    def prompt_ids(self, prompt_text: str) -> list[int]:
        """Token ids of a rendered prompt, -200 at images.

        Raises:
            DataError: the prompt is longer than the model takes; cutting its end would cut the question.
        """
        ids = tokenize_with_images(prompt_text, self.tokenizer)
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
        max_new_tokens: int = 128,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 50,
        num_beams: int = 1,
        eos_token_id: int | Sequence[int] | None = None,
        **options: Any,
    ) -> Tensor:
        """New ids only, (B, at most `max_new_tokens`), rows that ended earlier padded.

        Inputs as in `forward`; rows may differ in length (`attention_mask` says which positions are real). Settings are
        those given here and no others: what a checkpoint's `generation_config.json` says about sampling is not used.
        Answers end at `eos_token_id`, by default at `stop_ids()`; `options` are further settings and arguments of
        transformers' `generate`, e.g. `repetition_penalty` or `streamer`.
        """
        if input_ids is None:
            raise DataError("generate needs input_ids: make them with model.prepare(prompt, images).")
        batch = self.embed(
            input_ids,
            pixel_values=pixel_values,
            image_features=image_features,
            image_index=image_index,
            attention_mask=attention_mask,
            padding_side="left",
        )
        stops = self.stop_ids() if eos_token_id is None else eos_token_id
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k} if do_sample else {}
        settings = GenerationConfig(
            **{**_NEUTRAL, **sampling},
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            num_beams=num_beams,
            eos_token_id=stops if isinstance(stops, int) else list(stops),
            pad_token_id=self.pad_id(),
            use_cache=True,
        )
        rest = settings.update(**options)
        return self.llm.generate(
            inputs_embeds=batch.inputs_embeds,
            attention_mask=batch.attention_mask.long(),
            generation_config=settings,
            **rest,
        )

    def pad_id(self) -> int:
        """The id rows are padded with: the tokenizer's, else an end-of-text id."""
        tokenizer = self.tokenizer
        for candidate in (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)):
            if candidate is not None:
                return int(candidate)
        return 0

    def generate_content(self, parts: str | Sequence[Part], *, max_new_tokens: int = 512, **settings: Any) -> str:
        """The answer to one user message of text, images and videos, in the order given; settings as in `generate`.

        Of a video, `config.num_video_frames` frames are shown.

        Raises:
            ConfigError: the model has no conversation template.
            DataError: a part is neither text nor an image, or cannot be read.
        """
        if self.template is None:
            raise ConfigError("The model names no conversation template: load it with navila.load(..., template=NAME).")
        text, images = message_of(
            [parts] if isinstance(parts, str) else parts, self.tokenizer, num_frames=self.config.num_video_frames
        )
        prompt = self.template.render([("user", text), ("assistant", None)])
        ids = self.generate(**self.prepare(prompt, images), max_new_tokens=max_new_tokens, **settings)
        return self.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def message_of(parts: Sequence[Part], tokenizer: Any, *, num_frames: int) -> tuple[str, list[Image.Image]]:
    """The text of a message with `<image>` where images go, and the images.

    Raises:
        DataError: a part is neither text nor an image, or cannot be read.
    """
    text, images = "", []
    # Neighbouring texts are one text: a control token must not pass because two of them hold its halves.
    for is_text, neighbours in groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            text += escape_user_text("".join(map(str, neighbours)), tokenizer)
            continue
        for part in neighbours:
            if isinstance(part, Path):
                frames = read_video(part, num_frames) if is_video(part) else [read_image(part)]
            else:
                frames = [as_pil(part)]
            images += frames
            text += f"{IMAGE_TOKEN}\n" * len(frames)
    return text.strip(), images


def as_pil(image: Any) -> Image.Image:
    """A PIL image from one, or from an (H, W, 3) uint8 array.

    Raises:
        DataError: it is neither.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    what = f"{image.dtype} array {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(f"An image must be PIL or a uint8 array (H, W, 3), got a {what}: convert it first.")

"""Prompts in, text out: what a composed model offers beyond its forward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from navila.constants import IMAGE_TOKEN
from navila.conversation import Template
from navila.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from navila.images import ImageProcessor
    from navila.model.modeling import NavilaForCausalLM

#: A part of a message: text, an image, or the path of an image.
Part = str | Image.Image | Path


class Conversational:
    """Tokenizer, image processor and template of a model, and what can be said with them."""

    tokenizer: Any = None
    """A tokenizer of transformers."""
    template: Template | None = None

    def attach(self, *, tokenizer: PreTrainedTokenizerBase | None, template: Template | None) -> None:
        """Give the model its tokenizer and conversation template."""
        self.tokenizer = tokenizer
        self.template = template

    @property
    def image_processor(self: NavilaForCausalLM) -> ImageProcessor:
        """How images become pixels."""
        return self.vision_tower.image_processor

    def process_images(self: NavilaForCausalLM, images: Sequence[Image.Image]) -> Tensor:
        """(N, 3, H, W) float32 pixels on the CPU, resized as the config's `image_aspect_ratio` says."""
        from navila.images import process_images

        return torch.from_numpy(process_images(images, self.image_processor, self.config.image_aspect_ratio))

    def prepare(self: NavilaForCausalLM, prompt_text: str, images: Sequence[Image.Image] = ()) -> dict[str, Tensor]:
        """Inputs of `forward` and `generate` for one rendered prompt, on the model's device.

        Args:
            prompt_text: a prompt as a template renders it, with `<image>` where an image goes.
            images: one for each `<image>`, in order.

        Returns:
            `input_ids` (1, L) with -200 at images and `pixel_values` (N, 3, H, W) in the model's dtype, the latter only
            when there are images.

        Raises:
            DataError: the number of images is not that of `<image>`.
        """
        from navila.tokenization import tokenize_with_images

        marks = prompt_text.count(IMAGE_TOKEN)
        if marks != len(images):
            raise DataError(f"The prompt holds {marks} times <image>, but {len(images)} images were given: make them equal.")
        ids = tokenize_with_images(prompt_text, self.tokenizer)
        inputs = {"input_ids": torch.tensor([ids], device=self.device)}
        if images:
            inputs["pixel_values"] = self.process_images(images).to(self.device, self.vision_tower.dtype)
        return inputs

    def stop_ids(self: NavilaForCausalLM) -> list[int]:
        """Ids that end an answer: those of the language model's generation config and of the template."""
        configured = self.llm.generation_config.eos_token_id if self.llm.generation_config is not None else None
        ids = set(configured if isinstance(configured, list) else [] if configured is None else [configured])
        if self.tokenizer is not None and self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        if self.tokenizer is not None and self.template is not None:
            from navila.tokenization import stop_token_ids

            ids.update(stop_token_ids(self.tokenizer, self.template))
        return sorted(ids)

    @torch.inference_mode()
    def generate(
        self: NavilaForCausalLM,
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
        top_k: int = 0,
        num_beams: int = 1,
        eos_token_id: int | Sequence[int] | None = None,
        **options: Any,
    ) -> Tensor:
        """New ids only, (B, at most `max_new_tokens`), rows that ended earlier padded.

        Inputs as in `forward`; rows may differ in length (`attention_mask` says which positions are real). Settings are
        those given here and no others: what a checkpoint's `generation_config.json` says about sampling is not used.
        Answers end at `eos_token_id`, by default at `stop_ids()`; `options` go to transformers' `generate`.
        """
        from transformers import GenerationConfig

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
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            temperature=temperature if do_sample else 1.0,
            top_p=top_p if do_sample else 1.0,
            top_k=top_k if do_sample else 50,
            num_beams=num_beams,
            eos_token_id=stops if isinstance(stops, int) else list(stops),
            pad_token_id=self.pad_id(),
            use_cache=True,
        )
        return self.llm.generate(
            inputs_embeds=batch.inputs_embeds,
            attention_mask=batch.attention_mask.long(),
            generation_config=settings,
            **options,
        )

    def pad_id(self: NavilaForCausalLM) -> int:
        """The id rows are padded with: the tokenizer's, else an end-of-text id."""
        tokenizer = self.tokenizer
        for candidate in (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)):
            if candidate is not None:
                return int(candidate)
        return 0

    def generate_content(
        self: NavilaForCausalLM, parts: str | Sequence[Part], *, max_new_tokens: int = 512, **settings: Any
    ) -> str:
        """The answer to one user message of text and images, in the order given; settings as in `generate`.

        Raises:
            ConfigError: the model has no conversation template.
            DataError: a part is neither text nor an image.
        """
        if self.template is None:
            raise ConfigError("The model names no conversation template: load it with navila.load(..., template=NAME).")
        text, images = message_of([parts] if isinstance(parts, str) else parts, self.tokenizer)
        prompt = self.template.render([("user", text), ("assistant", None)])
        ids = self.generate(**self.prepare(prompt, images), max_new_tokens=max_new_tokens, **settings)
        return self.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def message_of(parts: Sequence[Part], tokenizer: Any) -> tuple[str, list[Image.Image]]:
    """The text of a message with `<image>` where images go, and the images.

    Raises:
        DataError: a part is neither text nor an image.
    """
    from navila.tokenization import escape_user_text

    text, images = "", []
    for part in parts:
        if isinstance(part, str):
            text += escape_user_text(part, tokenizer)
        elif isinstance(part, Image.Image | Path):
            images.append(part if isinstance(part, Image.Image) else Image.open(part))
            text += IMAGE_TOKEN + "\n"
        else:
            raise DataError(f"A message part is a {type(part).__name__}: give text, PIL images or paths of images.")
    return text.strip(), images

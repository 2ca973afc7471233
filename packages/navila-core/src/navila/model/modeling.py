"""The composed model: a vision encoder, a projector and a language model behind one forward."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from navila.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from navila.errors import ConfigError, DataError
from navila.model.branches import branch_attention, masks_of_layers
from navila.model.config import NavilaConfig
from navila.model.generation import ConversationalModel
from navila.model.losses import soft_cross_entropy
from navila.model.nvila import Nvila
from navila.model.packed_attention import PACKED, segments_of
from navila.model.placement import execution_device
from navila.model.projector import Projector
from navila.model.splice import Spliced, splice
from navila.model.tiling import Grid, assemble, join_scales
from navila.model.vision import VisionEncoder

PARTS = ("llm", "vision_tower", "mm_projector")


class NavilaForCausalLM(ConversationalModel):
    """Images and text in, next-token logits out.

    `llm` is a causal language model of transformers, `vision_tower` a `VisionEncoder`, `mm_projector` a `Projector`.
    Made by `navila.load` or `navila.model.build`, which also attach `tokenizer`, `image_processor` and `template`.
    """

    config_class = NavilaConfig
    config: NavilaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012  transformers reads a list

    def __init__(
        self, config: NavilaConfig, *, llm: PreTrainedModel, vision_tower: VisionEncoder, mm_projector: Projector
    ) -> None:
        super().__init__(config)
        width = llm.config.get_text_config().hidden_size
        self.nvila = Nvila.of(config.to_dict())
        given = vision_tower.out_features * (1 if self.nvila is None else self.nvila.width_factor)
        if (mm_projector.in_features, mm_projector.out_features) != (given, width):
            raise ConfigError(
                f"The projector maps {mm_projector.in_features} to {mm_projector.out_features} channels, but "
                f"the encoder gives {given} and the language model takes {width}: choose parts "
                "that fit."
            )
        self.llm = llm
        self.vision_tower = vision_tower
        self.mm_projector = mm_projector
        self.vision_tower.set_trainable(True)
        if llm.generation_config is not None:
            self.generation_config = llm.generation_config
        self.post_init()

    def init_weights(self) -> None:
        """Nothing: the parts come initialised and tied."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Self:
        """`navila.load` with its options, for code that loads models the way of transformers."""
        from navila.model.load import load

        if "torch_dtype" in options:
            # What transformers called it before version 5.
            options["dtype"] = options.pop("torch_dtype")
        return cast("Self", load(pretrained_model_name_or_path, *args, **options))

    # -- images -------------------------------------------------------------------------------------------------------

    @property
    def tokens_per_image(self) -> int:
        """Positions T that an image takes in the language model."""
        return self.mm_projector.num_tokens(self.vision_tower.num_tokens)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the token embeddings, whatever devices the rest is on."""
        return execution_device(self.get_input_embeddings())

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, H, W) pixels to (N, T, D) embeddings of the language model."""
        return self._projected(self.vision_features(pixel_values))

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, H, W) pixels, normalised or uint8, to (N, P, C) features, as the projector takes them."""
        if pixel_values.dtype == torch.uint8:
            scale, shift = (
                torch.from_numpy(values).to(pixel_values.device)[:, None, None]
                for values in self.image_processor.scale_and_shift()
            )
            # Frames come in channels-last layout, with which all that follows would be slower on a CPU.
            values = pixel_values.to(torch.float32, memory_format=torch.contiguous_format)
            pixel_values = values.mul_(scale).add_(shift).to(self.vision_tower.dtype)
        features = self.vision_tower(pixel_values)
        # An image that is not tiled looks alike at every scale of dynamic_s2.
        return features if self.nvila is None else features.repeat(1, 1, self.nvila.width_factor)

    def encode_scales(self, pixel_values: Tensor, grids: Sequence[Grid]) -> Tensor:
        """The tiles (M, 3, H, W) of one image at several scales (`tiling.scale_tiles`) to (K, T, D) embeddings.

        These are those of the whole image row by row, cut into pieces as long as an image's.
        """
        if self.nvila is None or not self.nvila.scales:
            raise ConfigError("The checkpoint has no dynamic_s2 in its config.json: encode whole images.")
        features, grid = join_scales(self.vision_tower(pixel_values), grids, self.nvila.output)
        tokens = self._projected(features)
        return assemble(tokens, grid).reshape(tokens.shape)

    def _projected(self, features: Tensor) -> Tensor:
        """(N, T', C) features to (N, T, D) embeddings."""
        weight = next(self.mm_projector.parameters(), None)
        return self.mm_projector(features if weight is None else features.to(weight.device))

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        image_features: Tensor | None = None,
        image_index: Tensor | None = None,
        branch_ids: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        supervised_logits_only: bool = False,
        sequence_parallel: Callable[..., CausalLMOutputWithPast] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, L', V), where every image of a row has become `tokens_per_image` positions, and the mean loss.

        Args:
            input_ids: (B, L), -200 at images; rows padded on either side, as `attention_mask` says.
            pixel_values: (N, 3, H, W), the images of the batch in the order of their tokens, row by row; those of 8
                bits are normalised here.
            attention_mask: (B, L), nonzero at real tokens; everything is real when None.
            position_ids: (B, L), only needed for packed samples: restarts at 0 where a sample begins.
            labels: (B, L), -100 where there is no loss (images and padding are never supervised).
            image_features: (N, T, D) from `encode_images`, instead of `pixel_values`.
            image_index: (K,) long, the image that the k-th image token shows, so that a frame that occurs many times
                in a batch is encoded once. Without it there must be exactly one image for each token. With it, images
                that no token shows are allowed: in a distributed run, a rank whose batch is text alone gives a blank
                image and an empty `image_index`, so that all ranks run the same modules.
            branch_ids: (B, L), for rows of several samples with one beginning (`navila.model.branches`).
            use_cache: return `past_key_values`; not by default.
            supervised_logits_only: compute logits only at positions where some row has a label; `logits` then has
                those positions only. For training, where nothing else is used.
            sequence_parallel: computes the batch in place of what follows, called with the model and the arguments: as
                all wrappers of distributed training go through `forward`, so does it. Gives the loss only.
            num_items_in_batch: in `kwargs`, as the Trainer gives it: the loss is then the sum divided by it.

        Raises:
            DataError: the number of images and of image tokens differ.
        """
        if sequence_parallel is not None:
            return sequence_parallel(
                self,
                input_ids,
                pixel_values=pixel_values,
                image_index=image_index,
                attention_mask=attention_mask,
                position_ids=position_ids,
                labels=labels,
                branch_ids=branch_ids,
                **kwargs,
            )
        if inputs_embeds is None and input_ids is not None and past_key_values is None:
            batch = self.embed(
                input_ids,
                pixel_values=pixel_values,
                image_features=image_features,
                image_index=image_index,
                attention_mask=attention_mask,
                position_ids=position_ids,
                labels=labels,
                branch_ids=branch_ids,
            )
            input_ids, inputs_embeds, labels = None, batch.inputs_embeds, batch.labels
            # transformers reads packing from the positions, but only where there is neither mask nor cache: every
            # padding position (0) then is a sample of its own, and no real one sees it.
            packed = position_ids is not None
            by_sample = self.llm.config._attn_implementation == PACKED
            router_loss = labels is not None and self._trains_router()
            if router_loss:
                kwargs["output_router_logits"] = True
            masked = not packed and self._needs_mask(batch.attention_mask, router_loss)
            attention_mask = batch.attention_mask if masked else None
            position_ids = batch.position_ids if masked or packed else None
            use_cache = bool(use_cache)
            if by_sample and packed:
                kwargs["segments"] = segments_of(batch.position_ids)
            elif by_sample and not bool(batch.attention_mask[:, 0].all()):
                raise ConfigError(f"{PACKED} attention is for training and takes no padding on the left: use sdpa.")
            if batch.branches is not None:
                if router_loss:
                    raise ConfigError(
                        "The router loss of a mixture of experts cannot count rows of several samples with one "
                        "beginning: leave branch_ids (--share_prefix) out, or set router_aux_loss_coef to 0."
                    )
                position_ids, visible = branch_attention(batch.branches)
                attention_mask = masks_of_layers(self.llm.config, visible, position_ids, batch.inputs_embeds.dtype)
        if supervised_logits_only and labels is not None:
            shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
            logits_to_keep = (shifted != IGNORE_INDEX).any(0).nonzero().squeeze(1)
            kwargs["shift_labels"] = shifted[:, logits_to_keep].contiguous()
        soft = labels is not None and self.training and bool(self.config.time_token_ids)
        output = self.llm(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=None if soft else labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        if soft and labels is not None:
            shifted = kwargs.get("shift_labels")
            output.loss = soft_cross_entropy(
                output.logits,
                labels if shifted is None else shifted,
                self.config.time_token_ids or (),
                std=self.config.soft_ce_std,
                shifted=shifted is not None,
                num_items_in_batch=kwargs.get("num_items_in_batch"),
            )
            if (router_loss := getattr(output, "aux_loss", None)) is not None:
                output.loss = output.loss + self.llm.config.router_aux_loss_coef * router_loss
        return output

    def _trains_router(self) -> bool:
        """Whether the language model is a mixture of experts in training, whose router has a loss of its own."""
        return self.llm.training and bool(getattr(self.llm.config, "router_aux_loss_coef", 0))

    def _needs_mask(self, attention_mask: Tensor, router_loss: bool) -> bool:
        """Whether the language model must be told of padding (B, L).

        Not when there is none, nor when it is all on the right: under causal attention no real position sees it. Flash
        attention skips padding, and the router loss of a mixture of experts counts tokens, so those are told.
        """
        if bool(attention_mask.all()):
            return False
        config = self.llm.config
        causal = str(config._attn_implementation) in ("sdpa", "eager", PACKED)
        counts = router_loss or getattr(config, "output_router_logits", False)
        return counts or not causal or not bool(attention_mask[:, 0].all())

    def embed(
        self,
        input_ids: Tensor,
        *,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        branch_ids: Tensor | None = None,
        padding_side: str | None = None,
    ) -> Spliced:
        """The batch as the language model takes it; arguments as in `forward`.

        The rows are padded on `padding_side`, by default the side they are padded on in the input.
        """
        table = self.get_input_embeddings()
        text_embeds = table(input_ids.clamp(min=0))
        if bool(((input_ids < 0) & (input_ids != IMAGE_TOKEN_INDEX)).any()):
            raise DataError("input_ids hold negative ids other than -200: pad with the tokenizer's pad id.")
        features = image_features
        if features is None and pixel_values is not None and pixel_values.shape[0]:
            features = self.encode_images(pixel_values)
        if features is None:
            features = text_embeds.new_zeros(0, self.tokens_per_image, text_embeds.shape[-1])
        elif (scale := getattr(table, "embed_scale", None)) is not None:
            # Gemma scales embeddings, images as well as text; since transformers 5 in the table.
            features = features.to(text_embeds) * torch.as_tensor(scale).to(text_embeds)
        if padding_side is None:
            left = attention_mask is not None and not bool(attention_mask[:, 0].all())
            padding_side = "left" if left else "right"
        # A model on several devices takes its batch from any: what follows happens where the embeddings are.
        device = text_embeds.device
        input_ids = input_ids.to(device)
        attention_mask, position_ids, labels, branch_ids = (
            None if tensor is None else tensor.to(device)
            for tensor in (attention_mask, position_ids, labels, branch_ids)
        )
        return splice(
            input_ids,
            text_embeds,
            features,
            attention_mask=attention_mask,
            image_index=image_index,
            position_ids=position_ids,
            labels=labels,
            branches=branch_ids,
            padding_side=padding_side,
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As in torch, but rotary frequencies stay in float32 when all is cast (DeepSpeed casts whole models)."""
        exact = {name: b for name, b in self.llm.named_buffers() if b.dtype == torch.float32}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            cast = self.llm.get_buffer(name)
            if cast.is_floating_point() and cast.dtype != torch.float32:
                owner, _, leaf = name.rpartition(".")
                setattr(self.llm.get_submodule(owner), leaf, buffer.to(cast.device))
        return self

    # -- training -----------------------------------------------------------------------------------------------------

    def set_trainable(self, *, llm: bool = True, vision_tower: bool = True, mm_projector: bool = True) -> None:
        """Choose the parts that train; frozen ones stay in evaluation mode during training."""
        self.llm.requires_grad_(llm)
        self.vision_tower.set_trainable(vision_tower)
        self.mm_projector.requires_grad_(mm_projector)
        self.config.tune_language_model = llm
        self.config.tune_vision_tower = vision_tower
        self.config.tune_mm_projector = mm_projector

    def train(self, mode: bool = True) -> Self:
        """As in torch, but frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in PARTS:
            part = getattr(self, name, None)
            if mode and part is not None and not any(p.requires_grad for p in part.parameters()):
                part.eval()
                # Gradients pass through a frozen language model; layers in evaluation mode would not be checkpointed.
                for layer in part.modules() if name == "llm" else ():
                    if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                        layer.training = True
        return self

    def enable_input_require_grads(self) -> None:
        """As in transformers, but not for a frozen encoder, which would keep all activations for no gradient."""
        network = self.vision_tower.vision_tower
        for part in (self.llm, network):
            trains = part is self.llm or any(p.requires_grad for p in part.parameters())
            if isinstance(part, PreTrainedModel) and trains:
                part.enable_input_require_grads()

    def get_input_embeddings(self) -> nn.Module:
        """The table of the language model's token embeddings."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of token embeddings."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language-model head."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language-model head."""
        self.llm.set_output_embeddings(new_embeddings)

    # -- saving -------------------------------------------------------------------------------------------------------

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  the rest is in `options`
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Write the released layout: `config.json`, `llm/`, `vision_tower/`, `mm_projector/`, all safetensors.

        `state_dict` (names as in `self.state_dict()`) is what to write instead of the weights in memory, as the Trainer
        gives it under ZeRO-3.
        """
        from navila.model.save import save_checkpoint

        if is_main_process:
            save_checkpoint(self, Path(save_directory), state_dict, max_shard_size=options.get("max_shard_size"))

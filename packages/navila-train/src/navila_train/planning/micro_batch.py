"""A micro-batch at its largest, and what it takes on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from navila.model import NavilaForCausalLM
from navila.model.packed_attention import PACKED
from navila_data.packing import default_budget

from navila_train.gpus import Gpu
from navila_train.parse import Arguments
from navila_train.planning.activations import Activations, Footprint
from navila_train.planning.blueprint import Blueprint
from navila_train.planning.engines import Engine
from navila_train.sequence_parallel.layout import TILE

#: Makes a model ready for training: chooses what is trained, adds adapters.
Prepare = Callable[[NavilaForCausalLM], object]

#: Text of a sample beside its frames, in tokens: a navigation step of NaVILA has 149 and an answer.
TEXT = 160
#: Share of a sample's tokens that are supervised. In NaVILA's mixture it is 6 %: steps have few, dialogues many.
SUPERVISED = 0.1


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A micro-batch, at its largest."""

    rows: int
    row_tokens: int
    images: int
    frames: int
    """Of a sample."""
    tokens_per_image: int
    sample_tokens: int

    @classmethod
    def of(cls, arguments: Arguments, model: NavilaForCausalLM, gpu: Gpu) -> Shape:
        """What the flags make: packed rows are full of samples, others as long as the longest may be."""
        data, training = arguments.data, arguments.training
        config = model.llm.config.get_text_config()
        longest = training.model_max_length or getattr(config, "tokenizer_model_max_length", None)
        longest = longest or min(4096, getattr(config, "max_position_embeddings", None) or 4096)
        each = model.tokens_per_image
        frames = min(data.num_video_frames, max((longest - TEXT) // each, 1))
        sample = min(frames * each + TEXT, longest)
        if data.packing:
            row = data.packing_tokens or max(default_budget(gpu.memory), longest)
            rows, images = 1, max(row // sample, 1) * frames
        else:
            row, rows = longest, training.per_device_train_batch_size
            images = rows * frames
        return cls(rows=rows, row_tokens=row, images=images, frames=frames, tokens_per_image=each, sample_tokens=sample)

    def single(self, frames: int) -> Shape:
        """One sample of so many frames."""
        tokens = frames * self.tokens_per_image + TEXT
        return replace(self, rows=1, row_tokens=tokens, images=frames, frames=frames, sample_tokens=tokens)


class Measured:
    """Bytes that micro-batches take on a GPU."""

    def __init__(
        self, blueprint: Blueprint, arguments: Arguments, engine: Engine, prepare: Prepare, *, share: int, ring: int
    ) -> None:
        """`share` GPUs compute a row together, `ring` of them in a ring."""
        training = arguments.training
        # Kernels that keep no scores all keep the same; eager attention keeps them. transformers' own sdpa makes a mask
        # of all pairs for tensors without values, as it cannot look whether one is needed.
        attention = "eager" if arguments.model.attn_implementation == "eager" else PACKED

        def build(layers: int) -> NavilaForCausalLM:
            model = blueprint.build(dtype=engine.dtype, attn_implementation=attention, layers=layers)
            prepare(model)
            if training.gradient_checkpointing:
                # Newer versions of transformers warn of the other name.
                enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
                enable(training.gradient_checkpointing_kwargs)
            return model.train()

        self.activations = Activations(
            build=build, layers=blueprint.llm_config.num_hidden_layers, autocast=engine.autocast
        )
        self.config = blueprint.llm_config
        self.share, self.ring = share, ring
        self.width = 2 if engine.autocast else engine.dtype.itemsize

    def take(self, shape: Shape) -> tuple[Footprint, Footprint, float]:
        """Of the images, of the language model, and for what GPUs exchange that share a row."""
        tokens = -(-shape.row_tokens // self.share)
        # The answers of several rows lie at different places, and logits are computed for a place of all rows.
        labels = math.ceil(tokens * SUPERVISED * (1 if shape.rows == 1 else 2))
        text = self.activations.text(rows=shape.rows, tokens=tokens, labels=labels)
        return self.activations.images(-(-shape.images // self.share)), text, self._exchange(shape.rows * tokens)

    def _exchange(self, tokens: int) -> float:
        """Bytes of what is sent, what is received, and the copies between; of a ring also its blocks of scores."""
        if self.share == 1:
            return 0.0
        config = self.config
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
        channels = getattr(config, "head_dim", None) or config.hidden_size // heads
        ulysses = self.share // self.ring
        key_heads = math.lcm(key_heads, ulysses)
        values = tokens * channels * self.width
        exchange = 3 * (2 * heads + 2 * key_heads) * values if ulysses > 1 else 0
        blocks = 4 * key_heads * values * 3 + 3 * 4 * heads // ulysses * TILE**2 if self.ring > 1 else 0
        return float(exchange + blocks)

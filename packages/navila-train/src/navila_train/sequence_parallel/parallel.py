"""A composed model on rows that are cut over the ranks of a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from navila.constants import IGNORE_INDEX
from navila.errors import ConfigError, DataError
from navila.model import NavilaForCausalLM
from navila.model.losses import soft_cross_entropy
from navila.model.splice import Spliced
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast

from navila_train.sequence_parallel.attention import SEQUENCE_PARALLEL
from navila_train.sequence_parallel.exchange import all_gather
from navila_train.sequence_parallel.groups import SequenceGroups
from navila_train.sequence_parallel.layout import RowShard, multiple_of


@dataclass(frozen=True, kw_only=True)
class ShardedBatch:
    """This rank's s tokens of every row of a batch."""

    inputs_embeds: Tensor
    """(B, s, D); zeros at padding."""
    position_ids: Tensor
    """(B, s) in their sample, 0 at padding."""
    labels: Tensor
    """(B, s), the token that comes next in the whole row, -100 where there is no loss."""
    real: Tensor
    """(B, s) bool, False at padding."""
    shard: RowShard


class SequenceParallel:
    """Computes a batch together with the other ranks of its sequence group, all of which must be given the same batch.

    Every rank encodes a share of the images, takes all features, and runs the language model on its share of every row.
    The losses and gradients of all ranks, averaged as data-parallel training averages them, are those of one process.
    """

    def __init__(self, groups: SequenceGroups) -> None:
        self.groups = groups

    @property
    def size(self) -> int:
        """Ranks that share a row."""
        return self.groups.sequence.size()

    def prepare(self, model: NavilaForCausalLM) -> None:
        """Give the language model the attention that goes over ranks.

        Raises:
            ConfigError: the language model cannot be divided in this way.
        """
        config = model.llm.config
        heads, ulysses = config.num_attention_heads, self.groups.ulysses.size()
        if heads % ulysses:
            raise ConfigError(
                f"The language model's {heads} attention heads cannot be divided among {ulysses} ranks: choose "
                "--seq_parallel_ring_size so that --seq_parallel_size / --seq_parallel_ring_size divides them."
            )
        if getattr(config, "attn_logit_softcapping", None) is not None:
            raise ConfigError(
                "Sequence parallelism cannot cap attention scores as attn_logit_softcapping asks: use another language "
                "model, or --seq_parallel_size 1."
            )
        if getattr(config, "attention_dropout", 0) and self.groups.ring.size() > 1:
            raise ConfigError(
                "Rings have no attention dropout: set attention_dropout to 0 in the language model's config, or "
                "--seq_parallel_ring_size 1."
            )
        model.llm.set_attn_implementation(SEQUENCE_PARALLEL)

    def __call__(
        self,
        model: NavilaForCausalLM,
        input_ids: Tensor,
        *,
        labels: Tensor,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        branch_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast:
        """This rank's share of the loss of a batch; arguments as in `NavilaForCausalLM.forward`.

        The shares of a group average to the mean over the batch's labels. With `num_items_in_batch`, the labels of an
        optimizer step over all groups, they add up to the sum divided by it: times the number of processes, as the
        Trainer does it, they average to that.

        Raises:
            ConfigError: the batch is laid out in a way that cannot be divided.
            DataError: the ranks of a group were given different batches.
        """
        if pixel_values is not None and not len(pixel_values):
            pixel_values = None
        if branch_ids is not None:
            raise ConfigError(
                "Rows of several samples with one beginning cannot be cut over ranks: leave --share_prefix or "
                "--seq_parallel_size out."
            )
        frames = None if pixel_values is None else torch.tensor(pixel_values.shape)
        self._require_same(input_ids, labels, image_index, position_ids, frames)
        batch = model.embed(
            input_ids,
            image_features=None if pixel_values is None else self.encode_images(model, pixel_values),
            image_index=image_index,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
        )
        limit = _rope_limit(model.llm.config)
        if limit is not None and int(batch.position_ids.max()) >= limit:
            raise ConfigError(
                f"The language model's rotary frequencies change beyond {limit} positions, which ranks with early "
                "tokens would not know of: set --model_max_length to that, or use --seq_parallel_size 1."
            )
        rows = self.shard(batch, packed=position_ids is not None)
        wanted = (rows.labels != IGNORE_INDEX).any(0).nonzero().squeeze(1)
        routed = model._trains_router()
        output = model.llm(
            inputs_embeds=rows.inputs_embeds,
            position_ids=rows.position_ids,
            use_cache=False,
            logits_to_keep=wanted,
            shard=rows.shard,
            **({"output_router_logits": True} if routed else {}),
        )
        count = num_items_in_batch
        if count is None:
            # Labels of the whole row, the first of which nothing comes before.
            count = (batch.labels[:, 1:] != IGNORE_INDEX).sum().clamp(min=1) if batch.labels is not None else 1
        loss = soft_cross_entropy(
            output.logits,
            rows.labels[:, wanted],
            (model.config.time_token_ids or ()) if model.training else (),
            std=model.config.soft_ce_std,
            shifted=True,
            num_items_in_batch=count,
        )
        if routed:
            config = model.llm.config
            loss = loss + config.router_aux_loss_coef * self.router_loss(output.router_logits, rows, config) / self.size
        return CausalLMOutputWithPast(loss=loss if num_items_in_batch is not None else loss * self.size)  # type: ignore[arg-type]

    def encode_images(self, model: NavilaForCausalLM, pixel_values: Tensor) -> Tensor:
        """(N, 3, H, W) pixels, the same on every rank, to (N, T, D), of which each rank encodes a share."""
        count = len(pixel_values)
        share = -(-count // self.size)
        # Every rank has as many: the last ranks encode the last image again, to no effect.
        first = self.groups.sequence.rank() * share
        own = torch.arange(first, first + share, device=pixel_values.device).clamp(max=count - 1)
        return all_gather(model.encode_images(pixel_values[own]), self.groups.sequence)[:count]

    def shard(self, batch: Spliced, *, packed: bool) -> ShardedBatch:
        """Cut the rows, whose samples are told apart by their positions if `packed`; labels are shifted before."""
        real, positions = batch.attention_mask, batch.position_ids
        labels = torch.full_like(positions, IGNORE_INDEX)
        if batch.labels is not None:
            labels[:, :-1] = batch.labels[:, 1:]
        documents = ((positions == 0) & real).cumsum(1) - 1 if packed else torch.zeros_like(positions)
        documents = documents.masked_fill(~real, -1)
        lacking = -positions.shape[1] % multiple_of(self.groups)
        shard = RowShard(F.pad(documents, (0, lacking), value=-1), self.groups)
        return ShardedBatch(
            inputs_embeds=F.pad(batch.inputs_embeds, (0, 0, 0, lacking))[:, shard.index],
            position_ids=F.pad(positions, (0, lacking))[:, shard.index],
            labels=F.pad(labels, (0, lacking), value=IGNORE_INDEX)[:, shard.index],
            real=F.pad(real, (0, lacking))[:, shard.index],
            shard=shard,
        )

    def router_loss(self, router_logits: tuple[Tensor, ...], rows: ShardedBatch, config: Any) -> Tensor:
        """How unevenly the experts are used over the whole rows (Switch Transformer, arXiv 2101.03961, eq. 4 to 6).

        `router_logits` are (B * s, E) a layer. It is no sum over tokens, so all ranks' are needed for it.
        """
        chosen = config.num_experts_per_tok
        mine = torch.stack(router_logits, dim=1).float()
        real = all_gather(rows.real.flatten(), self.groups.sequence)
        probabilities = all_gather(mine, self.groups.sequence)[real].softmax(-1)
        used = F.one_hot(probabilities.topk(chosen).indices, probabilities.shape[-1])
        shares = used.sum(2).float().mean((0, 1))
        return probabilities.shape[-1] * (shares * probabilities.mean((0, 1))).sum()

    def _require_same(self, *tensors: Tensor | None) -> None:
        """Check that the group was given one batch; ranks with different ones would compute nonsense, or wait for ever.

        Raises:
            DataError: it was not.
        """
        device = next(tensor.device for tensor in tensors if tensor is not None)
        own = torch.stack([_checksum(tensor).to(device) for tensor in tensors])
        sums = all_gather(own[None], self.groups.sequence)
        others = (sums != sums[0]).any(1).nonzero().squeeze(1).tolist()
        if others:
            raise DataError(
                f"The processes of sequence group {self.groups.data_rank} read different batches (the first and number "
                f"{others[0]} of the group, counted from 0): make the same files readable on all machines."
            )


def _checksum(tensor: Tensor | None) -> Tensor:
    """A number that differs where batches differ in a token or in length."""
    if tensor is None:
        return torch.tensor(-1)
    odd = torch.arange(1, 2 * tensor.numel(), 2, device=tensor.device)
    return (tensor.flatten() * odd).sum() + (tensor.numel() << 40)


def _rope_limit(config: Any) -> int | None:
    """Positions beyond which rotary frequencies depend on the longest position a process sees; None if they never."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    if not any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds):
        return None
    return getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings

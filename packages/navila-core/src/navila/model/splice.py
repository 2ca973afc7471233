"""Put image features where the prompt says `<image>`: the whole batch in a few tensor operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from navila.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from navila.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Spliced:
    """A batch in which every image token has become the image's T features."""

    inputs_embeds: Tensor
    """(B, L', D); zeros at padding."""
    attention_mask: Tensor
    """(B, L') bool."""
    position_ids: Tensor
    """(B, L') long, 0 at padding."""
    labels: Tensor | None
    """(B, L') long, -100 at images and padding."""
    branches: Tensor | None
    """(B, L') long, -1 at padding; see `navila.model.branches`."""


def splice(
    input_ids: Tensor,
    text_embeds: Tensor,
    image_features: Tensor,
    *,
    attention_mask: Tensor | None = None,
    image_index: Tensor | None = None,
    position_ids: Tensor | None = None,
    labels: Tensor | None = None,
    branches: Tensor | None = None,
    padding_side: str = "right",
) -> Spliced:
    """Expand each -200 of `input_ids` (B, L) into the T rows of its image in `image_features` (N, T, D).

    `text_embeds` (B, L, D) are the embeddings of the ids (anything at images). `image_index` (K,) names the feature row
    of the k-th image token, counted row by row; without it, the k-th token takes the k-th image. `position_ids`,
    `labels` and `branches` are in the layout of `input_ids`; position 0 starts a packed sample. Masked positions are
    dropped wherever they are, and the rows padded again on `padding_side`.

    Raises:
        DataError: the number of images is not the number of image tokens.
    """
    batch, length = input_ids.shape
    count, tokens, dim = image_features.shape
    keep = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    is_image = (input_ids == IMAGE_TOKEN_INDEX) & keep
    _check_counts(is_image, count, image_index)

    width = torch.where(is_image, tokens, 1) * keep
    flat_width = width.flatten()
    device = input_ids.device
    # One entry a real output position, row by row: which input position it comes from, and how far into it it is.
    source = torch.arange(batch * length, device=device).repeat_interleave(flat_width)
    offset = torch.arange(source.numel(), device=device) - (flat_width.cumsum(0) - flat_width)[source]
    from_image = is_image.flatten()[source]

    row = is_image.flatten().cumsum(0) - 1
    if image_index is not None and image_index.numel():
        row = image_index.to(device)[row.clamp(min=0)]
    # Text, features and one row of zeros (padding) in one table, so that a single lookup makes the batch.
    table = torch.cat(
        [
            text_embeds.reshape(batch * length, dim),
            image_features.to(text_embeds).reshape(count * tokens, dim),
            text_embeds.new_zeros(1, dim),
        ]
    )
    entry = torch.where(from_image, batch * length + row[source] * tokens + offset, source)

    lengths = width.sum(1)
    longest = int(lengths.max())
    places = torch.arange(longest, device=device)
    real = places < lengths[:, None] if padding_side == "right" else places >= (longest - lengths)[:, None]
    index = torch.full((batch, longest), table.shape[0] - 1, device=device)
    index[real] = entry
    spliced_labels = None
    if labels is not None:
        spliced_labels = labels.new_full((batch, longest), IGNORE_INDEX)
        spliced_labels[real] = torch.where(from_image, IGNORE_INDEX, labels.flatten()[source])
    spliced_branches = None
    if branches is not None:
        spliced_branches = branches.new_full((batch, longest), -1)
        spliced_branches[real] = branches.flatten()[source]
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    if position_ids is not None:
        positions = torch.zeros_like(positions)
        positions[real] = _expanded_positions(position_ids, width)[source] + offset
    return Spliced(
        inputs_embeds=F.embedding(index, table),
        attention_mask=real,
        position_ids=positions.masked_fill(~real, 0),
        labels=spliced_labels,
        branches=spliced_branches,
    )


def _expanded_positions(position_ids: Tensor, width: Tensor) -> Tensor:
    """(B * L,) position of each token once the images before it in the same packed sample have been expanded."""
    length = width.shape[1]
    grown = (width - 1).clamp(min=0)
    before = grown.cumsum(1) - grown
    places = torch.arange(length, device=width.device).expand_as(width)
    starts = torch.where(position_ids == 0, places, 0).cummax(1).values
    return (position_ids + before - before.gather(1, starts)).flatten()


def _check_counts(is_image: Tensor, count: int, image_index: Tensor | None) -> None:
    per_row = is_image.sum(1).tolist()
    wanted = sum(per_row)
    if image_index is None:
        if wanted != count:
            raise DataError(
                f"The prompts hold {wanted} image tokens (by row: {per_row}) but {count} images were given: "
                "give one image for each `<image>`, in order."
            )
        return
    if image_index.numel() != wanted:
        raise DataError(
            f"image_index has {image_index.numel()} entries for {wanted} image tokens (by row: {per_row}): "
            "it needs one for each."
        )
    if wanted and (int(image_index.min()) < 0 or int(image_index.max()) >= count):
        raise DataError(
            f"image_index goes up to {int(image_index.max())} but there are {count} images, counted from 0."
        )

"""Images replace their tokens in a batch exactly as in a plain loop over tokens."""

from __future__ import annotations

import pytest
import torch
from navila.errors import DataError
from navila.model.splice import splice
from torch import Tensor

IMAGE = -200
T, D, VOCABULARY = 3, 4, 50


@pytest.fixture
def table() -> Tensor:
    return torch.randn(VOCABULARY, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def features() -> Tensor:
    return torch.randn(5, T, D, generator=torch.Generator().manual_seed(1))


def embedded(table: Tensor, ids: Tensor) -> Tensor:
    return table[ids.clamp(min=0)]


def by_loop(row: list[int], table: Tensor, images: list[Tensor]) -> Tensor:
    """What one row should become."""
    left = list(images)
    return torch.cat([left.pop(0) if token == IMAGE else table[token][None] for token in row])


def test_rows_of_different_length_are_expanded_and_padded(table: Tensor, features: Tensor) -> None:
    ids = torch.tensor([[7, IMAGE, 8, IMAGE, IMAGE], [1, 2, 3, 0, 0], [IMAGE, IMAGE, 5, 0, 0]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    labels = torch.where(mask.bool(), ids, -100)
    want = [
        by_loop([7, IMAGE, 8, IMAGE, IMAGE], table, list(features[:3])),
        by_loop([1, 2, 3], table, []),
        by_loop([IMAGE, IMAGE, 5], table, list(features[3:])),
    ]
    for side in ("right", "left"):
        out = splice(ids, embedded(table, ids), features, attention_mask=mask, labels=labels, padding_side=side)
        assert out.inputs_embeds.shape == (3, 11, D)
        assert out.labels is not None
        for i, row in enumerate(want):
            real = out.attention_mask[i]
            assert real.sum() == len(row)
            assert real[0] or side == "left"
            assert torch.equal(out.inputs_embeds[i][real], row)
            assert out.position_ids[i][real].tolist() == list(range(len(row)))
            assert out.inputs_embeds[i][~real].abs().sum() == 0
            assert out.position_ids[i][~real].sum() == 0
            assert (out.labels[i][~real] == -100).all()
        assert out.labels[0][out.attention_mask[0]].tolist() == [7, *[-100] * 3, 8, *[-100] * 6]


def test_masked_positions_vanish_wherever_they_are(table: Tensor, features: Tensor) -> None:
    ids = torch.tensor([[9, IMAGE, 4, 6, IMAGE]])
    mask = torch.tensor([[0, 1, 0, 1, 0]])
    out = splice(ids, embedded(table, ids), features[:1], attention_mask=mask)
    assert torch.equal(out.inputs_embeds[0], by_loop([IMAGE, 6], table, [features[0]]))


def test_a_frame_that_occurs_often_is_given_once(table: Tensor, features: Tensor) -> None:
    ids = torch.tensor([[IMAGE, 1, IMAGE], [2, IMAGE, IMAGE]])
    index = torch.tensor([4, 0, 0, 4])
    shared = splice(ids, embedded(table, ids), features, image_index=index)
    repeated = splice(ids, embedded(table, ids), features[index])
    assert torch.equal(shared.inputs_embeds, repeated.inputs_embeds)


def test_gradients_reach_a_shared_frame_from_every_use(table: Tensor, features: Tensor) -> None:
    ids = torch.tensor([[IMAGE, 1, IMAGE], [2, IMAGE, 3]])
    features.requires_grad_()
    index = torch.tensor([1, 1, 0])
    splice(ids, embedded(table, ids), features, image_index=index).inputs_embeds.sum().backward()
    assert features.grad is not None
    assert features.grad.sum((1, 2)).tolist() == [T * D, 2 * T * D, 0, 0, 0]


def test_an_image_that_no_token_shows_still_belongs_to_the_graph(table: Tensor, features: Tensor) -> None:
    ids = torch.tensor([[1, 2]])
    features.requires_grad_()
    none = torch.zeros(0, dtype=torch.long)
    splice(ids, embedded(table, ids), features[:1], image_index=none).inputs_embeds.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() == 0


def test_positions_of_packed_samples_restart(table: Tensor, features: Tensor) -> None:
    ids = torch.tensor([[1, IMAGE, 2, IMAGE, 3, 4, 5]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1]])
    out = splice(ids, embedded(table, ids), features[:2], position_ids=positions)
    assert out.position_ids[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_images_names_the_rows(table: Tensor, features: Tensor, count: int) -> None:
    ids = torch.tensor([[IMAGE, 1], [IMAGE, 2], [3, 4]])
    with pytest.raises(DataError, match=rf"\[1, 1, 0\].*{count} images"):
        splice(ids, embedded(table, ids), features[:count])


@pytest.mark.parametrize("index", [[0], [0, 5], [-1, 0]])
def test_a_wrong_image_index_is_refused(table: Tensor, features: Tensor, index: list[int]) -> None:
    ids = torch.tensor([[IMAGE, 1], [IMAGE, 2]])
    with pytest.raises(DataError, match="image_index"):
        splice(ids, embedded(table, ids), features, image_index=torch.tensor(index))

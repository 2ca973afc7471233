"""Rows in which several samples share their beginning give each sample what it would get alone."""

import navila
import pytest
import torch


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(goldens, request):
    folder = goldens / "H_full_model/llama_siglip/ckpt"
    return navila.load(folder, dtype="float32", device="cpu", attn_implementation=request.param)


def rows():
    """A beginning with an image, and three ends of different length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1700, (40,), generator=generator)
    beginning = torch.cat([ids[:6], torch.tensor([-200]), ids[6:8]])
    ends = [ids[10:15], ids[15:18], ids[20:27]]
    return beginning, ends, torch.rand(1, 3, 70, 70, generator=generator)


def test_branches_of_a_row_have_the_logits_of_separate_samples(model):
    beginning, ends, pixels = rows()
    ids = torch.cat([beginning, *ends, torch.tensor([0, 0])])
    branches = torch.tensor([0] * len(beginning) + [k + 1 for k, end in enumerate(ends) for _ in end] + [-1, -1])
    mask = branches >= 0
    with torch.no_grad():
        together = model(ids[None], pixel_values=pixels, attention_mask=mask[None], branch_ids=branches[None]).logits[0]
    first = len(beginning) - 1 + model.tokens_per_image
    for end in ends:
        with torch.no_grad():
            alone = model(torch.cat([beginning, end])[None], pixel_values=pixels).logits[0]
        torch.testing.assert_close(together[first : first + len(end)], alone[-len(end) :], atol=1e-5, rtol=1e-5)
        first += len(end)


def test_loss_of_branches_is_the_mean_over_separate_samples(model):
    beginning, ends, pixels = rows()
    ids = torch.cat([beginning, *ends])
    branches = torch.tensor([0] * len(beginning) + [k + 1 for k, end in enumerate(ends) for _ in end])
    # The first token of an end is never learned: it is predicted from the beginning only when the sample stands alone.
    labels = torch.cat([torch.full_like(beginning, -100), *(torch.cat([torch.tensor([-100]), e[1:]]) for e in ends)])
    with torch.no_grad():
        together = model(ids[None], pixel_values=pixels, branch_ids=branches[None], labels=labels[None]).loss
        alone, count = 0.0, 0
        for end in ends:
            label = torch.cat([torch.full((len(beginning) + 1,), -100), end[1:]])
            loss = model(torch.cat([beginning, end])[None], pixel_values=pixels, labels=label[None]).loss
            alone, count = alone + loss * (len(end) - 1), count + len(end) - 1
    torch.testing.assert_close(together, alone / count, atol=1e-5, rtol=1e-5)

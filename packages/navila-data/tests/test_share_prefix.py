"""Samples with the same frames put into one row train the model as separate rows do."""

from pathlib import Path

import navila
import numpy as np
import pytest
import torch
from navila_data.collator import Collator
from navila_data.frames import FrameStore, PixelPipeline
from navila_data.processor import Encoded
from PIL import Image


@pytest.fixture(scope="module")
def model(goldens):
    return navila.load(goldens / "H_full_model/llama_siglip/ckpt", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two points of a walk: three instructions at the first, one at the second, and a sample without frames."""
    folder = tmp_path_factory.mktemp("frames")
    generator = np.random.default_rng(0)
    frames = []
    for number in range(2):
        frames.append(folder / f"{number}.png")
        Image.fromarray(generator.integers(0, 255, (70, 70, 3), dtype=np.uint8)).save(frames[-1])

    def sample(media: tuple[Path | None, ...], question: list[int], answer: list[int]) -> Encoded:
        head = [11, 12, *[-200, 13] * len(media), 14]
        ids = (*head, *question, 15, *answer)
        labels = (*[-100] * (len(ids) - len(answer)), *answer)
        return Encoded(input_ids=ids, labels=labels, media=media, where="test")

    return [
        sample((None, frames[0]), [20, 21], [30, 31]),
        sample((frames[0], frames[1]), [20, 22, 23], [32, 31]),
        sample((None, frames[0]), [22], [33, 34, 31]),
        sample((None, frames[0]), [20, 21, 22], [30, 31]),
        sample((), [20], [35]),
    ]


def collate(model, samples, **layout):
    pixels = PixelPipeline(model.image_processor, model.config.image_aspect_ratio)
    collator = Collator(
        frames=FrameStore(pixels.resize),
        to_tensor=pixels.to_tensor,
        pad_token_id=model.tokenizer.pad_token_id,
        **layout,
    )
    batch = collator(samples)
    assert not batch.pop("notes").failures
    return batch


def test_rows_hold_the_common_beginning_once(model, samples):
    batch = collate(model, samples, share_prefix=True)
    assert len(batch["input_ids"]) == 3
    shared = [int((row == 0).sum()) for row in batch["branch_ids"]]
    assert shared[0] == 7  # head of two frames, the question differs from its first token on
    assert batch["branch_ids"].amax(1).tolist() == [3, 0, 0]
    assert (batch["input_ids"] == -200).sum() == 4 == len(batch["image_index"])


@pytest.mark.parametrize("layout", ["share_prefix", "packed"])
def test_loss_and_gradients_equal_those_of_separate_rows(model, samples, layout: str):
    results = []
    for together in (False, True):
        model.zero_grad()
        loss = model(**collate(model, samples, **{layout: together}), supervised_logits_only=True).loss
        loss.backward()
        results.append((loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (shared_loss, shared_gradients) = results
    torch.testing.assert_close(shared_loss, loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == shared_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, atol=1e-5, rtol=1e-4)

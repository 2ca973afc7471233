"""The Mixtral backend keeps the contract of language models, and its router learns in training only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import ConfigError
from navila.testing import LLMContract
from navila.testing.composed import composed
from navila_llm_mixtral.llm import MixtralBackend
from safetensors.torch import load_file


class TestMixtral(LLMContract):
    name = "mixtral"


IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def loss_of(model: Any, **inputs: Any) -> float:
    """Loss of a row, every token supervised."""
    return model(IDS, labels=IDS, **inputs).loss.item()


def composed_tiny(**fields: Any) -> Any:
    torch.manual_seed(0)
    return composed(MixtralBackend.build({**MixtralBackend.tiny_config(), **fields}))


def test_the_router_has_a_loss_of_its_own_in_training() -> None:
    model = composed_tiny()
    words = loss_of(model)
    model.train()
    # Two experts for each of the tokens, times the coefficient, when they are used evenly; more when they are not.
    router = (loss_of(model) - words) / 0.02
    assert 1.99 < router < 4
    assert loss_of(model.eval()) == words


def test_the_router_loss_can_be_left_out() -> None:
    model = composed_tiny(router_aux_loss_coef=0.0)
    words = loss_of(model)
    assert loss_of(model.train()) == words


def test_a_frozen_language_model_has_no_router_loss() -> None:
    model = composed_tiny()
    words = loss_of(model)
    model.set_trainable(llm=False)
    assert loss_of(model.train()) == words


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_counted_by_the_router_loss(side: str) -> None:
    model = composed_tiny().train()
    want = loss_of(model)
    padding, real = torch.zeros(1, 3, dtype=torch.long), torch.ones_like(IDS)

    def join(row: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
        return torch.cat([pad, row] if side == "left" else [row, pad], 1)

    got = model(join(IDS, padding), attention_mask=join(real, padding), labels=join(IDS, padding - 100)).loss.item()
    assert got == pytest.approx(want, rel=1e-5)


def test_branches_are_refused_while_the_router_learns() -> None:
    branches = torch.tensor([[0, 0, 0, 1, 1, 2, 2]])
    with pytest.raises(ConfigError, match="router loss of a mixture of experts cannot count"):
        loss_of(composed_tiny().train(), branch_ids=branches)
    assert loss_of(composed_tiny(router_aux_loss_coef=0.0).train(), branch_ids=branches) > 0


def test_experts_are_saved_under_their_published_names(tmp_path: Path) -> None:
    model = MixtralBackend.tiny()
    MixtralBackend.save_pretrained(model, tmp_path, {})
    saved = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.block_sparse_moe.experts.3.w{}.weight"
    assert [tuple(saved[name.format(k)].shape) for k in (1, 2, 3)] == [(96, 64), (64, 96), (96, 64)]

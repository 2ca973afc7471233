"""Rows cut over real processes give the loss and every parameter's gradient of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from navila.errors import ConfigError
from navila.model.components import llm_backend
from navila_train.sequence_parallel import SEQUENCE_PARALLEL, SequenceParallel, layout_index
from navila_train.sequence_parallel.groups import check_sizes

RANKS = Path(__file__).with_name("sequence_parallel_ranks.py")
#: Of losses and gradients in float32; gradients are about 0.1.
EXACT = 1e-5

WORLDS = (2, 4, 8)


@pytest.fixture(scope="session")
def results_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """What so many processes computed, all cases in one start."""
    folder = tmp_path_factory.mktemp("worlds")
    command = [sys.executable, str(RANKS), str(folder), *map(str, WORLDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return lambda world: json.loads((folder / f"{world}.json").read_text())


# Fourteen processes, which share what cores there are.
@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_loss_and_every_gradient_equal_one_process(results_of: Callable, world: int) -> None:
    results = {name: r for name, r in results_of(world).items() if "error" in r and not name.endswith("-control")}
    wrong = {
        name: result
        for name, result in results.items()
        if not (abs(result["loss"] - result["expected"]) < EXACT and result["error"] < EXACT)
    }
    assert wrong == {}
    assert len(results) >= 12
    # There was something to get wrong: gradients of the language model, the projector and the encoder.
    assert all(result["largest"] > 0.05 and result["trained"] >= 40 for result in results.values())


@pytest.mark.parametrize("world", WORLDS[:2])
def test_samples_that_are_not_told_apart_would_be_noticed(results_of: Callable, world: int) -> None:
    controls = {name: result for name, result in results_of(world).items() if name.endswith("-control")}
    assert len(controls) == world // 2 + 1
    for result in controls.values():
        assert abs(result["loss"] - result["expected"]) > 1e-3
        assert result["error"] > 1e-2


@pytest.mark.parametrize("world", WORLDS[:2])
def test_a_token_sees_its_sample_up_to_itself_and_nothing_else(results_of: Callable, world: int) -> None:
    probes = {name: result for name, result in results_of(world).items() if name.startswith("probes-")}
    assert len(probes) == world // 2 + 1
    for result in probes.values():
        assert result == {"leaks": [], "blind": []}


def test_ranks_that_read_different_batches_are_told(results_of: Callable) -> None:
    said = results_of(2)["disagreement"]
    assert said["kind"] == "DataError"
    assert "read different batches" in said["text"]


@pytest.mark.parametrize("zigzag", [False, True])
@pytest.mark.parametrize(("ulysses", "ring"), [(1, 1), (4, 1), (1, 4), (2, 2), (2, 4), (4, 2)])
def test_ranks_hold_every_token_once(ulysses: int, ring: int, zigzag: bool) -> None:
    index = layout_index(48, ulysses, ring, zigzag=zigzag)
    assert index.shape == (ulysses * ring, 48 // (ulysses * ring))
    assert sorted(index.flatten().tolist()) == list(range(48))


@pytest.mark.parametrize("ring", [2, 4])
def test_zigzag_gives_every_ring_rank_as_many_pairs(ring: int) -> None:
    pairs = (layout_index(48, 1, ring) + 1).sum(1)
    assert len(set(pairs.tolist())) == 1
    assert len(set((layout_index(48, 1, ring, zigzag=False) + 1).sum(1).tolist())) == ring


@pytest.mark.parametrize(
    ("size", "ring", "ring_type", "named"),
    [
        (3, 1, "zigzag_ring_varlen", "--seq_parallel_size is 3"),
        (0, 1, "zigzag_ring_varlen", "--seq_parallel_size is 0"),
        (4, 3, "zigzag_ring_varlen", "--seq_parallel_ring_size is 3"),
        (4, 0, "zigzag_ring_varlen", "--seq_parallel_ring_size is 0"),
        (4, 2, "stripe", "--seq_parallel_ring_type is 'stripe'"),
    ],
)
def test_sizes_that_do_not_fit_are_told(size: int, ring: int, ring_type: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_sizes(size, ring, ring_type, world=8)


def groups_of(ulysses: int, ring: int) -> Any:
    return SimpleNamespace(ulysses=SimpleNamespace(size=lambda: ulysses), ring=SimpleNamespace(size=lambda: ring))


@pytest.mark.parametrize(
    ("family", "config", "ulysses", "ring", "named"),
    [
        ("llama", {}, 8, 1, "4 attention heads cannot be divided among 8 ranks"),
        ("gemma2", {}, 2, 1, "attn_logit_softcapping"),
        ("llama", {"attention_dropout": 0.1}, 1, 2, "attention_dropout"),
    ],
)
def test_models_that_cannot_be_divided_are_told(family: str, config: dict, ulysses: int, ring: int, named: str) -> None:
    llm = llm_backend(family).build({**llm_backend(family).tiny_config(), **config})
    with pytest.raises(ConfigError, match=named):
        SequenceParallel(groups_of(ulysses, ring)).prepare(SimpleNamespace(llm=llm))  # type: ignore[arg-type]


def test_the_attention_alone_is_refused() -> None:
    backend = llm_backend("llama")
    llm: Any = backend.build(backend.tiny_config(), attn_implementation=SEQUENCE_PARALLEL)
    with pytest.raises(ConfigError, match="sequence_parallel="):
        llm(input_ids=torch.tensor([[5, 6, 7]]))


def curve(processes: Any, recipe: Path, output: Path, ranks: int, *flags: object) -> list[float]:
    """Losses of a training, step by step."""
    steps = ("--max_steps", 3, "--logging_steps", 1, "--save_strategy", "no", "--gradient_accumulation_steps", 2)
    processes.run("train", "--config", recipe, *steps, "--output_dir", output, *flags, ranks=ranks)
    lines = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(
    ("ring", "flags"),
    [(1, ("--per_device_train_batch_size", 4)), (2, ("--packing", "--packing_tokens", 300))],
)
def test_trainings_of_divided_rows_have_the_losses_of_one_process(
    processes: Any, recipe: Path, tmp_path: Path, ring: int, flags: tuple[object, ...]
) -> None:
    alone = curve(processes, recipe, tmp_path / "alone", 1, *flags)
    divided = ("--seq_parallel_size", 2, "--seq_parallel_ring_size", ring)
    together = curve(processes, recipe, tmp_path / "together", 2, *flags, *divided)
    assert len(alone) == 3
    assert together == pytest.approx(alone, abs=1e-5)


def test_weights_divided_by_zero_and_rows_by_a_ring_have_the_losses_of_one_process(
    processes: Any, recipe: Path, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    automatic = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    config = {"zero_optimization": {"stage": 3}, "zero_allow_untested_optimizer": True, "gradient_clipping": "auto"}
    (tmp_path / "zero.json").write_text(json.dumps({**config, **dict.fromkeys(automatic, "auto")}))
    packed = ("--packing", "--packing_tokens", 300, "--gradient_checkpointing")
    divided = ("--seq_parallel_size", 2, "--seq_parallel_ring_size", 2, "--deepspeed", tmp_path / "zero.json")
    alone = curve(processes, recipe, tmp_path / "alone", 1, *packed)
    together = curve(processes, recipe, tmp_path / "together", 2, *packed, *divided)
    assert together == pytest.approx(alone, abs=1e-5)

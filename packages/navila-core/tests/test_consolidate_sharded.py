"""What FSDP leaves (torch.distributed.checkpoint) becomes a checkpoint; nothing but tensors comes out of its pickle."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from navila.cli import main
from navila.model.load import load
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor


def save_divided(rank: int, whole: Path, shards: Path) -> None:
    """One of two processes, each with its rows of every parameter, as `fully_shard` divides them."""
    dist.init_process_group("gloo", init_method=f"file://{shards}.rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    divided = {name: distribute_tensor(t, mesh, [Shard(0)]) if t.ndim else t for name, t in state_of(whole).items()}
    dcp.save({"model": divided, "step": 3}, checkpoint_id=shards)
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def whole(goldens: Path) -> Path:
    """A Llama and a SigLIP."""
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder, device="cpu", dtype="float32").state_dict()


def consolidate(source: Path, base: Path, output: Path) -> int:
    return main(["model", "consolidate", str(source), "--model-base", str(base), "--output", str(output)])


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_one_process_and_its_optimizer(whole: Path, tmp_path: Path) -> None:
    state = {name: tensor + 1 for name, tensor in state_of(whole).items()}
    saved: dict[str, Any] = {"model": state, "optimizer": {"llm.lm_head.weight": torch.ones(2)}, "step": 3}
    dcp.save(saved, checkpoint_id=tmp_path / "checkpoint-3" / "pytorch_model_fsdp_0", no_dist=True)
    assert consolidate(tmp_path, whole, tmp_path / "out") == 0
    assert_equal(state_of(tmp_path / "out"), state)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_tied_embeddings_are_saved_once_and_found_twice(whole: Path, tmp_path: Path) -> None:
    model = load(whole, device="cpu", dtype="float32")
    model.llm.config.tie_word_embeddings = True
    model.llm.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    state = {name: tensor + 1 for name, tensor in model.state_dict().items() if name != "llm.lm_head.weight"}
    dcp.save({"model": state}, checkpoint_id=tmp_path / "shards", no_dist=True)
    assert consolidate(tmp_path / "shards", tmp_path / "tied", tmp_path / "out") == 0
    ours = state_of(tmp_path / "out")
    assert torch.equal(ours["llm.lm_head.weight"], state["llm.model.embed_tokens.weight"])
    assert_equal({name: ours[name] for name in state}, state)


def test_two_processes(whole: Path, tmp_path: Path) -> None:
    # Forked: they need not import anything anew.
    torch.multiprocessing.start_processes(save_divided, (whole, tmp_path / "shards"), nprocs=2, start_method="fork")
    assert len(list((tmp_path / "shards").glob("*.distcp"))) == 2
    assert consolidate(tmp_path / "shards", whole, tmp_path / "out") == 0
    assert_equal(state_of(tmp_path / "out"), state_of(whole))
    next((tmp_path / "shards").glob("__1_*")).unlink()
    assert consolidate(tmp_path / "shards", whole, tmp_path / "again") == 2


class Code:
    """What a hostile pickle holds."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize("what", ["code", "cut off", "nothing"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_broken_pickle_is_one_sentence(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    dcp.save({"model": {"llm.x": torch.ones(2)}}, checkpoint_id=tmp_path / "shards", no_dist=True)
    metadata = tmp_path / "shards" / ".metadata"
    if what == "code":
        metadata.write_bytes(pickle.dumps(Code()))
    elif what == "cut off":
        metadata.write_bytes(metadata.read_bytes()[:-20])
    else:
        metadata.unlink()
    capsys.readouterr()
    assert consolidate(tmp_path / "shards", whole, tmp_path / "out") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("Error: ")
    assert str(tmp_path / "shards") in said

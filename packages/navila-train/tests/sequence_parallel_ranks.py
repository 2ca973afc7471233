"""Processes that compute cases together and alone: `python sequence_parallel_ranks.py FOLDER WORLD ...`.

Writes FOLDER/WORLD.json: for each case the losses and how far gradients are from those of one process. One start for
all cases, and processes forked after the imports, as both take longer than the cases.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from navila.model import NavilaForCausalLM, build
from navila.model.adapters import add_lora
from navila.model.components import llm_backend
from navila_train.sequence_parallel import SequenceGroups, SequenceParallel, ShardedBatch, layout
from navila_train.tokenizers import build_word_tokenizer
from torch import Tensor, zeros_like

TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}
FAMILIES = ("llama", "mistral", "mixtral", "gemma", "gemma3_text", "qwen2", "qwen3", "phi3")


@dataclass(frozen=True, kw_only=True)
class Case:
    size: int
    ring: int = 1
    ring_type: str = "zigzag_ring_varlen"
    family: str = "llama"
    rows: str = "packed"
    """packed, single, left or right (two rows, padded on that side)."""
    llm: dict[str, Any] = field(default_factory=dict)
    documents: bool = True
    """False is the negative control: the samples of a row are not told apart."""
    checkpointing: bool = False
    items: bool = False
    """Divide by the labels of all groups, as the Trainer does."""
    lora: bool = False
    idle: bool = False
    """The last group has a row without images or labels, as at the end of a stream."""
    config: dict[str, Any] = field(default_factory=dict)


def cases(world: int) -> dict[str, Case]:
    """Every case for so many processes, by name."""
    found: dict[str, Case] = {}
    modes = {f"ring{ring}x{world // ring}": Case(size=world, ring=ring) for ring in (1, 2, 4, 8) if world % ring == 0}
    for mode, case in modes.items():
        sizes = {"size": case.size, "ring": case.ring}
        # As many heads as ranks, and fewer key heads.
        heads = {"num_attention_heads": 8, "head_dim": 8} if world == 8 else {}
        for rows in ("packed", "single"):
            found[f"{mode}-{rows}"] = Case(**sizes, rows=rows, llm=heads)
        found[f"{mode}-one-key-head"] = Case(**sizes, llm={**heads, "num_key_value_heads": 1})
        if world == 8:
            continue
        for rows in ("left", "right"):
            found[f"{mode}-{rows}"] = Case(**sizes, rows=rows)
        found[f"{mode}-checkpointing"] = Case(**sizes, checkpointing=True)
        found[f"{mode}-control"] = Case(**sizes, documents=False)
        if world == 2:
            for family in FAMILIES[1:]:
                window = {"sliding_window": 6} if family == "phi3" else {}
                found[f"{mode}-{family}"] = Case(**sizes, family=family, llm=window)
            found[f"{mode}-lora"] = Case(**sizes, lora=True, checkpointing=True)
            found[f"{mode}-time-tokens"] = Case(**sizes, config={"num_time_tokens": 8, "soft_ce_std": 1.5})
    if world == 8:
        return found
    found["contiguous-ring"] = Case(size=world, ring=2, ring_type="ring_varlen")
    # Three key heads on two or four ranks: neither divides the other.
    uneven = {"hidden_size": 48, "num_attention_heads": 12, "num_key_value_heads": 3, "head_dim": 8}
    found["uneven-heads"] = Case(size=world, llm=uneven)
    if world == 4:
        found["window-in-hybrid"] = Case(size=4, ring=2, family="mistral")
        for ring in (1, 2):
            found[f"two-groups-ring{ring}"] = Case(size=2, ring=ring, items=True)
            found[f"idle-group-ring{ring}"] = Case(size=2, ring=ring, items=True, idle=True)
        found["router-of-two-groups"] = Case(size=2, family="mixtral", rows="left")
    return found


class Undivided(SequenceParallel):
    """Forgets where samples of a row begin."""

    def shard(self, batch: Any, *, packed: bool) -> ShardedBatch:
        return super().shard(batch, packed=False)


def make_model(case: Case) -> NavilaForCausalLM:
    torch.manual_seed(0)
    config = {**llm_backend(case.family).tiny_config(), **case.llm}
    config = {name: value for name, value in config.items() if not name.endswith(("_token_id", "vocab_size"))}
    if "sliding_window" in config:
        # Shorter than some samples and longer than others.
        config["sliding_window"] = 6
    words = build_word_tokenizer(["a b c d e f g h"])
    model = build(config, TOWER, "mlp_downsample", words, attn_implementation="sdpa", **case.config)
    if case.lora:
        # Updates begin at zero, where half of their parameters learn nothing.
        add_lora(model, r=4, dropout=0.0, init_lora_weights=False)
    return model.train()


def make_batch(case: Case, model: NavilaForCausalLM, seed: int) -> dict[str, Tensor]:
    """Samples with and without images; frames that occur twice, and one that no token shows."""
    torch.manual_seed(100 + seed)
    single = case.rows == "single"
    lengths = (41,) if single else (13, 1, 17, 5, 2) if case.rows == "packed" else (19, 11)
    samples = []
    for length in lengths:
        ids = torch.randint(5, len(model.tokenizer), (length,))
        if case.config:
            ids[length // 2 :: 2] = torch.tensor(model.config.time_token_ids)[: len(ids[length // 2 :: 2])]
        if length > 10:
            ids[[2, 3, 7]] = -200
        samples.append(ids)
    labels = [torch.where((ids < 0) | (torch.arange(len(ids)) < len(ids) // 3), -100, ids) for ids in samples]
    for label in labels:
        label[0] = -100
    shown = sum(int((ids < 0).sum()) for ids in samples)
    batch = {
        "pixel_values": torch.rand(5, 3, 64, 64),
        "image_index": torch.arange(shown) % 4,
    }
    if case.rows in ("packed", "single"):
        row = {"input_ids": torch.cat(samples)[None], "labels": torch.cat(labels)[None]}
        positions = torch.cat([torch.arange(len(ids)) for ids in samples])[None]
        return {**batch, **row, "position_ids": positions}
    longest = max(lengths)

    def padded(rows: list[Tensor], value: int) -> Tensor:
        side = case.rows == "left"
        lacking = [(longest - len(row), 0) if side else (0, longest - len(row)) for row in rows]
        return torch.stack([torch.nn.functional.pad(r, p, value=value) for r, p in zip(rows, lacking, strict=True)])

    return {
        **batch,
        "input_ids": padded(samples, 0),
        "labels": padded(labels, -100),
        "attention_mask": padded([torch.ones_like(ids) for ids in samples], 0),
    }


def labels_in(batch: dict[str, Tensor]) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


def run_case(case: Case) -> dict[str, Any]:
    """Losses and gradients of one process and of all of them, on every rank alike."""
    world = dist.get_world_size()
    groups = SequenceGroups.open(case.size, case.ring, case.ring_type)
    model = make_model(case)
    batches = [make_batch(case, model, seed) for seed in range(groups.data_world)]
    if case.idle:
        row = {"input_ids": torch.tensor([[0]]), "labels": torch.tensor([[-100]])}
        batches[-1] = {**row, "position_ids": torch.tensor([[0]])}
    items = {"num_items_in_batch": torch.tensor(sum(map(labels_in, batches)))} if case.items else {}
    expected = 0.0
    for batch in batches:
        # The Trainer's way with a count: times processes, averaged over them.
        scale = 1.0 if case.items else 1 / len(batches)
        loss = model(**batch, **items).loss * scale
        loss.backward()
        expected += float(loss.detach())
    alone = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if case.checkpointing:
        model.llm.activation_checkpointing_enable()
    together = SequenceParallel(groups) if case.documents else Undivided(groups)
    together.prepare(model)
    share = model(**batches[groups.data_rank], **items, sequence_parallel=together).loss
    (share * world if case.items else share).backward()
    mean = share.detach() * (1 if case.items else 1 / world)
    dist.all_reduce(mean)
    parameters = dict(model.named_parameters())
    # All of them at once: ranks wait for each other each time.
    ours = [zeros_like(p) if p.grad is None else p.grad / world for p in parameters.values()]
    gradients = torch.cat([gradient.flatten() for gradient in ours])
    dist.all_reduce(gradients)
    reference = torch.cat([alone.get(name, zeros_like(p)).flatten() for name, p in parameters.items()])
    away = (gradients - reference).abs()
    errors = [float(part.max()) for part in away.split([p.numel() for p in parameters.values()])]
    return {
        "loss": float(mean),
        "expected": expected,
        "error": float(away.max()),
        "worst": list(parameters)[errors.index(max(errors))],
        "largest": float(reference.abs().max()),
        "trained": len(alone),
        "parameters": len(parameters),
    }


def run_probes(size: int, ring: int) -> dict[str, Any]:
    """For some places of a packed row: where a change would change the logits there, in documents and places."""
    case = Case(size=size, ring=ring)
    groups = SequenceGroups.open(size, ring)
    model = make_model(case)
    together = SequenceParallel(groups)
    together.prepare(model)
    batch = make_batch(case, model, 0)
    whole = model.embed(**{k: v for k, v in batch.items() if k != "image_index"}, image_index=batch["image_index"])
    length = whole.position_ids.shape[1]
    embeds = whole.inputs_embeds.detach().requires_grad_()
    rows = together.shard(type(whole)(**{**vars(whole), "inputs_embeds": embeds}), packed=True)
    logits = model.llm(inputs_embeds=rows.inputs_embeds, position_ids=rows.position_ids, shard=rows.shard).logits
    documents = (whole.position_ids[0] == 0).cumsum(0)
    leaks, blind = [], []
    for place in (0, length // 3, length // 2, length - 1):
        mine = (rows.shard.index == place)[None, :, None]
        gradient = torch.autograd.grad((logits * mine).sum(), embeds, retain_graph=True)[0]
        dist.all_reduce(gradient)
        seen = gradient[0].abs().sum(-1) > 0
        allowed = (documents == documents[place]) & (torch.arange(length) <= place)
        leaks += (seen & ~allowed).nonzero().flatten().tolist()
        blind += (allowed & ~seen).nonzero().flatten().tolist()
    return {"leaks": leaks, "blind": blind}


def run_disagreement() -> dict[str, Any]:
    """What is said when the ranks of a group read different batches."""
    case = Case(size=dist.get_world_size())
    model = make_model(case)
    together = SequenceParallel(SequenceGroups.open(case.size))
    together.prepare(model)
    batch = make_batch(case, model, dist.get_rank())
    if dist.get_rank():
        # As if the file of an image could be read on one machine only.
        del batch["pixel_values"], batch["image_index"]
        batch["input_ids"] = batch["input_ids"].clamp(min=0)[:, :-1]
    try:
        model(**batch, sequence_parallel=together)
    except Exception as error:
        return {"kind": type(error).__name__, "text": str(error)}
    return {}


def work(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    # Rows of some sixty tokens are of several tiles.
    layout.TILE = 5
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}", rank=rank, world_size=world)
    results: dict[str, Any] = {name: run_case(case) for name, case in cases(world).items()}
    if world < 8:
        for ring in (ring for ring in (1, 2, 4) if world % ring == 0):
            results[f"probes-ring{ring}"] = run_probes(world, ring)
        if world == 2:
            results["disagreement"] = run_disagreement()
    if rank == 0:
        Path(folder, f"{world}.json").write_text(json.dumps(results, indent=1))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    folder, *worlds = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = "1"
    # Otherwise every process, when it collects garbage, copies the memory of what was imported.
    gc.collect()
    gc.freeze()
    for world in map(int, worlds):
        torch.multiprocessing.start_processes(work, args=(world, Path(folder)), nprocs=world, start_method="fork")

"""Bytes that sequence parallelism sends, mode by mode, against their formulas; losses must equal one process first.

    python benchmarks/sequence_parallel.py [--processes 4] [--tokens 1024] [--heads 8] [--key-heads 2] [--layers 2]

Forks gloo processes on the CPU, builds one small model, and runs forward and backward of one packed row with images in
every mode that the processes allow. Every exchange is counted as it is made. For a row of S tokens on U * R ranks, with
s = S / (U R) tokens a rank, H heads and K' = lcm(K, U) key heads of C channels of b bytes, a rank sends a layer:

    Ulysses, forward and backward each    (U - 1) / U * (2 H + 2 K') * s * C * b
    ring, forward                         (R - 1) * 2 K' * s * C * b
    ring, backward                        (R - 1) * 2 K' * s * C * b  +  R * 2 K' * s * C * 4

the last for gradients, which travel in float32. Features of N frames of T tokens of D channels, encoded by G = U R
ranks, are n = ceil(N / G) frames a rank: (G - 1) * n * T * D * b forward, and as much backward.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Before torch is imported: processes share the cores.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import torch
import torch.distributed as dist
from navila.model import NavilaForCausalLM, build
from navila.model.packed_attention import PACKED
from navila_train.sequence_parallel import SequenceGroups, SequenceParallel
from navila_train.tokenizers import build_word_tokenizer

HEAD_DIM = 16
FRAMES = 10


@contextmanager
def counted(sent: Counter[str]) -> Iterator[None]:
    """Add up what this rank sends to others, by kind; batches' checksums, which are whole numbers, are left out."""
    originals = {
        name: getattr(dist, name)
        for name in ("all_to_all_single", "batch_isend_irecv", "all_gather_into_tensor", "reduce_scatter_tensor")
    }

    def counting(name: str, size: Callable[..., float]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            sent[name] += round(size(*args, **options))
            return originals[name](*args, **options)

        return call

    def share_of(_output: torch.Tensor, given: torch.Tensor, *, group: dist.ProcessGroup) -> float:
        return given.nbytes * (group.size() - 1) / group.size()

    def to_all_others(_output: torch.Tensor, given: torch.Tensor, *, group: dist.ProcessGroup) -> float:
        return given.nbytes * (group.size() - 1) if given.is_floating_point() else 0

    def sends(operations: list[dist.P2POp]) -> float:
        return sum(operation.tensor.nbytes for operation in operations if operation.op is dist.isend)

    sizes = {"all_to_all_single": share_of, "batch_isend_irecv": sends}
    sizes |= {"all_gather_into_tensor": to_all_others, "reduce_scatter_tensor": share_of}
    for name, size in sizes.items():
        setattr(dist, name, counting(name, size))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def formulas(model: NavilaForCausalLM, tokens: int, ulysses: int, ring: int) -> tuple[dict[str, float], ...]:
    """Bytes a rank sends, forward and backward, by kind, of a model in float32."""
    config = model.llm.config
    layers, heads, key_heads = config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads
    token = tokens / (ulysses * ring) * HEAD_DIM * 4
    key_heads = math.lcm(key_heads, ulysses)
    exchange = layers * (ulysses - 1) / ulysses * (2 * heads + 2 * key_heads) * token
    keys = layers * 2 * key_heads * token
    ranks = ulysses * ring
    features = (ranks - 1) * math.ceil(FRAMES / ranks) * model.tokens_per_image * config.hidden_size * 4
    forward = {"Ulysses": exchange, "ring": (ring - 1) * keys, "features": features}
    return forward, {**forward, "ring": (ring - 1) * keys + (ring * keys if ring > 1 else 0)}


def by_kind(sent: Counter[str]) -> dict[str, int]:
    return {
        "Ulysses": sent["all_to_all_single"],
        "ring": sent["batch_isend_irecv"],
        "features": sent["all_gather_into_tensor"] + sent["reduce_scatter_tensor"],
    }


def work(rank: int, options: argparse.Namespace, rendezvous: str) -> None:
    torch.set_num_threads(1)
    world = options.processes
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    torch.manual_seed(0)
    llm = {
        "model_type": "llama",
        "hidden_size": options.heads * HEAD_DIM,
        "intermediate_size": 2 * options.heads * HEAD_DIM,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.key_heads,
        "max_position_embeddings": options.tokens,
    }
    tower = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    words = build_word_tokenizer(["a b c d"])
    model = build(llm, tower, "mlp_downsample", words, attn_implementation=PACKED).train()
    # Of two samples; with the frames' tokens the row has as many as asked for.
    length = options.tokens - FRAMES * (model.tokens_per_image - 1)
    ids = torch.randint(5, len(words), (1, length))
    ids[0, 1 : FRAMES + 1] = -200
    first = length * 2 // 3
    batch = {
        "input_ids": ids,
        "labels": ids.masked_fill(ids < 0, -100),
        "position_ids": torch.cat([torch.arange(first), torch.arange(length - first)])[None],
        "pixel_values": torch.rand(FRAMES, 3, 64, 64),
    }
    expected = model(**batch).loss.detach()
    if rank == 0:
        print(f"{options.tokens} tokens on {world} processes, {options.heads} heads, {options.key_heads} key heads,")
        print(f"{options.layers} layers; a rank sends, in KiB:\n")
        print(f"{'mode':24}{'pass':10}{'exchange':10}{'measured':>12}{'formula':>12}{'ratio':>8}")
    for ring in (ring for ring in range(1, world + 1) if world % ring == 0):
        ulysses = world // ring
        if options.heads % ulysses or options.tokens % (2 * world):
            continue
        parallel = SequenceParallel(SequenceGroups.open(world, ring))
        parallel.prepare(model)
        sent: list[Counter[str]] = [Counter(), Counter()]
        with counted(sent[0]):
            loss = model(**batch, sequence_parallel=parallel).loss
        with counted(sent[1]):
            loss.backward()
        model.zero_grad()
        mean = loss.detach() / world
        dist.all_reduce(mean)
        if abs(mean - expected) > 1e-5:
            raise SystemExit(f"{ulysses} x {ring}: the loss is {mean}, and {expected} in one process")
        for name, measured, formula in zip(
            ("forward", "backward"), map(by_kind, sent), formulas(model, options.tokens, ulysses, ring), strict=True
        ):
            for kind, size in measured.items():
                if size != round(formula[kind]):
                    raise SystemExit(f"{ulysses} x {ring}, {name}, {kind}: {size} bytes, not {formula[kind]}")
                if rank == 0 and size:
                    mode = f"Ulysses {ulysses} x ring {ring}"
                    bytes_and_ratio = f"{size / 1024:12.1f}{formula[kind] / 1024:12.1f}{size / formula[kind]:8.3f}"
                    print(f"{mode:24}{name:10}{kind:10}{bytes_and_ratio}")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4, help="ranks that share the row (default: 4)")
    parser.add_argument("--tokens", type=int, default=1024, help="length of the row (default: 1024)")
    parser.add_argument("--heads", type=int, default=8, help="attention heads (default: 8)")
    parser.add_argument("--key-heads", type=int, default=2, help="heads of keys and values (default: 2)")
    parser.add_argument("--layers", type=int, default=2, help="layers of the language model (default: 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            work, args=(options, f"{folder}/rendezvous"), nprocs=options.processes, start_method="fork"
        )


if __name__ == "__main__":
    main()

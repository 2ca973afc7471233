"""What packing gains over padding: useful tokens of a row, and tokens a second of CPU time.

    python benchmarks/packing.py [--samples 150] [--rounds 5]

Lengths are drawn like those of NaVILA's mixture (its datasets' shares and mean lengths), divided by 8. The peer is what
the stock Trainer does: batches of 10 in random order, padded to the longest by transformers' own collator, attended to
by sdpa. Both run forward and backward over the same samples with the same weights, in turns; before anything is timed,
their losses are required to be equal. Ratios are medians over rounds, of CPU time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

#: Share of NaVILA's mixture, mean length in tokens and its spread, by dataset.
MIXTURE = (
    (0.26, 489, 150),
    (0.22, 1752, 20),
    (0.16, 1818, 40),
    (0.14, 1725, 25),
    (0.10, 1950, 120),
    (0.06, 1700, 60),
    (0.04, 1900, 150),
    (0.02, 1650, 10),
)
SCALE = 8
BATCH = 10
BUDGET = 16384 // SCALE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=150, help="samples a round (default: 150)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    options = parser.parse_args()

    import numpy as np
    import torch
    from navila.model.components import llm_backend
    from navila.model.packed_attention import PACKED, segments_of
    from navila_data.collator import pack_row
    from navila_data.packing import pack
    from navila_data.processor import Encoded
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    shares = np.array([share for share, _, _ in MIXTURE])
    drawn = generator.choice(len(MIXTURE), options.samples, p=shares / shares.sum())
    lengths = [max(int(generator.normal(MIXTURE[i][1], MIXTURE[i][2])) // SCALE, 8) for i in drawn]
    samples = []
    for length in lengths:
        ids = tuple(generator.integers(5, 500, length).tolist())
        samples.append(Encoded(input_ids=ids, labels=(-100, *ids[1:]), media=(), where=""))
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    collate = DataCollatorForSeq2Seq(PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>"))

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = {"model_type": "llama", "vocab_size": 512, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    models_of = {
        "padded": llm_backend("llama").build({**config, **sizes}, attn_implementation="sdpa"),
        "packed": llm_backend("llama").build({**config, **sizes}, attn_implementation=PACKED),
    }
    models_of["packed"].load_state_dict(models_of["padded"].state_dict())
    order = generator.permutation(options.samples).tolist()

    def padded() -> list[dict[str, torch.Tensor]]:
        rows = [
            {
                "input_ids": list(samples[i].input_ids),
                "labels": list(samples[i].labels),
                "attention_mask": [1] * lengths[i],
            }
            for i in order
        ]
        return [dict(collate(rows[first : first + BATCH])) for first in range(0, len(rows), BATCH)]

    def packed() -> list[dict[str, torch.Tensor]]:
        return [pack_row([samples[i] for i in row]) for row in pack(order, lengths, BUDGET)]

    batches = {"padded": padded(), "packed": packed()}

    def spend(name: str) -> tuple[float, float]:
        """CPU seconds of an epoch's forward and backward passes, and the summed loss."""
        model, total = models_of[name], 0.0
        began = time.process_time()
        for batch in batches[name]:
            extra = {"segments": segments_of(batch["position_ids"])} if name == "packed" else {}
            loss = model(**batch, **extra, use_cache=False, num_items_in_batch=1).loss
            loss.backward()
            total += float(loss.detach())
        model.zero_grad()
        return time.process_time() - began, total

    losses = {name: spend(name)[1] for name in batches}
    if abs(losses["packed"] / losses["padded"] - 1) > 1e-5:
        raise SystemExit(f"losses differ: {losses}")
    useful = sum(lengths)
    used = {name: sum(batch["input_ids"].numel() for batch in of) for name, of in batches.items()}
    ratios, rates = [], {name: [] for name in batches}
    for _ in range(options.rounds):
        seconds = {name: spend(name)[0] for name in batches}
        ratios.append(seconds["padded"] / seconds["packed"])
        for name, spent in seconds.items():
            rates[name].append(useful / spent)
    print(
        f"{options.samples} samples of {useful / options.samples:.0f} tokens on average; load {os.getloadavg()[0]:.1f}"
    )
    for name in batches:
        share, rate = useful / used[name], statistics.median(rates[name])
        print(f"{name}: {len(batches[name])} batches, {share:6.1%} of tokens useful, {rate:6.0f} useful tokens/s")
    print(f"useful tokens of a row x{used['padded'] / used['packed']:.2f}, tokens/s x{statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

"""Useful tokens a second of CPU time in training: `navila train --packing` against the stock Trainer.

    python benchmarks/trainers.py [--samples 120] [--rounds 5]

Conversations whose lengths are drawn like those of NaVILA's mixture, divided by 8, are trained on for an epoch,
optimizer included: by `transformers.Trainer` with batches of 10 in random order, padded by transformers' own collator
and attended to by sdpa; and by navila's, with rows packed to a budget. Language model, samples and labels are the same;
before anything is timed, the summed losses of both over the data are required to be equal. Ratios are medians over
rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

# Before torch is imported: the figures are for one core.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

from packing import BATCH, BUDGET, MIXTURE, SCALE
from side_by_side import cpu_seconds, print_machine

LLM = {
    **{"model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4},
    **{"num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 4096},
}
VISION = {
    **{"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": 32, "patch_size": 16},
}
COMMON = {"learning_rate": 1e-4, "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}


def conversations(count: int) -> list[dict[str, Any]]:
    """Questions and answers of random words, as long as NaVILA's samples are, divided by `SCALE`."""
    import numpy as np

    generator = np.random.default_rng(0)
    shares = np.array([share for share, _, _ in MIXTURE])
    drawn = generator.choice(len(MIXTURE), count, p=shares / shares.sum())
    lengths = [max(int(generator.normal(MIXTURE[i][1], MIXTURE[i][2])) // SCALE, 24) for i in drawn]
    records = []
    for number, length in enumerate(lengths):
        # The template of the conversation takes about 16 tokens.
        words = [chr(97 + word // 26) + chr(97 + word % 26) for word in generator.integers(0, 400, length - 16)]
        question, answer = " ".join(words[:4]), " ".join(words[4:])
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append({"id": str(number), "conversations": turns})
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=120, help="samples of an epoch (default: 120)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each (default: 5)")
    options = parser.parse_args()

    import torch
    from navila.model.packed_attention import PACKED
    from navila_data.stream import Position
    from navila_train.feed import make_feed, open_mixture
    from navila_train.parse import parse_flags
    from navila_train.run import make_model, make_trainer, prepare
    from navila_train.safe_trainer import Safety
    from navila_train.stopping import StopSignals
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    (folder / "annotations.json").write_text(json.dumps(conversations(options.samples)))
    flags = {
        **{"llm": json.dumps(LLM), "vision_tower": json.dumps(VISION), "mm_projector": "linear", "tokenizer": "words"},
        **{"conversation": "llama_3", "data_mixture": f"llava:{folder}", "model_max_length": BUDGET},
        **{"packing": True, "packing_tokens": BUDGET, "output_dir": folder / "ours", "num_train_epochs": 1, **COMMON},
    }
    arguments = parse_flags([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    mixture = open_mixture(arguments, arguments.data.data_mixture)
    model = make_model(arguments)
    prepare(model, arguments, None)
    model.llm.set_attn_implementation(PACKED)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def ours() -> Any:
        model.load_state_dict(weights)
        model.llm.set_attn_implementation(PACKED)
        feed = make_feed(model, mixture, arguments, max_length=BUDGET, rank=0, world=1, start=Position())
        return make_trainer(Safety.of(arguments.training, StopSignals(), 0.0), model, feed, arguments)

    samples = ours().feed.dataset
    rows = [samples[item] for batch in ours().feed.batches for item in batch]
    plain = [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in rows]

    def stock() -> Any:
        model.load_state_dict(weights)
        model.llm.set_attn_implementation("sdpa")
        settings = TrainingArguments(
            output_dir=str(folder / "stock"), per_device_train_batch_size=BATCH, num_train_epochs=1, **COMMON
        )
        collate = DataCollatorForSeq2Seq(model.tokenizer)
        return Trainer(model=model.llm, args=settings, train_dataset=plain, data_collator=collate)  # type: ignore[arg-type]

    def summed_loss(trainer: Any) -> float:
        total = 0.0
        for batch in trainer.get_train_dataloader():
            batch.pop("notes", None)
            with torch.no_grad():
                total += float(trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=1))
        return total

    trainers = {"stock": stock, "navila": ours}
    losses = {name: summed_loss(make()) for name, make in trainers.items()}
    if abs(losses["navila"] / losses["stock"] - 1) > 1e-5:
        raise SystemExit(f"losses differ: {losses}")
    useful = sum(len(row["input_ids"]) for row in plain)
    rounds = [{name: cpu_seconds(make().train) for name, make in trainers.items()} for _ in range(options.rounds)]
    print_machine()
    print(f"{len(plain)} samples of {useful / len(plain):.0f} tokens on average, summed loss {losses['stock']:.2f}")
    for name in trainers:
        print(f"{name}: {useful / statistics.median(times[name] for times in rounds):6.0f} useful tokens/s")
    ratios = sorted(times["stock"] / times["navila"] for times in rounds)
    print(f"tokens/s x{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()

"""Navigation decisions a second of CPU time in training, and what sharing frames and beginnings saves.

    python benchmarks/train_steps.py [--image-size 64] [--batch 64] [--steps 3] [--bf16]

Records tours of one house, builds a model of about 1.7 million parameters, and runs forward and backward of the same
batches in three ways: every sample encodes its own frames; each distinct frame of the batch is encoded once; samples
with the same frames share a row besides. Their losses must be equal.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

# Before torch is imported: the figures are for one core.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=64, help="side of the frames in pixels (default: 64)")
    parser.add_argument("--batch", type=int, default=64, help="samples a batch (default: 64)")
    parser.add_argument("--steps", type=int, default=3, help="batches (default: 3)")
    parser.add_argument("--bf16", action="store_true", help="mixed precision with eager attention")
    options = parser.parse_args()

    import torch
    from navila.model import build
    from navila_data.collator import Collator
    from navila_data.frames import FrameStore, PixelPipeline
    from navila_data.mixture import Mixture
    from navila_data.procedural import RecordSettings
    from navila_data.processor import EncodedMixture, Processor
    from navila_data.recording import record
    from navila_data.sampler import EpochIndex, GroupedSampler
    from navila_train.feed import texts_of
    from navila_train.tokenizers import build_word_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "tours"
        record(RecordSettings(what="tours", episodes=5, image_size=options.image_size, max_steps=60), data)
        mixture = Mixture.open(f"vln:{data}")
        sizes = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
        model = build(
            {"model_type": "llama", **sizes, "num_hidden_layers": 4, "num_key_value_heads": 4},
            {
                **{"model_type": "siglip_vision_model", **sizes, "num_hidden_layers": 3},
                **{"image_size": options.image_size, "patch_size": 16},
            },
            "mlp_downsample",
            build_word_tokenizer(texts_of(mixture)),
            template="llama_3",
            image_aspect_ratio="resize",
            attn_implementation="eager" if options.bf16 else "sdpa",
        )
        processor = Processor(
            tokenizer=model.tokenizer,
            template=model.template,
            tokens_per_image=model.tokens_per_image,
            max_length=1024,
        )
        encoded = EncodedMixture(mixture, processor)
        order = GroupedSampler(mixture.groups(), chunk=options.batch // 2).order(0)
        pixels = PixelPipeline(model.image_processor, "resize")

        def spend(share_prefix: bool, encode_once: bool) -> tuple[float, float]:
            """CPU seconds of all steps after collation, and the mean loss."""
            collator = Collator(
                frames=FrameStore(pixels.resize),
                to_tensor=pixels.to_tensor,
                pad_token_id=model.tokenizer.pad_token_id,
                share_prefix=share_prefix,
            )
            spent, losses = 0.0, []
            for step in range(-1, options.steps):
                start = max(step, 0) * options.batch
                batch = collator([encoded[EpochIndex(0, i)] for i in order[start : start + options.batch]])
                assert not batch.pop("notes").failures
                if not encode_once:
                    batch["pixel_values"] = batch["pixel_values"][batch.pop("image_index")]
                began = time.process_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                    loss = model(**batch, supervised_logits_only=True).loss
                loss.backward()
                model.zero_grad()
                # The first batch is run twice: once to warm up.
                if step >= 0:
                    spent += time.process_time() - began
                    losses.append(float(loss.detach()))
            return spent, sum(losses) / len(losses)

        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(f"{millions:.1f} M parameters, {model.tokens_per_image} tokens a frame")
        baseline = None
        for name, share_prefix, encode_once in (
            ("frames of each sample", False, False),
            ("distinct frames once", False, True),
            ("and beginnings once", True, True),
        ):
            spent, loss = spend(share_prefix, encode_once)
            baseline = baseline or (spent, loss)
            if abs(loss - baseline[1]) > (0.05 if options.bf16 else 1e-4):
                raise SystemExit(f"{name}: loss {loss} differs from {baseline[1]}")
            rate = options.batch * options.steps / spent
            print(f"{name:24} {rate:6.0f} decisions/s of CPU time   x{baseline[0] / spent:.2f}   loss {loss:.4f}")


if __name__ == "__main__":
    main()

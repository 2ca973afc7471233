"""Evaluation while training: it tells what it should, the same for any number of processes, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from navila.errors import ConfigError, NavilaError
from navila_train.parse import parse_flags
from navila_train.run import run
from safetensors.torch import load_file

EVERY_TWO = ("--eval_strategy", "steps", "--eval_steps", 2)
SHORT = (
    "--max_steps",
    4,
    "--logging_steps",
    1,
    "--save_strategy",
    "no",
    "--history_dropout",
    0.5,
    "--augment",
    "jitter",
)


def train(*flags: object) -> None:
    run(parse_flags([str(flag) for flag in flags]))


def weights(output: Path) -> dict[str, torch.Tensor]:
    return {f"{f.parent.name}.{k}": t for f in sorted(output.glob("*/*.safetensors")) for k, t in load_file(f).items()}


def log_of(output: Path, key: str) -> list[dict]:
    lines = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


@pytest.fixture(scope="module")
def held_out(walks: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The last walk under a name of its own, and a range of all."""
    folder = tmp_path_factory.mktemp("held-out")
    records = json.loads((walks / "annotations.json").read_text())
    (folder / "annotations.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "image": f"images/{record['frames'][-1]}",
                    "conversations": [
                        {"from": "human", "value": f"<image>\n{record['q']}"},
                        {"from": "gpt", "value": record["a"]},
                    ],
                }
            )
            + "\n"
            for record in records[-7:]
        )
    )
    (folder / "images").symlink_to(walks / "train")
    return f"llava:{folder}+vln:{walks}[:13]"


@pytest.fixture(scope="module")
def plain(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that is never evaluated."""
    output = tmp_path_factory.mktemp("plain")
    train("--config", recipe, "--output_dir", output, *SHORT)
    return output


@pytest.fixture(scope="module")
def evaluated(recipe: Path, held_out: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, evaluated twice on held-out data and in houses."""
    output = tmp_path_factory.mktemp("evaluated")
    houses = "benchmark:task=houses,limit=2,max_steps=4,batch_size=2"
    flags = ("--eval_data_mixture", held_out, *EVERY_TWO, "--callback", houses, "--per_device_eval_batch_size", 3)
    train("--config", recipe, "--output_dir", output, *SHORT, *flags)
    return output


def test_a_training_with_evaluations_ends_in_the_same_bits(plain: Path, evaluated: Path):
    one, two = weights(plain), weights(evaluated)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert [x["loss"] for x in log_of(plain, "loss")] == [x["loss"] for x in log_of(evaluated, "loss")]


def test_the_log_tells_the_loss_of_each_source_and_of_all(evaluated: Path):
    lines = log_of(evaluated, "eval_loss")
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        both = sorted((line["eval_llava_loss"], line["eval_vln_loss"]))
        assert both[0] < line["eval_loss"] < both[1]
    assert lines[1]["eval_loss"] < lines[0]["eval_loss"]


def test_the_loss_is_the_mean_over_all_labels_of_the_data_themselves(evaluated: Path, held_out: str):
    """Computed again from the saved model, sample by sample."""
    import navila
    from navila_data.collator import Collator
    from navila_data.dataset import LoadOptions
    from navila_data.frames import FrameStore, PixelPipeline
    from navila_data.mixture import Mixture
    from navila_data.processor import EncodedMixture, Processor
    from navila_data.sampler import EpochIndex

    model = navila.load(evaluated, device="cpu", dtype="float32")
    pixels = PixelPipeline(model.image_processor, model.config.image_aspect_ratio)
    collator = Collator(
        frames=FrameStore(pixels.resize), to_tensor=pixels.to_tensor, pad_token_id=model.tokenizer.pad_token_id
    )
    assert model.template is not None
    processor = Processor(
        tokenizer=model.tokenizer,
        template=model.template,
        tokens_per_image=model.tokens_per_image,
        max_length=256,
        image_ids=model.image_ids,
    )
    data = EncodedMixture(Mixture.open(held_out, None, LoadOptions(num_frames=4)), processor)
    total, count = 0.0, 0
    for index in range(len(data)):
        batch = collator([data[EpochIndex(0, index)]])
        del batch["notes"]
        with torch.no_grad():
            total += float(model(**batch, num_items_in_batch=1).loss)
        count += int((batch["labels"] != -100).sum())
    assert log_of(evaluated, "eval_loss")[-1]["eval_loss"] == pytest.approx(total / count, rel=1e-5)


def test_houses_are_walked_and_their_records_kept(evaluated: Path):
    lines = log_of(evaluated, "eval_houses_sr")
    assert [line["step"] for line in lines] == [2, 4]
    assert {"eval_houses_spl", "eval_houses_ne", "eval_houses_steps"} <= lines[0].keys()
    for step in (2, 4):
        folder = evaluated / "eval" / f"step-{step}" / "houses"
        results = json.loads((folder / "results.json").read_text())
        assert results["episodes"] == 2
        assert (folder / "report.html").is_file()
        assert len((folder / "episodes.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("layout", [("--packing", "--packing_tokens", 512), ("--share_prefix",)])
def test_rows_of_several_samples_have_the_same_loss(recipe: Path, held_out: str, layout: tuple, tmp_path: Path):
    flags = ("--config", recipe, "--max_steps", 1, "--learning_rate", 0, "--eval_data_mixture", held_out)
    flags += ("--eval_strategy", "steps", "--eval_steps", 1, "--save_strategy", "no")
    train(*flags, "--output_dir", tmp_path / "one")
    train(*flags, "--output_dir", tmp_path / "two", *layout)
    one, two = (log_of(tmp_path / name, "eval_loss")[0] for name in ("one", "two"))
    for name in ("eval_loss", "eval_vln_loss", "eval_llava_loss"):
        assert one[name] == pytest.approx(two[name], abs=1e-5)


def test_any_number_of_processes_tells_the_same(processes: Any, recipe: Path, held_out: str, tmp_path: Path):
    """Two with batches of their own, and two that share every row; the first walks episodes, the other waits."""
    houses = "benchmark:task=houses,limit=1,max_steps=3"
    flags = ("--max_steps", 2, "--logging_steps", 1, "--save_strategy", "no", "--learning_rate", 0)
    flags += ("--eval_data_mixture", held_out, "--eval_strategy", "steps", "--eval_steps", 1, "--callback", houses)
    flags += ("--packing", "--packing_tokens", 512, "--ddp_backend", "gloo")
    told = []
    for ranks, more in ((1, ()), (2, ()), (2, ("--seq_parallel_size", 2))):
        output = tmp_path / f"run-{len(told)}"
        processes.run("train", "--config", recipe, "--output_dir", output, *flags, *more, ranks=ranks)
        told.append(log_of(output, "eval_loss")[0])
    for other in told[1:]:
        for name in ("eval_loss", "eval_vln_loss", "eval_llava_loss"):
            assert other[name] == pytest.approx(told[0][name], abs=1e-6)
        assert other["eval_houses_ne"] == told[0]["eval_houses_ne"]


def test_divided_weights_tell_the_same(processes: Any, recipe: Path, held_out: str, tmp_path: Path):
    """ZeRO 3, an odd number of batches: the last process has none for the last one, and computes nothing beside it."""
    pytest.importorskip("deepspeed")
    automatic = dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu"), "auto")
    config = {"zero_optimization": {"stage": 3}, "zero_allow_untested_optimizer": True, "gradient_clipping": "auto"}
    (tmp_path / "zero.json").write_text(json.dumps({**config, **automatic}))
    flags = ("--config", recipe, "--max_steps", 1, "--save_strategy", "no", "--learning_rate", 0)
    flags += ("--eval_data_mixture", held_out, "--eval_strategy", "steps", "--eval_steps", 1)
    flags += ("--per_device_eval_batch_size", 5)
    train(*flags, "--output_dir", tmp_path / "one")
    divided = ("--ddp_backend", "gloo", "--deepspeed", tmp_path / "zero.json")
    processes.run("train", *divided, "--output_dir", tmp_path / "two", *flags, ranks=2)
    one, two = (log_of(tmp_path / name, "eval_loss")[0] for name in ("one", "two"))
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], abs=1e-6)


def test_the_best_checkpoint_becomes_the_model(recipe: Path, held_out: str, tmp_path: Path):
    """A rate that ruins the model: the first evaluation stays the best."""
    flags = ("--max_steps", 4, "--learning_rate", 1, "--save_steps", 2, "--load_best_model_at_end", *EVERY_TWO)
    train("--config", recipe, "--output_dir", tmp_path, *flags, "--eval_data_mixture", held_out)
    losses = [line["eval_loss"] for line in log_of(tmp_path, "eval_loss")]
    best = 2 if losses[0] < losses[1] else 4
    final, kept = weights(tmp_path), weights(tmp_path / f"checkpoint-{best}")
    assert all(torch.equal(final[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--eval_data_mixture", "vln:{walks}"], "never looked at"),
        ([*EVERY_TWO], "nothing to evaluate"),
        (["--callback", "benchmark:task=houses"], "never score"),
        ([*EVERY_TWO, "--callback", "benchmark:task=hauses"], "houses"),
        ([*EVERY_TWO, "--callback", "benchmark:tsk=houses"], "no option 'tsk'"),
        ([*EVERY_TWO, "--callback", "benchmark:houses"], "KEY=VALUE"),
        ([*EVERY_TWO, "--callback", "benchmark:limit=few"], "number as limit"),
        ([*EVERY_TWO, "--callback", "benchmark:split=level9"], "no split 'level9'"),
        ([*EVERY_TWO, "--callback", "benchmarks"], "did you mean 'benchmark'"),
        ([*EVERY_TWO, "--eval_data_mixture", "nowhere:x"], "nowhere"),
        (
            [*EVERY_TWO, "--eval_data_mixture", "vln:{walks}", "--metric_for_best_model", "sr"],
            "sr is not among what is evaluated: eval_loss, eval_vln_loss",
        ),
    ],
)
def test_a_wrong_choice_is_one_sentence(recipe: Path, walks: Path, tmp_path: Path, flags: list[object], match: str):
    words = [str(flag).replace("{walks}", str(walks)) for flag in flags]
    with pytest.raises(NavilaError, match=match) as caught:
        train("--config", recipe, "--output_dir", tmp_path / "run", "--max_steps", 2, "--save_strategy", "no", *words)
    assert "\n" not in str(caught.value)


def test_a_divided_model_is_not_given_to_callbacks():
    from navila_eval.callback import BenchmarkCallback
    from navila_train.evaluation import require_whole_model

    require_whole_model([BenchmarkCallback()], divided=None)
    with pytest.raises(ConfigError, match="ZeRO 3 divides it"):
        require_whole_model([BenchmarkCallback()], divided="ZeRO 3")

"""What DeepSpeed leaves becomes a checkpoint, equal to what was trained; real trainings of two processes on the CPU."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.cli import main
from torch import Tensor

pytest.importorskip("deepspeed")
# Each training starts two processes that import DeepSpeed.
pytestmark = pytest.mark.slow

#: Half precision, the vision encoder frozen.
HALF = ("--bf16", "--tune_language_model", "--tune_mm_projector")


@pytest.fixture(scope="session")
def trained(processes: Any, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a few steps under a stage of ZeRO; the run's folder, made once for each setting."""
    folder = tmp_path_factory.mktemp("zero")
    runs: dict[str, Path] = {}

    def train(stage: int, *flags: str, gather: bool = True) -> Path:
        key = f"{stage}{gather}{flags}"
        if key not in runs:
            run = folder / str(len(runs))
            config = {
                "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": gather},
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": "auto"},
                "train_batch_size": "auto",
                "train_micro_batch_size_per_gpu": "auto",
                "gradient_clipping": "auto",
            }
            (folder / f"{len(runs)}.json").write_text(json.dumps(config))
            flags = ("--max_steps", "3", "--save_steps", "2", "--per_device_train_batch_size", "2", *flags)
            engine = ("--deepspeed", folder / f"{len(runs)}.json")
            processes.run("train", "--config", recipe, "--output_dir", run, *engine, *flags, ranks=2)
            runs[key] = run
        return runs[key]

    return train


def weights_of(folder: Path) -> dict[str, Tensor]:
    return navila.load(folder, device="cpu", dtype="float32").state_dict()


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("stage", [2, 3])
def test_shards_give_the_weights_that_the_training_gathered(trained: Callable, tmp_path: Path, stage: int) -> None:
    checkpoint = trained(stage) / "checkpoint-2"
    gathered = weights_of(checkpoint)
    assert main(["model", "consolidate", str(checkpoint / "global_step2"), "--output", str(tmp_path / "out")]) == 0
    assert_equal(weights_of(tmp_path / "out"), gathered)
    files = {path.relative_to(checkpoint) for part in ("llm", "vision_tower") for path in (checkpoint / part).iterdir()}
    assert all((tmp_path / "out" / file).is_file() for file in files)


def test_half_precision_with_frozen_parts_gives_deepspeeds_own_masters(trained: Callable, tmp_path: Path) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    run = trained(3, *HALF, gather=False)
    # The run's own folder holds configs and shards, as ZeRO-3 leaves them when it gathers nothing.
    assert not (run / "llm" / "model.safetensors").exists()
    assert main(["model", "consolidate", str(run), "--output", str(tmp_path / "out")]) == 0
    masters = get_fp32_state_dict_from_zero_checkpoint(str(run))
    assert_equal(weights_of(tmp_path / "out"), {name: tensor.float() for name, tensor in masters.items()})
    assert main(["model", "consolidate", str(run), "--output", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    halved = {name: tensor.bfloat16().float() for name, tensor in masters.items()}
    assert_equal(weights_of(tmp_path / "half"), halved)


def test_configs_come_from_a_base_where_the_shards_are_alone(
    trained: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(3)
    shutil.copytree(run / "checkpoint-2" / "global_step2", tmp_path / "a" / "b" / "global_step2")
    command = ["model", "consolidate", str(tmp_path / "a" / "b" / "global_step2"), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--model-base" in capsys.readouterr().err
    assert main([*command, "--model-base", str(run)]) == 0
    assert_equal(weights_of(tmp_path / "out"), weights_of(run / "checkpoint-2"))


def test_a_whole_checkpoint_is_copied_without_its_optimizer(trained: Callable, tmp_path: Path) -> None:
    checkpoint = trained(2) / "checkpoint-2"
    assert main(["model", "consolidate", str(checkpoint), "--output", str(tmp_path / "out")]) == 0
    assert_equal(weights_of(tmp_path / "out"), weights_of(checkpoint))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "llm",
        "vision_tower",
        "mm_projector",
    }


@pytest.mark.parametrize("what", ["rank missing", "optimizer missing", "cut off", "code", "another model"])
def test_broken_shards_are_one_sentence(
    trained: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained(3, *HALF, gather=False), folder)
    step = next(folder.glob("global_step*"))
    file = next(step.glob("*_rank_1_*_optim_states.pt"))
    says = str(file)
    if what == "rank missing":
        file.unlink()
        says = "1 files *_optim_states.pt of the 2"
    elif what == "optimizer missing":
        for path in step.glob("*_optim_states.pt"):
            path.unlink()
        says = "no *_optim_states.pt"
    elif what == "cut off":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif what == "code":
        torch.save({"optimizer_state_dict": {"zero_stage": subprocess.run}}, file)
    else:
        config = json.loads((folder / "llm" / "config.json").read_text())
        (folder / "llm" / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
        says = "mlp."
    capsys.readouterr()
    assert main(["model", "consolidate", str(folder), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("Error: ")
    assert says in said
    assert not (tmp_path / "out" / "config.json").exists()

"""Contracts of commands and training callbacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila.checks import HEAVY
from navila.registry import Entry
from navila.testing.contract import ComponentContract

if TYPE_CHECKING:
    import click


class CommandContract(ComponentContract):
    """Tests every sub-command of `navila` passes."""

    kind = "command"

    def test_help_is_shown_without_heavy_imports(self, entry: Entry[Any]) -> None:
        program = (
            "import sys; from navila.cli import main; code = main([sys.argv[1], '--help']); "
            f"print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, entry.full_name], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Usage: navila" in done.stdout
        assert done.stdout.splitlines()[-1] == "HEAVY"

    def test_help_says_what_it_does(self, component: click.Command) -> None:
        assert component.help

    def test_an_unknown_option_is_refused(self, entry: Entry[Any]) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "navila", entry.full_name, "--no-such-option"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "--no-such-option" in done.stderr
        assert "Traceback" not in done.stderr


class CallbackContract(ComponentContract):
    """Tests every training callback passes: it goes through a short real training."""

    kind = "callback"

    def test_a_training_runs_with_it(self, tiny: Any, tmp_path: Path) -> None:
        import torch
        from transformers import Trainer, TrainingArguments

        class Line(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.slope = torch.nn.Parameter(torch.zeros(()))

            def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"loss": (self.slope * x - labels).square().mean()}

        points = [{"x": torch.tensor(float(n)), "labels": torch.tensor(2.0 * n)} for n in range(4)]
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="steps",
            save_steps=1,
        )
        trainer = Trainer(model=Line(), args=arguments, train_dataset=points, callbacks=[tiny])  # type: ignore[arg-type]
        trainer.train()
        assert trainer.state.global_step == 2

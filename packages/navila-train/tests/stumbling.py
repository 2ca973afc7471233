"""Callbacks that make a training stumble, told how by environment variables; a plugin that tests name by its path."""

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from navila.hookspecs import hookimpl
from navila.specs import CallbackSpec
from transformers import TrainerCallback


def _place(name: str) -> tuple[int, int]:
    """`STEP` or `STEP:RANK`: the step and the rank that something is to happen at, -1 for any rank."""
    step, _, rank = os.environ.get(name, "-1").partition(":")
    return int(step), int(rank or -1)


def _here(name: str, step: int) -> bool:
    at, rank = _place(name)
    return step == at and rank in (-1, int(os.environ.get("RANK", "0")))


class Stumble(TrainerCallback):
    """HANG=STEP:RANK sleeps for ever, SLOW=RANK each step; NAN, SPIKE and BAD_GRADIENT=STEP:RANK spoil a step.

    HOLD=STEP goes no further before the file UNTIL is there.
    """

    def __init__(self) -> None:
        self.met = math.inf

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        weight = next(model.mm_projector.parameters())

        def after(_module: Any, _inputs: Any, output: Any) -> Any:
            step = state.global_step + 1
            if _here("NAN", step) or step in range(*map(int, os.environ.get("NANS", "0,0").split(","))):
                output.loss = output.loss * float("nan")
            if _here("SPIKE", step):
                output.loss = output.loss * 100
            if _here("BAD_GRADIENT", step):
                # A root's slope at 0 is no number, times 0.
                output.loss = output.loss + 0 * (weight - weight.detach()).sum().sqrt()
            return output

        model.register_forward_hook(after)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, rank = state.global_step + 1, os.environ.get("RANK", "0")
        if _here("HANG", step):
            time.sleep(3600)
        while _here("HOLD", step) and not Path(os.environ["UNTIL"]).exists():
            time.sleep(0.01)
        if os.environ.get("SLOW") == rank:
            # Slow is whoever takes several times what the others take, and they may be on a busy machine.
            time.sleep(max(0.2, 5 * (time.monotonic() - self.met)))
        if "PACE" in os.environ:
            time.sleep(float(os.environ["PACE"]))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.met = time.monotonic()


@hookimpl
def navila_callbacks() -> Iterable[CallbackSpec]:
    yield CallbackSpec(name="stumble", target=f"{__name__}:Stumble", summary="Stumbles")

"""Which checkpoint of a run is whole, and whether the run is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from navila.errors import CheckpointError, ConfigError
from navila.files import write_atomically
from navila_data.stream import Position

from navila_train.checkpoint_files import damage, numbered, resumable

#: Written into the output folder last of all.
MARKER = "training.json"
#: Written into a `checkpoint-N` folder by the Trainer.
STATE = "trainer_state.json"

#: Where in the stream of batches a `checkpoint-N` was written.
POSITION = "data_position.json"


def finished(output: Path) -> Mapping[str, Any] | None:
    """What the completion marker of a finished run says, or None."""
    try:
        marker = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if marker.get("complete") else None


def mark_finished(output: Path, facts: Mapping[str, Any]) -> None:
    """Write the completion marker."""
    write_atomically(output / MARKER, json.dumps({"complete": True, **facts}, indent=2, default=str) + "\n")


def mark_position(checkpoint: Path, *, batches: int, data: str, counted: Mapping[str, Any]) -> None:
    """Write how many batches of which stream had been trained on, and what was counted on the way."""
    facts = {"batches": batches, "data": data, "counted": counted}
    write_atomically(checkpoint / POSITION, json.dumps(facts, indent=2) + "\n")


def position(checkpoint: Path, accumulation: int) -> Position:
    """Where a checkpoint's training was, in micro-batches of `gradient_accumulation_steps`.

    Raises:
        CheckpointError: the checkpoint does not say.
    """
    steps = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"] * accumulation
    return Position(steps=steps, batches=_read_position(checkpoint)["batches"])


def counted(checkpoint: Path) -> Mapping[str, Any]:
    """What was counted until a checkpoint was written: the `loss` of all steps together, and `data` (`FailureLog`).

    Raises:
        CheckpointError: the checkpoint does not say.
    """
    return _read_position(checkpoint)["counted"]


def require_same_data(checkpoint: Path, data: str) -> None:
    """Make sure that a checkpoint's position is one in this stream of batches.

    Raises:
        ConfigError: the data, their order or the batch size have changed.
    """
    if _read_position(checkpoint)["data"] != data:
        raise ConfigError(
            f"{checkpoint} was trained on other data, or with another seed or batch size, so what remains of them "
            "cannot be told: give the same, or go on from its weights with --model_name_or_path in a new --output_dir."
        )


def _read_position(checkpoint: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((checkpoint / POSITION).read_text(encoding="utf-8"))
        counted = {"loss": float(found["counted"]["loss"]), "data": dict(found["counted"]["data"])}
        return {"batches": int(found["batches"]), "data": str(found["data"]), "counted": counted}
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{checkpoint} does not say where its training was in the data (it has no {POSITION}): go on from its "
            "weights with --model_name_or_path in a new --output_dir."
        ) from None


def newest_whole(output: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that training can go on from; `tell` hears of newer ones that cannot be used, and why."""
    for _, folder in reversed(numbered(output)):
        if not (why := unusable(folder)):
            return folder
        tell(f"{folder} cannot be gone on from, an earlier one is taken: {why}")
    return None


def unusable(checkpoint: Path) -> str:
    """Why training cannot go on from a checkpoint; empty if it can."""
    if why := damage(checkpoint):
        return why
    return "" if resumable(checkpoint) else "--save_only_model left its optimizer out"


def to_resume(
    choice: str | None, output: Path, *, auto: bool = True, tell: Callable[[str], None] = print
) -> Path | None:
    """The checkpoint to resume from: `none`/`False` begins anew, a path names it, anything else takes the newest.

    Without `auto` and without a choice it begins anew, too. `tell` hears of damaged checkpoints that are passed over.

    Raises:
        CheckpointError: the named checkpoint is partial, or no checkpoint.
    """
    match (choice or ("auto" if auto else "none")).lower():
        case "none" | "false":
            return None
        case "auto" | "true":
            return newest_whole(output, tell)
    folder = Path(str(choice))
    if why := unusable(folder):
        raise CheckpointError(
            f"{folder} is no complete checkpoint of a training ({why}): name another checkpoint-N folder, or `auto`."
        )
    return folder

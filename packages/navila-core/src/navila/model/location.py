"""Where a checkpoint is and what its JSON says; light, so that a wrong path is told before torch is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from navila.errors import CheckpointError, reason

#: `model_type` values of checkpoints of the released layout.
MODEL_TYPES = ("llava_llama", "llava", "navila")
#: Files of Hub repositories that hold the same weights for other libraries.
_NOT_NEEDED = ("original/*", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5")


def checkpoint_folder(path: str | Path) -> Path:
    """The folder of a checkpoint or part, downloaded first when `path` is a Hub id.

    Raises:
        CheckpointError: there is no such folder, and it cannot be downloaded.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        # Some training runs leave the model one level down.
        return folder / "model" if not (folder / "config.json").is_file() and (folder / "model").is_dir() else folder
    name = str(path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise CheckpointError(f"{name!r} is no folder here, nor an id of the form owner/name: check the path.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=list(_NOT_NEEDED)))
    except Exception as error:
        raise CheckpointError(
            f"{name!r} is no folder here and cannot be downloaded from the Hugging Face Hub ({reason(error)}): check "
            "the name, the network, or fetch it elsewhere and give its folder."
        ) from error


def read_root(folder: Path) -> dict[str, Any]:
    """The top `config.json` of a composed model.

    Raises:
        CheckpointError: it is missing, unreadable or of another kind of model, or a part's folder is missing.
    """
    path = folder / "config.json"
    steps = [f for f in folder.glob("checkpoint-*") if f.name.removeprefix("checkpoint-").isdecimal()]
    if steps and not path.is_file():
        last = max(steps, key=lambda f: int(f.name.removeprefix("checkpoint-")))
        raise CheckpointError(f"{folder} is the folder of a training run: give one of its checkpoints, e.g. {last}.")
    raw = read_json(path)
    model_type = raw.get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{path} has model_type {model_type!r}, no composed model: expected one of {', '.join(MODEL_TYPES)}."
        )
    for part in ("llm", "vision_tower", "mm_projector"):
        # A projector without parameters has no folder in the original's checkpoints.
        needed = part != "mm_projector" or not isinstance(raw.get("mm_projector_cfg"), Mapping)
        if needed and not (folder / part).is_dir():
            raise CheckpointError(f"{folder} has no folder {part}/: the checkpoint is partial.")
    return raw


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing, unreadable or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the checkpoint is partial, or this is not its folder.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): fetch the file again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} where a JSON object is expected: fetch it again.")
    return value

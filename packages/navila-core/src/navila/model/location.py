"""Where a checkpoint is and what its JSON says; light, so that a wrong path is told before torch is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from navila.errors import CheckpointError, reason
from navila.model.layouts import MODEL_TYPES, PROJECTOR_FILE, layout_of

__all__ = ["ADAPTER_CONFIG", "MODEL_TYPES", "checkpoint_folder", "read_json", "read_root", "split_adapter"]

#: What makes a folder that of an adapter, as PEFT writes it.
ADAPTER_CONFIG = "adapter_config.json"
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
    if folder.is_file():
        raise CheckpointError(f"{name} is a file: give the folder of a checkpoint, which holds its config.json.")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise CheckpointError(f"{name!r} is no folder here, nor an id of the form owner/name: check the path.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=list(_NOT_NEEDED)))
    except Exception as error:
        raise CheckpointError(
            f"{name!r} is no folder here and cannot be downloaded from the Hugging Face Hub ({reason(error, 160)}): "
            "check the name, the network, or fetch it elsewhere and give its folder."
        ) from error


def split_adapter(folder: Path, model_base: str | Path | None) -> tuple[Path, Path | None]:
    """The folder of the whole model and, when `folder` is an adapter's, that of the adapter.

    The base is `model_base`, else what the adapter's config names, where that is a folder here.

    Raises:
        CheckpointError: an adapter has no base, or a base is given for what is none.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        if model_base is None or (folder / PROJECTOR_FILE).is_file():
            return folder, None
        raise CheckpointError(
            f"{folder} has no {ADAPTER_CONFIG}, so it is no adapter: leave the base {str(model_base)!r} out."
        )
    if model_base is not None:
        return checkpoint_folder(model_base), folder
    named = read_json(path).get("base_model_name_or_path")
    if isinstance(named, str) and named and (Path(named) / "config.json").is_file():
        return Path(named), folder
    which = f", trained on {named!r}," if named else ""
    raise CheckpointError(f"{folder} is an adapter{which} and no whole model: give its base with --model-base.")


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
    if not path.exists():
        if (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(f"{folder} is an adapter and no whole model: give its base with --model-base.")
        if gguf := sorted(folder.glob("*.gguf")):
            raise CheckpointError(f"{folder} holds {gguf[0].name}: GGUF is not read, use the safetensors it came from.")
        if not any(folder.iterdir()):
            raise CheckpointError(f"{folder} is empty: fetch the checkpoint, or check the path.")
    raw = read_json(path)
    layout_of(folder, raw)
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

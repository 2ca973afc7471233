"""The output folder of a long job: claimed by its settings first, resumed with the same ones, marked complete last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.errors import ConfigError, DataError
from navila.files import write_atomically

from navila_data.mixture import MANIFEST


class JobFolder:
    """`dataset.json` in it marks the job complete; until then `<job>.json` holds the settings that began it."""

    def __init__(self, folder: Path, job: str, settings: Mapping[str, Any], *, scratch: Sequence[str] = ()) -> None:
        """Nothing is touched yet.

        Args:
            folder: the output.
            job: what users call it.
            settings: all that decides the bytes of the result, as JSON's types.
            scratch: names in the folder that only resuming needs; they go when the job is complete.
        """
        self.folder = folder
        self.scratch = tuple(folder / name for name in scratch)
        self.job = job
        self.settings = dict(settings)
        self._claim = folder / f"{job}.json"

    def finished(self) -> dict[str, Any] | None:
        """The manifest of the job if it is complete.

        Raises:
            ConfigError: the folder holds the result of a job with other settings.
        """
        if not (self.folder / MANIFEST).exists():
            return None
        manifest = self._read(self.folder / MANIFEST)
        self._require_same(manifest.get("settings"))
        self._tidy()
        return manifest

    def claim(self, *, begun: bool, leftovers: tuple[str, ...] = ()) -> None:
        """Make the folder this job's, or check that it is.

        Args:
            begun: whether there is finished work in it; what broke before, often for a wrong argument, binds nobody.
            leftovers: names in the folder to delete where nothing was begun.

        Raises:
            ConfigError: another job works there, or the folder holds something else.
        """
        claimed = self._claim.exists()
        if claimed and begun:
            self._require_same(self._read(self._claim))
            return
        if claimed:
            for name in leftovers:
                shutil.rmtree(self.folder / name, ignore_errors=True)
        elif self.folder.exists() and (not self.folder.is_dir() or any(map(self._is_foreign, self.folder.iterdir()))):
            raise ConfigError(f"{self.folder} is not empty and holds no {self.job} to resume: choose another --output.")
        write_atomically(self._claim, json.dumps(self.settings, indent=2) + "\n")

    def complete(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest, with the settings in it, and let go of the claim."""
        manifest = {**manifest, "settings": self.settings}
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        self._tidy()
        return manifest

    def _is_foreign(self, path: Path) -> bool:
        # A kill while the claim is written leaves the file that was to take its place.
        return not path.name.startswith(f".{self._claim.name}.")

    def _tidy(self) -> None:
        """Delete what only resuming needs; a kill after the manifest may have left it."""
        for path in (*self.scratch, self._claim):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _require_same(self, found: Any) -> None:
        found = found if isinstance(found, dict) else {}
        key = next((key for key in self.settings if self.settings[key] != found.get(key)), None)
        if key is not None and key not in found:
            raise ConfigError(f"{self.folder} holds something else than this {self.job}: choose another --output.")
        if key is not None:
            raise ConfigError(
                f"{self.folder} holds the {self.job} with {key} {found.get(key)!r}, not {self.settings[key]!r}: repeat "
                "its settings to resume it, or choose another --output."
            )

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise DataError(f"{path} is damaged: delete the folder and begin the {self.job} again.")
        return content


def write_annotations(folder: Path, records: Iterable[str]) -> int:
    """Write lines of JSON as the list `annotations.json`, which is there whole or not at all; return how many."""
    count = 0
    temporary = folder / "annotations.json.partial"
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for record in records:
            file.write(",\n" if count else "\n")
            file.write(record)
            count += 1
        file.write("\n]\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "annotations.json")
    return count

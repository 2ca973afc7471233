"""Data sets as the Hugging Face Hub has them: rows of Parquet files, whose images are put into files once."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navila.errors import DataError, MissingDependencyError, reason
from navila.files import folder_atomically
from navila.video import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from pyarrow import DataType
    from pyarrow.parquet import ParquetFile

#: Rows whose images are held in memory at a time.
_ROWS = 32


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """All rows of a file, in order; a column of images holds the path of each, None where there is none.

    Images go as they are into the folder `FILE-images` beside the file, the first time it is read.

    Raises:
        DataError: the file is none, or its images cannot be put beside it.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise MissingDependencyError(f"{path} takes pyarrow: run `pip install 'navila-eval[parquet]'`.") from None
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            images = [field.name for field in schema if _holds_images(field.type)]
            rows = file.read(columns=[name for name in schema.names if name not in images]).to_pylist()
            found = _extracted(file, path, images) if images else {}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({reason(error)}): download it again.") from None
    return [{**row, **{name: found.get(f"{n}-{name}") for name in images}} for n, row in enumerate(rows)]


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, `SPLIT-*.parquet`, in order; none where the folder has no such split.

    Raises:
        DataError: some of several are missing.
    """
    files = sorted(folder.glob(f"{split}-*.parquet"))
    whole = re.search(r"-of-(\d+)", files[-1].name) if files else None
    if whole and len(files) != int(whole[1]):
        raise DataError(
            f"{folder} has {len(files)} of the {int(whole[1])} files {split}-*.parquet: download the others, too."
        )
    return files


def _holds_images(kind: DataType) -> bool:
    """Whether a column is of the Hub's images: encoded, with the name they came from."""
    import pyarrow

    return pyarrow.types.is_struct(kind) and {field.name for field in kind.fields} == {"bytes", "path"}


def _extracted(file: ParquetFile, path: Path, columns: Sequence[str]) -> dict[str, Path]:
    """The files of all images by row and column, made if the Parquet file is newer than their folder."""
    folder = path.with_name(f"{path.stem}-images")
    if folder.is_dir() and folder.stat().st_mtime < path.stat().st_mtime:
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        try:
            with folder_atomically(folder) as fresh:
                _extract(file, fresh, columns)
        except OSError as error:
            if error.errno is None:  # pyarrow's: the Parquet file is damaged
                raise
            raise DataError(
                f"The images of {path} cannot be put beside it ({error.strerror}): copy it to a folder that can be "
                "written, and name that with --data-root."
            ) from None
    return {item.stem: item for item in folder.iterdir()}


def _extract(file: ParquetFile, folder: Path, columns: Sequence[str]) -> None:
    number = 0
    for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns)):
        for row in batch.to_pylist():
            for name in columns:
                if row[name] and row[name]["bytes"]:
                    suffix = Path(row[name]["path"] or "").suffix.lower()
                    suffix = suffix if suffix in IMAGE_SUFFIXES else ".png"
                    (folder / f"{number}-{name}{suffix}").write_bytes(row[name]["bytes"])
            number += 1

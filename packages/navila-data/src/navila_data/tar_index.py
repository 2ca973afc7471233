"""What is in a tar shard and where: only its headers are read, nothing is unpacked and nothing unpickled."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from navila.errors import DataError
from numpy.typing import NDArray

#: Where a file name is cut into the key of its sample and an extension: webdataset's rule, and VILA's.
Keys = Literal["first-dot", "last-dot"]

MEMBER = np.dtype([("offset", "<i8"), ("size", "<i8"), ("extension", "<i4")])
#: Both count from the beginning of the shard, or of the index: the member, and the byte of the keys, after its last.
SAMPLE = np.dtype([("members", "<i8"), ("key", "<i8")])

#: Files that describe a shard, as webdataset has them.
_META = re.compile(r"__[^/]*__($|/)")
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
#: PAX headers that change neither where a file is nor what it is called.
_TIMES = re.compile(rb"(?:\d+ [mac]time=[-\d.]+\n)+")


class Member(NamedTuple):
    """A file in a shard."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The samples of a shard in the order their first files stand in it. What follows a break is one without files."""

    samples: NDArray[np.void]
    """(N,) of `SAMPLE`."""
    members: NDArray[np.void]
    """(M,) of `MEMBER`, sample by sample."""
    keys: bytes
    extensions: tuple[str, ...]
    """What `extension` of a member counts in."""
    ignored: int = 0
    """Links, files that are hidden or have no extension, and files that a later one of the same name replaces."""
    broken: str = ""
    """Why the shard could not be read to its end, in one sentence."""


def index_shard(path: Path, keys: Keys) -> ShardIndex:
    """Find the samples of a shard; files of a sample need not be neighbours.

    Raises nothing: of a broken shard, the samples before the break are good, but for the last, which may be incomplete.
    """
    samples: dict[str, dict[str, Member]] = {}
    ignored, broken, key = 0, "", ""
    try:
        for member in tar_members(path):
            name = split_name(member.name, keys) if member.offset else None
            if name is None:
                ignored += 1
                continue
            key, extension = name
            files = samples.setdefault(key, {})
            # A file that was put into a tar again replaces the first, as when a tar is unpacked.
            ignored += extension in files
            files[extension] = member
    except DataError as error:
        broken = str(error)
        samples.pop(key, None)
        samples[""] = {}
    extensions = {extension: n for n, extension in enumerate(dict.fromkeys(e for f in samples.values() for e in f))}
    members = [(m.offset, m.size, extensions[e]) for files in samples.values() for e, m in files.items()]
    spelled = [key.encode() for key in samples]
    index = np.zeros(len(samples), SAMPLE)
    index["members"] = np.cumsum([len(files) for files in samples.values()])
    index["key"] = np.cumsum([len(key) for key in spelled])
    return ShardIndex(
        samples=index,
        members=np.array(members, MEMBER),
        keys=b"".join(spelled),
        extensions=tuple(extensions),
        ignored=ignored,
        broken=broken,
    )


def split_name(name: str, keys: Keys) -> tuple[str, str] | None:
    """Key and extension of a file; None where it belongs to no sample. Folders are a part of the key."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, extension = file.partition(".") if keys == "first-dot" else file.rpartition(".")
    if file.startswith(".") or not stem or not extension or _META.match(folder + slash):
        return None
    return folder + slash + stem, extension


def tar_members(path: Path) -> Iterator[Member]:
    """The files of a tar in its order, those that are no plain files with offset 0; folders are left out.

    Names are whole however they are spelled (ustar's prefix, GNU's and PAX's long names).

    Raises:
        DataError: the shard is missing, no plain tar, or broken; the sentence names the byte.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if not size:
                raise DataError(f"{path} is empty: fetch the shard again.")
            if os.pread(file.fileno(), 2, 0) == b"\x1f\x8b":
                raise DataError(f"{path} is compressed, so its files cannot be found by place: unpack it with gunzip.")
            place = 0
            tar: tarfile.TarFile | None = None
            while True:
                # What a tar may hold beyond plain files is tarfile's to read; it takes several times as long.
                plain = None if tar and tar.pax_headers else _plain_member(file.fileno(), place)
                if plain is None:
                    tar, info = _any_member(file, place, tar, path)
                    if info is None:
                        break
                    after, skipped = tar.offset, info.isdir()
                    is_file = info.isreg() and info.sparse is None
                    plain = Member(info.name, info.offset_data, info.size) if is_file else Member(info.name, 0, 0)
                else:
                    after, skipped = plain.offset + -(-plain.size // _BLOCK) * _BLOCK, False
                if after <= place:
                    raise DataError(f"{path} has no valid header at byte {place}: fetch the shard again.")
                if not skipped:
                    yield plain
                # After it was told, so that its sample is known to be incomplete.
                if plain.offset + plain.size > size:
                    raise DataError(f"{path} is cut off at byte {size} inside {plain.name}: fetch the shard again.")
                place = after
            _check_end(path, place)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path and the disk.") from None


def _plain_member(file: int, place: int) -> Member | None:
    """The plain file whose headers begin at a byte; None where it takes more to tell."""
    window = os.pread(file, 3 * _BLOCK, place)
    begin = 0
    if window[156:157] == b"x" and _is_header(window[:_BLOCK]):
        # webdataset writes such headers, for fractions of a second.
        if not _TIMES.fullmatch(window[_BLOCK : _BLOCK + (_number(window[124:136]) or 0)]):
            return None
        begin = 2 * _BLOCK
    header = window[begin : begin + _BLOCK]
    size = _number(header[124:136])
    if size is None or header[156:157] not in (b"0", b"\0") or not _is_header(header):
        return None
    name, prefix = (
        field.partition(b"\0")[0].decode(errors="backslashreplace") for field in (header[:100], header[345:500])
    )
    if name.endswith("/"):
        return None
    return Member(f"{prefix}/{name}" if prefix else name, place + begin + _BLOCK, size)


def _is_header(block: bytes) -> bool:
    """Whether a block holds the sum of its own bytes, as headers do."""
    return len(block) == _BLOCK and _number(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _number(field: bytes) -> int | None:
    """A number in octal digits; None where it is spelled otherwise."""
    digits = field.partition(b"\0")[0].strip()
    return int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else None


def _any_member(
    file: BinaryIO, place: int, tar: tarfile.TarFile | None, path: Path
) -> tuple[tarfile.TarFile, tarfile.TarInfo | None]:
    """Whatever is at a byte, and the tar to read on with; None at the end, or at what is no header.

    Raises:
        DataError: it is a header that makes no sense.
    """
    try:
        if tar is None:
            file.seek(place)
            tar = tarfile.TarFile(fileobj=file, mode="r", encoding="utf-8", errors="backslashreplace")
        else:
            tar.offset = place
        info = tar.next()
        tar.members = []  # type: ignore[assignment]  # tarfile would keep them all.
        return tar, info
    except (tarfile.TarError, ValueError, OverflowError, EOFError):
        raise DataError(
            f"{path} has no valid header at byte {place}: it is no tar, or damaged; fetch the shard again."
        ) from None


def _check_end(path: Path, place: int) -> None:
    """A tar ends in a block of zeros, and nothing comes after it; tarfile takes anything else for the end, too."""
    with path.open("rb") as file:
        file.seek(place)
        mark = file.read(_BLOCK)
        if len(mark) < _BLOCK:
            raise DataError(
                f"{path} has no end mark at byte {place}: it was cut off or never closed; fetch or write it again."
            )
        if any(mark):
            raise DataError(f"{path} has no valid header at byte {place}: it is damaged; fetch the shard again.")
        while chunk := file.read(_CHUNK):
            if chunk.strip(b"\0"):
                raise DataError(
                    f"{path} goes on behind its end at byte {place}, as tars put together with cat do: use tar -A."
                )

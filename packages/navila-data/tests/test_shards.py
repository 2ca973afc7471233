"""Any tar is read as tar reads it, its samples are found by place, and a broken shard costs no other one."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from navila.errors import DataError
from navila_data.command import data
from navila_data.media import open_file
from navila_data.shard_indexing import index_folder, open_shards
from navila_data.shards import Shards, find_shards
from navila_data.tar_index import index_shard, tar_members

#: What no kind of file begins with.
NOISE = random.Random(0).randbytes(512)


def write_shard(path: Path, *files: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pair(key: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", f"image {key}".encode()), (f"{key}.txt", f"text {key}".encode())]


def contents(shards: Shards) -> list[tuple[str, dict[str, bytes]]]:
    return [(s.key, {name: open_file(file).read() for name, file in s.files.items()}) for s in shards]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile_whatever_the_format(tmp_path: Path, form: int):
    long = "/".join(["folder-of-some-length"] * 6) + "/" + "n" * 90 + ".jpg"
    names = ["a.jpg", long] + ([] if form == tarfile.USTAR_FORMAT else ["x" * 200 + ".tar.txt", "überall/ø.png"])
    path = write_shard(tmp_path / "0.tar", *((name, name.encode() * 3) for name in names), form=form)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    assert [tuple(member) for member in tar_members(path)] == expected
    assert [name for name, _, _ in expected] == names


def test_folders_and_what_is_no_file_are_no_samples(tmp_path: Path):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "a.txt", "sub/b.jpg", ".hidden.jpg", "README", "sub/._b.jpg"):
        (tmp_path / "data" / name).write_text(name)
    (tmp_path / "data" / "link.jpg").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "data", ".")
    index = index_shard(tmp_path / "0.tar", "last-dot")
    assert (len(index.samples), index.ignored, index.broken) == (2, 4, "")
    shards = open_shards(tmp_path)
    assert sorted(sample.key for sample in shards) == ["a", "sub/b"]


def test_files_of_a_sample_need_not_be_neighbours_and_the_later_of_a_name_counts(tmp_path: Path):
    files = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.TXT", b"4"), ("a.jpg", b"new")]
    write_shard(tmp_path / "0.tar", *files)
    shards = open_shards(tmp_path)
    assert contents(shards) == [("a", {"jpg": b"new", "txt": b"3"}), ("b", {"jpg": b"2", "txt": b"4"})]
    assert shards.ignored == 1


def test_keys_end_at_the_first_dot_or_where_vila_wrote_the_list_at_the_last(tmp_path: Path):
    write_shard(tmp_path / "0.tar", ("v1.5/a.b.jpg", b"1"), ("v1.5/a.b.txt", b"2"), ("v1.5/a.c.txt", b"3"))
    assert contents(open_shards(tmp_path)) == [("v1.5/a", {"b.jpg": b"1", "b.txt": b"2", "c.txt": b"3"})]
    split = [("v1.5/a.b", {"jpg": b"1", "txt": b"2"}), ("v1.5/a.c", {"txt": b"3"})]
    assert contents(open_shards(tmp_path, "last-dot")) == split
    meta = {"__kind__": "VILA-WebDataset", "wids_version": 1, "shardlist": [{"url": "0.tar", "nsamples": 2}]}
    (tmp_path / "wids-meta.json").write_text(json.dumps(meta))
    assert contents(open_shards(tmp_path)) == split


def test_shards_of_the_webdataset_library_read_as_it_reads_them(tmp_path: Path):
    webdataset = pytest.importorskip("webdataset")
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"{shard:05d}.tar")) as writer:
            for n in range(20):
                key = f"{'folder/' * (n % 3)}{'k' * 60 * (n % 4)}{shard}{n}"
                writer.write({"__key__": key, "jpg": os.urandom(n * 100), "txt": f"text {n}", "seg.cls": n})
    ours = contents(open_shards(tmp_path))
    theirs = [
        (s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")})
        for s in webdataset.WebDataset([str(p) for p in sorted(tmp_path.glob("*.tar"))], shardshuffle=False)
    ]
    assert ours == theirs
    assert len(ours) == 60


def test_places_beyond_four_gigabytes_are_found(tmp_path: Path):
    path = write_shard(tmp_path / "0.tar", *pair("a"), form=tarfile.GNU_FORMAT)
    far, size = path.stat().st_size - 10240 + 2048, 5 << 30
    info = tarfile.TarInfo("big.bin")
    info.size = size
    with path.open("r+b") as file:
        file.seek(2048)
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(size, 1)
        begin = file.tell()
        file.write(write_shard(tmp_path / "tail" / "1.tar", *pair("z")).read_bytes())
    assert far < size < begin
    (tmp_path / "tail" / "1.tar").unlink()
    shards = open_shards(tmp_path)
    assert [sample.key for sample in shards] == ["a", "big", "z"]
    assert shards[2].files["jpg"].offset > 1 << 32
    assert open_file(shards[2].files["txt"]).read() == b"text z"


@pytest.mark.parametrize(
    ("harm", "match", "kept"),
    [
        (lambda raw: raw[:2565], r"cut off at byte 2565 inside b\.jpg", 1),
        (lambda raw: raw[:2200], "no end mark at byte 2048", 0),
        (lambda raw: raw[:4096], "no end mark at byte 4096", 1),
        (lambda raw: raw[:2048] + NOISE + raw[2560:], "no valid header at byte 2048", 0),
        (lambda raw: NOISE + raw[512:], "no valid header at byte 0", 0),
        (lambda raw: raw + raw, "goes on behind its end at byte 4096", 1),
        (lambda raw: b"", "is empty", 0),
        (lambda raw: b"\x1f\x8b" + raw[2:], "is compressed", 0),
        (lambda raw: raw[: 2048 + 124] + b"\xff" * 12 + raw[2048 + 136 :], "byte 2048", 0),
    ],
)
def test_a_broken_shard_is_named_with_the_byte_and_the_others_are_read(tmp_path: Path, harm, match: str, kept: int):
    write_shard(tmp_path / "0.tar", *pair("first"))
    path = write_shard(tmp_path / "1.tar", *pair("a"), *pair("b"))
    path.write_bytes(harm(path.read_bytes()))
    write_shard(tmp_path / "2.tar", *pair("last"))
    shards = open_shards(tmp_path)
    assert len(shards) == 3 + kept
    assert [shards[0].key, shards[len(shards) - 1].key] == ["first", "last"]
    with pytest.raises(DataError, match=match) as caught:
        shards[1 + kept]
    assert "1.tar" in str(caught.value)
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(data, ["index-shards", str(tmp_path)])
    assert "1 of 3 shards are broken" in str(result.exception or result.output)


def test_damage_anywhere_is_told_or_harmless(tmp_path: Path):
    """Whatever byte is wrong: either all files are those that tarfile finds, or a sentence says where it broke."""
    chance = random.Random(0)
    path, told = tmp_path / "0.tar", []
    for _ in range(400):
        files = [(f"{'long/' * chance.choice([0, 40])}{n}.jpg", bytes(chance.randrange(1500))) for n in range(3)]
        write_shard(path, *files, form=chance.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
        raw = bytearray(path.read_bytes())
        raw[chance.randrange(6000)] = chance.randrange(256)
        path.write_bytes(raw[: chance.randrange(len(raw))] if chance.random() < 0.2 else raw)
        try:
            found = [tuple(member) for member in tar_members(path) if member.offset]
        except DataError as error:
            told.append(str(error))
            continue
        with tarfile.open(path, errors="backslashreplace") as tar:
            assert found == [(m.name, m.offset_data, m.size) for m in tar.getmembers() if m.isreg()]
    assert 50 < len(told) < 350
    assert all(re.search(r"0\.tar (is empty|is compressed|.* at byte \d+)", sentence) for sentence in told)


def test_a_mended_shard_is_read_again(tmp_path: Path):
    path = write_shard(tmp_path / "0.tar", *pair("a"), *pair("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:2565])
    assert len(open_shards(tmp_path)) == 2
    path.write_bytes(whole)
    assert [sample.key for sample in open_shards(tmp_path)] == ["a", "b"]


def spoil_unseen(path: Path) -> None:
    """Make a shard unreadable without a change of its size or time: only who reads it again sees that."""
    state = path.stat()
    path.write_bytes(b"\xff" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_only_shards_that_changed_are_read_again(tmp_path: Path):
    for n in range(4):
        write_shard(tmp_path / f"{n}.tar", *pair(f"a{n}"), (f"odd.{n}.png", b"x"))
    before = open_shards(tmp_path)
    expected = list(before)
    # At another time, however coarse the clock of the file system is.
    os.utime(write_shard(tmp_path / "1.tar", *pair("changed")), (0, 0))
    write_shard(tmp_path / "9.tar", *pair("new"))
    for n in (0, 2, 3):
        spoil_unseen(tmp_path / f"{n}.tar")
    after = open_shards(tmp_path)
    assert not after.broken
    assert [sample.key for sample in after] == ["a0", "odd", "changed", "a2", "odd", "a3", "odd", "new"]
    assert [*after][:2] + [*after][3:7] == expected[:2] + expected[4:]
    assert [file.name for file in (tmp_path / ".navila-shards").iterdir()] == [after.index_file.name]


def test_a_stopped_run_goes_on(tmp_path: Path):
    for n in range(6):
        write_shard(tmp_path / f"{n}.tar", *pair(f"a{n}"))

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_folder(find_shards(tmp_path), progress=stop)
    for n in range(4):
        spoil_unseen(tmp_path / f"{n}.tar")
    shards = open_shards(tmp_path)
    assert [sample.key for sample in shards] == [f"a{n}" for n in range(6)]
    assert not shards.broken
    assert [file.name for file in (tmp_path / ".navila-shards").iterdir()] == [shards.index_file.name]


def test_the_index_does_not_depend_on_the_number_of_processes(tmp_path: Path):
    for n in range(7):
        write_shard(tmp_path / f"{n}.tar", *(file for m in range(n) for file in pair(f"{n}-{m}")), (f"x{n}.e{n}", b"1"))
    made = []
    for workers in (1, 3):
        shards = index_folder(find_shards(tmp_path), workers=workers)
        made.append(shards.index_file.read_bytes())
        shards.index_file.unlink()
    assert made[0] == made[1]


def test_an_index_crosses_to_other_processes_by_name(tmp_path: Path):
    write_shard(tmp_path / "0.tar", *pair("a"), *pair("b"))
    shards = open_shards(tmp_path)
    sent = pickle.dumps(shards)
    assert len(sent) < 500
    assert list(pickle.loads(sent)) == list(shards)
    assert shards.fingerprint() == open_shards(tmp_path).fingerprint()
    os.utime(write_shard(tmp_path / "0.tar", *pair("a"), *pair("c")), (0, 0))
    assert shards.fingerprint() != open_shards(tmp_path).fingerprint()


def test_a_damaged_index_is_named(tmp_path: Path):
    write_shard(tmp_path / "0.tar", *pair("a"))
    index = open_shards(tmp_path).index_file
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged: remove it"):
        open_shards(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_indexed_in_the_cache(tmp_path: Path):
    write_shard(tmp_path / "0.tar", *pair("a"))
    # A file where the folder of the index would be keeps even root from making it.
    (tmp_path / ".navila-shards").write_text("")
    shards = open_shards(tmp_path)
    assert str(shards.index_file).startswith(os.environ["NAVILA_CACHE"])
    assert open_shards(tmp_path).index_file == shards.index_file


def test_the_list_of_wids_decides_the_order_and_is_checked(tmp_path: Path):
    for name in ("a.tar", "b.tar", "sub/c.tar", "more.tar"):
        write_shard(tmp_path / name, *pair(name[-5]))
    shardlist = [{"url": "sub/c.tar", "nsamples": 1}, {"url": "a.tar", "nsamples": 3}, {"url": "b.tar", "nsamples": 1}]
    (tmp_path / "wids-meta.json").write_text(json.dumps({"wids_version": 1, "shardlist": shardlist}))
    assert [sample.key for sample in open_shards(tmp_path)] == ["c", "a", "b"]
    result = CliRunner().invoke(data, ["index-shards", str(tmp_path)])
    assert result.exit_code == 0
    assert "a.tar holds 1 samples, and 3 were promised" in result.stderr
    assert "does not name 1 shards beside it, first more.tar" in result.stderr
    assert "3 samples in 3 shards" in result.stdout


@pytest.mark.parametrize(
    ("meta", "match"),
    [
        ("{", "cannot be read as JSON"),
        ([], "shardlist"),
        ({"shardlist": [{"nsamples": 1}]}, "non-empty string"),
        ({"shardlist": [{"url": "0.tar", "nsamples": "1"}]}, "nsamples"),
        ({"shardlist": [7]}, "nsamples"),
        ({"shardlist": [{"url": "../0.tar"}]}, "leaves the data folder"),
        ({"shardlist": [{"url": "https://host/0.tar"}]}, "not on this machine"),
        ({"shardlist": [{"url": "pipe:cat 0.tar"}]}, "not on this machine"),
        ({"shardlist": [{"url": "0.tar"}, {"url": "./0.tar"}]}, "twice"),
        ({"shardlist": [{"url": "nowhere.tar"}]}, "nowhere.tar cannot be read"),
        ({"shardlist": [{"url": "0.tar.gz"}]}, "compressed"),
        ({"shardlist": []}, "no .tar shards"),
    ],
)
def test_a_malformed_list_of_wids_is_one_sentence(tmp_path: Path, meta, match: str):
    write_shard(tmp_path / "0.tar", *pair("a"))
    (tmp_path / "wids-meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    with pytest.raises(DataError, match=match) as caught:
        open_shards(tmp_path)
    assert "\n" not in str(caught.value)


def test_img2datasets_counts_are_compared(tmp_path: Path):
    write_shard(tmp_path / "00000.tar", *pair("a"))
    (tmp_path / "00000_stats.json").write_text(json.dumps({"successes": 2}))
    result = CliRunner().invoke(data, ["index-shards", str(tmp_path)])
    assert "holds 1 samples, and 2 were promised" in result.stderr


@pytest.mark.parametrize(
    ("name", "match"),
    [("0.tar.gz", "compressed"), ("0.tgz", "compressed"), ("000.pkl", "pickled shards"), ("a.jpg", "no .tar shards")],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path, name: str, match: str):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=match):
        open_shards(tmp_path)


def test_a_thousand_shards_open_without_reading_one(tmp_path: Path):
    for n in range(1000):
        write_shard(tmp_path / f"{n:05d}.tar", (f"{n}.txt", b"text"))
    assert len(open_shards(tmp_path)) == 1000
    for path in tmp_path.glob("*.tar"):
        spoil_unseen(path)
    shards = open_shards(tmp_path)
    assert shards[999].key == "999"
    assert shards[999].files["txt"].shard == tmp_path / "00999.tar"

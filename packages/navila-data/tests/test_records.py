"""Records are found where they lie, whatever the file looks like; what is wrong with it is said with its line."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
from navila.errors import DataError
from navila_data import record_index
from navila_data.records import RecordFile


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAVILA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def records_of(count: int) -> list[dict]:
    """Records with everything that could be taken for structure inside strings."""
    rng = random.Random(count)
    texts = ['say \\"hi\\" [now] {x}', "back\\\\", "\\", '"', "}, {", "ünï\u2028 去", "", "tab\t"]
    return [
        {"id": i, "nested": [{"q": rng.choice(texts)}, [[]]], rng.choice(texts): rng.choice(texts) * rng.randint(0, 9)}
        for i in range(count)
    ]


LAYOUTS = {
    "one line.json": json.dumps,
    "indented.json": lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    "record a line.json": lambda records: "[\n" + ",\r\n".join(map(json.dumps, records)) + "\r\n]\n",
    "compact.json": lambda records: json.dumps(records, separators=(",", ":")),
    "lines.jsonl": lambda records: "\n".join(map(json.dumps, records)),
    "lines with blanks.jsonl": lambda records: "\r\n  \r\n".join(map(json.dumps, records)) + "\r\n\r\n",
    "lines.json": lambda records: "".join(json.dumps(record) + "\n" for record in records),
}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("layout", LAYOUTS)
# Small chunks put every kind of byte at a border.
@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_every_layout_gives_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, chunk: int, bom: bytes
):
    monkeypatch.setattr(record_index, "CHUNK", chunk)
    records = records_of(40)
    path = tmp_path / layout
    path.write_bytes(bom + LAYOUTS[layout](records).encode())
    assert list(RecordFile(path)) == records


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[{"a": 1},\n{"b": 2}', "line 2: the file breaks off after 2 records"),
        ('[{"a": 1},\n{"b": ', "line 2: the file breaks off in record 1"),
        ('[{"a": "x}]', "breaks off in record 0"),
        ('[{"a": 1}\n{"b": 2}]', "nothing stands before record 1"),
        ('[{"a": 1},,{"b": 2}]', "',,' stands before record 1"),
        ('[{"a": 1}\n 3]', "'3' stands after the last record"),
        ('[{"a": 1}, tru, {"b": 2}]', "', tru,' stands before record 1"),
        ("[1 2]", "'1 2' stands in the list"),
        ('[{"a": 1}, 3,]', "', 3,' stands after the last record"),
        ('[{"a": 1},]', "',' stands after the last record"),
        ('[{"a": 1}]\nx', "line 2: 'x' stands after the list"),
        (" \n ", "is empty"),
    ],
)
def test_a_file_that_is_no_list_is_refused_when_opened(tmp_path: Path, text: str, match: str):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        RecordFile(path)


def test_a_broken_record_costs_that_record_alone(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[\n{"a": 1},\n{"a": 2,},\n{"a": "\xff"},\n[4],\n{"a": 5}\n]')
    records = RecordFile(path)
    assert records[0] == {"a": 1}
    assert records[4] == {"a": 5}
    for index, match in ((1, "line 3: not valid JSON"), (2, "line 4: not UTF-8"), (3, "line 5: expected an object")):
        with pytest.raises(DataError, match=match):
            records[index]


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_what_is_no_object_is_a_broken_record_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    monkeypatch.setattr(record_index, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text('[ "ünï, {x}]",\n{"a": 1}, 3 , null,\n{"a": 2},\n"\\"", true\n]', encoding="utf-8")
    records = RecordFile(path)
    assert [records[index] for index in (1, 4)] == [{"a": 1}, {"a": 2}]
    for index, kind, line in ((0, "str", 1), (2, "int", 2), (3, "NoneType", 2), (5, "str", 4), (6, "bool", 4)):
        with pytest.raises(DataError, match=f"line {line}: expected an object, got {kind}"):
            records[index]
    assert len(records) == 7
    path.write_text("[]")
    assert len(RecordFile(path)) == 0


def test_the_index_is_kept_until_the_file_changes(tmp_path: Path, cache: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records_of(3)))
    assert len(RecordFile(path)) == 3
    (kept,) = (cache / "records").iterdir()
    stamp = kept.stat().st_mtime_ns
    assert list(RecordFile(path)) == records_of(3)
    assert kept.stat().st_mtime_ns == stamp
    path.write_text(json.dumps(records_of(5)))
    assert list(RecordFile(path)) == records_of(5)


def test_a_damaged_index_is_made_again(tmp_path: Path, cache: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records_of(3)))
    RecordFile(path)
    next((cache / "records").iterdir()).write_bytes(b"x")
    assert list(RecordFile(path)) == records_of(3)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, cache: Path):
    cache.write_text("a file where a folder is wanted")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records_of(3)))
    assert list(RecordFile(path)) == records_of(3)


def test_another_process_is_sent_the_path_and_not_the_records(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records_of(300)))
    sent = pickle.dumps(RecordFile(path))
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == records_of(300)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        RecordFile(tmp_path / "nowhere.json")

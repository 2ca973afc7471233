"""CPU time and memory of opening a million records with long frame lists, beside `json.load`.

    python benchmarks/record_index.py [--records 1000000] [--frames 30] [--rounds 3] [--load-up-to 200000]

The records are NaVILA-Dataset's: frames, an instruction, an answer. Both read the same 1,000 records in any order,
which must be equal. json.load takes gigabytes of memory for a million records: it is given the first `--load-up-to` of
them, in a file of their own, and is compared by the record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import side_by_side

PEER = "json.load"


def write_records(path: Path, count: int, frames: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for i in range(count):
            record = {
                "video_id": f"{i // 40}-{i % 40}",
                "frames": [f"{i // 40}/frame_{k}.jpg" for k in range(i % (2 * frames))],
                "q": 'Walk past the sofa, then stop at the door marked "exit" [left].',
                "a": "The next action is turn left 30 degree.",
            }
            file.write((",\n" if i else "") + json.dumps(record))
        file.write("]\n")


def read_some(records: Any, count: int) -> str:
    """A digest of 1,000 records in mixed order."""
    chosen = [records[i * 7919 % count] for i in range(min(count, 1000))]
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()


def load(path: Path, read: int) -> str:
    with path.open(encoding="utf-8") as file:
        return read_some(json.load(file), read)


def index(path: Path, read: int) -> str:
    from navila_data.records import RecordFile

    return read_some(RecordFile(path), read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="default: 1000000")
    parser.add_argument("--frames", type=int, default=30, help="frames of a record on average (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="times every method is measured (default: 3)")
    parser.add_argument("--load-up-to", type=int, default=200_000, help="records json.load is given (default: 200000)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import navila_data.records  # noqa: F401  its import is not measured

        way, path = options.one
        side_by_side.measured(lambda: (load if way == PEER else index)(Path(path), options.load_up_to))
        return
    side_by_side.print_machine()
    few = min(options.records, options.load_up_to)
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "whole.json", Path(folder) / "part.json"
        write_records(whole, options.records, options.frames)
        write_records(part, few, options.frames)
        rounds = [measure(Path(folder), whole, part, few, number) for number in range(options.rounds)]
        print(f"{options.records} records, {whole.stat().st_size / 1e9:.2f} GB; {PEER}: {few} of them")
    millions = {PEER: 1e6 / few, "navila, first opening": 1e6 / options.records, "navila, again": 1e6 / options.records}
    peaks = {name: statistics.median(found[name]["megabytes"] for found in rounds) for name in millions}
    side_by_side.print_table(
        [{name: found[name]["seconds"] * millions[name] for name in millions} for found in rounds],
        peer=PEER,
        others={name: f"a million records; peak {peak:.0f} MB" for name, peak in peaks.items()},
    )


def measure(folder: Path, whole: Path, part: Path, read: int, number: int) -> dict[str, dict[str, Any]]:
    """One round: json.load, an index that is made, and one that is there."""
    os.environ["NAVILA_CACHE"] = str(folder / f"cache-{number}")
    few = ("--load-up-to", str(read))
    found = {PEER: side_by_side.in_process("--one", PEER, str(part), *few)}
    for name in ("navila, first opening", "navila, again"):
        found[name] = side_by_side.in_process("--one", name, str(whole), *few)
    if len({each["result"] for each in found.values()}) != 1:
        raise SystemExit("The records differ.")
    return found


if __name__ == "__main__":
    main()

"""`navila data check` finds what is broken, says where, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from navila.actions import LEGAL_ANSWERS, STOP_ANSWER
from navila.cli import main
from navila.errors import UnknownComponentError
from navila_data.check import CheckResult, CheckSettings, check
from navila_data.media_check import file_problem
from navila_data.motion import observe
from numpy.typing import NDArray
from PIL import Image, ImageFilter

FORWARD, LEFT, RIGHT = LEGAL_ANSWERS[0], LEGAL_ANSWERS[3], LEGAL_ANSWERS[6]


def found(mixture: str, **settings: Any) -> CheckResult:
    return check(CheckSettings(mixture=mixture, **settings))


def places(result: CheckResult, kind: str) -> list[tuple[int | None, int | None]]:
    """(record, line) of all findings of a kind."""
    return [(each.record, each.line) for each in result.findings if each.kind == kind]


def panorama(seed: int) -> Image.Image:
    """(64, 640) pixels all around, smooth enough to be recognised after a turn."""
    noise = np.random.default_rng(seed).integers(0, 255, (64, 640, 3), np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3)).point(lambda level: (level - 96) * 4)


def walk(root: Path, answers: list[str], *, episode: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Records of an episode whose frames show the turns of `answers`."""
    folder = root / "train" / str(episode)
    folder.mkdir(parents=True)
    whole, place, frames, records = panorama(seed), 288, [], []
    for step, answer in enumerate(answers):
        whole.crop((place, 0, place + 64, 64)).save(folder / f"{step}.jpg", quality=95)
        frames = [*frames, f"{episode}/{step}.jpg"]
        records.append({"video_id": f"{episode}-{step}", "frames": frames, "q": f"Walk {seed}.", "a": answer})
        place += -12 if answer == LEFT else 12 if answer == RIGHT else 0
    return records


def write(root: Path, records: list[Any]) -> Path:
    """One record a line, the first one on line 2."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "annotations.json").write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n", encoding="utf-8")
    return root


def video(path: Path, frames: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for i in range(frames):
            picture = np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


WALK = [LEFT, LEFT, FORWARD, RIGHT, RIGHT, RIGHT, LEFT, STOP_ANSWER]


def test_sound_data_has_no_findings_and_every_file_is_looked_at_once(tmp_path: Path) -> None:
    write(tmp_path, walk(tmp_path, WALK) + walk(tmp_path, WALK, episode=1, seed=1))
    result = found(f"vln:{tmp_path}*2+vln:{tmp_path}[:3]")
    assert (result.findings, result.records, result.files, result.turns) == ([], 16, 16, 12)
    assert result.statistics.answers[LEFT] == 6


def test_data_that_were_mended_are_read_anew(tmp_path: Path) -> None:
    records = walk(tmp_path, WALK)
    write(tmp_path, [*records, {"frames": 3}])
    assert found(f"vln:{tmp_path}").errors == 1
    write(tmp_path, records)
    assert found(f"vln:{tmp_path}").errors == 0


def test_a_byte_order_mark_windows_line_ends_and_other_alphabets_are_no_findings(tmp_path: Path) -> None:
    records = [record | {"q": "Geh zur Küche, 然后停下。"} for record in walk(tmp_path, WALK)]
    text = json.dumps(records, ensure_ascii=False, indent=1).replace("\n", "\r\n")
    (tmp_path / "annotations.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert found(f"vln:{tmp_path}").findings == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"q": 5}, '"q" must be a text'),
        ({"a": None}, '"a" must be a text'),
        ({"frames": "0/0.jpg"}, '"frames" must be a list'),
        ({"frames": []}, '"frames" must be a list'),
        ({"frames": [["0/0.jpg"]]}, "media path"),
        ({"frames": ["../../secret.jpg"]}, "leaves the data folder"),
        ({"video_id": 7}, '"video_id" must be a text'),
    ],
)
def test_a_record_of_wrong_types_is_told_with_its_line(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    records = walk(tmp_path, WALK)
    records[2] |= change
    result = found(f"vln:{write(tmp_path, records)}")
    assert places(result, "record") == [(2, 4)]
    assert told in result.findings[0].reason
    assert result.findings[0].file == str(tmp_path / "annotations.json")
    assert result.errors == 1


def test_a_record_that_is_no_json_is_told_with_its_line(tmp_path: Path) -> None:
    lines = [
        json.dumps({"conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": "Yes."}]})
        for i in range(4)
    ]
    lines[2] = lines[2][:-9] + "}"
    (tmp_path / "annotations.jsonl").write_text("\n".join(lines), encoding="utf-8")
    result = found(f"llava:{tmp_path}")
    assert places(result, "json") == [(2, 3)]
    assert "line 3" in result.findings[0].reason
    assert result.statistics.samples == {"llava": 3}


def test_a_file_that_breaks_off_and_a_missing_folder_do_not_hide_the_other_datasets(tmp_path: Path) -> None:
    good, cut = write(tmp_path / "good", walk(tmp_path / "good", WALK)), tmp_path / "cut"
    cut.mkdir()
    (cut / "annotations.json").write_bytes((good / "annotations.json").read_bytes()[:-300])
    result = found(f"vln:{good}+vln:{cut}+vln:{tmp_path / 'nowhere'}")
    assert result.counts == {"dataset": 2}
    assert "breaks off" in result.findings[0].reason
    assert "does not exist" in result.findings[1].reason
    assert result.records == 8


def test_missing_and_damaged_images_are_told_once_with_the_samples_that_show_them(tmp_path: Path) -> None:
    records = walk(tmp_path, WALK)
    write(tmp_path, records)
    folder = tmp_path / "train" / "0"
    (folder / "2.jpg").unlink()
    with (folder / "3.jpg").open("r+b") as file:
        file.truncate(700)
    (folder / "4.jpg").write_bytes(b"")
    (folder / "5.jpg").write_text("not a picture")
    (folder / "6.jpg").unlink()
    (folder / "6.jpg").symlink_to(folder / "away.jpg")
    result = found(f"vln:{tmp_path}")
    assert result.counts == {"missing": 2, "corrupt": 3}
    told = {Path(each.medium).name: each for each in result.findings}
    assert {name: (told[name].record, told[name].line) for name in sorted(told)} == {
        f"{n}.jpg": (n, n + 2) for n in range(2, 7)
    }
    assert "6 samples show it" in told["2.jpg"].reason
    assert "truncated" in told["3.jpg"].reason
    assert "empty" in told["4.jpg"].reason
    assert found(f"vln:{tmp_path}", depth="exists").counts == {"missing": 2, "corrupt": 1}
    assert found(f"vln:{tmp_path}", depth="header").counts == {"missing": 2, "corrupt": 2}


def test_videos_are_decoded_to_their_end(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.mp4")
    content = whole.read_bytes()
    middle = len(content) // 2
    (tmp_path / "damaged.mp4").write_bytes(content[: middle - 3000] + bytes(6000) + content[middle + 3000 :])
    (tmp_path / "cut.mp4").write_bytes(content[:middle])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for frames in (5, 99):
        # AVI says in its header how long it is.
        avi = bytearray(video(tmp_path / f"{frames}.avi").read_bytes())
        length = avi.index(b"strh") + 8 + 32
        avi[length : length + 4] = frames.to_bytes(4, "little")
        (tmp_path / f"{frames}.avi").write_bytes(avi)
    told = {
        path.name: file_problem(path, video=True, depth="decode") or ("", "") for path in sorted(tmp_path.iterdir())
    }
    kinds = {name: kind for name, (kind, _) in told.items()}
    assert kinds == {
        "5.avi": "header",
        "99.avi": "corrupt",
        "cut.mp4": "corrupt",
        "damaged.mp4": "corrupt",
        "empty.mp4": "corrupt",
        "whole.mp4": "",
    }
    assert "of 12 frames" in told["damaged.mp4"][1]
    assert "counts 5 frames, but 12 are there" in told["5.avi"][1]
    assert "after 12 of 99 frames" in told["99.avi"][1]


def test_records_about_broken_videos_are_told_with_the_video(tmp_path: Path) -> None:
    video(tmp_path / "videos" / "1.mp4")
    (tmp_path / "videos" / "2.mp4").write_bytes(b"")
    records = [{"video_id": f"{n}", "q": "What?", "a": "A room."} for n in (1, 2, 3)]
    result = found(f"video:{write(tmp_path, records)}")
    assert places(result, "record") == [(1, 3), (2, 4)]
    assert "2.mp4" in result.findings[0].reason
    assert "3.mp4" in result.findings[1].reason
    assert result.statistics.frames == {12: 1}


def test_turns_that_contradict_the_next_frame_are_suspicious_and_no_errors(tmp_path: Path) -> None:
    records = walk(tmp_path, WALK)
    records[1]["a"], records[4]["a"] = RIGHT, LEFT
    result = found(f"vln:{write(tmp_path, records)}")
    assert places(result, "motion") == [(1, 3), (4, 6)]
    assert all((each.confidence or 0) >= 0.2 for each in result.findings)
    assert "turn to the left" in result.findings[0].reason
    assert (result.errors, result.warnings, result.turns) == (0, 2, 6)


def test_frames_that_have_nothing_in_common_say_nothing_about_a_turn() -> None:
    grey: list[NDArray[np.float64]] = [
        np.asarray(panorama(seed).convert("L").crop((0, 0, 64, 32)), np.float64) for seed in (1, 2)
    ]
    plain = np.full((32, 64), 90.0)
    for pair in ((grey[0], grey[1]), (plain, plain), (plain, grey[0])):
        assert observe(*pair).confidence < 0.2


def test_answers_that_are_no_actions_are_told(tmp_path: Path) -> None:
    answers = [FORWARD, "Go on.", "The next action is turn left 40 degree.", "The next action is stop.", STOP_ANSWER]
    result = found(f"vln:{write(tmp_path, walk(tmp_path, answers))}")
    assert places(result, "answer") == [(1, 3), (2, 4)]
    assert result.statistics.answers == {FORWARD: 1, "something else": 2, STOP_ANSWER: 2}


def test_doubled_samples_are_told_in_one_dataset_and_between_two(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    records = walk(first, WALK)
    write(first, [*records, records[-1], records[-1]])
    # The same frames under other names, so only their contents tell.
    (second / "train").mkdir(parents=True)
    (first / "train" / "0").rename(second / "train" / "9")
    (first / "train" / "0").symlink_to(second / "train" / "9")
    write(second, [{**records[2], "frames": [name.replace("0/", "9/", 1) for name in records[2]["frames"]]}])
    result = found(f"vln:{first}+vln:{second}")
    assert places(result, "duplicate") == [(8, 10), (9, 11)]
    assert places(result, "shared") == [(0, 2)]
    assert result.errors == 0


def test_frames_of_another_split_are_a_leak(tmp_path: Path) -> None:
    train, other = tmp_path / "train-split", tmp_path / "other"
    write(train, walk(train, WALK) + walk(train, WALK, episode=1, seed=1))
    records = [record | {"q": "Other words."} for record in walk(other, WALK[:3], episode=5, seed=1)]
    write(other, records + walk(other, WALK[:2], episode=6, seed=2))
    result = found(f"vln:{train}", against=f"vln:{other}")
    assert places(result, "leak") == [(n, n + 2) for n in range(8, 16)]
    assert "same first frame under other words" in result.findings[0].reason
    assert found(f"vln:{train}[:8]", against=f"vln:{other}").counts == {}


def test_reports_hold_all_findings_and_load_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = walk(tmp_path, WALK)
    records[1]["a"] = "<script>alert(1)</script>"
    records[2]["q"] = None
    write(tmp_path, records)
    output = tmp_path / "report"
    assert main(["data", "check", f"vln:{tmp_path}", "--output", str(output)]) == 1
    printed = capsys.readouterr().out
    assert "record 2, line 4" in printed
    assert "8 records, 8 files, 5 turns compared: 1 errors, 1 warnings" in printed
    told = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert told["counts"] == {"record": 1, "answer": 1}
    lines = [json.loads(line) for line in (output / "findings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted((line["kind"], line["record"]) for line in lines) == [("answer", 1), ("record", 2)]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_warnings_alone_end_well_and_wrong_names_are_mistakes(tmp_path: Path) -> None:
    write(tmp_path, walk(tmp_path, ["Go on.", STOP_ANSWER]))
    assert main(["data", "check", f"vln:{tmp_path}"]) == 0
    assert main(["data", "check", f"nvl:{tmp_path}"]) == 2
    (tmp_path / "file").touch()
    assert main(["data", "check", f"vln:{tmp_path}", "--output", str(tmp_path / "file" / "report")]) == 2
    assert main(["data", "check", f"vln:{tmp_path}", "--model", str(tmp_path / "none")]) == 2
    with pytest.raises(UnknownComponentError):
        found(f"vln:{tmp_path}", against="nobody")


@pytest.mark.slow  # Two processes import what they need anew.
def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    records = [record for n in range(70) for record in walk(tmp_path, WALK, episode=n, seed=n)]
    for broken in (3, 255, 256, 511):
        records[broken]["a"] = 7
    (tmp_path / "train" / "40" / "2.jpg").unlink()
    write(tmp_path, [*records, records[1]])
    one, two = (found(f"vln:{tmp_path}", workers=workers).to_dict() for workers in (1, 2))
    assert one == two
    assert one["counts"] == {"record": 4, "missing": 1, "duplicate": 1}
    assert one["turns_compared"] > 400


@pytest.mark.slow  # Twelve thousand records.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_length_of_records(tmp_path: Path) -> None:
    """Beyond numbers of fixed size a record, ten thousand records more take no more memory."""
    for name, count in (("few", 1_000), ("many", 11_000)):
        (tmp_path / name / "train" / "0").mkdir(parents=True)
        frames = [f"0/{'long-name' * 4}-{k}.jpg" for k in range(30)]
        for frame in frames:
            (tmp_path / name / "train" / frame).write_bytes(b"x")
        records = (
            json.dumps({"video_id": f"{n}", "frames": frames, "q": f"Walk to {n}.", "a": FORWARD}) for n in range(count)
        )
        with (tmp_path / name / "annotations.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(f"{record}\n" for record in records)
        (tmp_path / name / "annotations.jsonl").rename(tmp_path / name / "annotations.json")
    program = (
        "import re, sys; from pathlib import Path; from navila_data.check import CheckSettings, check\n"
        "result = check(CheckSettings(mixture=sys.argv[1], depth='exists'))\n"
        # Unlike that of `resource`, this peak forgets the process that started this one.
        "print(result.records, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    used = []
    for name, count in (("few", 1_000), ("many", 11_000)):
        done = subprocess.run(
            [sys.executable, "-c", program, f"vln:{tmp_path / name}"], capture_output=True, text=True, check=True
        )
        records, kilobytes = map(int, done.stdout.split())
        assert records == count
        used.append(kilobytes)
    # What is counted of ten thousand records, their vocabulary included, is a fraction of their 17 MB.
    assert used[1] - used[0] < 6_000


def test_every_finding_on_file_has_its_line(tmp_path: Path) -> None:
    records = walk(tmp_path / "data", WALK)
    (tmp_path / "data" / "train" / "0" / "5.jpg").write_bytes(b"")
    write(tmp_path / "data", [*records[:4], 3, records[1], *records[4:], {"frames": 3}])
    check(CheckSettings(mixture=f"vln:{tmp_path / 'data'}"), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
    assert {(each["kind"], each["record"], each["line"]) for each in lines} == {
        ("json", 4, 6),
        ("duplicate", 5, 7),
        ("corrupt", 7, 9),
        ("record", 10, 12),
    }


KILLED_AFTER_SOME_FILES = """
import os, sys
from pathlib import Path
from navila_data import check as module
look, count = module.file_problem, 0
def counted(*arguments, **options):
    global count
    count += 1
    if count > int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return look(*arguments, **options)
module.file_problem, module.FILES = counted, 2
result = module.check(module.CheckSettings(mixture=sys.argv[1]), Path(sys.argv[2]))
print(count, result.errors)
"""


def test_a_killed_check_looks_at_no_file_twice_and_ends_with_the_same_report(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, walk(data, WALK))
    (data / "train" / "0" / "1.jpg").write_bytes(b"")

    def run(most: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED_AFTER_SOME_FILES, f"vln:{data}", str(tmp_path / "out"), str(most)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run(5).returncode == -9
    assert not (tmp_path / "out" / "report.json").exists()
    # What the file was when it was looked at is not what it is now.
    (data / "train" / "0" / "0.jpg").write_bytes(b"x")
    resumed = run(99)
    assert resumed.stdout.split() == ["5", "2"], resumed.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == found(f"vln:{data}").counts
    # The next check is a new one.
    assert run(99).stdout.split() == ["8", "2"]

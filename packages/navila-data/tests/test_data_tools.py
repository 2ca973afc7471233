"""`navila data list`, `add`, `stats` and `preview` tell what there is."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from navila.actions import LEGAL_ANSWERS, STOP_ANSWER
from navila.cli import main
from navila.conversation import get_template
from navila.prompts import navigation_prompt
from navila_data.dataset import LoadOptions
from navila_data.datasets_file import add, named_datasets
from navila_data.mixture import Mixture
from navila_data.preview import write_preview
from navila_data.records import RecordFile
from PIL import Image


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a walk of four steps in `walks/` and no `datasets.yaml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAVILA_DATASETS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "walks" / "train" / "7").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (32, 32), (60 * i, 90, 20)).save(tmp_path / "walks" / "train" / "7" / f"{i}.jpg")
    records = [
        {
            "video_id": f"7-{i}",
            "frames": [f"7/{k}.jpg" for k in range(i + 1)],
            "q": "Go to the red <sofa>.",
            "a": STOP_ANSWER if i == 3 else LEGAL_ANSWERS[i],
        }
        for i in range(4)
    ]
    (tmp_path / "walks" / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert main(["data", "list", "--json", *arguments]) == 0
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)}


def test_list_tells_what_is_below_the_data_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "data").mkdir()
    (here / "walks").rename(here / "data" / "R2R")
    assert listed(capsys)["r2r"]["present"] is None
    told = listed(capsys, "--data_path", "data")
    assert (told["r2r"]["present"], told["r2r"]["samples"], told["rxr"]["present"]) == (True, None, False)
    # A format is for any folder: nothing is looked for.
    assert told["vln"]["present"] is None
    RecordFile(here / "data" / "R2R" / "annotations.json")
    assert listed(capsys, "--data_path", "data")["r2r"]["samples"] == 4
    assert main(["data", "list"]) == 0
    assert "R2R/annotations.json: steps" in capsys.readouterr().out
    assert main(["data", "list", "--data_path", "nowhere"]) == 2


def test_a_name_that_was_added_can_be_listed_and_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "add", "night", "vln:walks"]) == 0
    assert main(["data", "add", "all", "night*2+vln:walks[:1]"]) == 0
    told = listed(capsys)
    assert (told["night"]["format"], told["night"]["present"], told["night"]["kind"]) == ("vln", True, "navigation")
    assert (told["all"]["format"], told["all"]["kind"]) == ("night*2+vln:walks[:1]", "mixture")
    assert len(Mixture.open("all")) == 9


def test_the_folder_of_an_added_name_is_relative_to_the_file(here: Path) -> None:
    (here / "lists").mkdir()
    assert main(["data", "add", "night", "vln:walks", "--file", "lists/mine.yaml", "--media", "train"]) == 0
    named = named_datasets([here / "lists" / "mine.yaml"])["night"]
    assert named.folder is not None
    assert named.folder.resolve() == (here / "walks").resolve()
    assert named.media is not None
    assert named.media.resolve() == (here / "walks" / "train").resolve()


@pytest.mark.parametrize(
    "arguments",
    [
        ("night", "nvl:walks"),
        ("night", "vln:nowhere"),
        ("night", "vln:walks", "--annotations", "none.json"),
        ("night", "r2r+nobody"),
        ("night", "night*2"),
        ("night", "vln:walks*2", "--media", "train"),
        ("a+b", "vln:walks"),
        ("night", "vln:walks+"),
    ],
)
def test_what_cannot_be_added_is_told_and_not_written(here: Path, arguments: tuple[str, ...]) -> None:
    assert main(["data", "add", *arguments]) == 2
    assert not (here / "datasets.yaml").exists()


@pytest.mark.parametrize(
    "before", ["# Mine.\nday: {format: vln, folder: day}\n", "# Mine.\nday:\n  format: vln\n  folder: day"]
)
def test_adding_keeps_comments(tmp_path: Path, before: str) -> None:
    file = tmp_path / "datasets.yaml"
    file.write_text(before, encoding="utf-8")
    add(file, "night", {"format": "vln", "folder": "night"})
    assert file.read_text(encoding="utf-8").startswith(before)
    assert set(named_datasets([file])) == {"day", "night"}


def test_adding_to_braces_loses_no_name(tmp_path: Path) -> None:
    file = tmp_path / "datasets.yaml"
    file.write_text("{day: r2r}", encoding="utf-8")
    add(file, "night", "day*2")
    assert set(named_datasets([file])) == {"day", "night"}


def test_stats_counts_each_record_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "vln:walks*3", "--json", "--num_video_frames", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == {"vln": 4}
    assert told["black_frames"] == {"vln": 3}
    assert told["media"] == {"median": 3, "counts": [[3, 4]]}
    assert told["frames"] == {"median": 4, "counts": [[4, 1]]}
    assert told["instruction_words"] == {"median": 5, "counts": [[5, 4]]}
    assert told["answers"][STOP_ANSWER] == 1
    assert sum(told["answers"].values()) == 4
    assert dict(told["vocabulary"]["most_frequent"]) == {"go": 4, "to": 4, "the": 4, "red": 4, "sofa": 4}
    assert main(["data", "stats", "vln:walks"]) == 0
    assert "Answers of navigation steps" in capsys.readouterr().out
    assert main(["data", "stats", "vln:nowhere"]) == 2


def test_a_preview_shows_the_exact_prompt_and_marks_what_is_learned(here: Path) -> None:
    assert main(["data", "preview", "vln:walks", "--count", "9", "--output", "page.html"]) == 0
    page = (here / "page.html").read_text(encoding="utf-8")
    assert page.count("<article") == 4
    assert page.count('title="black frame"') == 7 + 6 + 5 + 4
    assert "vln, record 3 (7-3)" in page
    prompts = [html.unescape(re.sub("<[^>]*>", "", text)) for text in re.findall("<pre>(.*?)</pre>", page, re.DOTALL)]
    question = navigation_prompt("Go to the red <sofa>.", 8)
    answers = [*LEGAL_ANSWERS[:3], STOP_ANSWER]
    template = get_template("llama_3")
    assert prompts == [template.render([("user", question), ("assistant", answer)]) for answer in answers]
    marked = re.findall("<mark>(.*?)</mark>", "".join(re.findall("<pre>.*?</pre>", page, re.DOTALL)))
    assert [html.unescape(text) for text in marked[::2]] == answers


def test_a_preview_depends_on_its_seed_alone(here: Path) -> None:
    mixture = Mixture.open("vln:walks", None, LoadOptions(num_frames=2))
    pages = []
    for seed in (0, 0, 1, 2, 3):
        write_preview(here / "page.html", mixture, title="x", count=2, seed=seed)
        pages.append((here / "page.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert len(set(pages)) > 2


def test_a_preview_shows_broken_samples_as_broken(here: Path) -> None:
    path = here / "walks" / "annotations.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    records[1]["q"] = 3
    path.write_text(json.dumps(records), encoding="utf-8")
    (here / "walks" / "train" / "7" / "3.jpg").write_bytes(b"")
    assert main(["data", "preview", "vln:walks", "--output", "page.html"]) == 0
    page = (here / "page.html").read_text(encoding="utf-8")
    assert "&quot;q&quot; must be a text" in page
    assert page.count('class="broken"') == 1
    assert main(["data", "preview", "vln:walks", "--output", "x.html", "--conversation", "nobody"]) == 2
    assert main(["data", "preview", "vln:walks", "--output", "x.html", "--conversation", "v1", "--model", "y"]) == 2

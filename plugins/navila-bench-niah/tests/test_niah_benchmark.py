"""The task `niah`, from pictures in a folder to the heat map."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from navila.errors import ConfigError, DataError
from navila.plugins import default_host
from navila.testing import BenchmarkContract
from navila_eval.benchmark import Request
from PIL import Image


class Looks:
    """A model that sees the needle among the first six pictures alone, and one that is not there nowhere."""

    def __init__(self, sight: int = 6) -> None:
        self.sight = sight
        self.prompts: list[Any] = []

    def generate_contents(self, prompts: list[Any], **_: Any) -> list[str]:
        self.prompts += prompts
        return [self.answer(*prompt) for prompt in prompts]

    def answer(self, *prompt: Any) -> str:
        *pictures, question = prompt
        answers = {"needles-1": {"0": "harbour", "1": "red", "2": "5", "3": "left", "4": "7392"}}
        for picture in pictures[: self.sight]:
            found = answers.get(picture.parent.name, {}).get(picture.stem) if isinstance(picture, Path) else "red"
            if found:
                return f"{found}, I think"
        return f"no {question}"


class TestNeedleInHaystack(BenchmarkContract):
    name = "niah"

    @pytest.fixture
    def load_model(self, spec: Any) -> Callable[[], Any]:
        return Looks


def run(tmp_path: Path, output: str, model: Any, **options: Any) -> Any:
    return (
        default_host()
        .registry("benchmark")
        .load("niah")(**options)
        .run(
            Request(
                task="niah",
                split="test",
                output_dir=tmp_path / output,
                model_name="looks",
                load_model=lambda: model,
                identity={"options": options},
                data_root=tmp_path / "data",
                quiet=True,
            )
        )
    )


def test_what_a_model_sees_is_where_the_heat_map_is_dark(tmp_path: Path) -> None:
    model = Looks()
    grid = {"min_frames": 4, "max_frames": 12, "frame_interval": 4, "depth_interval": 0.5}
    results = run(tmp_path, "run", model, **grid)
    # Among 4 frames the needle is seen everywhere, at depth 1 as the fifth; among 8 and 12 at depths where it is one of
    # the first six pictures: place 0 and 4 of 8, place 0 of 12 (6 of 12 is the seventh picture).
    assert results.content["heat_maps"]["Needles found"] == {
        "values": [[1, 1, 1], [1, 1, 0], [1, 0, 0]],
        "columns": [4, 8, 12],
        "rows": [0, 0.5, 1],
        "x": "frames",
        "y": "depth",
    }
    # A reply that repeats "left or right?" has the arrow's answer in it.
    assert results.metrics == {"score": pytest.approx(30 / 45), "score_anywhere": pytest.approx(33 / 45)}
    assert results.count == 9 * 5
    assert results.content["tables"]["By needle"]["Find the frame with a die. How many dots does it show?"] == {
        "found": "0.667"
    }
    frames = sorted((tmp_path / "data" / "niah" / "landscapes-1-12").iterdir())
    needle = tmp_path / "data" / "niah" / "needles-1" / "0.png"
    shown = model.prompts[5]
    assert shown[:-1] == [*frames[:2], needle, *frames[2:4]], "depth 0.5 of 4 frames"
    assert len({file.read_bytes() for file in frames}) == 12, "all frames differ"

    page = (tmp_path / "run" / "report.html").read_text()
    assert "frames 12, depth 1.0: 0.000" in page
    assert page.count('<svg class="heat"') == 1
    assert "12 of 13 pictures" in page


@pytest.mark.parametrize(
    ("reply", "score", "anywhere"),
    [
        ("5", 1, 1),
        ("5.", 1, 1),
        ("It shows 5 dots", 0, 1),
        ("53", 0, 0),
        ("fünf", 0, 0),
        ("", 0, 0),
        (None, 0, 0),
    ],
)
def test_a_needle_is_found_where_the_reply_begins_with_the_answer(reply: str | None, score: int, anywhere: int) -> None:
    benchmark = default_host().registry("benchmark").load("niah")()
    figures = benchmark.score_sample({"answer": reply, "reference": "5"})
    assert figures == {"score": score, "score_anywhere": anywhere}


def test_a_film_and_needles_of_ones_own(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 32
        for number in range(9):
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32), (28 * number, 0, 0)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    picture = tmp_path / "one.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    image = {"bytes": picture.read_bytes(), "path": None}
    rows = [{"index": 0, "image": image, "question": "Which colour?", "answer": "red"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "needles.parquet")
    (tmp_path / "needles.json").write_text(json.dumps([{"image": "one.png", "question": "Which?", "answer": 3}]))

    options = {"haystack": str(film), "min_frames": 4, "max_frames": 4, "depth_interval": 1}
    model = Looks()
    results = run(tmp_path, "film", model, needles=str(tmp_path / "needles.parquet"), **options)
    assert results.count == 2
    needle, *frames, question = model.prompts[0]
    reds = [Image.open(frame).getpixel((16, 16))[0] for frame in frames]  # type: ignore[index]
    assert reds == pytest.approx([0, 56, 112, 168], abs=8), "one frame a second"
    assert (needle.read_bytes(), question) == (picture.read_bytes(), "Which colour?")

    model = Looks()
    folder = str(frames[0].parent)
    run(tmp_path, "folder", model, needles=str(tmp_path / "needles.json"), **{**options, "haystack": folder})
    assert model.prompts[0] == [picture, *frames, "Which?"]

    with pytest.raises(DataError, match=r"has 5 frames, .* give a longer one, or -o max_frames=5\."):
        run(tmp_path, "long", model, **{**options, "max_frames": 6})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_frames": 0}, "above 0 as max_frames, not 0"),
        ({"min_frames": 9, "max_frames": 8}, "max_frames 8 below min_frames 9"),
        ({"frame_interval": "many"}, "frame_interval, not 'many'"),
        ({"depth_interval": 2}, "as depth_interval, not 2"),
        ({"haystack": "nothing.mp4"}, "is no video and no folder"),
        ({"needles": "nothing.json"}, "is not there"),
        ({"needles": "TEXT:{"}, "is not JSON"),
        ({"needles": "TEXT:[]"}, "has no needles"),
        ({"needles": 'TEXT:[{"image": "a.png"}]'}, "entry 1, is malformed .*it has no 'question'"),
    ],
)
def test_wrong_options_and_files_are_one_sentence(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    if str(options.get("needles")).startswith("TEXT:"):
        (tmp_path / "needles.json").write_text(options["needles"].removeprefix("TEXT:"))
        options = {"needles": str(tmp_path / "needles.json")}
    with pytest.raises((ConfigError, DataError), match=match):
        run(tmp_path, "run", Looks(), **{"max_frames": 8, **options})

"""`navila navigate`: decisions on a recorded walk and before a camera, and the film of them."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import navila
import numpy as np
import pytest
from navila.actions import parse
from navila.cli import main
from navila.errors import ConfigError, DataError
from navila.replay import Camera, Film, Recording, Step, drawn, in_words
from navila.video import frame_index, read_frames
from PIL import Image

INSTRUCTION = "Walk past the table and stop at the sofa."
LEFT, FORWARD, STOP = "The next action is turn left 30 degree.", "The next action is move forward 75 cm.", "stop"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 10 frames/s; each frame has a shade of its own."""
    path = tmp_path_factory.mktemp("walk") / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            picture = np.full((48, 64, 3), 12 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def step(answer: str, number: int = 0) -> Step:
    image = Image.new("RGB", (64, 48), (90, 90, 90))
    return Step(number=number, time=number / 2, image=image, action=parse(answer), seconds=0.1)


def test_a_recorded_walk_is_decided_on_as_by_hand(
    goldens: Path, walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = goldens / "H_full_model" / "llama_siglip" / "ckpt"
    output = tmp_path / "film.mp4"
    arguments = ["-m", str(checkpoint), "--video", str(walk), "-i", INSTRUCTION, "--fps", "2", "--device", "cpu"]
    assert main(["navigate", *arguments, "--output", str(output), "--decoding", "grammar"]) == 0
    navigator = navila.Navigator(navila.load(checkpoint, device="cpu", dtype="float32"), decoding="grammar")
    navigator.reset(INSTRUCTION)
    by_hand = [navigator.act(image).text for image in read_frames(walk, [0, 5, 10, 15])]
    lines = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == by_hand
    assert [line["time"] for line in lines] == [0, 0.5, 1, 1.5]
    film = frame_index(output)
    assert (len(film), film.rate) == (4, 2)
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == f"2/4  0.5 s  {in_words(parse(by_hand[1]))}  {by_hand[1]}"
    assert err.endswith(f"4 decisions: {output} and {output.with_suffix('.jsonl')}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.jsonl", "film.mp4"]


def test_a_film_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make = partial(Film, path, tmp_path / "film.jsonl", instruction=INSTRUCTION, rate=2)
    interrupted = make()
    for number in range(60):
        interrupted.add(step(LEFT, number))
    # What a kill would leave behind.
    assert [left.name for left in tmp_path.iterdir()] == [".film.mp4.part"]
    interrupted.__exit__(KeyboardInterrupt)
    assert not list(tmp_path.iterdir())
    with make() as film:
        for number, answer in enumerate([LEFT, FORWARD, STOP]):
            film.add(step(answer, number))
    assert len(frame_index(path)) == 3
    assert [json.loads(line)["action"] for line in (tmp_path / "film.jsonl").read_text().splitlines()] == [
        "left", "forward", "stop"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "side"), [(LEFT, -1), ("The next action is turn right 30 degree.", 1), (FORWARD, 0)]
)
def test_the_arrow_points_where_the_action_goes(answer: str, side: int) -> None:
    picture = np.asarray(drawn(step(answer), INSTRUCTION)).astype(int)
    view = picture[:720]
    columns = np.nonzero((abs(view - (255, 210, 63)).sum(2) < 20).any(0))[0] - view.shape[1] / 2
    # The head reaches farther than the shaft.
    assert np.sign(round((columns.max() + columns.min()) / 10)) == side
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0


def test_a_recording_gives_each_frame_once_and_folders_give_all(walk: Path, tmp_path: Path) -> None:
    assert [when for when, _ in Recording(walk, 5)] == pytest.approx([n / 5 for n in range(10)])
    assert len(list(Recording(walk, 100))) == 20
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    assert [when for when, _ in Recording(tmp_path, 4)] == [0, 0.25, 0.5]


def test_what_breaks_off_is_used_as_far_as_it_goes_and_told(
    goldens: Path, walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with av.open(str(walk)) as whole, av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as to:
        stream = to.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            packet.stream = stream
            to.mux([packet] if packet.dts is not None else [])
    cut = tmp_path / "cut.mp4"
    content = (tmp_path / "fast.mp4").read_bytes()
    cut.write_bytes(content[: content.index(b"mdat") + (len(content) - content.index(b"mdat")) * 4 // 5])
    with pytest.raises(DataError, match=r"breaks off: its last \d+ frames are missing"):
        list(Recording(cut, 2))
    arguments = ["-m", str(goldens / "H_full_model" / "llama_siglip" / "ckpt"), "-i", INSTRUCTION, "--device", "cpu"]
    arguments += ["--decoding", "grammar", "--output", str(tmp_path / "film.mp4"), "--num-frames", "1"]
    # Of a walk, what is there is shown; before a camera, whoever waits for decisions has to know that none will come.
    for source, code, told in ((["--video", str(cut)], 0, "Warning: "), (["--camera", str(cut)], 2, "Error: ")):
        (tmp_path / "film.mp4").unlink(missing_ok=True)
        assert main(["navigate", *arguments, *source]) == code
        err = capsys.readouterr().err
        assert told in err
        assert "broke" in err or "breaks off" in err
        assert (tmp_path / "film.mp4").exists()


def test_a_film_keeps_the_shape_of_frames_that_differ(tmp_path: Path) -> None:
    with Film(tmp_path / "film.mp4", tmp_path / "film.jsonl", instruction=INSTRUCTION, rate=1) as film:
        for size in ((60, 60), (60, 20)):
            film.add(Step(number=0, time=0, image=Image.new("RGB", size, "white"), action=parse(STOP), seconds=0))
    last = np.asarray(read_frames(tmp_path / "film.mp4", [1])[0]).astype(int)
    assert last[100].max() < 40
    assert last[480, 50].min() > 200


def test_a_camera_gives_its_latest_frame_until_its_stream_ends(walk: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(walk.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with Camera(f"{address}/walk.mp4", 100) as camera:
            shades = [int(np.asarray(image).mean()) for _, image in camera]
        with pytest.raises(DataError, match="cannot be opened"):
            Camera(f"{address}/nothing", 1)
        server.shutdown()
    assert shades
    assert shades == sorted(set(shades))
    with pytest.raises(DataError, match="The camera 63 cannot be opened"):
        Camera("63", 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--video", "{walk}", "-i", " ", "-m", "x"], "The instruction is empty"),
        (["-i", "Go.", "-m", "x"], "Give one of --video and --camera"),
        (["--video", "{walk}", "--camera", "0", "-i", "Go.", "-m", "x"], "Give one of --video and --camera"),
        (["--video", "{walk}", "-i", "Go."], "The model is missing"),
        (["--video", "none.mp4", "-i", "Go.", "-m", "x"], "The video none.mp4 does not exist"),
        (["--video", "{empty}", "-i", "Go.", "-m", "x"], "empty.mp4 is no video that can be read"),
        (["--video", "{walk}", "-i", "Go.", "-m", "x", "--output", "nowhere/a.mp4"], "There is no folder nowhere"),
        (["--video", "{walk}", "-i", "Go.", "-m", "x", "--output", "a.avi"], "must be a file whose name ends in .mp4"),
        (["--video", "{walk}", "-i", "Go.", "-m", "x", "--output", "{walk}"], "is the video itself"),
        (["--video", "{walk}", "-i", "Go.", "-m", "/no/checkpoint"], "/no/checkpoint"),
    ],
)
def test_what_cannot_be_navigated_is_one_sentence(
    arguments: list[str], sentence: str, walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert main(["navigate", *(word.format(walk=walk, empty=empty) for word in arguments)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: ")
    assert told.count("\n") == 1
    assert sentence in told


def test_a_dry_run_tells_what_would_be_looked_at(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["navigate", "--video", str(walk), "-i", "Go.", "--dry-run", "--steps", "3"]) == 0
    told = capsys.readouterr().out
    assert told == "64 x 48 pixels, 2 decisions a second, 3 in all; film: walk.navigate.mp4\n"
    with pytest.raises(ConfigError, match="ends in"):
        Film(walk.with_suffix(".gif"), walk, instruction="", rate=1)

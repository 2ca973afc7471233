"""What a model is asked: conversations, videos, batches, streams, and how its answers are generated."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import av
import navila
import numpy as np
import pytest
import torch
from navila.errors import ConfigError, DataError
from navila.model.chat import Chat
from navila.model.media import MediaReader
from navila.model.settings import GenerationSettings
from navila.model.streaming import settled
from navila.video import Video
from PIL import Image

#: A llama with random weights spells out bytes of characters, white space and control tokens in any order.
QUESTIONS = ("Where is the sofa?", "Go.", "Describe the two rooms in detail, and say which is the larger of them.")
#: An answer that takes longer than any test looks away.
ENDLESS: dict[str, Any] = {"max_new_tokens": 4000, "min_new_tokens": 4000}


@pytest.fixture(scope="module")
def model(goldens: Path) -> Any:
    return navila.load(goldens / "H_full_model" / "llama_siglip" / "ckpt", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def images(goldens: Path) -> list[Image.Image]:
    return [Image.open(goldens / "H_full_model" / "frames" / f"frame_{i:02d}.png") for i in range(6)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five seconds of ten frames each, getting brighter."""
    with av.open(str(tmp_path / "walk.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return tmp_path / "walk.mp4"


@pytest.fixture
def encoded(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the encoder, call by call."""
    counts: list[int] = []
    forward = model.vision_tower.forward
    monkeypatch.setattr(model.vision_tower, "forward", lambda pixels: counts.append(len(pixels)) or forward(pixels))
    return counts


def greys(turns: list[Any]) -> list[int]:
    """How bright the frames of a prompt are, divided by what `video` adds a frame."""
    return [round(np.asarray(frame.image).mean() / 5) for turn in turns for frame in turn.frames]


def test_media_and_texts_come_in_any_order(model: Any, images: list[Image.Image], video: Path) -> None:
    reader = MediaReader(model, num_video_frames=3)
    (turn,) = reader.turns(["First", images[0], images[1], "then", video, "and", Video(video, num_frames=2), "?"])
    mark = "<image>\n"
    assert turn.text == f"First{mark * 2}then{mark * 3}and{mark * 2}?"
    assert len(turn.frames) == 7
    answer = model.generate_content([images[0], "What?", video], num_video_frames=3, max_new_tokens=6)
    frames = [frame.image for frame in reader.turns([video])[0].frames]
    assert answer == model.generate_content([images[0], "What?", *frames], max_new_tokens=6)


def test_videos_are_sampled_as_config_call_and_part_say(model: Any, video: Path, tmp_path: Path) -> None:
    def shown(part: Any, **options: Any) -> list[int]:
        return greys(MediaReader(model, **options).turns([part, "?"]))

    assert shown(video) == [0, 7, 14, 21, 28, 35, 42, 49]
    assert shown(video, num_video_frames=2) == [0, 49]
    assert shown(video, fps=1) == [0, 10, 20, 30, 40]
    assert shown(video, fps=1, num_video_frames=3) == [0, 10, 20]
    assert shown(Video(video, fps=2, num_frames=4, start=1), fps=1) == [10, 15, 20, 25]
    assert shown(Video(video, fps=0), fps=1, num_video_frames=2) == [0, 49]
    assert shown(Video(str(video), start=2, end=3, num_frames=2)) == [20, 29]
    for i in range(3):
        (tmp_path / "folder").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (5 * i,) * 3).save(tmp_path / "folder" / f"{i}.png")
    before = model.config.fps
    try:
        model.config.fps = 2.0
        assert shown(video) == [0, 5, 10, 15, 20, 25, 30, 35]
        # It has no times.
        assert shown(tmp_path / "folder", num_video_frames=3) == [0, 1, 2]
    finally:
        model.config.fps = before
    with pytest.raises(ConfigError, match="no times"):
        shown(tmp_path / "folder", fps=2)
    with pytest.raises(ConfigError, match="num_frames is 0"):
        shown(video, num_video_frames=0)


def test_a_conversation_is_rendered_turn_by_turn(model: Any, images: list[Image.Image]) -> None:
    talk = [("user", [images[0], "What?"]), ("assistant", "A sofa."), ("user", "Sure?")]
    prompt = model.template.render(
        [("user", "<image>\nWhat?"), ("assistant", "A sofa."), ("user", "Sure?"), ("assistant", None)]
    )
    ids = model.generate(**model.prepare(prompt, images[:1]), max_new_tokens=8)
    expected = model.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    assert model.generate_content(talk, max_new_tokens=8) == expected
    for wrong, message in (
        (talk[:2], "must be the user's"),
        ([*talk, "More?"], "Message 3 of a conversation"),
        ([("system", "Be brief.")], "Message 0 of a conversation"),
        ([("user", "Hi"), ("assistant", [images[0]]), ("user", "What?")], "only the user"),
        ([("user", "Hi"), ("user", "Ho")], "take turns"),
        ([], "empty"),
        (" ", "empty"),
        (["Hi", 3], "An image must be"),
    ):
        with pytest.raises(DataError, match=message):
            model.generate_content(wrong)


@pytest.mark.parametrize("prompt", [Path("a.jpg"), Video("a.mp4"), None, np.zeros((4, 4, 3), np.uint8)])
def test_a_prompt_that_is_no_text_and_no_list_is_refused(model: Any, prompt: Any) -> None:
    with pytest.raises(DataError, match="put it into a list"):
        model.generate_content(prompt)
    with pytest.raises(DataError, match="a list of prompts, got a text"):
        model.generate_contents("Go.")


def test_what_the_caller_hands_over_stays_as_it_is(model: Any, images: list[Image.Image]) -> None:
    parts = [images[0], "What?"]
    talk = [("user", parts), ("assistant", "A sofa."), ("user", ["Sure?"])]
    config, generation = model.config.to_dict(), model.llm.generation_config.to_dict()
    model.generate_content(talk, max_new_tokens=2, stop=["x"], do_sample=True, temperature=0.5)
    assert talk == [("user", [images[0], "What?"]), ("assistant", "A sofa."), ("user", ["Sure?"])]
    assert (model.config.to_dict(), model.llm.generation_config.to_dict()) == (config, generation)


def test_a_batch_answers_as_its_prompts_alone_and_encodes_shared_frames_once(
    model: Any, images: list[Image.Image], video: Path, encoded: list[int]
) -> None:
    prompts: list[Any] = [
        [images[0], QUESTIONS[0]],
        QUESTIONS[1],
        [images[1], images[0], video, QUESTIONS[2]],
        [("user", [video, "What?"]), ("assistant", "A room."), ("user", "Sure?")],
    ]
    together = model.generate_contents(prompts, num_video_frames=3, max_new_tokens=12)
    assert encoded == [2 + 3]
    assert together == [model.generate_content(p, num_video_frames=3, max_new_tokens=12) for p in prompts]
    assert model.generate_contents([]) == []
    with pytest.raises(DataError, match=r"Prompt 1: The image .*none\.png does not exist"):
        model.generate_contents(["Hi", [Path("/none.png"), "What?"]])
    with pytest.raises(DataError, match="Prompt 1: The prompt takes"):
        model.generate_contents(["Hi", "word " * 5000])


def test_frames_that_a_short_video_repeats_are_encoded_once(model: Any, tmp_path: Path, encoded: list[int]) -> None:
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i,) * 3).save(tmp_path / f"{i}.png")
    model.generate_content([tmp_path, "What?"], num_video_frames=8, max_new_tokens=1)
    assert encoded == [3]


@pytest.mark.parametrize("options", [{}, {"stop": ["e", "zz"]}, {"do_sample": True, "temperature": 3.0, "seed": 5}])
def test_streamed_pieces_are_the_answer(model: Any, images: list[Image.Image], options: dict[str, Any]) -> None:
    for number, question in enumerate(QUESTIONS):
        prompt = [*images[:number], question]
        pieces = list(model.stream_content(prompt, max_new_tokens=40, **options))
        assert "".join(pieces) == model.generate_content(prompt, max_new_tokens=40, **options)
        assert len(pieces) > 1 or options.get("stop")


def test_a_stream_that_is_left_ends_its_thread(model: Any) -> None:
    pieces = model.stream_content("Go.", **ENDLESS)
    next(pieces)
    assert any(thread.name == "navila-stream" for thread in threading.enumerate())
    pieces.close()
    assert not any(thread.name == "navila-stream" for thread in threading.enumerate())


def test_what_goes_wrong_while_streaming_reaches_the_consumer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean temperature"):
        model.stream_content("Go.", temprature=1.0)
    with pytest.raises(ConfigError, match="beams cannot be streamed"):
        model.stream_content("Go.", num_beams=2)
    pieces = model.stream_content("Go.", **ENDLESS)
    next(pieces)
    monkeypatch.setattr(model.llm, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(model.stream_content("Go.", max_new_tokens=5))
    with pytest.raises(ZeroDivisionError):
        list(pieces)
    assert not any(thread.name == "navila-stream" for thread in threading.enumerate())


def test_only_text_that_stays_is_given_out() -> None:
    assert settled("Go to \ufffd", ()) == "Go to"
    assert settled("Go to ST", ("STOP",)) == "Go to"
    assert settled("Go to STA", ("STOP",)) == "Go to STA"
    assert settled("I do n", ()) == "I do"
    assert settled("I do not", ()) == "I do not"
    assert settled("A\n", ("\n\nQ:",)) == "A"


def test_an_answer_ends_at_a_stop_text_wherever_its_tokens_end(model: Any) -> None:
    whole = model.generate_content("Go.", max_new_tokens=30)
    for start in (3, 8, 13):
        stop = whole[start : start + 4]
        ids = model.generate(**model.prepare(model.template.render([("user", "Go."), ("assistant", None)])), stop=stop)
        assert stop in model.tokenizer.decode(ids[0])
        assert ids.shape[1] < 30
        assert model.generate_content("Go.", max_new_tokens=30, stop=stop) == whole[: whole.index(stop)].strip()
    answers = model.generate_contents(["Go.", QUESTIONS[0]], max_new_tokens=30, stop=[whole[5:8]])
    assert answers == [model.generate_content(p, max_new_tokens=30, stop=[whole[5:8]]) for p in ("Go.", QUESTIONS[0])]


def test_a_seed_repeats_an_answer_and_leaves_the_generators_alone(model: Any) -> None:
    def sampled(seed: int | None) -> str:
        return model.generate_content("Go.", max_new_tokens=12, do_sample=True, temperature=5.0, seed=seed)

    before = torch.get_rng_state()
    assert sampled(1) == sampled(1) != sampled(2)
    assert torch.equal(torch.get_rng_state(), before)
    sampled(None)
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert sampled(None) == sampled(1)


def test_settings_are_known_and_in_range(model: Any) -> None:
    for options, message in (
        ({"temprature": 1.0}, "did you mean temperature"),
        ({"zzz": 1}, "use do_sample, length_penalty, max_new_tokens"),
        ({"max_length": 20}, "'max_length'"),
        ({"temperature": 0.5}, "give do_sample=True"),
        ({"top_p": 0.5}, "give do_sample=True"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens is 9"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"stop": ["a", ""]}, "stop is"),
        ({"stop": [3]}, "stop is"),
        ({"max_new_tokens": "3"}, "give a whole number"),
        ({"max_new_tokens": 3.0}, "give a whole number"),
        ({"do_sample": True, "temperature": "hot"}, "give a number"),
        ({"do_sample": 1}, "give True or False"),
        ({"seed": "x"}, "seed is 'x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.generate_content("Go.", **options)
        with pytest.raises(ConfigError, match=message):
            model.generate(torch.tensor([[1]]), **options)
    assert model.generate(torch.tensor([[1]]), do_sample=False, temperature=0, max_new_tokens=3).shape == (1, 3)


def test_nothing_of_a_checkpoints_generation_config_has_a_say(model: Any) -> None:
    before = model.generate_content("Go.", max_new_tokens=8)
    kept = model.llm.generation_config
    ids = model.generate(**model.prepare(model.template.render([("user", "Go."), ("assistant", None)])))[0]
    try:
        model.llm.generation_config = type(kept)(
            do_sample=True,
            min_p=0.9,
            suppress_tokens=ids[:3].tolist(),
            repetition_penalty=9.0,
            max_length=3,
            num_return_sequences=2,
            eos_token_id=kept.eos_token_id,
        )
        assert model.generate_content("Go.", max_new_tokens=8) == before
    finally:
        model.llm.generation_config = kept


def test_every_setting_has_its_default_and_transformers_takes_it(model: Any) -> None:
    options = GenerationSettings().options()
    assert options["max_new_tokens"] == 512
    assert options["do_sample"] is False
    changed = {"repetition_penalty": 2.0, "no_repeat_ngram_size": 2, "num_beams": 2, "length_penalty": 0.5}
    for name, value in changed.items():
        options = {name: value} if name != "length_penalty" else {name: value, "num_beams": 2}
        assert isinstance(model.generate_content("Go.", max_new_tokens=4, **options), str)
    long = model.generate_content("Go.", max_new_tokens=200, repetition_penalty=1.5, min_new_tokens=200)
    assert len(model.tokenizer(long).input_ids) > 100


def test_a_chat_remembers_and_encodes_only_what_is_new(
    model: Any, images: list[Image.Image], encoded: list[int]
) -> None:
    chat = Chat(model, max_new_tokens=8)
    first = chat.ask([images[0], images[1], "What?"])
    second = "".join(chat.stream([images[2], "And this?"]))
    assert encoded == [2, 1]
    talk: list[Any] = [("user", [images[0], images[1], "What?"]), ("assistant", first)]
    assert first == model.generate_content(talk[:1], max_new_tokens=8)
    assert second == model.generate_content([*talk, ("user", [images[2], "And this?"])], max_new_tokens=8)
    turns = chat.turns
    with pytest.raises(DataError, match="The prompt takes"):
        chat.ask("word " * 5000)
    assert chat.turns == turns
    chat.change(max_new_tokens=3)
    with pytest.raises(ConfigError, match="did you mean"):
        chat.change(max_new_token=3)
    assert len(chat.ask("So?")) < len(second)
    chat.reset()
    assert chat.ask([images[0], images[1], "What?"]) == model.generate_content(talk[:1], max_new_tokens=3)


def test_an_answer_that_is_stopped_counts_as_far_as_it_was_taken(model: Any) -> None:
    chat = Chat(model, max_new_tokens=500)
    pieces = chat.stream("Go.")
    said = next(pieces) + next(pieces)
    pieces.close()
    assert [turn.role for turn in chat.turns] == ["user", "assistant"]
    assert chat.turns[1].text == said.strip()

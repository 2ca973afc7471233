"""Small benchmarks in their official formats: what is asked, and what answers come to."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import pyarrow.parquet

GLUED = "Watching the video and answer with the option's letter from the given choices directly."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task with options, and its small data below a root."""

    task: str
    write: Callable[[Path], None]
    first: str
    """What the first question says besides its video, to the byte."""
    right: Sequence[str]
    said: Sequence[str]
    """Answers of which some are wrong."""
    figures: Mapping[str, float | None]
    """What they come to, worked out by hand."""
    split: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def put_video(path: Path) -> None:
    """A second of grey, the same for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = next(path.parents[2].rglob("*.mp4"), None)
    if made is not None:
        shutil.copy(made, path)
        return
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for number in range(5):
            picture = np.full((32, 32, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def put_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def put_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def put_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


ASKED = ["what is the dog doing?", "who is singing?", "how many café tables are there?", "what is it?", "where is he?"]
TRUTH = ["run", "woman", "two", "cat", "park"]
MUSED = ["run", "a man", "", "garbage", "Park."]
#: Two are right; one is wrong, at 2.7 points; one empty, which nobody judges; on one the judge talks garbage.
JUDGED = {"accuracy": 40.0, "score": 2.4, "accuracy_judged": 50.0, "score_judged": 3.0, "exact_match": 40.0}


def zero_shot(folder: str, video: str, names: Sequence[Any], types: Sequence[Any]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        marked = [f"<video>\n{question}" for question in ASKED]
        rows = [
            {"video_name": f"vid{n}", "question": q, "question_id": name}
            for n, (q, name) in enumerate(zip(marked, names, strict=True))
        ]
        answers = [
            {"answer": a, "type": t, "question_id": name} for a, t, name in zip(TRUTH, types, names, strict=True)
        ]
        put_json(root / folder / "test_q.json", rows)
        put_json(root / folder / "test_a.json", answers)
        for number in range(5):
            put_video(root / folder / "videos" / video.format(number))

    return write


CHAT = {
    "generic": [{"Q": "What happens?", "A": "A dog runs.", "video_name": "v_a"}] * 1
    + [{"Q": "What happens\nhere?", "A": "Two men sing, « là ».", "video_name": "b"}],
    "temporal": [{"Q": "And then?", "A": "It stops.", "video_name": "b"}],
    "consistency": [{"Q1": "Who sings?", "Q2": "Who is singing?", "A": "Two men.", "video_name": "b"}],
}


def write_chat(root: Path) -> None:
    for name, rows in CHAT.items():
        put_json(root / "video-chatgpt" / f"{name}_qa.json", rows)
    put_video(root / "video-chatgpt" / "videos" / "v_a.mp4")
    put_video(root / "video-chatgpt" / "videos" / "v_b.mp4")


OPEN = [
    ("4010069381", "why does it bark, then run", "dog", "0", "CW"),
    ("4010069381", "how many cats are there", "two", "1", "DC"),
    ("4010069381", "what did it do before", "table", "2", "TP"),
    ("6233408665", "where is this", "house", "0", "DL"),
]


def write_nextqa(root: Path) -> None:
    size = {"frame_count": 5, "width": 32, "height": 32}
    rows = [
        {"": n, "video": video, **size, "question": question, "answer": answer, "qid": qid, "type": kind}
        for n, (video, question, answer, qid, kind) in enumerate(OPEN)
    ]
    put_csv(root / "nextqa/oe/test.csv", rows)
    put_json(root / "nextqa/oe/add_reference_answer_test.json", {"4010069381": {"0": "cat", "2": "animal"}})
    options = [{f"a{n}": f"{word} {n}" for n in range(5)} for word in ("run", "two", "on a table", "inside")]
    choice = [
        {"video": v, **size, "question": q, "answer": n, "qid": qid, "type": kind, **options[n]}
        for n, (v, q, _, qid, kind) in enumerate(OPEN)
    ]
    put_csv(root / "nextqa/mc/test.csv", choice)
    put_json(root / "nextqa/map_vid_vidorID.json", {"6233408665": "1164/6233408665"})
    put_video(root / "nextqa/videos/4010069381.mp4")
    put_video(root / "nextqa/videos/1164/6233408665.mp4")


EGO = ["Taking into account all the actions, what is C doing?", "Why?", "How?", "What is the overarching theme?"]


def write_egoschema(root: Path) -> None:
    options = {f"option {n}": f"C does thing {n}." for n in range(5)}
    put_json(
        root / "egoschema/questions.json", [{"q_uid": f"00-{n}", "question": q, **options} for n, q in enumerate(EGO)]
    )
    put_json(root / "egoschema/subset_answers.json", {"00-0": 0, "00-1": 4, "00-2": 2})
    for number in range(4):
        put_video(root / f"egoschema/videos/00-{number}.mp4")


def mme(number: int, **fields: Any) -> dict[str, Any]:
    options = ["A. One.", "B. Two.", "C. Three's.", "D. Four."]
    video = {"video_id": f"00{number}", "videoID": f"fFjv93ACGo{number}", "url": "https://www.youtube.com/watch?v=x"}
    asked = {"question_id": f"00{number}-1", "question": f"How many, {number}?", "options": options}
    return {**video, "sub_category": "Technology", **asked, **fields}


MME = [
    mme(0, duration="short", domain="Knowledge", task_type="Counting Problem", answer="C"),
    mme(1, duration="short", domain="Film & Television", task_type="OCR Problems", answer="A"),
    mme(2, duration="long", domain="Multilingual", task_type="Counting Problem", answer="B"),
    mme(3, duration="long", domain="Multilingual", task_type="Temporal Reasoning", answer="D"),
]
SRT = """1
00:00:00,000 --> 00:00:00,300
<font color="white" size=".72c">Hello, Zoë.</font>

2
00:00:00,300 --> 00:00:00,700
<font color="white" size=".72c">How are
you?</font>
"""


def write_videomme(root: Path) -> None:
    put_parquet(root / "videomme/videomme/test-00000-of-00001.parquet", MME)
    (root / "videomme/subtitle").mkdir()
    (root / "videomme/subtitle/fFjv93ACGo0.srt").write_text(SRT, encoding="utf-8")
    for number in range(4):
        put_video(root / f"videomme/data/fFjv93ACGo{number}.mp4")


def perception(number: int, area: str, reasoning: str) -> dict[str, Any]:
    asked = {"id": number, "question": f"Where is it, {number}?", "options": ["left", "right", "behind"]}
    return {**asked, "answer_id": number % 3, "area": area, "reasoning": reasoning, "tag": ["occlusion"]}


def write_perception(root: Path) -> None:
    first = [perception(0, "memory", "descriptive"), perception(1, "physics", "predictive")]
    second = [perception(2, "physics", "descriptive"), perception(3, "semantics", "explanatory")]
    videos = {"video_10": first, "video_11": second}
    for split in ("valid", "test"):
        hidden = ("answer_id",) if split == "test" else ()
        content = {
            name: {
                "metadata": {"video_id": name, "split": split},
                "mc_question": [{key: value for key, value in row.items() if key not in hidden} for row in rows],
            }
            for name, rows in videos.items()
        }
        put_json(root / f"perception-test/mc_question_{split}.json", content)
    for name in videos:
        put_video(root / f"perception-test/videos/{name}.mp4")


PILE_ASK = (
    "You will be provided with subtitles from a specific scene of a movie and a few frames from that scene. After "
    "going through the movie scene and seeing the frames, please answer the question that follows. The question will "
    "have five possible answers labeled A, B, C, D, and E, please try to provide the most probable answer in your "
    "opinion. Your output should be just one of A,B,C,D,E and nothing else.\n\n**Subtitles:** \n"
)


def write_cinepile(root: Path) -> None:
    categories = ["Temporal", "Narrative and\nPlot Analysis", "Temporal", "Theme Exploration"]
    rows = [
        {
            "yt_clip_link": f"https://www.youtube.com/watch?v=clip-{n}",
            "subtitles": "JACK: Oh là là.",
            "question": f"What then, {n}?",
            "choices": ["Rain", "Snow", "Wind", "Sun", "Fog"],
            "answer_key_position": n,
            "question_category": category,
        }
        for n, category in enumerate(categories)
    ]
    put_parquet(root / "cinepile/v2/test-00000-of-00001.parquet", rows)
    for number in range(4):
        put_video(root / f"cinepile/videos/clip-{number}.mp4")


SELECT = "Select the best answer to the following multiple-choice question based on the video{}. Respond with only the letter (A, B, C, or D) of the correct option."  # noqa: E501
MME_LINES = "A. One.\nB. Two.\nC. Three's.\nD. Four."
MME_FIGURES = {
    # C; a capital word's A is the answer A; nothing at all; B for D.
    "accuracy_all": 50.0, "accuracy_answered": 200 / 3, "short": 100.0, "medium": None, "long": 0.0, "knowledge": 100.0,
    "film_television": 100.0, "multilingual": 0.0, "counting_problem": 50.0, "ocr_problems": 100.0,
    "temporal_reasoning": 0.0,
}  # fmt: skip

CASES = (
    Case(
        task="msvd-qa",
        write=zero_shot("msvd-qa", "vid{}.avi", range(5), [None] * 5),
        first=ASKED[0],
        right=TRUTH,
        said=MUSED,
        figures={**JUDGED, "what": 50.0, "who": 0.0, "how": 0.0, "where": 100.0, "when": None},
    ),
    Case(
        task="msrvtt-qa",
        write=zero_shot("msrvtt-qa", "vid{}.mp4", range(5), [None] * 5),
        options={"profile": "lmms"},
        first=ASKED[0],
        right=TRUTH,
        said=MUSED,
        figures={**JUDGED, "score": 2.54, "score_judged": 3.175},
    ),
    Case(
        task="activitynet-qa",
        write=zero_shot("activitynet-qa", "v_vid{}.mp4", [f"v_vid{n}_7" for n in range(5)], [0, 5, 7, 5, 6]),
        options={"prompt": "lmms"},
        first="What is the dog doing?? Answer the question using a single word or phrase.",
        right=TRUTH,
        said=MUSED,
        figures={**JUDGED, "motion": 100.0, "object": 0.0, "number": 0.0, "location": 100.0, "yes_no": None},
    ),
    Case(
        task="video-chatgpt",
        write=write_chat,
        first="What happens?",
        right=["A dog runs.", "Two men sing, « là ».", "It stops.", "Two men.", "Two men."],
        # A wrong answer is worth 2.7, cut to 2; of a pair one wrong answer spoils both.
        said=["A dog runs.", "Nothing.", "It runs.", "Two men.", "A man."],
        figures={
            "correctness": 3.5,
            "detail": 3.5,
            "context": 3.5,
            "temporal": 2.0,
            "consistency": 2.0,
            "average": 2.9,
        },
    ),
    Case(
        task="nextqa",
        write=write_nextqa,
        options={"tagger": "none"},
        first="why does it bark, then run",
        right=["The dog.", "two", "a table", "house"],
        # cat ~ dog is 4/6; a count must be equal; animal ~ table is 2/4; nothing is like what WordNet lacks.
        said=["cats", "2", "animal", "xyzzy"],
        figures={
            "wups": 100 * (4 / 6 + 2 / 4) / 4,
            "CW": 400 / 6,
            "C": 400 / 6,
            "DC": 0.0,
            "TN": 50.0,
            "T": 50.0,
            "D": 0.0,
        },
    ),
    Case(
        task="nextqa",
        write=write_nextqa,
        options={"tagger": "none", "profile": "next-oe", "prompt": "lmms", "alpha": 0.9},
        first="why does it bark, then run\nAnswer a question using a short phrase or sentence.",
        right=["cat", "two", "animals", "house"],
        # The additional answers count; under the threshold a likeness counts a tenth: entity ~ animal is 2/3.
        said=["cats", "two", "entity", ""],
        figures={"wups": (100 + 100 + 10 * 2 / 3) / 4, "C": 100.0, "DC": 100.0, "T": 10 * 2 / 3, "DL": 0.0},
    ),
    Case(
        task="nextqa-mc",
        write=write_nextqa,
        first="why does it bark, then run\nA. run 0\nB. run 1\nC. run 2\nD. run 3\nE. run 4" + LETTER,
        right=["A", "B.", "(C)", "It is D"],
        said=["B", "(B) two 1", "no idea", "the answer, as far as I see, inside 3"],
        figures={"accuracy": 50.0, "C": 0.0, "CW": 0.0, "DC": 100.0, "TN": 0.0, "D": 100.0, "CH": None},
    ),
    Case(
        task="egoschema",
        write=write_egoschema,
        first=GLUED + EGO[0] + "".join(f"\n{'ABCDE'[n]}. C does thing {n}." for n in range(5)) + "\n",
        right=["A", "E", "C"],
        # Lower case names nothing.
        said=["The answer is A", "e", "(D)"],
        figures={"accuracy": 100 / 3},
    ),
    Case(
        task="egoschema_full",
        write=write_egoschema,
        options={"prompt": "lmms", "profile": "lmms"},
        first=EGO[0] + "".join(f"\n{'ABCDE'[n]}. C does thing {n}." for n in range(5)) + LETTER,
        right=["A", "E", "C", "B"],
        said=["A.", "nothing", "D", "B"],
        figures={"accuracy": 100 / 3},
    ),
    Case(
        task="videomme",
        write=write_videomme,
        first=f" {SELECT.format('')}\nHow many, 0?\n{MME_LINES}\nThe best answer is:\n",
        right=["C", "The best answer is A", "(B)", "D."],
        said=["C.", "A man", "no one", "The answer is B."],
        figures=MME_FIGURES,
    ),
    Case(
        task="videomme",
        write=write_videomme,
        options={"prompt": "lmms"},
        first=f"{SELECT.format(' and the subtitles')}\nHow many, 0?\n"
        f"""['A. One.', 'B. Two.', "C. Three's.", 'D. Four.']\n{LETTER}""",
        right=["C", "A", "B", "D"],
        said=["C.", "A man", "no one", "B"],
        figures=MME_FIGURES,
    ),
    Case(
        task="videomme-subtitles",
        write=write_videomme,
        first="This video's subtitles are listed below:\nHello, Zoë.\nHow are you?\n"
        f"{SELECT.format(' and the subtitles')}\nHow many, 0?\n{MME_LINES}\nThe best answer is:",
        right=["C", "A", "B", "D"],
        said=["C.", "A man", "no one", "B"],
        figures=MME_FIGURES,
    ),
    Case(
        task="perception-test",
        write=write_perception,
        first=GLUED + "Where is it, 0?A. left\nB. right\nC. behind\n",
        right=["A", "B. right", "C", "A."],
        # Its first character is T.
        said=["The answer is A", "B", "", "b"],
        figures={"accuracy": 25.0, "memory": 0.0, "physics": 50.0, "predictive": 100.0, "abstraction": None},
    ),
    Case(
        task="perception-test",
        write=write_perception,
        options={"prompt": "lmms", "profile": "lmms", "temperature": 0.2},
        first="Where is it, 0?\nA. left\nB. right\nC. behind" + LETTER,
        right=["A", "B", "C", "A"],
        said=["The answer is A", "B", "", "b"],
        figures={"accuracy": 50.0, "memory": 100.0, "physics": 50.0, "descriptive": 50.0, "explanatory": 0.0},
    ),
    Case(
        task="cinepile",
        write=write_cinepile,
        first=PILE_ASK
        + "JACK: Oh là là.\n\nQuestion: What then, 0?\n- A) Rain\n- B) Snow\n- C) Wind\n- D) Sun\n- E) Fog",
        right=["A", "B", "C", "(D)"],
        # The text of an option names nothing here, nor does `A)`.
        said=["A) Rain", "B", "I think that it may have been the Wind", "E"],
        figures={"accuracy": 25.0, "temp": 0.0, "npa": 100.0, "th": 0.0, "crd": None, "sta": None},
    ),
)

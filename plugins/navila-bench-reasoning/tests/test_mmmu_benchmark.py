"""The tasks `mmmu-*`, from the official files to their figures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from navila.errors import ConfigError, DataError
from navila.plugins import default_host
from navila.testing import BenchmarkContract
from navila_bench_reasoning.mmmu import Mmmu
from navila_eval.benchmark import Request
from navila_eval.runner import rescore_runs
from PIL import Image

#: (subject, question, options, answer), the first ones of MMMU's form: options are a text, pictures have marks.
ROWS = [
    ("Accounting", "What is <image 1>, beside <image 2>?", "['a table', 'a red <image 3>']", "B"),
    ("Accounting", "Wie viel kostet <image 1>?", "['$1', \"$2\", '$3', '$4']", "D"),
    ("Art", "Whose is <image 1>?", "['Monet', 'Manet']", "A"),
    ("Math", "What is x in <image 1>?", "[]", "3.14"),
    ("Math", "Which city is in <image 1>?", "[]", "['Paris', 'city of light']"),
]
SUBJECTS = "Accounting,Art,Math"
PERFECT = ["B", "(D)", "A", "3.14159", "It is Paris."]


def colour(number: int) -> dict[str, Any]:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": "picture.png"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with three of the subjects."""
    for split in ("validation", "test"):
        for subject in SUBJECTS.split(","):
            rows = [
                {
                    "id": f"{split}_{subject}_{number}",
                    "question": question,
                    "options": options,
                    "explanation": "",
                    **{f"image_{i}": colour(i) if f"<image {i}>" in question + options else None for i in range(1, 4)},
                    "answer": answer if split == "validation" else "?",
                    "question_type": "open" if options == "[]" else "multiple-choice",
                }
                for number, (of, question, options, answer) in enumerate(ROWS, 1)
                if of == subject
            ]
            folder = tmp_path / "data" / "mmmu" / subject
            folder.mkdir(parents=True, exist_ok=True)
            image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            names = [*rows[0]]
            schema = pa.schema([(name, image if name.startswith("image_") else pa.string()) for name in names])
            pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{split}-00000-of-00001.parquet")
    return tmp_path / "data"


class Said:
    """A model that says one thing after the other."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = list(answers)
        self.prompts: list[Any] = []
        self.settings: dict[str, Any] = {}

    def generate_contents(self, prompts: list[Any], **settings: Any) -> list[str]:
        self.prompts += prompts
        self.settings = settings
        return [self.answers.pop(0) for _ in prompts]


class TestMmmu(BenchmarkContract):
    name = "mmmu-validation"

    @pytest.fixture
    def load_model(self, spec: Any) -> Callable[[], Any]:
        return lambda: Said(["B", "gray"])


def run(data: Path, output: Path, model: Said, split: str = "validation", **options: Any) -> Any:
    options = {"subjects": SUBJECTS, **options}
    benchmark = default_host().registry("benchmark").load(f"mmmu-{split}")(**options)
    return benchmark.run(
        Request(
            task=f"mmmu-{split}",
            split=split,
            output_dir=output,
            model_name="said",
            load_model=lambda: model,  # type: ignore[arg-type,return-value]
            identity={"options": options},
            data_root=data,
            quiet=True,
        )
    )


def shown(prompt: list[Any]) -> tuple[list[int], str]:
    """Which pictures, by their red, and the text."""
    *images, text = prompt
    return [Image.open(image).getpixel((0, 0))[0] for image in images], text  # type: ignore[index]


def test_perfect_answers_are_all_right_and_asked_in_navilas_words(data: Path, tmp_path: Path) -> None:
    model = Said(PERFECT)
    results = run(data, tmp_path / "run", model)
    assert {value for value in results.metrics.values() if value is not None} == {1.0}
    assert [name for name, value in results.metrics.items() if value is None] == [
        "health_and_medicine", "humanities_and_social_science", "tech_and_engineering",
    ]  # fmt: skip
    suffix = "\n\nAnswer with the option's letter from the given choices directly."
    assert shown(model.prompts[0]) == ([1, 2, 3], f"What is , beside ?\n\n(A) a table\n(B) a red \n{suffix}")
    assert shown(model.prompts[3])[1] == "What is x in ?\n\nAnswer the question using a single word or phrase."
    assert model.settings["max_new_tokens"] == 128


def test_wrong_answers_score_what_mmmus_rules_say(data: Path, tmp_path: Path) -> None:
    # The article is option A to MMMU's rules and none to the strict one; lower-case letters and `A)` the other way.
    said = ["b", "$4 of course, said everyone in the room", "A cat, I guess", "3.15", "city"]
    results = run(data, tmp_path / "run", Said(said))
    right = {"accuracy": 0.4, "accuracy_strict": 0.2, "business": 0.5, "art_and_design": 1.0, "science": 0.0}
    assert {name: value for name, value in results.metrics.items() if value is not None} == right
    assert results.content["counters"] == {"failed": 0, "unparsed": 1, "without_letter": 1}
    table = results.content["tables"]["Accuracy by subject"]
    assert table["Accounting"] == {"questions": 2, "accuracy": 0.5}
    assert table["Overall"] == {"questions": 5, "accuracy": 0.4}
    assert results.intervals["business"] is not None

    # Drawn for its id, a letter is the same whoever scores, and may be right; `b` stays without one.
    ((_, drawn),) = rescore_runs(tmp_path / "run", options={"subjects": SUBJECTS, "unparsed": "random"})
    assert not isinstance(drawn, Exception)
    assert drawn.content["counters"] == {"failed": 0, "unparsed": 0, "without_letter": 1}
    ((_, again),) = rescore_runs(tmp_path / "run", options={"subjects": SUBJECTS, "unparsed": "random"})
    assert not isinstance(again, Exception)
    assert drawn.metrics == again.metrics


def test_a_figure_that_is_rounded_has_an_interval_all_the_same() -> None:
    facts = {"question_type": "multiple-choice", "options": ["red", "blue"], "subject": "Art"}
    one = {"output": "A", "answer": "A", "facts": facts, "error": ""}
    scores = Mmmu().score(
        [{**one, "id": f"dev_Art_{number}", "reference": truth} for number, truth in enumerate("ABB")]
    )
    assert (scores.metrics["accuracy"], scores.metrics["art_and_design"]) == (0.333, 0.333)
    assert scores.intervals["accuracy"] == scores.intervals["art_and_design"] == (0.0, 1.0)
    assert scores.intervals["business"] is None


def test_the_profile_of_lmms_eval_keeps_the_marks(data: Path, tmp_path: Path) -> None:
    model = Said(["B", "D.", "A", "3.1", "light"])
    results = run(data, tmp_path / "run", model, profile="lmms")
    assert shown(model.prompts[0]) == (
        [1, 2, 3],
        "What is <image 1>, beside <image 2>?\nA. a table\nB. a red <image 3>\n\n"
        "Answer with the option's letter from the given choices directly.",
    )
    assert model.settings["max_new_tokens"] == 16
    assert results.metrics["accuracy"] == 0.6


def test_the_test_split_gives_the_file_its_server_takes(data: Path, tmp_path: Path) -> None:
    results = run(data, tmp_path / "run", Said(["(B)", "no idea", "A", "3.14", "Paris"]), split="test")
    assert not any(results.metrics.values())
    sent = json.loads((tmp_path / "run" / "mmmu.json").read_text())
    assert sent["test_Accounting_1"] == "B"
    assert sent["test_Accounting_2"] == "no idea"
    assert sent["test_Math_4"] == "3.14"


def test_what_is_missing_or_damaged_is_one_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks validation-\*\.parquet of Art_Theory, Design, Music and 24 more"):
        run(data, tmp_path / "run", Said([]), subjects=None)
    with pytest.raises(DataError, match=r"mmmu is not below .*: download"):
        run(tmp_path, tmp_path / "run", Said([]))
    with pytest.raises(ConfigError, match="no subject 'Maths'"):
        run(data, tmp_path / "run", Said([]), subjects="Maths")
    with pytest.raises(ConfigError, match="no profile 'vila'"):
        run(data, tmp_path / "run", Said([]), profile="vila")
    path = data / "mmmu" / "Art" / "validation-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    for change, match in [
        ({"options": "__import__('os').getcwd()"}, "row 1, is malformed"),
        ({"options": "['one']"}, "no list of texts"),
        ({"image_1": None}, "image_1 is missing"),
        ({"id": "Art-1"}, "not 'Art-1'"),
        ({"question_type": "essay"}, "question_type is 'essay'"),
    ]:
        schema = pq.read_schema(path)
        pq.write_table(pa.Table.from_pylist([{**rows[0], **change}], schema), path)
        with pytest.raises(DataError, match=match):
            run(data, tmp_path / "run", Said([]), subjects="Art")

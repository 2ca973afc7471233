"""Finding what a phrase refers to: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from navila.errors import ConfigError
from navila_eval.questions import Question, Record, Scores, check_option, find
from navila_eval.rows import reading
from navila_eval.scoring.boxes import BoxFormat, center_hit, first_box, iou, refcoco_scores
from PIL import Image

from navila_bench_image.task import ImageTask, Row, from_hub, parquet_rows

#: `lmms`: lmms-eval's prompt and IoU; `navila`: NaVILA's, where a box's last pixel counts in.
RefProfile = Literal["lmms", "navila"]

_PROMPTS: Mapping[RefProfile, str] = {
    "lmms": (
        "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y)."
        " All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of"
        " the region this sentence describes: {}"
    ),
    "navila": "Please provide the bounding box coordinate of the region this sentence describes: {}.",
}
#: Words of which the names of box formats are made (`navila_eval.scoring.boxes.BoxFormat`).
_FORMAT_WORDS = ("vila", "llava", "standard", "000")


class RefCOCO(ImageTask):
    """A box for a phrase in a COCO image (Yu et al., ECCV 2016); the accuracy is the share with an IoU of 0.5."""

    settings: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 128}
    asks_by = ("profile",)
    metrics = ("accuracy", "iou", "center_accuracy")
    dataset: ClassVar[str] = "refcoco"
    download = from_hub("lmms-lab/RefCOCO", "refcoco")
    tiny_rows = (
        {"img_id": "wall_0", "sents": "the left half", "bbox": [0, 0, 16, 32], "height": 32, "width": 32, "line": 1},
        {"img_id": "wall_1", "sents": "the lower half", "bbox": [0, 16, 32, 16], "height": 32, "width": 32, "line": 2},
    )

    def __init__(self, *, profile: RefProfile = "lmms", box_format: str = "vila") -> None:
        """`box_format` is how a model writes boxes, in the profile `navila` (`BoxFormat.name`).

        Raises:
            ConfigError: there is no such profile or format.
        """
        check_option(self.dataset, "profile", profile, get_args(RefProfile))
        if not set(re.split(r"\W|_", str(box_format))) <= set(_FORMAT_WORDS):
            raise ConfigError(f"box_format={box_format} is not known: join words of {', '.join(_FORMAT_WORDS)} with -.")
        self.profile: RefProfile = profile
        self.box_format = BoxFormat(name=str(box_format))

    def load(self, split: str, data_root: Path) -> Iterable[Row]:
        path = f"{self.dataset}/{self.dataset}_{split}.json"
        find(data_root, self.dataset, self.download)
        if not (data_root / path).exists():
            yield from self._phrases(data_root / self.dataset / "data", split)
            return
        rows = self.read_list(data_root, path)
        images = find(data_root, "coco/train2014", "download train2014.zip from https://cocodataset.org/#download")
        for number, (where, item) in enumerate(rows, 1):
            yield Row(where=where, values={**item, "line": number}, images=images)

    def _phrases(self, folder: Path, split: str) -> Iterable[Row]:
        """The Hub's rows, each a box with all its phrases, as a row a phrase."""
        for row in parquet_rows(folder, split, self.download):
            with reading(row.where, self.download):
                phrases, image, name = row.texts("answer"), row.values["image"], Path(row.text("file_name")).stem
                with Image.open(image) as opened:
                    width, height = opened.size
            for number, phrase in enumerate(phrases, 1):
                values = {**row.values, "img_id": name, "sents": phrase, "height": height, "width": width}
                yield replace(row, values={**values, "line": f"{row.number('line')}.{number}"})

    def question(self, row: Row) -> Question:
        name = row.text("img_id")
        x, y, width, height = (float(value) for value in row.values["bbox"])
        size = {"height": row.number("height"), "width": row.number("width")}
        if min(size.values()) < 1:
            raise ValueError("height and width must be 1 at least")
        image = row.image(row.values.get("image", f"{name.rpartition('_')[0]}.jpg"))
        return Question(
            id=f"{name}-{row.values['line']}",
            prompt=[image, _PROMPTS[self.profile].format(row.text("sents"))],
            reference=[x, y, x + width, y + height],
            facts={"img_id": name, **size},
        )

    def parse(self, record: Record) -> Sequence[float] | None:
        """A box as its profile scores it: in pixels (`navila`), or as it stands, in fractions (`lmms`)."""
        if self.profile == "lmms":
            return first_box(record["output"])
        try:
            return self.box_format.parse(record["output"], record["facts"]["height"], record["facts"]["width"])
        except ValueError:
            return None

    def score_sample(self, record: Record) -> Mapping[str, float]:
        box, truth = record["answer"], record["reference"]
        if self.profile == "lmms" and not record["error"]:
            # To lmms-eval no box is one of no size in the upper left corner, where the true one may be.
            (x1, y1, x2, y2), width, height = truth, record["facts"]["width"], record["facts"]["height"]
            found = refcoco_scores([(box, (x1 / width, y1 / height, x2 / width, y2 / height))])
            return {"accuracy": found["ACC@0.5"], "iou": found["IoU"], "center_accuracy": found["Center_ACC"]}
        if box is None:
            return dict.fromkeys(self.metrics, 0.0)
        overlap = iou(box, truth, pixel=1.0)
        return {"accuracy": float(overlap >= 0.5), "iou": overlap, "center_accuracy": center_hit(box, truth)}

    def score(self, records: Sequence[Record]) -> Scores:
        if self.profile == "navila":
            # NaVILA's script keeps one annotation of an image id, the last.
            last = {record["facts"]["img_id"]: record["reference"] for record in records}
            records = [{**record, "reference": last[record["facts"]["img_id"]]} for record in records]
        return super().score(records)


class RefCOCOPlus(RefCOCO):
    """RefCOCO+: phrases without words of place."""

    dataset = "refcoco+"
    download = from_hub("lmms-lab/RefCOCOplus", "refcoco+")


class RefCOCOg(RefCOCO):
    """RefCOCOg: longer phrases (Mao et al., CVPR 2016)."""

    dataset = "refcocog"
    download = from_hub("lmms-lab/RefCOCOg", "refcocog")

"""Categories of the data and the metrics they are reported as. Light: the list of tasks names them too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping


def metric_name(category: str) -> str:
    """A category as a metric is called: `Film & Television` -> `film_television`."""
    return re.sub(r"[^a-z0-9]+", "_", category.lower()).strip("_")


def _named(categories: Iterable[str]) -> dict[str, str]:
    return {category: metric_name(category) for category in categories}


#: ActivityNet-QA's types by their number in the file (Yu et al., AAAI 2019).
ACTIVITYNET = dict(
    enumerate(("motion", "spatial", "temporal", "yes_no", "color", "object", "location", "number", "other"))
)
#: First words of MSVD-QA's and MSR-VTT-QA's questions, by which both are broken down (Xu et al., ACM MM 2017).
QUESTION_WORDS = ("what", "who", "how", "when", "where")

#: NExT-QA's types: C causal, T temporal, D descriptive; TP (previous) counts as TN (next), as in its script.
NEXTQA = {
    "C": "causal", "CW": "causal, why", "CH": "causal, how", "T": "temporal", "TN": "temporal, next and previous",
    "TC": "temporal, at the same time", "D": "descriptive", "DB": "descriptive, yes or no",
    "DC": "descriptive, counting", "DL": "descriptive, location", "DO": "descriptive, other",
}  # fmt: skip

VIDEOMME_DURATIONS = _named(("short", "medium", "long"))
VIDEOMME_DOMAINS = _named(
    ("Knowledge", "Film & Television", "Sports Competition", "Artistic Performance", "Life Record", "Multilingual")
)
VIDEOMME_TASKS = _named(
    f"{subject} {ability}"
    for ability, subjects in {
        "Perception": ("Temporal", "Spatial", "Attribute"),
        "Recognition": ("Action", "Object"),
        "Problems": ("OCR",),
        "Problem": ("Counting",),
        "Reasoning": ("Temporal", "Spatial", "Action", "Object"),
        "Synopsis": ("Information",),
    }.items()
    for subject in subjects
)
VIDEOMME: Mapping[str, str] = {**VIDEOMME_DURATIONS, **VIDEOMME_DOMAINS, **VIDEOMME_TASKS}

PERCEPTION_AREAS = ("memory", "abstraction", "physics", "semantics")
PERCEPTION_REASONING = ("descriptive", "explanatory", "predictive", "counterfactual")

#: CinePile's categories by the short names of its tables (`navila_eval.scoring.choices.CINEPILE_CATEGORIES`).
CINEPILE = {
    "crd": "character and relationship dynamics", "npa": "narrative and plot analysis",
    "sta": "setting and technical analysis", "temp": "temporal", "th": "theme exploration",
}  # fmt: skip

#: Aspects that judges score in Video-ChatGPT's benchmark (Maaz et al., ACL 2024).
VIDEO_CHATGPT = {
    "correctness": "correctness of information", "detail": "detail orientation", "context": "contextual understanding",
    "temporal": "temporal understanding", "consistency": "consistency of two answers",
}  # fmt: skip

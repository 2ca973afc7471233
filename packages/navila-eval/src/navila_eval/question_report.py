"""The report of a run of questions: one HTML page with figures, and samples to browse with their media."""

from __future__ import annotations

import functools
import html
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.errors import NavilaError
from navila.files import write_atomically
from navila.pages import heat_map, histogram, image_uri, page

from navila_eval.jsonl import read_jsonl

#: Samples that are shown, spread over the run, those with a failure first.
SHOWN = 60
#: Longest side of a picture in pixels, frames of a video, and pictures or videos of a sample.
SIDE, FRAMES, MEDIA = 256, 4, 12

_STYLE = """
.sample { border-top: 1px solid var(--line, #8884); padding: .8rem 0; }
.sample img { max-height: 10rem; border-radius: 4px; margin-right: .3rem; }
.sample pre { white-space: pre-wrap; margin: .2rem 0; }
.sample .figures { opacity: .75; }
"""

_SCRIPT = """
document.getElementById("find").addEventListener("input", event => {
  const wanted = event.target.value.toLowerCase();
  for (const sample of document.querySelectorAll(".sample"))
    sample.hidden = !sample.textContent.toLowerCase().includes(wanted);
});
"""


def write_question_report(folder: Path, content: Mapping[str, Any], *, title: str) -> Path:
    """Write `report.html` of a complete run into its folder."""
    records, _ = read_jsonl(folder / "samples.jsonl")
    body = "".join([_metrics(content), _parts(content), _plots(records), _samples(records)])
    path = folder / "report.html"
    write_atomically(path, page(title, body, style=_STYLE, script=_SCRIPT, footer=_footer(content)))
    return path


def _metrics(content: Mapping[str, Any]) -> str:
    rows = ""
    for name, value in content["results"][content["task"]].items():
        interval = content["confidence_95"].get(name)
        span = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        shown = "n/a" if value is None else f"{value:.4f}"
        rows += f"<tr><th>{html.escape(name)}</th><td>{shown}</td><td>{span}</td></tr>"
    counters = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in content["counters"].items())
    return (
        f"<p>{content['samples']} samples of {html.escape(content['task'])} {html.escape(content['split'])}; "
        f"{html.escape(counters)}.</p>"
        "<table><thead><tr><th>metric</th><th>value</th><th>95 % interval</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _parts(content: Mapping[str, Any]) -> str:
    """What the benchmark shows of its own: heat maps and tables."""
    maps = [f"<h2>{html.escape(t)}</h2>{heat_map(**facts)}" for t, facts in content.get("heat_maps", {}).items()]
    return "".join([*maps, *(_table(title, rows) for title, rows in content.get("tables", {}).items())])


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for figures in rows.values() for column in figures))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in ("", *columns))
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(str(figures.get(column, '')))}</td>" for column in columns)
        + "</tr>"
        for name, figures in rows.items()
    )
    return (
        f"<h2>{html.escape(title)}</h2>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _plots(records: Sequence[Mapping[str, Any]]) -> str:
    """How often which figure occurs: fractions in hundredths, others as they are."""
    names = dict.fromkeys(name for record in records for name in record["score"])
    plots = ""
    for name in names:
        values = [record["score"][name] for record in records if name in record["score"]]
        scale, unit = (100, "hundredths") if max(values) <= 1 else (1, "points")
        counts = Counter(round(scale * value) for value in values)
        plots += f"<h3>{html.escape(name)}</h3>{histogram(counts, unit=unit)}"
    return f"<h2>Samples by figure</h2>{plots}" if plots else ""


def _samples(records: Sequence[Mapping[str, Any]]) -> str:
    failed = [record for record in records if record["error"]][:SHOWN]
    rest = [record for record in records if not record["error"]]
    step = max(1, len(rest) // max(1, SHOWN - len(failed)))
    chosen = [*failed, *rest[::step]][:SHOWN]
    find = '<input id="find" type="search" placeholder="a word or an id">'
    shown = f"<p>{len(chosen)} of {len(records)}, those that failed first. {find}</p>"
    # Samples often share their media.
    pictures = functools.cache(_pictures)
    return f"<h2>Samples</h2>{shown}" + "".join(_sample(record, pictures) for record in chosen)


def _sample(record: Mapping[str, Any], pictures_of: Callable[[str], list[bytes]]) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in record["score"].items())
    media = record["media"]
    # Spread evenly where there are many, such as the frames of a long video.
    chosen = [media[i * len(media) // MEDIA] for i in range(MEDIA)] if len(media) > MEDIA else media
    pictures = "".join(f'<img alt="" src="{image_uri(jpeg)}">' for path in chosen for jpeg in pictures_of(path))
    pictures += f"<small>{MEDIA} of {len(media)} pictures</small>" if len(media) > MEDIA else ""
    said = (
        f"<b>failed</b>: {html.escape(record['error'])}" if record["error"] else f"<pre>{_text(record['output'])}</pre>"
    )
    rows = [("answer", record["answer"]), ("reference", record["reference"])]
    rows += [("verdict", record["verdict"])] if "verdict" in record else []
    facts = "".join(f"<div>{name}: <code>{_text(value)}</code></div>" for name, value in rows)
    return (
        f'<div class="sample"><h3>{html.escape(str(record["id"]))}</h3>{pictures}'
        f"<pre>{_text(record['prompt'].replace('<media>', '').strip())}</pre>{said}{facts}"
        f'<div class="figures">{html.escape(figures)}</div></div>'
    )


def _text(value: Any) -> str:
    return html.escape(value if isinstance(value, str) else repr(value))


def _pictures(path: str) -> list[bytes]:
    """Small JPEGs of an image, or of some frames of a video; none where the file cannot be read any more."""
    from navila.images import read_image
    from navila.video import is_video, read_video

    try:
        place = Path(path)
        images = read_video(place, FRAMES) if place.is_dir() or is_video(place) else [read_image(place)]
    except (NavilaError, OSError):
        return []
    jpegs = []
    for image in images:
        small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=80)
        jpegs.append(data.getvalue())
    return jpegs


def _footer(content: Mapping[str, Any]) -> str:
    run = content["run"]
    facts = {"model": run.get("model"), "seed": run.get("seed"), "settings": run.get("settings")}
    return html.escape(", ".join(f"{name} {value}" for name, value in facts.items()))

"""The report of a run of questions: one HTML page with figures, and samples to browse with their media."""

from __future__ import annotations

import functools
import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.errors import NavilaError
from navila.files import write_atomically
from navila.pages import asset, heat_map, histogram, image_uri, page

from navila_eval.jsonl import read_jsonl
from navila_eval.metric_paths import scale_of, unit_of
from navila_eval.results import headlines
from navila_eval.run_folder import SAMPLES

#: Samples that are shown of a run, those with a failure first, then those that runs differ in, then some of the others.
SHOWN = 60
#: Longest side of a picture in pixels, frames of a video, and pictures or videos of a sample.
SIDE, FRAMES, MEDIA = 256, 4, 12

#: What finds samples on a page, and is put on it once.
FIND = (
    '<p class="find"><input id="find" type="search" placeholder="a word or an id"> <select id="which">'
    '<option value="">all samples</option><option value="zero">scored 0</option><option value="failed">failed</option>'
    '<option value="differs">runs differ</option></select> <span id="found"></span></p>'
)


def write_question_report(folder: Path, content: Mapping[str, Any], *, title: str) -> Path:
    """Write `report.html` of a complete run into its folder."""
    path = folder / "report.html"
    body = FIND + question_section(f"{content['task']} {content['split']}", {"value": (folder, content)})
    write_atomically(path, page(title, body, style=question_style(), script=question_script(), footer=footer(content)))
    return path


def question_section(title: str, runs: Mapping[str, tuple[Path, Mapping[str, Any]]], *, shown: int = SHOWN) -> str:
    """The part of a page about complete runs of one task: figures, and samples with what each run says of them.

    Args:
        title: the heading.
        runs: folder and `results.json` of each, by name.
        shown: samples, at most.
    """
    records = {name: {r["id"]: r for r in read_jsonl(folder / SAMPLES)[0]} for name, (folder, _) in runs.items()}
    contents = {name: content for name, (_, content) in runs.items()}
    own = [_parts(content, name if len(runs) > 1 else "") for name, content in contents.items()]
    plots = [_plots(list(rows.values()), name if len(runs) > 1 else "") for name, rows in records.items()]
    return f"<h2>{html.escape(title)}</h2>" + "".join([metrics_table(contents), *own, *plots, _samples(records, shown)])


def question_style() -> str:
    """CSS of `question_section`."""
    return asset("navila_eval", "templates", "questions.css")


def question_script() -> str:
    """JavaScript of `FIND`, which stands behind it."""
    return asset("navila_eval", "templates", "questions.js")


def metrics_table(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """All headline figures of runs of one task, a column a run, with what they count."""
    names = dict.fromkeys(name for content in contents.values() for name in headlines(content))
    rows = "".join(
        f"<tr><th>{html.escape(name)}{_range(contents, name)}</th>"
        f"{''.join(figure_cell(content, name) for content in contents.values())}</tr>"
        for name in names
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("metric", *contents))
    notes = []
    for name, content in contents.items():
        counted = {"samples": content.get("samples"), **content.get("counters", {})}
        told = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counted.items() if count is not None)
        notes.append(f"<p>{html.escape(f'{name}: {told}' if len(contents) > 1 else told)}</p>")
    return (
        f'{"".join(notes)}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _range(contents: Mapping[str, Mapping[str, Any]], name: str) -> str:
    units = {unit_of(content["task"], name) for content in contents.values()} - {""}
    return f" <small>{html.escape(', '.join(sorted(units)))}</small>" if units else ""


def figure_cell(content: Mapping[str, Any], name: str) -> str:
    """A cell of a table: a figure with its 95 % interval, and as a bar where it has a least and a greatest value."""
    value, interval = headlines(content).get(name), content.get("confidence_95", {}).get(name)
    if value is None:
        return "<td>n/a</td>"
    span = f"<small>{interval[0]:.4g}&ndash;{interval[1]:.4g}</small>" if interval else ""
    return f"<td>{value:.4g}{span}{_gauge(value, interval, scale_of(content['task'], name))}</td>"


def _gauge(value: float, interval: Sequence[float] | None, scale: float | None) -> str:
    if not scale or not 0 <= value <= scale:
        return ""
    low, high = (100 * max(0.0, min(x / scale, 1.0)) for x in interval or (value, value))
    return (
        '<svg class="gauge" viewBox="0 0 100 8" preserveAspectRatio="none"><rect width="100" height="8"/>'
        f'<rect class="value" width="{100 * value / scale:.1f}" height="8"/>'
        f'<rect class="span" x="{low:.1f}" y="3" width="{max(0.5, high - low):.1f}" height="2"/></svg>'
    )


def _parts(content: Mapping[str, Any], run: str) -> str:
    """What the benchmark shows of its own: heat maps and tables."""
    maps = [_heading(title, run) + heat_map(**facts) for title, facts in content.get("heat_maps", {}).items()]
    return "".join([*maps, *(_table(_heading(title, run), rows) for title, rows in content.get("tables", {}).items())])


def _heading(title: str, run: str) -> str:
    return f"<h3>{html.escape(f'{title}: {run}' if run else title)}</h3>"


def _table(heading: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for figures in rows.values() for column in figures))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in ("", *columns))
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(str(figures.get(column, '')))}</td>" for column in columns)
        + "</tr>"
        for name, figures in rows.items()
    )
    return f'{heading}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _plots(records: Sequence[Mapping[str, Any]], run: str) -> str:
    """How often which figure occurs: fractions in hundredths, others as they are."""
    names = dict.fromkeys(name for record in records for name in record["score"])
    plots = ""
    for name in names:
        values = [record["score"][name] for record in records if record["score"].get(name) is not None]
        if values:
            scale, unit = (100, "hundredths") if max(values) <= 1 else (1, "points")
            plots += f"<h4>{html.escape(name)}</h4>{histogram(Counter(round(scale * v) for v in values), unit=unit)}"
    return f"<details><summary>{_heading('Samples by figure', run)}</summary>{plots}</details>" if plots else ""


def _samples(runs: Mapping[str, Mapping[str, Mapping[str, Any]]], shown: int) -> str:
    """Samples by id, each with the records that the runs have of it."""
    together: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, records in runs.items():
        for key, record in records.items():
            together.setdefault(key, {})[name] = record
    kinds = {key: _kinds(list(records.values())) for key, records in together.items()}
    first = [key for key in together if "failed" in kinds[key]][:shown]
    differing = [key for key in together if kinds[key] == ["differs"]]
    rest = [key for key in together if not kinds[key]]
    chosen = [*first, *_spread(differing, (shown - len(first)) // 2)]
    chosen += _spread(rest, shown - len(chosen))
    # Samples often share their media.
    pictures = functools.cache(_pictures)
    note = f"<p>{len(chosen)} of {len(together)} samples, those that failed first.</p>"
    return note + "".join(_sample(together[key], kinds[key], pictures) for key in chosen)


def _kinds(records: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = any(record["error"] or record.get("judge_error") for record in records)
    differs = any(record["score"] != records[0]["score"] for record in records)
    return [*(["failed"] if failed else []), *(["differs"] if differs else [])]


def _spread(items: Sequence[str], count: int) -> list[str]:
    """Some of them, evenly over all."""
    return [items[i * len(items) // count] for i in range(count)] if 0 < count < len(items) else list(items[:count])


def _sample(
    records: Mapping[str, Mapping[str, Any]], kinds: Sequence[str], pictures_of: Callable[[str], list[bytes]]
) -> str:
    lead = next(iter(records.values()))
    media = lead["media"]
    # Spread evenly where there are many, such as the frames of a long video.
    chosen = [media[i * len(media) // MEDIA] for i in range(MEDIA)] if len(media) > MEDIA else media
    pictures = "".join(f'<img alt="" src="{image_uri(jpeg)}">' for path in chosen for jpeg in pictures_of(path))
    pictures += f"<small>{MEDIA} of {len(media)} pictures</small>" if len(media) > MEDIA else ""
    rows = "".join(_answer(name if len(records) > 1 else "output", record) for name, record in records.items())
    rows += f"<tr><th>reference</th><td><code>{_text(lead['reference'])}</code></td><td></td><td></td></tr>"
    # By the first figure, which is what the task is about.
    nothing = any(next(iter(record["score"].values()), None) == 0 for record in records.values())
    zero = ["zero"] if nothing and "failed" not in kinds else []
    return (
        f'<div class="{" ".join(["sample", *kinds, *zero])}"><div class="media">{pictures}</div><div>'
        f"<h3>{html.escape(str(lead['id']))}</h3>"
        f"<pre>{_text(lead['prompt'].replace('<media>', '').strip())}</pre>"
        f'<table class="answers"><tbody>{rows}</tbody></table></div></div>'
    )


def _answer(run: str, record: Mapping[str, Any]) -> str:
    """What one run says of a sample: a row of its output, what was read from it, and its figures."""
    who = f"<tr><th>{html.escape(run)}</th>"
    if record["error"]:
        return f'{who}<td colspan="3" class="bad">failed: {html.escape(record["error"])}</td></tr>'
    answer = "" if record["answer"] == record["output"] else f"<code>{_text(record['answer'])}</code>"
    judged = record.get("judge_error") or ("" if "verdict" not in record else f"verdict {record['verdict']}")
    figures = [f"{name} {value:.3g}" for name, value in record["score"].items() if value is not None]
    told = html.escape(", ".join([*([judged] if judged else []), *figures]))
    return f"{who}<td>{_text(record['output'])}</td><td>{answer}</td><td><small>{told}</small></td></tr>"


def _text(value: Any) -> str:
    return html.escape(value if isinstance(value, str) else repr(value))


def _pictures(path: str) -> list[bytes]:
    """Small JPEGs of an image, or of some frames of a video; none where the file cannot be read any more."""
    from navila.images import as_jpeg, read_image
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
        jpegs.append(as_jpeg(small, 80))
    return jpegs


def footer(content: Mapping[str, Any]) -> str:
    """What was run, for the end of a page."""
    run = content["run"]
    facts = {"model": run.get("model"), "seed": run.get("seed"), "settings": run.get("settings")}
    return html.escape(", ".join(f"{name} {value}" for name, value in facts.items()))

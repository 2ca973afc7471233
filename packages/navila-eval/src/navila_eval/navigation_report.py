"""One self-contained HTML page about walks: tables, maps with the paths taken, and what the agent saw and did."""

from __future__ import annotations

import html
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navila.actions import FORWARD, LEFT, RIGHT
from navila.errors import ConfigError
from navila.files import write_atomically
from navila.pages import asset, image_uri, page

from navila_eval.benchmark import in_words
from navila_eval.breakdowns import FIGURES
from navila_eval.failures import FAILURES, failure_of
from navila_eval.pictures import KeptMap, floor_key, kept_frames, kept_map
from navila_eval.report_map import define_floor, draw_map, map_point, run_colours
from navila_eval.run_folder import PICTURES, RunFolder
from navila_eval.walk import Record, measures

#: Bytes of pictures a page holds at most, before base64 makes them a third larger.
PICTURE_BUDGET = 5_000_000
#: First-person images shown of one walk at most.
MAX_FRAMES = 24
#: Parts of a run that have a table at most: of hundreds of scenes `results.json` tells.
MAX_GROUPS = 60
#: Metres up or down from where a goal is on another storey.
STOREY = 1.5
#: Tables of parts of a run.
_BREAKDOWNS = {"language": "By language", "scene": "By scene", "length": "By length of the shortest path"}

_COLUMNS = (
    ("sr", "SR", "success rate: stopped within the success distance", "{:.2f}"),
    ("spl", "SPL", "success weighted by path length", "{:.2f}"),
    ("os", "OS", "oracle success: was within the success distance at any time", "{:.2f}"),
    ("ne", "NE", "navigation error: geodesic metres to the goal at the end", "{:.2f} m"),
    ("ndtw", "nDTW", "agreement with the expert's path, by dynamic time warping", "{:.2f}"),
    ("sdtw", "SDTW", "nDTW of successful episodes, 0 for others", "{:.2f}"),
    ("pl", "PL", "path length in metres", "{:.1f} m"),
    ("steps", "Steps", "primitives executed, the stop included", "{:.1f}"),
    ("collisions", "Collisions", "primitives that ran into something", "{:.1f}"),
)


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """Runs of several agents over the same episodes."""

    title: str
    runs: Mapping[str, Path]
    """Folder of each agent's run, by the agent's name; the first one's outcome is what the page filters by."""


@dataclass(frozen=True)
class _Run:
    agent: str
    colour: str
    folder: Path
    results: dict[str, Any]
    records: dict[str, Record]


@dataclass(frozen=True)
class _Frame:
    """A first-person image and the decision made on it."""

    jpeg: bytes
    decision: Mapping[str, Any]
    label: str
    """What was executed."""
    x: float
    y: float


def write_report(path: Path, sections: Sequence[ReportSection], *, title: str) -> None:
    """Write the page; everything it shows is in it.

    Raises:
        ConfigError: a run is not complete.
    """
    runs = [folder for section in sections for folder in section.runs.values()]
    manifest = _manifest((RunFolder(runs[0]).results() or {})["manifest"]) if runs else ""
    whole = page(title, report_body(sections), style=report_style(), script=report_script(), footer=manifest)
    write_atomically(path, whole)


def report_body(sections: Sequence[ReportSection]) -> str:
    """What a page shows of walks; it takes `report_style` and `report_script`."""
    loaded = [(section, _load(section)) for section in sections]
    frames_each = _frames_that_fit([run for _, runs in loaded for run in runs])
    maps = [_maps(runs) for _, runs in loaded]
    # Walks on one floor show the same picture of it, which is on the page once.
    floors = {kept.key: kept for of_section in maps for kept in of_section.values()}
    sections_html = [
        _section(number, section, runs, of_section, frames_each)
        for number, ((section, runs), of_section) in enumerate(zip(loaded, maps, strict=True))
    ]
    return string.Template(asset("navila_eval", "templates", "report.html")).substitute(
        filters=_filters(sections),
        floors="".join(map(define_floor, floors.values())),
        body="\n".join(sections_html),
    )


def report_style() -> str:
    """CSS of `report_body`."""
    return asset("navila_eval", "templates", "report.css")


def report_script() -> str:
    """JavaScript of `report_body`, which stands behind it."""
    return asset("navila_eval", "templates", "report.js")


def _load(section: ReportSection) -> list[_Run]:
    colours = run_colours(list(section.runs))
    runs = []
    for agent, path in section.runs.items():
        folder = RunFolder(path)
        results = folder.results()
        if results is None:
            raise ConfigError(f"{path} holds no complete run (no results.json): finish it with `navila eval` first.")
        runs.append(_Run(agent, colours[agent], path, results, folder.records()))
    return runs


def _section(
    number: int, section: ReportSection, runs: Sequence[_Run], maps: Mapping[str, KeptMap], frames_each: int
) -> str:
    # In the order they are walked in: pictures are kept of the first.
    ids = list(runs[0].records) if runs else []
    cards = []
    for index, episode_id in enumerate(ids, 1):
        walked = [run for run in runs if episode_id in run.records]
        cards.append(_card(number, index, episode_id, walked, maps.get(episode_id), frames_each))
    tables = [_table(runs), _failures(runs), *(_breakdown(runs, by) for by in _BREAKDOWNS)]
    return (
        f'<section data-section="{number}"><h2>{html.escape(section.title)}</h2>'
        f"{''.join(tables)}<div class='cards'>{''.join(cards)}</div></section>"
    )


def _maps(runs: Sequence[_Run]) -> dict[str, KeptMap]:
    """The floor of each episode, from the first run that kept it; read once, however many walks begin on it."""
    read: dict[tuple[Path, str], KeptMap | None] = {}
    found: dict[str, KeptMap] = {}
    for episode_id in runs[0].records if runs else ():
        for run in runs:
            record = run.records.get(episode_id)
            if record is None or not record["positions"]:
                continue
            scene_id, positions = record["scene_id"], record["positions"]
            place = run.folder, floor_key(scene_id, positions)
            if place not in read:
                read[place] = kept_map(run.folder / PICTURES, scene_id, positions)
            if (kept := read[place]) is not None:
                found[episode_id] = kept
                break
    return found


def _table(runs: Sequence[_Run]) -> str:
    head = "".join(f'<th title="{html.escape(meaning)}">{label}</th>' for _, label, meaning, _ in _COLUMNS)
    return (
        f'<div class="scroll"><table><thead><tr><th>agent</th><th>episodes</th>{head}</tr></thead>'
        f"<tbody>{''.join(map(_row, runs))}</tbody></table></div>"
        '<p class="note">Means over episodes; in small print, 95 % bootstrap intervals.</p>'
    )


def _failures(runs: Sequence[_Run]) -> str:
    """How many walks of each run failed in which way."""
    counts = {run.agent: run.results.get("failures", {}) for run in runs}
    kinds = [kind for kind in FAILURES if any(count.get(kind) for count in counts.values())]
    if not kinds:
        return ""
    head = "".join(f'<th title="{html.escape(FAILURES[kind])}">{kind}</th>' for kind in kinds)
    rows = [(agent, [str(count.get(kind, 0)) for kind in kinds]) for agent, count in counts.items()]
    return _details("Failures by kind", head, rows)


def _breakdown(runs: Sequence[_Run], by: str) -> str:
    """Figures of the first run's parts, where there are several."""
    groups = runs[0].results.get("breakdowns", {}).get(by, {}) if runs else {}
    if not 1 < len(groups) <= MAX_GROUPS:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("episodes", *FIGURES))
    rows = []
    for name, figures in groups.items():
        shown = ["n/a" if figures[key] is None else f"{figures[key]:.2f}" for key in FIGURES]
        rows.append((name, [str(figures["episodes"]), *shown]))
    return _details(f"{_BREAKDOWNS[by]} ({_agent_label(runs[0].agent)})", head, rows)


def _details(title: str, head: str, rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows
    )
    return (
        f'<details><summary>{title}</summary><div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _row(run: _Run) -> str:
    metrics = run.results["results"][run.results["task"]]
    cells = []
    for name, _, _, pattern in _COLUMNS:
        value, interval = metrics.get(name), run.results["confidence_95"].get(name)
        shown = "n/a" if value is None else pattern.format(value)
        low_high = "" if not interval else "{:.2f}&ndash;{:.2f}".format(*interval)
        bar = _bar(value, interval, run.colour) if name == "sr" and value is not None else ""
        cells.append(f"<td>{shown}<small>{low_high}</small>{bar}</td>")
    counters = run.results["counters"]
    notes = [
        f"{counters[key]} {label}"
        for key, label in (("timed_out", "timed out"), ("failed", "failed"), ("unparsed", "answers not understood"))
        if counters[key]
    ]
    return (
        f'<tr><th><i class="dot" style="background:{run.colour}"></i>{_agent_label(run.agent)}</th>'
        f"<td>{run.results['episodes']}<small>{', '.join(notes)}</small></td>{''.join(cells)}</tr>"
    )


def _bar(value: float, interval: Sequence[float] | None, colour: str) -> str:
    """A success rate as a bar from 0 to 1 with its interval as a whisker."""
    low, high = interval or (value, value)
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none"><rect class="rail" width="100" height="8"/>'
        f'<rect width="{100 * value:.1f}" height="8" fill="{colour}"/>'
        f'<rect class="whisker" x="{100 * low:.1f}" y="3" width="{max(0.5, 100 * (high - low)):.1f}" height="2"/></svg>'
    )


def _card(
    section: int, index: int, episode_id: str, runs: Sequence[_Run], kept: KeptMap | None, frames_each: int
) -> str:
    lead = runs[0].records[episode_id]
    verdict = "walk" if not lead["goals"] else "success" if measures(lead)["success"] > 0 else "failure"
    facts = kept.facts if kept else None
    walks = []
    for run in runs:
        record = run.records[episode_id]
        frames = _frames(run, record, facts, frames_each)
        walks.append(_walk(run, record, frames))
    picture = ""
    if kept:
        walked = {run.agent: run.records[episode_id] for run in runs}
        picture = draw_map(kept, walked, {run.agent: run.colour for run in runs})
    length = ""
    if lead["distances"]:
        way = lead["distances"][0]
        length = " · no way to the goal" if way is None else f" · shortest path {way:.1f} m"
        # The map is of the storey the walk starts on.
        floor = lead["positions"][0][1]
        if lead["goals"] and all(abs(goal[1] - floor) > STOREY for goal in lead["goals"]):
            length += ", to another storey"
    return (
        f'<article class="{verdict}" data-section="{section}">'
        f'<header><span class="badge">{verdict}</span>'
        f"<h3>{html.escape(lead['episode_instruction'])}</h3>"
        f"<small>{index}. {html.escape(episode_id)} · {html.escape(lead['scene_id'])}{length}</small></header>"
        f'<div class="body">{picture}<div class="walks">{"".join(walks)}</div></div></article>'
    )


def _walk(run: _Run, record: Record, frames: Sequence[_Frame]) -> str:
    metrics = measures(record)
    told = ""
    if record["instruction"] != record["episode_instruction"]:
        told = f'<p class="told">told: <q>{html.escape(record["instruction"])}</q></p>'
    if record["outcome"] == "failed":
        story = f"the simulator failed: {html.escape(record['error'] or '')}"
    else:
        deed = "stopped" if record["outcome"] == "stopped" else "ran out of steps"
        count = f"{metrics['steps_taken']:.0f} step{'s' if metrics['steps_taken'] != 1 else ''}"
        failure = failure_of(record)
        kind = f', <abbr title="{html.escape(FAILURES[failure.kind])}">{failure.kind}</abbr>' if failure else ""
        where = ""
        if record["goals"]:
            left = record["distances"][-1]
            where = " where no way leads to the goal" if left is None else f" {left:.2f} m from the goal"
        story = f"{deed}{where} after {count}{kind}"
    mark = '<span class="good">✓</span>' if metrics["success"] else '<span class="bad">✗</span>'
    mark = mark if record["goals"] else ""
    strip = f'<div class="strip" tabindex="0">{"".join(map(_figure, frames))}</div>' if frames else ""
    return (
        f'<div class="walk"><p class="story"><i class="dot" style="background:{run.colour}"></i>'
        f"<b>{_agent_label(run.agent)}</b> {mark} {story}</p>"
        f"{told}{strip}</div>"
    )


def _figure(frame: _Frame) -> str:
    decision = frame.decision
    unparsed = " unparsed" if decision["status"] == "unparsed" else ""
    title = html.escape(f"step {decision['step']}: “{decision['text']}” ({decision['status']})")
    return (
        f'<figure class="frame{unparsed}" data-x="{frame.x:.1f}" data-y="{frame.y:.1f}" title="{title}">'
        f'<img src="{image_uri(frame.jpeg)}" alt="{title}" loading="lazy">'
        f"<span>{decision['step']}</span><figcaption>{frame.label}</figcaption></figure>"
    )


def _action_label(primitives: Sequence[int], body: Mapping[str, Any]) -> str:
    kind, count = (primitives[0] if primitives else 0), len(primitives)
    ahead, turned = 100 * body["forward_step"] * count, body["turn_angle"] * count
    labels = {FORWARD: f"↑ {ahead:g} cm", LEFT: f"↶ {turned:g}°", RIGHT: f"↷ {turned:g}°"}
    return labels.get(kind, "■ stop")


def _frames(run: _Run, record: Record, facts: Mapping[str, Any] | None, limit: int) -> list[_Frame]:
    paths = kept_frames(run.folder / PICTURES, record["episode_id"])
    frames, body = [], run.results["run"]["embodiment"]
    for decision in _spread([d for d in record["decisions"] if d["step"] in paths], limit):
        x, y = map_point(facts, record["positions"][decision["step"]]) if facts else (0.0, 0.0)
        label = _action_label(decision["primitives"], body)
        frames.append(_Frame(paths[decision["step"]].read_bytes(), decision, label, x, y))
    return frames


def _spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` items, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    if limit < 2:
        return list(items[:limit])
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _frames_that_fit(runs: Sequence[_Run]) -> int:
    """Images of one walk that can be shown without going over the budget for all."""
    sizes = {
        (run.folder, episode_id): [
            path.stat().st_size for path in kept_frames(run.folder / PICTURES, episode_id).values()
        ]
        for run in runs
        for episode_id in run.records
    }
    for limit in range(MAX_FRAMES, 0, -1):
        if sum(sum(_spread(column, limit)) for column in sizes.values()) <= PICTURE_BUDGET:
            return limit
    return 0


def _filters(sections: Sequence[ReportSection]) -> str:
    buttons = "".join(
        f'<button data-show="{number}">{html.escape(section.title)}</button>' for number, section in enumerate(sections)
    )
    outcome = "".join(f'<button data-outcome="{key}">{key}</button>' for key in ("success", "failure"))
    sections_group = (
        f'<div class="group"><button data-show="all" class="on">all tasks</button>{buttons}</div>'
        if len(sections) > 1
        else ""
    )
    return (
        f'{sections_group}<div class="group"><button data-outcome="all" class="on">all episodes</button>{outcome}</div>'
    )


def _agent_label(agent: str) -> str:
    return html.escape(in_words(agent))


def _manifest(manifest: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    plugins = ", ".join(f"{name} {version}" for name, version in manifest["plugins"].items())
    return html.escape(f"{manifest['created']} · {manifest['platform']} · {versions} · {plugins}")

"""One HTML page over all runs in a folder: an overview, then each task with the runs of it side by side."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from navila.files import write_atomically
from navila.pages import page

from navila_eval.jsonl import read_json
from navila_eval.navigation_report import ReportSection, report_body, report_script, report_style
from navila_eval.question_report import (
    FIND,
    SHOWN,
    figure_cell,
    footer,
    metrics_table,
    question_script,
    question_section,
    question_style,
)
from navila_eval.results import headlines
from navila_eval.run_folder import RECORDS, RESULTS, SAMPLES

#: Samples of questions on a page at most, over all tasks, so that a browser can show it.
ALL_SHOWN = 600
#: And of each task at least.
LEAST_SHOWN = 6

#: Runs of one task and split, by name.
Group = Mapping[str, tuple[Path, Mapping[str, Any]]]


def write_overall_report(path: Path, runs: Sequence[Path]) -> None:
    """Write a page about complete runs; everything it shows is in it."""
    groups = _groups(runs, path.parent)
    questions = {title: group for title, group in groups.items() if _holds(group, SAMPLES)}
    walks = {title: group for title, group in groups.items() if _holds(group, RECORDS)}
    shown = max(LEAST_SHOWN, min(SHOWN, ALL_SHOWN // max(1, len(questions))))
    asked = [_anchored(title, question_section(title, group, shown=shown)) for title, group in questions.items()]
    # Together, so that what finds samples stays in sight as long as there are some.
    parts = [_overview(groups), f"<div>{FIND}{''.join(asked)}</div>" if asked else ""]
    for title, group in groups.items():
        if title not in questions and title not in walks:
            table = metrics_table({name: content for name, (_, content) in group.items()})
            parts.append(_anchored(title, f"<h2>{html.escape(title)}</h2>{table}"))
    style, script = question_style(), question_script()
    if walks:
        sections = [
            ReportSection(title=title, runs={name: folder for name, (folder, _) in group.items()})
            for title, group in walks.items()
        ]
        parts.append(f'<div id="walks">{report_body(sections)}</div>')
        style, script = style + report_style(), script + report_script()
    contents = [content for group in groups.values() for _, content in group.values()]
    end = "<br>".join(dict.fromkeys(footer(content) for content in contents))
    title = f"Evaluation of {', '.join(_names(groups))}"
    write_atomically(path, page(title, "".join(parts), style=style, script=script, footer=end))


def _groups(runs: Sequence[Path], top: Path) -> dict[str, Group]:
    """Runs by task and split, each named by its model, and by more where that is not enough."""
    groups: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {}
    for run in runs:
        content = read_json(run / RESULTS)
        groups.setdefault(f"{content['task']} {content.get('split', '')}".strip(), []).append((run, content))
    named: dict[str, Group] = {}
    for title, group in groups.items():
        folders = [folder.resolve() for folder, _ in group]
        names = [folder.parent.name for folder in folders]
        if len(set(names)) < len(names):
            names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
        if len(set(names)) < len(names):
            names = [folder.relative_to(top.resolve()).as_posix() for folder in folders]
        named[title] = dict(zip(names, group, strict=True))
    return named


def _holds(group: Group, records: str) -> bool:
    return all((folder / records).is_file() for folder, _ in group.values())


def _names(groups: Mapping[str, Group]) -> list[str]:
    return list(dict.fromkeys(name for group in groups.values() for name in group))


def _overview(groups: Mapping[str, Group]) -> str:
    """A row a task, a column a run: the first headline figure of each."""
    names = _names(groups)
    rows = ""
    for title, group in groups.items():
        metric = next(iter(headlines(next(iter(group.values()))[1])), "")
        anchor = "walks" if _holds(group, RECORDS) else _anchor(title)
        cells = "".join(figure_cell(group[name][1], metric) if name in group else "<td></td>" for name in names)
        rows += f'<tr><th><a href="#{anchor}">{html.escape(title)}</a></th><td>{html.escape(metric)}</td>{cells}</tr>'
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("task", "metric", *names))
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">In small print, 95 % bootstrap intervals.</p>'
    )


def _anchor(title: str) -> str:
    return "task-" + "".join(letter if letter.isalnum() else "-" for letter in title)


def _anchored(title: str, body: str) -> str:
    return f'<div id="{_anchor(title)}">{body}</div>'

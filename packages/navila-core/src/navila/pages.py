"""Self-contained HTML pages in the house's style: a skeleton, images as addresses, charts as inline SVG. Light."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from importlib import resources

#: Bars of a histogram at most; more values than that are put together in equal steps.
BINS = 32

_THEME = """
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
"""


def page(title: str, body: str, *, style: str = "", script: str = "", footer: str = "") -> str:
    """A whole HTML page that loads nothing: `body` and `footer` are HTML, `title` is text.

    Args:
        title: heading and name of the page.
        body: what stands below the heading.
        style: CSS beside the house's own (`page.css`).
        script: JavaScript beside the switch between light and dark.
        footer: what stands at the very end.
    """
    base = asset("navila", "page.css")
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{base}{style}</style>\n</head>\n<body>\n<main>\n"
        f'<div class="top"><h1>{name}</h1><button id="theme" title="light or dark">◐</button></div>\n'
        f"{body}\n<footer>{footer}</footer>\n</main>\n<script>{script}{_THEME}</script>\n</body>\n</html>\n"
    )


def asset(package: str, *path: str) -> str:
    """A text file that a package brings, such as a style sheet."""
    return resources.files(package).joinpath(*path).read_text(encoding="utf-8")


def image_uri(jpeg: bytes) -> str:
    """The image itself as an address."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def bars(counts: Mapping[str, int]) -> str:
    """A bar a name, in the order given, with its count and its share of the whole."""
    total, most = sum(counts.values()) or 1, max(counts.values(), default=0) or 1
    rows = "".join(
        f'<tr><th>{html.escape(name)}</th><td><svg class="rod" viewBox="0 0 100 10" preserveAspectRatio="none">'
        f'<rect width="{100 * count / most:.2f}" height="10"/></svg></td>'
        f"<td>{count:,}</td><td>{100 * count / total:.1f} %</td></tr>"
        for name, count in counts.items()
    )
    return f'<table class="bars"><tbody>{rows}</tbody></table>'


def histogram(counts: Mapping[int, int], *, unit: str) -> str:
    """An SVG figure of how often each whole number occurs, with the least, the median and the greatest below."""
    if not counts:
        return '<p class="note">none</p>'
    low, high = min(counts), max(counts)
    if low == high:
        return f'<p class="always"><b>{low:,}</b> {html.escape(unit)}, always</p>'
    step = math.ceil((high - low + 1) / BINS)
    heights = [0] * math.ceil((high - low + 1) / step)
    for value, count in counts.items():
        heights[(value - low) // step] += count
    most, width = max(heights), 320 / len(heights)
    # A rare value is to be seen beside a frequent one.
    columns = "".join(
        f'<rect x="{i * width + 0.5:.1f}" y="{100 - max(1.5, 100 * n / most):.1f}" width="{width - 1:.1f}" '
        f'height="{max(1.5, 100 * n / most):.1f}"><title>{_span(low + i * step, step)} {html.escape(unit)}: {n:,}'
        "</title></rect>"
        for i, n in enumerate(heights)
        if n
    )
    return (
        f'<svg class="histogram" viewBox="0 0 320 100" preserveAspectRatio="none" role="img">{columns}</svg>'
        f'<div class="axis"><span>{low:,}</span><span>median {median(counts):,} {html.escape(unit)}</span>'
        f"<span>{high:,}</span></div>"
    )


#: Size of a cell of a heat map, and what is left for names of rows and columns, in units of the figure.
_CELL, _LEFT, _BELOW = (44, 26), 74, 46


def heat_map(
    *,
    values: Sequence[Sequence[float | None]],
    columns: Sequence[object],
    rows: Sequence[object],
    x: str,
    y: str,
) -> str:
    """An SVG figure of (rows, columns) fractions, darker the greater; None is an empty cell.

    Args:
        values: 0 … 1.
        columns: their names, from the left.
        rows: their names, from the top.
        x: what the columns are.
        y: what the rows are.
    """
    wide, high = _CELL
    width, height = wide * len(columns), high * len(rows)
    cells = ""
    for j, row in enumerate(values):
        for i, value in enumerate(row):
            said = f"{x} {columns[i]}, {y} {rows[j]}: {'not measured' if value is None else f'{value:.3f}'}"
            style = "" if value is None else f' style="fill: color-mix(in oklab, var(--mark) {value:.1%}, var(--rail))"'
            cells += (
                f'<rect x="{i * wide + 1}" y="{j * high + 1}" width="{wide - 2}" height="{high - 2}" rx="3"{style}>'
                f"<title>{html.escape(said)}</title></rect>"
            )
            if value is not None:
                tone = ' class="on"' if value > 0.65 else ""
                cells += f'<text x="{(i + 0.5) * wide}" y="{(j + 0.5) * high + 4}"{tone}>{value:.2f}</text>'
    names = "".join(
        f'<text x="{(i + 0.5) * wide}" y="{height + 16}">{html.escape(str(n))}</text>' for i, n in enumerate(columns)
    ) + "".join(
        f'<text x="-8" y="{(j + 0.5) * high + 4}" class="row">{html.escape(str(n))}</text>' for j, n in enumerate(rows)
    )
    return (
        f'<svg class="heat" viewBox="{-_LEFT} 0 {width + _LEFT} {height + _BELOW}" role="img" '
        f'style="max-width: {1.3 * (width + _LEFT):.0f}px">{cells}{names}'
        f'<text x="{width / 2}" y="{height + 38}">{html.escape(x)}</text>'
        f'<text transform="translate({14 - _LEFT} {height / 2}) rotate(-90)">{html.escape(y)}</text></svg>'
    )


def median(counts: Mapping[int, int]) -> int:
    """The value in the middle of counted values, the lower one of two."""
    middle, seen = (sum(counts.values()) + 1) // 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= middle:
            return value
    return 0


def _span(start: int, step: int) -> str:
    return f"{start:,}" if step == 1 else f"{start:,} to {start + step - 1:,}"

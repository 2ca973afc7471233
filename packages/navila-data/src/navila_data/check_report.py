"""The page of `navila data check`: what is wrong with a mixture, and what it is made of."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from navila.errors import NavilaError
from navila.files import write_atomically
from navila.pages import asset, bars, histogram, image_uri, page

from navila_data.findings import KINDS, Finding
from navila_data.media import Medium
from navila_data.motion import picture
from navila_data.statistics import Statistics

if TYPE_CHECKING:
    from navila_data.check import CheckResult

#: Longest side of a picture in pixels.
SIDE = 128
#: Findings of a kind that are shown with pictures.
PICTURED = 24


def write_page(path: Path, result: CheckResult) -> None:
    """Write one file that opens from the disk and loads nothing."""
    against = result.settings.against
    note = f'<p class="note">Checked against {html.escape(against)}.</p>' if against else ""
    body = f"{_tiles(result)}{note}<h2>Problems</h2>{''.join(_problems(result))}<h2>What it is made of</h2>"
    body += charts(result.statistics)
    write_atomically(path, page(f"Data check: {result.settings.mixture}", body, style=style()))


def style() -> str:
    """What these pages look like beside the house's own style."""
    return asset("navila_data", "check_report.css")


def _tiles(result: CheckResult) -> str:
    tiles = (
        (result.errors, "errors", "bad" if result.errors else "good"),
        (result.warnings, "warnings", "warn" if result.warnings else "good"),
        (result.records, "records", ""),
        (result.files, f"distinct files ({_DEPTHS[result.settings.depth]})", ""),
        (result.turns, "turns compared with the next frame", ""),
    )
    cells = "".join(
        f'<div class="tile"><b class="{kind}">{count:,}</b><span>{label}</span></div>' for count, label, kind in tiles
    )
    return f'<div class="tiles">{cells}</div>'


_DEPTHS = {"decode": "decoded", "header": "headers read", "exists": "looked for"}


def _problems(result: CheckResult) -> Iterator[str]:
    if not result.counts:
        yield '<p class="good">None found.</p>'
    for kind, told in KINDS.items():
        found = [each for each in result.findings if each.kind == kind]
        if not found:
            continue
        count = result.counts[kind]
        shown = f"{count:,}" if count == len(found) else f"{count:,}, the first {len(found)} shown"
        rows = "".join(_row(each, pictured=number < PICTURED) for number, each in enumerate(found))
        yield (
            f'<details class="{told.severity}" {"open" if len(found) <= 10 else ""}><summary>{told.title}'
            f"<i>{told.severity} · {shown}</i></summary>"
            '<div class="scroll"><table><thead><tr><th>dataset</th><th>record</th><th>line</th><th>what</th>'
            f"<th>file</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
        )


def _row(each: Finding, *, pictured: bool) -> str:
    strip = film_strip(each.pictures) if pictured else ""
    sure = "" if each.confidence is None else f" <small>confidence {each.confidence:.2f}</small>"
    record, line = ("" if number is None else f"{number:,}" for number in (each.record, each.line))
    return (
        f'<tr><td>{html.escape(each.source)}</td><td class="number">{record}</td><td class="number">{line}</td>'
        f'<td class="reason">{html.escape(each.reason)}{sure}{strip}</td>'
        f'<td class="file">{html.escape(each.file)}</td></tr>'
    )


def film_strip(media: Sequence[Medium | None], labels: Sequence[str] = ()) -> str:
    """Small pictures of media in a row, black ones for None; one that cannot be read is crossed out."""
    figures = "".join(_frame(medium, labels[n] if n < len(labels) else "") for n, medium in enumerate(media))
    return f'<div class="strip" tabindex="0">{figures}</div>' if figures else ""


def _frame(medium: Medium | None, label: str) -> str:
    name = html.escape("black frame" if medium is None else str(medium))
    jpeg = thumbnail(medium)
    shown = f'<img src="{image_uri(jpeg)}" alt="{name}" loading="lazy">' if jpeg else '<i class="broken">✕</i>'
    caption = f"<span>{html.escape(label)}</span>" if label else ""
    return f'<figure class="frame" title="{name}">{shown}{caption}</figure>'


def thumbnail(medium: Medium | None) -> bytes:
    """A medium as a small JPEG; black for None, nothing where it cannot be read."""
    from navila.images import as_jpeg
    from PIL import Image

    try:
        image = Image.new("RGB", (SIDE, SIDE)) if medium is None else picture(medium)
    except (NavilaError, OSError):
        return b""
    image.thumbnail((SIDE, SIDE))
    return as_jpeg(image, 72)


def charts(statistics: Statistics) -> str:
    """What a mixture is made of, as charts."""
    told = [_chart("Samples by dataset", bars(dict(statistics.samples)), wide=len(statistics.samples) > 1)]
    if statistics.answers:
        told.append(_chart("Answers of navigation steps", bars(statistics.balance()), wide=True))
    told += [
        _chart(title, histogram(counts, unit=unit))
        for title, counts, unit in (
            ("Answers per sample", statistics.turns, "answers"),
            ("Media per sample", statistics.media, "media"),
            ("Length of instructions and first questions", statistics.words, "words"),
            ("Frames of an episode or video", statistics.frames, "frames"),
            ("Tokens per sample, images expanded", statistics.tokens, "tokens"),
        )
        if counts
    ]
    words = ", ".join(f"{html.escape(word)} ({count:,})" for word, count in statistics.vocabulary.most_common(60))
    if words:
        title = f"Vocabulary: {len(statistics.vocabulary):,} words, the most frequent"
        told.append(_chart(title, f'<p class="words">{words}</p>', wide=True))
    return f'<div class="charts">{"".join(told)}</div>'


def _chart(title: str, content: str, *, wide: bool = False) -> str:
    return f'<div class="chart{" wide" if wide else ""}"><h3>{title}</h3>{content}</div>'

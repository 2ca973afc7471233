"""`navila model bench`: what a navigation decision costs on this machine."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from navila.cli.loading import deciding_options, loading_options
from navila.cli.sections import SectionedCommand
from navila.cli.tables import table

if TYPE_CHECKING:
    from PIL.Image import Image

    from navila.actions import Decoding
    from navila.decision_cost import Cost, Decision
    from navila.replay import Recording

INSTRUCTION = "Walk past the table, turn left at the second door and stop next to the sofa by the window."
#: Decisions before those that count: what is made once is made, and the prompt's memory is there.
WARM_UP = 3
#: What a stage is called in the table.
_NAMES = {"images": "resize images", "encoder": "vision encoder", "prompt": "read prompt", "answer": "make answer"}


@click.command(cls=SectionedCommand, short_help="Measure what a decision costs on this machine, by stage.")
@click.argument("checkpoint")
@click.option("-i", "--instruction", default=INSTRUCTION, metavar="TEXT", help="What the agent is to do.")
@click.option(
    "--video",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What the camera sees: two frames a second of a video, or a folder of frames, again and again; noise of "
    "640 x 480 by default.",
)
@click.option("--decisions", type=click.IntRange(min=1), default=20, show_default=True, help="That are measured.")
@deciding_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every decision.")
@loading_options
def bench(
    checkpoint: str,
    instruction: str,
    video: Path | None,
    decisions: int,
    num_frames: int | None,
    decoding: Decoding,
    template: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Let CHECKPOINT decide in the midst of a walk, and tell what that costs on this machine, stage by stage.

    Two costs count: what lies between a camera's frame and the answer, and what `Navigator.anticipate` did before it,
    while a robot would have moved.
    """
    from navila.cli.asking import load_for, working
    from navila.replay import Recording

    recording = None if video is None else Recording(video, 2.0)
    model = load_for({"model_path": checkpoint, "template": template, **loading})

    from navila.decision_cost import machine, measure, noise

    images = noise() if recording is None else _again_and_again(recording)
    with working("Deciding") as say:
        taken = measure(
            model,
            images,
            instruction,
            decisions=decisions,
            warm_up=WARM_UP,
            num_frames=num_frames,
            decoding=decoding,
            progress=lambda number: say(f"Decision {number + 1} of {decisions + WARM_UP}"),
        )
    facts = {
        "checkpoint": checkpoint,
        "device": str(model.device),
        "dtype": str(model.llm.dtype).removeprefix("torch."),
        "attention": model.llm.config._attn_implementation,
        "num_frames": num_frames or model.config.num_video_frames,
        "decoding": decoding,
        **machine(),
    }
    if as_json:
        click.echo(json.dumps({**facts, "decisions": [_record(one) for one in taken]}, indent=2))
    else:
        click.echo(_report(facts, taken))


def _again_and_again(recording: Recording) -> Iterator[Image]:
    while True:
        yield from (image for _, image in recording)


def _record(decision: Decision) -> dict[str, Any]:
    return {
        "answer": decision.action.text,
        "status": decision.action.status,
        "primitives": len(decision.action.primitives),
        "now": asdict(decision.now),
        "ahead": asdict(decision.ahead),
    }


def _report(facts: dict[str, Any], taken: Sequence[Decision]) -> str:
    """The medians for people."""
    now, ahead = [one.now for one in taken], [one.ahead for one in taken]
    threads = f" ({facts['threads']} thread{'s' * (facts['threads'] > 1)})" if facts["device"] == "cpu" else ""
    said = Counter(one.action.kind if one.action.status == "ok" else one.action.status for one in taken)
    rows = [
        (_NAMES.get(stage, stage), *(_milliseconds([cost.seconds[stage] for cost in costs]) for costs in (now, ahead)))
        for stage in now[0].seconds
    ]
    totals = [[cost.total for cost in costs] for costs in (now, ahead)]
    slowest = sorted(totals[0])[math.ceil(0.95 * len(taken)) - 1]
    whole = statistics.median(map(sum, zip(*totals, strict=True)))
    lines = (
        f"{len(taken)} decisions on {facts['num_frames']} frames by {facts['checkpoint']}",
        f"{facts['dtype']} on {facts['device']}{threads}, {facts['attention']} attention, {facts['decoding']} decoding",
        f"Answers: {', '.join(f'{count} {what}' for what, count in said.most_common())}",
        "",
        table(
            ("MEDIAN, MS", "FROM THE FRAME ON", "BEFORE IT"),
            [*rows, ("in all", *map(_milliseconds, totals)), *_counts(now, ahead)],
        ),
        "",
        f"A frame is answered in {_milliseconds(totals[0])} ms, in 95 of 100 cases in {1000 * slowest:.1f} ms at most, "
        f"if the robot moves for {_milliseconds(totals[1])} ms before it.",
        f"{1 / whole:.2g} decisions a second where nothing is ever waited for; {facts['peak_memory'] / 1e9:.2f} GB of "
        "memory at most.",
    )
    return "\n".join(lines)


def _counts(*costs: Sequence[Cost]) -> Iterator[tuple[str, ...]]:
    for name, label in (("frames", "frames encoded"), ("positions", "positions read"), ("passes", "passes")):
        yield label, *(f"{statistics.mean(getattr(cost, name) for cost in one):.4g}" for one in costs)


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"

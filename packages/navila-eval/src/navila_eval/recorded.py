"""`navila eval rescore`, `compare`, `metrics` and `report`: what can be done with runs that are recorded."""

from __future__ import annotations

from pathlib import Path

import click
from navila.errors import ConfigError

from navila_eval.showing import leave, show

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(short_help="Score recorded answers and walks again.")
@click.argument("folder", type=_FOLDER)
@click.option("-o", "--option", "task_options", multiple=True, metavar="KEY=VALUE", help="Another option of the tasks.")
@click.option("--judge", help="Model that judges answers where the task asks for it.")
@click.option("--judge-api-base", help="OpenAI-compatible endpoint of the judge.")
@click.option(
    "--success-distance",
    type=click.FloatRange(min=0, min_open=True),
    help="Score navigation by another distance in metres, into rescored-METRESm.json; the run stays as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def rescore(
    folder: Path,
    task_options: tuple[str, ...],
    judge: str | None,
    judge_api_base: str | None,
    success_distance: float | None,
    as_json: bool,
) -> None:
    """Score the records of all runs below FOLDER once more; needs neither model nor data."""
    from navila.options import parse_options

    from navila_eval.judging import judge_of
    from navila_eval.runner import rescore_runs

    outcomes = rescore_runs(folder, judge_of(judge, judge_api_base), parse_options(task_options), success_distance)
    show(outcomes, as_json)
    leave(outcomes)


@click.command(short_help="Compare two runs, or all that two folders have.")
@click.argument("first", type=_FOLDER)
@click.argument("second", type=_FOLDER)
@click.option(
    "--samples", type=click.IntRange(min=0), help="Differing samples to show.  [default: 10 of two runs, 0 of many]"
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def compare(first: Path, second: Path, samples: int | None, as_json: bool) -> None:
    """Compare two runs, or those of one name in two folders: SECOND minus FIRST, with paired bootstrap intervals."""
    from navila_eval.comparison import compare as compare_runs
    from navila_eval.comparison import compare_all
    from navila_eval.run_folder import RUN
    from navila_eval.sensitivity import misled, sensitivity

    many = not any((folder / RUN).is_file() for folder in (first, second))
    found, alone = compare_all(first, second) if many else ({"": compare_runs(first, second)}, ([], []))
    told = None if many else sensitivity(first, second)
    if as_json:
        import dataclasses

        from navila_eval.jsonl import dumps

        plain = {place: dataclasses.asdict(comparison) for place, comparison in found.items()}
        if told is not None:
            plain[""]["sensitivity"] = dataclasses.asdict(told)
        click.echo(
            dumps({"runs": plain, "only_first": alone[0], "only_second": alone[1]} if many else plain[""], indent=2)
        )
        return
    from rich.console import Console

    from navila_eval.tables import difference_table, samples_table

    console = Console()
    for place, comparison in found.items():
        console.print(difference_table(place or comparison.task, comparison))
        if comparison.samples and (shown := samples if samples is not None else 0 if many else 10):
            console.print(samples_table(comparison, shown))
    if told is not None:
        from navila_eval.sensitivity import sensitivity_table, sentence

        console.print(sentence(told), markup=False)
        console.print(sensitivity_table(told))
    elif not many and misled(first) != misled(second):
        console.print("No episode was told something else: the agent found nothing to change in the instructions.")
    for folder, places in zip((first, second), alone, strict=True):
        if places:
            console.print(f"Only in {folder}: {', '.join(places)}", markup=False)


@click.command(short_help="Print figures, for a person or a script.")
@click.argument("folder", type=_FOLDER)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a run.")
def metrics(folder: Path, paths: tuple[str, ...], as_json: bool) -> None:
    """Print the figures of all complete runs below FOLDER, or those at PATHs in their results.json.

    A PATH is as in `navila eval metrics runs/eval/MODEL/pope results/pope/f1`.
    """
    from navila_eval.runner import figures_of

    found = figures_of(folder)
    if unknown := [path for path in paths if not any(path in figures for figures in found.values())]:
        there = ", ".join(sorted({path for figures in found.values() for path in figures})[:12])
        raise ConfigError(f"No run below {folder} has a figure {unknown[0]}: take one of {there}.")
    if paths:
        found = {run: {path: figures[path] for path in paths if path in figures} for run, figures in found.items()}
    if as_json:
        from navila_eval.jsonl import dumps

        click.echo(dumps(found, indent=2))
        return
    from navila.cli.tables import table

    lines = [
        (run, path, "n/a" if value is None else repr(value))
        for run, figures in found.items()
        for path, value in figures.items()
    ]
    # A single figure is what a script asks for.
    click.echo(lines[0][-1] if len(lines) == len(paths) == 1 else table(("RUN", "PATH", "VALUE"), lines))


@click.command(short_help="Write one page about all runs below a folder.")
@click.argument("folder", type=_FOLDER)
def report(folder: Path) -> None:
    """Write one page about all complete runs below FOLDER, FOLDER/report.html, that opens from disk."""
    from navila_eval.runner import report_runs

    click.echo(str(report_runs(folder)))

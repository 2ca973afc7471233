"""What a terminal shows of runs, and the exit code that says whether all went well."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from navila_eval.benchmark import Results

#: Exit code when a task failed or some of its samples did.
EXIT_FAILED = 1
#: Failed samples or episodes that are told one by one.
NAMED = 3


def leave(outcomes: list[tuple[str, Results | Exception]], *, quiet: bool = False) -> None:
    """End with an error's exit code where something failed."""
    failed = [task for task, outcome in outcomes if isinstance(outcome, Exception) or outcome.failed]
    if failed:
        if not quiet:
            click.echo(f"Error: {', '.join(failed)} did not run without failures: see above.", err=True)
        raise click.exceptions.Exit(EXIT_FAILED)


def show(outcomes: list[tuple[str, Results | Exception]], as_json: bool) -> None:
    if as_json:
        from navila_eval.jsonl import dumps

        shown = {
            task: {"error": str(outcome)} if isinstance(outcome, Exception) else outcome.content
            for task, outcome in outcomes
        }
        click.echo(dumps(shown, indent=2))
        return
    from rich.console import Console

    from navila_eval.tables import comparison_table, results_table

    console = Console()
    for task, outcome in outcomes:
        if isinstance(outcome, Exception):
            console.print(f"{task}: failed: {outcome}", markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(results_table(task, outcome))
            broken = [*outcome.content.get("failed_samples", ()), *outcome.content.get("failed_episodes", ())]
            for one in broken[:NAMED]:
                name = one.get("id", one.get("episode_id"))
                # In results.json it stands in full: what a simulator says may be pages.
                error = textwrap.shorten(str(one.get("error")), 500, placeholder=" …")
                console.print(f"{name} failed: {error}", markup=False, highlight=False, soft_wrap=True)
            if len(broken) > NAMED:
                console.print(f"… and {outcome.failed - NAMED} more: see {outcome.path / 'results.json'}", markup=False)
            written = (outcome.written,) if outcome.written else ("results.json", "report.html")
            for name in (*written, *outcome.content.get("submission", ())):
                if (outcome.path / name).exists():
                    console.print(f"{outcome.path / name}", markup=False, soft_wrap=True)
    walked = {task: one for task, one in outcomes if not isinstance(one, Exception) and "episodes" in one.content}
    if len(walked) > 1:
        console.print(comparison_table("all runs", walked))

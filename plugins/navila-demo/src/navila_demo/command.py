"""`navila demo`. Light: what is heavy is imported when the command runs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--output",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder of results.json, report.html and the records.",
)
@click.option("--model", help="Checkpoint to show instead of the one that ships with navila-demo.")
@click.option("--episodes", type=click.IntRange(min=1), default=25, show_default=True, help="Episodes a level.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the houses and everything random.")
@click.option("--force", is_flag=True, help="Start over whatever demonstration is in the output folder.")
@click.option(
    "--from-scratch",
    is_flag=True,
    help="First make the checkpoint anew: record houses and train on them (about an hour on two cores; resumable).",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="With --from-scratch: another recipe than the shipped one.",
)
def demo(
    output: Path, model: str | None, episodes: int, seed: int, force: bool, from_scratch: bool, recipe: Path | None
) -> None:
    """Watch a small trained model walk through houses nobody has seen.

    A camera and an instruction go in, a vision-language model answers, its answer becomes motion in the simulator, and
    the walk is scored: at level 0 the landmark is in view at the start, at level 1 it may be behind. The same episodes
    are walked by the model told a wrong instruction, by a random agent and by the expert. Everything runs on the CPU,
    with no network. An interrupted demonstration goes on when the same command is run again.
    """
    from navila_demo.demo import run_demo
    from navila_demo.scratch import make_checkpoint

    if from_scratch and model:
        raise click.UsageError("--from-scratch makes the checkpoint that --model would name: give one of them.")
    if recipe and not from_scratch:
        raise click.UsageError("--recipe says how --from-scratch makes the checkpoint: give both.")
    checkpoint = Path(model) if model else None
    if from_scratch:
        checkpoint = make_checkpoint(output / "from-scratch", recipe)
    run_demo(output, checkpoint, episodes=episodes, seed=seed, force=force)

"""`navila eval`: list the installed benchmarks, or score a model on some of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from navila.cli.loading import DECODING, LOADING, loading_options
from navila.cli.sections import Option, SectionedGroup
from navila.errors import ConfigError, Interrupted
from navila.plugins import default_host
from navila.registry import suggestion

from navila_eval.benchmark import AGENTS, DATA_ROOT, MODEL_AGENTS
from navila_eval.launching import LAUNCHERS, given_words, launch, own_gpu, team
from navila_eval.recorded import compare, metrics, report, rescore
from navila_eval.showing import leave, show

#: Options by their heading in the help.
_navigation = functools.partial(click.option, cls=Option, section="Navigation")
_endpoint = functools.partial(click.option, cls=Option, section="Endpoints and judges")
_processes = functools.partial(click.option, cls=Option, section="Processes and machines")


@click.group(name="eval", invoke_without_command=True, cls=SectionedGroup)
@click.option("-m", "--model", help="Checkpoint folder or Hub id; with --api-base the name of the model there.")
@click.option("-t", "--tasks", "--task", "tasks", help="Comma list of tasks, each NAME or NAME:SPLIT; see --list.")
@click.option("-i", "--include-tags", help="Comma list: only tasks with one of these tags.")
@click.option("-e", "--exclude-tags", help="Comma list: no tasks with one of these tags.")
@click.option("--list", "list_only", is_flag=True, help="List the installed tasks and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print the list, or the results, as JSON.")
@click.option("--split", help="Split of the tasks that name none; a task's default split otherwise.")
@click.option("--level", type=click.IntRange(min=0), help="Level of procedural episodes: short for --split levelN.")
@click.option(
    "--limit",
    "--episodes",
    type=click.IntRange(min=1),
    help="Samples or episodes at most; procedural tasks make so many.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of procedural episodes and of random agents."
)
@click.option(
    "-c", "--conversation", "--conv-mode", "conv_mode", help="Conversation template; the checkpoint's own by default."
)
@click.option(
    "--num-frames", type=click.IntRange(min=1), help="Frames a decision sees; the checkpoint's own by default."
)
@click.option(
    "--batch-size",
    "--num-envs",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Samples or environments in one batch.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/eval"),
    show_default=True,
    help="Results go to OUTPUT_DIR/MODEL/TASK/.",
)
@click.option(
    "-o",
    "--option",
    "task_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the tasks, e.g. -o image_size=224 for houses.",
)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA_ROOT,
    show_default=True,
    help="Folder of benchmark data on disk.",
)
@click.option("--force", is_flag=True, help="Start over whatever is in the output folder.")
@click.option(
    "--resume/--no-resume", default=True, show_default=True, help="Go on with an unfinished run, or start it over."
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@_navigation(
    "--decoding",
    type=click.Choice(DECODING),
    default="free",
    show_default=True,
    help="How navigation answers are decoded: over all words, or over the ten legal answers.",
)
@_navigation(
    "--agent",
    type=click.Choice(AGENTS),
    default="model",
    show_default=True,
    help="Who acts in navigation; random, expert, reference and replay need no model.",
)
@_navigation(
    "--perturb",
    "perturbations",
    multiple=True,
    metavar="NAME=VALUE,…",
    help="Disturb navigation by latency, drop, blur, noise, pitch or height; may be repeated, each a run of its own.",
)
@_navigation(
    "--env-processes/--no-env-processes",
    default=True,
    show_default=True,
    help="A process for every environment: one that hangs or dies costs its episode, not the run.",
)
@_navigation(
    "--sim-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds an environment's process may take for a primitive; ten times that to load a scene.",
)
@_navigation("--max-steps", type=click.IntRange(min=1), help="Primitives after which an episode ends.")
@_navigation(
    "--report-episodes",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Episodes whose pictures go into the report.",
)
@_navigation("--video", default="", metavar="WHICH", help="Make MP4s of episodes: all, failed, or the first N.")
@_endpoint("--api-base", help="OpenAI-compatible endpoint that answers in place of a model here.")
@_endpoint(
    "--judge", help="Model that judges answers where a task asks for it: a checkpoint, or a name at --judge-api-base."
)
@_endpoint("--judge-api-base", help="OpenAI-compatible endpoint of the judge.")
@_processes(
    "-n",
    "--nproc-per-node",
    "processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that answer questions or walk episodes, each with the model on a GPU of its own while there are.",
)
@_processes(
    "--launcher",
    type=click.Choice(LAUNCHERS),
    default="local",
    show_default=True,
    help="local runs here, torchrun starts the processes by torchrun, slurm hands in a job, as `navila run` does.",
)
@_processes(
    "-N", "--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Machines, with --launcher."
)
@_processes("--dry-run", is_flag=True, help="With --launcher: print what would be run, as lines for a shell.")
@loading_options
@click.pass_context
def evaluate(
    context: click.Context,
    model: str | None,
    tasks: str | None,
    include_tags: str | None,
    exclude_tags: str | None,
    api_base: str | None,
    judge: str | None,
    judge_api_base: str | None,
    list_only: bool,
    as_json: bool,
    split: str | None,
    level: int | None,
    launcher: str,
    nodes: int,
    dry_run: bool,
    **options: Any,
) -> None:
    """Score a model on the installed benchmarks; without a model, list them.

    \b
        navila eval -m CHECKPOINT -t houses
        navila eval -m CHECKPOINT -t r2r-ce --data-root VLN-CE/data -n 4
        navila eval -t houses:level1 --agent expert --limit 20

    Finished tasks are skipped, unfinished ones resumed. Exit code 0 when all is scored, 1 when a task or an episode
    failed, 2 for a wrong argument, 75 when interrupted: run the same command again.
    """
    if context.invoked_subcommand is not None:
        return
    words = _selected(tasks, include_tags, exclude_tags)
    if list_only or (model is None and tasks is None):
        _list(as_json, options["data_root"], words, in_full=tasks is not None, everything=include_tags is not None)
        return
    if tasks is None and include_tags is None:
        raise ConfigError("Nothing to run: name tasks with -t, e.g. -t houses; `navila eval --list` shows them.")
    if level is not None:
        if split is not None:
            raise ConfigError("--level and --split both choose the split: give one of them.")
        split = f"level{level}"
    if launcher == "local" and (nodes > 1 or dry_run):
        raise ConfigError("--nodes and --dry-run are for --launcher torchrun or slurm: give one of these, too.")
    if (started := team(os.environ)).size > 1 and (options["force"] or not options["resume"]):
        raise ConfigError(
            "--force and --no-resume start a run over, which several processes at once cannot: give them to "
            "navila eval --launcher torchrun or slurm instead."
        )
    if model is None and options["agent"] in MODEL_AGENTS:
        raise ConfigError(f"--agent {options['agent']} needs a checkpoint: give it with -m.")
    chosen = list(dict.fromkeys(_choose(word, split) for word in words))
    if not chosen:
        raise ConfigError(
            f"{'-t' if tasks else '-i'} names no task; `navila eval --list` shows them, and the tags are "
            f"{', '.join(_tags())}."
        )
    from navila_eval.runner import check_options, run_tasks

    check_options(chosen, options["task_options"])
    loading = {name: value for name in LOADING if (value := options.pop(name)) is not None}
    endpoint = None
    if api_base is not None:
        from navila.endpoint import Endpoint

        endpoint = Endpoint.from_environment(api_base, model or "")
    elif model is not None and options["agent"] in MODEL_AGENTS:
        _check_model(model, options["conv_mode"], loading)
    from navila_eval.judging import judge_of

    options["judge"] = judge_of(judge, judge_api_base)
    if launcher != "local":
        context.exit(_launch(context, chosen, launcher=launcher, nodes=nodes, dry_run=dry_run))
    if "device" not in loading and (gpu := own_gpu(started, os.environ)) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    options["quiet"] |= not started.leads
    try:
        outcomes = run_tasks(chosen, model=model, loading=loading, endpoint=endpoint, leads=started.leads, **options)
    except KeyboardInterrupt:
        raise Interrupted("Stopped; what is finished is kept: run the same command again to go on.") from None
    if started.leads:
        show(outcomes, as_json)
    leave(outcomes, quiet=not started.leads)


def _launch(context: click.Context, chosen: list[tuple[str, str]], *, launcher: str, nodes: int, dry_run: bool) -> int:
    """Start the command elsewhere, or in several processes; what it was to start over is removed before."""
    from navila_eval.runner import model_name, start_over

    given = context.params
    name = model_name(given["model"] or given["agent"])
    if (given["force"] or not given["resume"]) and not dry_run:
        where = {"model": given["model"], "agent": given["agent"], "output_dir": given["output_dir"]}
        start_over(chosen, **where, finished=given["force"], perturbations=given["perturbations"])
    # A job that is started again after its time limit must not start its runs over.
    without = {"launcher", "nodes", "dry_run", "force", "resume", *(["processes"] if launcher == "torchrun" else [])}
    tasks = chosen[0][0] if len(chosen) == 1 else f"{len(chosen)}-tasks"
    return launch(
        given_words(context, without=without),
        launcher=launcher,
        name=f"{name}-{tasks}",
        nodes=nodes,
        processes=given["processes"],
        dry_run=dry_run,
    )


def _selected(tasks: str | None, include: str | None, exclude: str | None) -> list[str]:
    """Tasks of a comma list, or all, that have one of the wanted tags and none of the unwanted."""
    from navila_eval.listing import MORE

    registry = default_host().registry("benchmark")
    words = _commas(tasks) if tasks is not None else sorted(registry.names())
    wanted, unwanted = _commas(include), set(_commas(exclude))
    known = {*_tags(), MORE}
    for tag in {*wanted, *unwanted} - known:
        # One that no plugin here has may be another's; a misspelt one would choose the wrong tasks.
        if meant := suggestion(tag, sorted(known)):
            raise ConfigError(f"No task has the tag {tag!r}; {meant}")
    kept = []
    for word in words:
        tags = set(registry.spec(word.partition(":")[0]).tags)
        if (not wanted or tags & set(wanted)) and not tags & unwanted:
            kept.append(word)
    return kept


def _tags() -> list[str]:
    return sorted({tag for spec in default_host().registry("benchmark").specs() for tag in spec.tags})


def _commas(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _choose(word: str, split: str | None) -> tuple[str, str]:
    """Task, by its first name, and split of `NAME` or `NAME:SPLIT`; raises when either does not exist."""
    name, _, own = word.partition(":")
    spec = default_host().registry("benchmark").spec(name)
    wanted = own or split or spec.default_split
    if wanted not in spec.splits:
        # RxR has forty-two: those meant are easily overlooked among them.
        near = suggestion(wanted, spec.splits) if len(spec.splits) > 8 else ""
        advice = near or f"use one of {', '.join(spec.splits)}."
        raise ConfigError(f"The task {name} has no split {wanted!r}: {advice}")
    return spec.name, wanted


def _check_model(model: str, template: str | None, loading: Mapping[str, Any]) -> None:
    """Tell a wrong path, template name or loading option at once, before episodes are made.

    Raises:
        CheckpointError: there is no such checkpoint.
        UnknownComponentError: there is no such conversation template.
        ConfigError: the model cannot be loaded so here.
    """
    from navila.model.location import checkpoint_folder, read_root, split_adapter

    read_root(split_adapter(checkpoint_folder(model), loading.get("model_base"))[0])
    if template is not None:
        default_host().registry("conversation").spec(template)
    if loading:
        from navila.model.load import check_loading

        check_loading(**loading)


def _list(as_json: bool, data_root: Path, words: list[str], *, in_full: bool, everything: bool) -> None:
    from navila_eval.listing import details, entry_facts, overview

    registry = default_host().registry("benchmark")
    entries = [registry.entry(word.partition(":")[0]) for word in words]
    if as_json:
        import json

        click.echo(json.dumps([entry_facts(entry, data_root) for entry in entries], indent=2))
    elif not entries:
        known = f"no task has such tags, which are {', '.join(_tags())}" if registry.specs() else "no task is installed"
        click.echo(f"Nothing to list: {known}.")
    elif in_full:
        click.echo("\n\n".join(details(entry, data_root) for entry in entries))
    else:
        click.echo(overview(entries, data_root, everything=everything))
        click.echo(f"\nData are looked for below {data_root} (--data-root). The first split is the default.")
        click.echo(
            "`navila eval --list -t TASK` tells of one in full; `navila eval -m CHECKPOINT -t TASK:SPLIT` runs it."
        )


for command in (rescore, compare, metrics, report):
    evaluate.add_command(command)

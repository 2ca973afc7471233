"""`navila run`: start a command on this machine, on several, or on a SLURM cluster."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import click

from navila.errors import ConfigError
from navila.launch import slurm
from navila.launch.job import Job, is_training, job_name, parse_time
from navila.launch.start import LAUNCHERS, Launcher, Place, default_launcher, describe, follow, start, visible_gpus

#: Time limit of a SLURM job when none is given, and GPUs a node, as NaVILA's scripts have them.
DEFAULT_TIME = "4:00:00"
DEFAULT_GPUS = 8


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-J", "--job-name", "name", required=True, help="Name of the job; %t becomes the time it is started.")
@click.option("-m", "--mode", default="train", show_default=True, help="Kind of job: it runs in runs/MODE/NAME.")
@click.option(
    "-N",
    "--nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    envvar=["n_node", "NNODES"],
    help="Machines.",
)
@click.option(
    "--gpus-per-node",
    type=click.IntRange(min=0),
    envvar=["GPUS_PER_NODE"],
    help="GPUs of each; 0 for one process on its CPU.  [default: 8 with SLURM, else what this machine has]",
)
@click.option(
    "-t", "--time", "limit", help="Time limit: 4:00:00, 30:00:00, 2-12:00:00.  [default: 4:00:00 with SLURM, else none]"
)
@click.option(
    "--grace", default="5:00", show_default=True, help="How long before the limit the command is told to save and stop."
)
@click.option(
    "--launcher",
    type=click.Choice(LAUNCHERS),
    help="local runs the command, torchrun starts it once a GPU, slurm hands it in.  [default: slurm where sbatch is "
    "found, outside of jobs; else torchrun for navila train on several GPUs, else local]",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="How often to start the command again when it stopped early (exit code 75 or 124) or met the time limit.",
)
@click.option(
    "--max-crash-restarts",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How often to start it again when it failed.",
)
@click.option("--follow", "following", is_flag=True, help="Show the log of the SLURM job until it is over.")
@click.option("--dry-run", is_flag=True, help="Print what would be run, as lines for a shell, and run nothing.")
@click.option("--again", is_flag=True, help="Run a job that has finished once more, in its folder.")
@click.option("--account", envvar=["NAVILA_SLURM_ACCOUNT", "VILA_SLURM_ACCOUNT"], help="SLURM's account.")
@click.option("--partition", envvar=["NAVILA_SLURM_PARTITION", "VILA_SLURM_PARTITION"], help="SLURM's partition.")
@click.option("--exclusive", is_flag=True, help="Ask SLURM for whole machines.")
@click.option("--slurm-arg", "arguments", multiple=True, help="Another option of sbatch: --slurm-arg=--mem=0.")
@click.option("--master-addr", envvar=["MASTER_ADDR"], help="torchrun on several machines: the first one's address.")
@click.option("--master-port", type=int, envvar=["MASTER_PORT"], help="… and a free port of it.")
@click.option(
    "--node-rank",
    type=click.IntRange(min=0),
    default=0,
    envvar=["CURRENT_RANK", "NODE_RANK", "SLURM_NODEID"],
    help="… and which machine this is, from 0.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    name: str,
    mode: str,
    nodes: int,
    gpus_per_node: int | None,
    limit: str | None,
    grace: str,
    launcher: Launcher | None,
    following: bool,
    dry_run: bool,
    again: bool,
    account: str | None,
    partition: str | None,
    exclusive: bool,
    arguments: tuple[str, ...],
    master_addr: str | None,
    master_port: int | None,
    node_rank: int,
    command: tuple[str, ...],
    **bounds: Any,
) -> None:
    """Run COMMAND as a job: on this machine, by torchrun, or on a SLURM cluster, until it is done.

    \b
        navila run -J sft-%t -N 2 --gpus-per-node 8 -t 30:00:00 -- navila train --config recipe.yaml
        navila run -J sft-%t -N 2 --dry-run -- bash finetune.sh
        navila run -m eval -J r2r --gpus-per-node 1 -- navila eval --model CKPT --task houses

    It runs with RUN_NAME and OUTPUT_DIR=runs/MODE/NAME set, which {run_name} and {output_dir} in COMMAND stand for too;
    job.json in that folder tells what became of it. navila train is started once a GPU, everything else once a machine,
    with n_node, GPUS_PER_NODE, MASTER_ADDR, MASTER_PORT and CURRENT_RANK set.

    The exit code is COMMAND's own. Without --follow, a SLURM job is handed in and left alone.
    """
    name = job_name(name, datetime.now())
    if not command:
        if following:
            ctx.exit(follow(Job(name=name, mode=mode, command=()).folder))
        raise ConfigError("The command is missing: navila run -J NAME -- navila train --config recipe.yaml.")
    chosen = launcher or default_launcher(os.environ)
    if gpus_per_node is None:
        gpus_per_node = DEFAULT_GPUS if chosen == "slurm" else len(visible_gpus(os.environ))
    if chosen is None:
        chosen = "torchrun" if is_training(command) and nodes * max(gpus_per_node, 1) > 1 else "local"
    if limit is None and chosen == "slurm":
        limit = DEFAULT_TIME
    job = Job(
        name=name,
        mode=mode,
        command=command,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        seconds=None if limit is None else parse_time(limit),
        grace=parse_time(grace, "--grace"),
        **bounds,
    )
    place = Place()
    if chosen == "local" and nodes > 1:
        raise ConfigError(f"--launcher local runs on this machine alone: leave --nodes {nodes} out, or take torchrun.")
    if chosen == "torchrun" and nodes > 1:
        if not master_addr or not master_port:
            raise ConfigError(
                f"--nodes {nodes} by torchrun is started on each machine and has to know the first: give "
                "--master-addr, --master-port and --node-rank."
            )
        if node_rank >= nodes:
            raise ConfigError(f"--node-rank {node_rank} is none of {nodes} machines: they count from 0.")
        place = Place(node_rank=node_rank, master_addr=master_addr, master_port=master_port)
    options = slurm.Options(account=account, partition=partition, exclusive=exclusive, arguments=arguments)
    if dry_run:
        click.echo(describe(job, chosen, place, options))
        return
    ctx.exit(start(job, chosen, place=place, options=options, follow=following, again=again))

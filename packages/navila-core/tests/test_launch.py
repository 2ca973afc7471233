"""navila run without SLURM: names, times, the mission's variables, exit codes, restarts and signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from navila.errors import ConfigError
from navila.launch.job import Job, format_time, is_training, parse_time
from navila.launch.processes import Ended
from navila.launch.record import Record
from navila.launch.slurm import Options, script
from navila.launch.supervise import Bounds, free_port, judge
from navila.launch.torchrun import as_program
from navila.testing import CommandContract

Run = Callable[..., "subprocess.CompletedProcess[str]"]

VARIABLES = ("RUN_NAME", "OUTPUT_DIR", "n_node", "GPUS_PER_NODE", "CURRENT_RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK")
TELL = f"""
import json, os
print(json.dumps({{k: os.environ[k] for k in {VARIABLES} if k in os.environ}}) + "\\n", end="", flush=True)
"""
#: Fails on the second rank, once the first has had its say.
SECOND_FAILS = """
import pathlib, sys, time
pathlib.Path("rank" + os.environ["RANK"]).touch()
while not pathlib.Path("rank0").exists():
    time.sleep(0.1)
sys.exit(7 * int(os.environ["RANK"]))
"""
#: Waits to be told to stop, then saves for a while, and says so by exit code 75; torchrun ends a rank that is slower.
SAVES = """
import os, pathlib, signal, sys, time
def save(signum, _):
    for number in (signum, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(0.5)
    # One write a line, buffered or not: ranks share their output.
    os.write(1, f"saved {os.environ.get('RANK', '')}\\n".encode())
    sys.exit(75)
signal.signal(getattr(signal, sys.argv[1]), save)
pathlib.Path(os.environ["OUTPUT_DIR"], "ready" + os.environ.get("RANK", "")).touch()
time.sleep(120)
"""


class TestRunCommand(CommandContract):
    name = "run"


def variables() -> dict[str, str]:
    """This process's, as outside of any job, and as where SLURM is not installed."""
    of_jobs = ("SLURM_", "MASTER_", *VARIABLES)
    return {name: value for name, value in os.environ.items() if not name.startswith(of_jobs)} | {"NO_SLURM": "1"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `navila run` in a new folder."""

    def run(*arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "navila", "run", *map(str, arguments)]
        environment = {**variables(), **extra}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / "runs" / "train" / name / "job.json").read_text())


def lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`navila run` of a program that is ready to be told to stop."""
    (folder / "saves.py").write_text(SAVES)
    job = subprocess.Popen(
        [sys.executable, "-m", "navila", "run", "-J", "x", *arguments],
        cwd=folder,
        env=variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    ranks = ("0", "1") if "torchrun" in arguments else ("",)
    while not all((folder / "runs" / "train" / "x" / f"ready{rank}").exists() for rank in ranks):
        assert job.poll() is None
        time.sleep(0.05)
    return job


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4:00:00", 14400),
        ("30:00:00", 108000),
        ("0:05:30", 330),
        ("2-12:00:00", 216000),
        ("1-06", 108000),
        ("1-6:30", 109800),
        ("90", 5400),
        ("5:30", 330),
    ],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int):
    assert parse_time(text) == seconds
    assert parse_time(format_time(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "abc", "0:00:00", "4:60:00", "1:2:3:4", "-5", "4h", "1-"])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(ConfigError, match="is no time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("python -m navila train --config r.yaml", "-m navila train --config r.yaml"),
        ("python3.11 train.py --lr 1", "train.py --lr 1"),
        ("./train.py --lr 1", "./train.py --lr 1"),
        ("python -u train.py", "--no-python python -u train.py"),
        ("bash train.sh", "--no-python bash train.sh"),
    ],
)
def test_commands_as_torchrun_takes_them(command: str, program: str):
    assert as_program(command.split()) == tuple(program.split())


def test_only_training_is_started_once_a_gpu():
    assert is_training(["navila", "train", "--config", "r.yaml"])
    assert is_training([sys.executable, "-m", "navila", "train"])
    for command in ("navila eval --task houses", "bash train.sh", "torchrun train.py", "navila"):
        assert not is_training(command.split())


def test_the_batch_script_asks_for_what_was_asked_for():
    job = Job(name="x", command=("navila", "train", "--llm", '{"a": "b c"}'), nodes=3, gpus_per_node=8, seconds=108000)
    options = Options(account="my lab", partition="gpu", exclusive=True, arguments=("--mem=0",))
    lines = script(job, options, by_torchrun=True).splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    expected = (
        *("--job-name=train/x", "--nodes=3", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=1-06:00:00"),
        *("--signal=B:USR1@300", "'--account=my lab'", "--partition=gpu", "--exclusive", "--mem=0", "--requeue"),
    )
    assert set(expected) <= set(asked)
    assert lines[-1].endswith("""--nnodes 3 --nproc_per_node 8 -m navila train --llm '{"a": "b c"}'""")


def test_the_choice_of_plugins_goes_along(monkeypatch: pytest.MonkeyPatch):
    """Taken out of the arguments by `--plugin`, it is in none of the command's words."""
    job = Job(name="x", command=("navila", "eval"))
    assert "NAVILA_PLUGINS" not in job.environment()
    monkeypatch.setenv("NAVILA_PLUGINS", "./my own.py,no:other")
    assert "export NAVILA_PLUGINS='./my own.py,no:other'" in script(job, Options(), by_torchrun=False).splitlines()


@pytest.mark.parametrize(
    ("ended", "queued", "before", "expected"),
    [
        (Ended(code=0), True, (), ("finished", "finished")),
        (Ended(code=0, told="SIGUSR1"), True, (), ("finished", "finished")),
        (Ended(code=75, told="SIGUSR1"), True, (), ("time limit", "restarting")),
        (Ended(code=138, told="SIGUSR1"), True, (), ("time limit", "restarting")),
        (Ended(code=124), True, (), ("time limit", "restarting")),
        (Ended(code=75), False, (), ("stopped early", "restarting")),
        (Ended(code=75), False, ("stopped early", "lost"), ("stopped early", "stopped")),
        (Ended(code=75, told="SIGUSR1"), False, (), ("told to stop", "stopped")),
        (Ended(code=75, told="limit"), False, (), ("time limit", "stopped")),
        (Ended(code=143, told="SIGTERM"), True, (), ("told to stop", "stopped")),
        (Ended(code=7, told="SIGUSR1"), True, (), ("failed", "restarting")),
        (Ended(code=7), True, ("stopped early",), ("failed", "restarting")),
        (Ended(code=7), True, ("failed",), ("failed", "failed")),
    ],
)
def test_what_an_end_makes_of_a_job(ended: Ended, queued: bool, before: tuple[str, ...], expected: tuple[str, str]):
    record = Record(command=("x",), launcher="local").begun()
    for outcome in before:
        record = record.ended(1, outcome, "restarting").begun()
    assert judge(ended, record, Bounds(restarts=2, crashes=1), queued=queued) == expected


def test_a_command_runs_with_its_name_and_folder_and_ends_with_its_exit_code(run: Run, tmp_path: Path):
    program = f"{TELL}import sys; print(sys.argv[1:]); sys.exit(7)"
    done = run("-J", "a-%t", "-m", "eval", "--launcher", "local", "python", "-c", program, "{output_dir}", "{run_name}")
    assert done.returncode == 7, done.stderr
    (folder,) = (tmp_path / "runs" / "eval").iterdir()
    assert folder.name.startswith("a-20")
    told, arguments = done.stdout.splitlines()
    assert json.loads(told).items() >= {"RUN_NAME": folder.name, "OUTPUT_DIR": f"runs/eval/{folder.name}"}.items()
    assert arguments == str([f"runs/eval/{folder.name}", folder.name])
    found = json.loads((folder / "job.json").read_text())
    assert (found["state"], found["exit_code"], len(found["attempts"])) == ("failed", 7, 1)


def test_a_command_that_stopped_early_is_started_again_and_one_that_failed_is_not(run: Run, tmp_path: Path):
    third = "echo >> starts; [ $(wc -l < starts) = 3 ] || exit $0"
    done = run("-J", "a", "bash", "-c", third, 75)
    assert done.returncode == 0, done.stderr
    assert [attempt["exit_code"] for attempt in record(tmp_path, "a")["attempts"]] == [75, 75, 0]
    (tmp_path / "starts").unlink()
    done = run("-J", "b", "bash", "-c", third, 9)
    assert done.returncode == 9
    done = run("-J", "b", "--max-crash-restarts", 1, "bash", "-c", third, 9)
    assert done.returncode == 0, "attempts of the start before do not count"
    assert [attempt["exit_code"] for attempt in record(tmp_path, "b")["attempts"]] == [9, 9, 0]
    (tmp_path / "starts").unlink()
    done = run("-J", "c", "--max-restarts", 1, "bash", "-c", third, 124)
    assert done.returncode == 124
    assert "the same command goes on" in done.stderr


def test_a_finished_job_is_not_run_twice_unless_asked_to(run: Run, tmp_path: Path):
    for expected in (1, 1):
        assert run("-J", "a", "bash", "-c", "echo >> starts").returncode == 0
        assert len((tmp_path / "starts").read_text()) == expected
    other = run("-J", "a", "bash", "-c", "true")
    assert other.returncode == 2
    assert "choose another --job-name" in other.stderr
    assert run("-J", "a", "--again", "bash", "-c", "echo >> starts").returncode == 0
    assert len((tmp_path / "starts").read_text()) == 2


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_command_is_told_to_stop_and_has_time_to_save(tmp_path: Path, signum: signal.Signals):
    job = started(tmp_path, "--launcher", "local", "python", "saves.py", signum.name)
    other = subprocess.run(
        [sys.executable, "-m", "navila", "run", "-J", "x", "true"],
        cwd=tmp_path,
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 2
    assert "holds a job that runs" in other.stderr
    job.send_signal(signum)
    told, _ = job.communicate()
    assert (told.split(), job.returncode) == (["saved"], 75)
    assert record(tmp_path, "x")["state"] == "stopped"


def test_a_time_limit_of_its_own_stops_a_command(run: Run, tmp_path: Path):
    (tmp_path / "saves.py").write_text(SAVES)
    done = run("-J", "x", "-t", "0:03", "--grace", "0:02", "python", "saves.py", "SIGUSR1")
    assert done.returncode in (75, 124), done.stderr
    assert record(tmp_path, "x")["attempts"][0]["outcome"] == "time limit"


def test_what_ignores_its_time_limit_is_killed_with_all_it_started(run: Run, tmp_path: Path):
    deaf = 'trap "" USR1 TERM; sleep 300 & echo $! >> pids; (sleep 300 & echo $! >> pids; wait); true'
    done = run("-J", "x", "-t", "0:04", "--grace", "0:02", "bash", "-c", deaf)
    assert done.returncode == 124, done.stderr
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    # Killed, they end once the system comes to it.
    end = time.monotonic() + 60
    while any(map(lives, pids)):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow  # torchrun imports torch, five times
def test_torchrun_starts_a_process_a_gpu_tells_it_to_stop_and_returns_its_exit_code(run: Run, tmp_path: Path):
    (tmp_path / "tell.py").write_text(f"{TELL}{SECOND_FAILS}")
    arguments = ("-J", "tell", "--launcher", "torchrun", "python", "tell.py")
    done = run(*arguments, GPUS_PER_NODE="2")
    assert done.returncode == 7, done.stderr
    told = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda found: found["RANK"])
    assert [(found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) for found in told] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert told[0]["OUTPUT_DIR"] == "runs/train/tell"
    # SIGUSR1 would kill torchrun itself, and SIGTERM give its processes half a minute.
    job = started(tmp_path, "--launcher", "torchrun", "--gpus-per-node", "2", "python", "saves.py", "SIGUSR1")
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate()
    assert (sorted(out.split("\n")), job.returncode) == (["", "saved 0", "saved 1"], 75)


@pytest.mark.slow  # torchrun on two machines imports torch twice
def test_torchrun_by_hand_on_two_machines_takes_the_variables_of_navilas_scripts(tmp_path: Path):
    (tmp_path / "tell.py").write_text(TELL)
    command = [sys.executable, "-m", "navila", "run", "-J", "two", "--launcher", "torchrun", "python", "tell.py"]
    place = {"n_node": "2", "GPUS_PER_NODE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    machines = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**variables(), **place, "CURRENT_RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    told = [json.loads(machine.communicate()[0]) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert [(found["RANK"], found["CURRENT_RANK"], found["WORLD_SIZE"]) for found in told] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert len(record(tmp_path, "two")["attempts"]) == 1, "the first machine keeps the record"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-J", "x"), "command is missing"),
        (("-J", "a b", "true"), "--job-name 'a b'"),
        (("-J", "a/b", "true"), "--job-name 'a/b'"),
        (("-J", "..", "true"), "--job-name '..'"),
        (("-J", "x", "-m", "../y", "true"), "--mode '../y'"),
        (("-J", "x", "-t", "abc", "true"), "--time 'abc' is no time"),
        (("-J", "x", "-t", "0:02:00", "true"), "--time 00:02:00 leaves nothing to work"),
        (("-J", "x", "--grace", "x", "-t", "1:00:00", "true"), "--grace 'x' is no time"),
        (("-J", "x", "--launcher", "pbs", "true"), "'pbs' is not one of"),
        (("-J", "x", "--launcher", "local", "-N", 2, "true"), "this machine alone"),
        (("-J", "x", "--launcher", "torchrun", "-N", 2, "true"), "--master-addr"),
        (
            (
                *("-J", "x", "--launcher", "torchrun", "-N", 2, "--node-rank", 2),
                *("--master-addr", "a", "--master-port", 1, "true"),
            ),
            "--node-rank 2 is none of 2",
        ),
        (("-J", "x", "--slurm-arg", "mem", "true"), "--slurm-arg 'mem'"),
        (("-J", "x", "--follow"), "no job of SLURM to follow"),
        (("-J", "x", "no-such-command"), "no-such-command cannot be started"),
    ],
)
def test_a_mistake_is_one_sentence(run: Run, arguments: tuple[object, ...], words: str):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_cannot_be_started_is_on_record_as_failed(run: Run, tmp_path: Path):
    assert run("-J", "x", "no-such-command").returncode == 2
    assert record(tmp_path, "x")["state"] == "failed"


def test_without_slurm_its_launcher_says_so(run: Run, tmp_path: Path):
    done = run("-J", "x", "--launcher", "slurm", "true", PATH=str(Path(sys.executable).parent))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "There is no sbatch here" in done.stderr


def test_a_dry_run_prints_what_a_shell_can_run_and_runs_nothing(run: Run, tmp_path: Path):
    done = run("-J", "x", "--dry-run", "python", "-c", "print('a  b')")
    assert done.returncode == 0
    assert not (tmp_path / "runs").exists()
    shell = subprocess.run(["bash", "-c", done.stdout], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shell.stdout == "a  b\n"
    done = run("-J", "x", "--dry-run", "--launcher", "slurm", "-N", 2, "--", "navila", "train", "--config", "r.yaml")
    assert "#SBATCH --nodes=2" in done.stdout
    assert "sbatch runs/train/x/slurm/job.sh" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_the_commands_of_the_documentation_can_be_given_as_they_stand(run: Run):
    page = Path(__file__).parents[3] / "docs" / "reference" / "launching.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside this package")
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line) for line in "".join(blocks).splitlines()]
    assert len(commands) >= 6
    for command in commands:
        launcher = () if "--launcher" in command else ("--launcher", "slurm")
        done = run("--dry-run", *launcher, *command[2:])
        assert done.returncode == 0, f"{command}: {done.stderr}"

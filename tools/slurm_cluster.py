"""A SLURM cluster of two nodes on this machine, without root, systemd or anything outside of one folder.

The tests use it; `python tools/slurm_cluster.py FOLDER` starts one to try `navila run` with, until Ctrl-C. Debian's
packages: slurm-wlm slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from navila.launch.supervise import free_port

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
#: Where daemons are that are no user's commands.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# The two timeouts are 10 s where nothing is set, too little for a machine that is busy.
# cred_expire, at least 5 s, is also how long a job waits that was handed back to the queue: 120 s where nothing is set.
_CONFIG = """
ClusterName=navila
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
ReturnToService=2
MessageTimeout=100
BatchStartTimeout=300
KillWait=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of SLURM that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Mapping[str, str]]:
    """Start munge, a controller and two nodes; gives the variables to use them with, and stops them in the end.

    Args:
        folder: for their state and logs; made, and of a short path (a socket lies in it).

    Raises:
        RuntimeError: a daemon does not start.
    """
    folder = folder.resolve()
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(free_port())
    controller, first, second = ports
    config = folder / "slurm.conf"
    user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().partition(".")[0]
    config.write_text(
        _CONFIG.format(folder=folder, user=user, host=host, controller=controller, first=first, second=second)
    )
    variables = {"SLURM_CONF": str(config)}
    files = {"key-file": key, "socket": folder / "munge.socket", "seed-file": folder / "munge.seed"}
    files |= {"pid-file": folder / "munged.pid"}
    with ExitStack() as daemons:
        # `--force` allows a folder that others may not look into.
        options = (f"--{name}={path}" for name, path in files.items())
        _start(daemons, variables, folder, "munged", "--foreground", "--force", *options)
        _wait(files["socket"].exists, "munge does not answer")
        _start(daemons, variables, folder, "slurmctld", "-D", "-i")
        for node in ("n1", "n2"):
            _start(daemons, variables, folder, "slurmd", "-D", "-N", node)
        _wait(lambda: _idle_nodes(variables) == 2, f"its nodes are not ready, see {folder}/daemons.log")
        # Jobs would outlive the daemons.
        daemons.callback(_end_jobs, variables)
        yield variables


def _start(daemons: ExitStack, variables: Mapping[str, str], folder: Path, *command: str) -> None:
    """Start a daemon that ends with `daemons`, or with this process if that is killed."""
    environment = {**os.environ, **variables, "PATH": _PATH}
    with (folder / "daemons.log").open("ab") as log:
        daemon = subprocess.Popen(
            ("setpriv", "--pdeathsig=TERM", *command), env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    daemons.callback(_stop, daemon)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _idle_nodes(variables: Mapping[str, str]) -> int:
    return len(_told(variables, "sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").split())


def _end_jobs(variables: Mapping[str, str]) -> None:
    while jobs := _told(variables, "squeue", "--noheader", "--format=%i").split():
        _told(variables, "scancel", "--signal=KILL", "--full", *jobs)
        _told(variables, "scancel", *jobs)
        time.sleep(0.5)


def _told(variables: Mapping[str, str], *command: str) -> str:
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False).stdout


def _wait(done: Callable[[], bool], problem: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise RuntimeError(f"SLURM on this machine: {problem}")
        time.sleep(0.1)


if __name__ == "__main__":
    if missing():
        sys.exit(f"Not installed: {', '.join(missing())}.")
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    with suppress(KeyboardInterrupt), slurm_cluster(Path(sys.argv[1])) as found:
        print(*(f"export {name}={value}" for name, value in found.items()), sep="\n", flush=True)
        signal.pause()

"""Fixtures every member's tests share."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

# For tiny models a second thread costs more than it brings; processes that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing here is compiled, but bitsandbytes would import the compiler, for seconds in each of hundreds of processes.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# Where bytecode is not kept, as in many containers, each of those processes would compile what it imports, for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Test runs in the background, and pytest-xdist's workers, ignore Ctrl-C, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep what the test modules import out of all later collections of garbage, each of which would look at it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter's end find everything."""
    gc.unfreeze()


SHARED = Path(__file__).parent / ".." / "shared"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of numbers made by the original code."""
    folder = (SHARED / "goldens").resolve()
    if not folder.is_dir():
        pytest.skip("the golden data folder ../shared/goldens is not on this machine")
    return folder


@pytest.fixture(scope="session")
def writable_copy() -> Callable[[Path, Path], Path]:
    """Copies a folder of the golden data, which may be read-only, to be changed."""

    def copy(source: Path, target: Path) -> Path:
        shutil.copytree(source, target)
        for path in (target, *target.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return target

    return copy


@pytest.fixture(scope="session")
def navigation_data() -> Path:
    """The folder of real connectivity graphs and R2R paths."""
    folder = (SHARED / "data").resolve()
    if not folder.is_dir():
        pytest.skip("the navigation data folder ../shared/data is not on this machine")
    return folder


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests leave nothing in the user's cache; the processes they start inherit this."""
    os.environ["NAVILA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def slurm() -> Iterator[Mapping[str, str]]:
    """The variables that lead to a real SLURM of two nodes, started for these tests and stopped after them."""
    from tools.slurm_cluster import missing, slurm_cluster

    if absent := missing():
        pytest.skip(f"SLURM is not installed on this machine: there is no {', '.join(absent)}")
    # What a job leaves behind may still be written while the folder goes.
    temporary = tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)
    with temporary as folder, slurm_cluster(Path(folder)) as variables:
        yield variables

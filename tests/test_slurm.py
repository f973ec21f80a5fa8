"""Jobs of a real Slurm: one that runs already, or a cluster of this machine alone, started where Slurm is installed."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import call
from test_executors import FLAGS, NAME, QUICK, trained_files

from mi_duck.atomic_files import file_sha256
from mi_duck.executors.slurm import slurm_folder
from mi_duck.genome.synthetic import synthesise
from mi_duck.run.folder import RunFolder

START = Path(__file__).parent / "slurm" / "start.sh"
SECONDS = 1800  # no run of this size takes as long, whatever else runs
pytestmark = pytest.mark.slow


def asked(*command: str) -> str:
    """Return what a command of Slurm says; nothing where it knows no such job any more."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def until(holds: Callable[[], bool]) -> None:
    """Wait for something."""
    limit = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < limit, asked("squeue")
        time.sleep(0.5)


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use the Slurm that runs, or start one."""
    if shutil.which("sinfo") is None:
        pytest.skip("Slurm is not installed: apt-get install slurm-wlm munge")
    if asked("sinfo", "--noheader"):
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("no Slurm runs, and only root can start one")
    home = tmp_path_factory.mktemp("cluster")
    subprocess.run(["sh", START, home], check=True, timeout=120)
    os.environ["SLURM_CONF"] = str(home / "slurm.conf")
    yield
    subprocess.run(["scancel", "--state=PENDING,RUNNING", "--user=root"], check=False)
    subprocess.run(["sh", START, home, "stop"], check=True)
    del os.environ["SLURM_CONF"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm") / "data"
    synthesise(folder, n_genes=24, rows_per_gene=120, n_features=20)
    return folder


@pytest.fixture(scope="module")
def reference(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    assert call("run", dataset, "--out", run, *FLAGS, *QUICK).exit_code == 0
    return run


def submitted(dataset: Path, run: Path, *flags: str) -> dict[str, str]:
    """Submit a run; return the numbers of its jobs by their names."""
    result = call("run", dataset, "--out", run, *FLAGS, *QUICK, "--executor", "slurm", *flags)
    assert result.exit_code == 0, result.output
    return dict(line.split() for line in result.stdout.splitlines())


def wait_for(job: str) -> str:
    """Wait for the end of a job; return its exit code and signal as Slurm writes them."""
    until(lambda: not asked("squeue", "--noheader", f"--jobs={job}"))
    found = re.findall(r"ExitCode=(\d+:\d+)", asked("scontrol", "show", "job", job))
    return max(found)


def assert_same(run: Path, reference: Path) -> None:
    assert trained_files(run) == trained_files(reference)
    name = "consolidated_model.miduck"
    assert file_sha256(run / name) == file_sha256(reference / name)


def test_slurm__gives_the_model_of_a_run_here(dataset: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / NAME
    jobs = submitted(dataset, run, "--slurm-options", "--comment='of a test' --nice=1")
    assert wait_for(jobs["finish"]) == "0:0"
    assert_same(run, reference)
    logs = {log.name for log in (slurm_folder(RunFolder(run)) / "logs").iterdir()}
    assert logs == {
        f"partition-{jobs['partition']}.log",
        f"finish-{jobs['finish']}.log",
        *(f"instances-{jobs['instances']}_{task}.log" for task in range(3)),
    }


def test_slurm__requeues_and_cancels_without_a_loss(dataset: Path, reference: Path, tmp_path: Path) -> None:
    """A task that is requeued goes on; tasks that are cancelled leave an ensemble of the others, and come with the next run."""
    run = tmp_path / "run"
    jobs = submitted(dataset, run)
    logs = slurm_folder(RunFolder(run)) / "logs"
    first = logs / f"instances-{jobs['instances']}_0.log"
    until(lambda: first.exists() and "training on" in first.read_text())
    subprocess.run(["scontrol", "requeue", f"{jobs['instances']}_0"], check=True)
    subprocess.run(["scancel", f"{jobs['instances']}_2"], check=True)
    assert wait_for(jobs["finish"]) == "69:0"
    assert first.read_text().count("training on") == 2 or "reusing" in first.read_text()
    again = submitted(dataset, run)
    assert "--array=2" in (slurm_folder(RunFolder(run)) / "instances.sh").read_text()
    assert wait_for(again["finish"]) == "0:0"
    assert_same(run, reference)


def test_slurm__asks_a_job_to_end_before_its_limit(dataset: Path, tmp_path: Path) -> None:
    """It saves what it has: with a limit of one minute and a margin of two it is asked at once."""
    run = tmp_path / "run"
    endless = ("--n-estimators", "100000", "--early-stopping-patience", "0")
    result = call("plan", dataset, "--out", run, *FLAGS, *endless)
    assert result.exit_code == 0, result.output
    result = call("train", run, "--executor", "slurm", "--threads", "1", "--slurm-options", "--time=1 --array=0")
    jobs = dict(line.split() for line in result.stdout.splitlines())
    assert wait_for(jobs["instances"]) == "143:0"
    log = slurm_folder(RunFolder(run)) / f"logs/instances-{jobs['instances']}_0.log"
    assert "ended by SIGTERM; the same command goes on where it stopped" in log.read_text()

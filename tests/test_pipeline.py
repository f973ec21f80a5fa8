"""The whole run: what is planned, trained, interrupted, gone on with, refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import app
from mi_duck.folders import RunFolder
from mi_duck.pipeline import partition_here
from mi_duck.train import train_instance

# small enough for seconds, large enough for three instances that learn something
SMALL = (
    *("--strategy", "multi", "--genes-per-instance", "24", "--threads", "1"),
    *("--n-estimators", "20", "--early-stopping-patience", "5", "--max-depth", "4", "--learning-rate", "0.3"),
)
COMMAND = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]


def quiet(stage: str, done: int, total: int) -> None:
    """Take progress and forget it."""


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(one) for one in arguments])


def mi_duck(*arguments: object, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if check:
        assert done.returncode == 0, done.stderr
    return done  # type: ignore[no-any-return]


def planned(dataset: Path, run: Path, *flags: str) -> Path:
    """Plan a run in this process."""
    result = call("plan", dataset, "--out", run, *SMALL, *flags)
    assert result.exit_code == 0, result.output
    return run


def partitioned(dataset: Path, run: Path, *flags: str) -> Path:
    """Plan a run and write its segments, in this process."""
    planned(dataset, run, *flags)
    partition_here(run=str(run), threads=1, report=quiet)
    return run


def trained(dataset: Path, run: Path, *flags: str, threads: int = 1) -> Path:
    """Plan a run, write its segments and train its instances, in this process."""
    partitioned(dataset, run, *flags)
    for instance in RunFolder(run).read_plan().instances:
        train_instance(run=str(run), instance_id=instance.instance_id, threads=threads, report=quiet)
    return run


def finished_run(dataset: Path, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one finished run for all tests of a session, made when it is first asked for; only to be read."""
    out = factory.getbasetemp() / "finished run"
    if not out.exists():
        mi_duck("run", dataset, "--out", out, *SMALL)
    return out

"""Runs for tests: commands in this process and in processes of their own, and two finished runs that all tests share."""

import contextlib
import functools
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer.testing
from shared import made_once
from typer.testing import Result

from cli import app
from mi_duck import processes
from mi_duck.atomic_files import sealed, write_json
from mi_duck.boosting.train import train_instance
from mi_duck.processes import ChildResult, Context, Report, run_child
from mi_duck.rows.partition import partition_here
from mi_duck.run.folder import RunFolder

# the commands with their options are made once, not for every call: 0.04 s
typer.testing._get_command = functools.cache(typer.testing._get_command)

# small enough for seconds, large enough for three instances that learn something
SMALL = (
    *("--strategy", "multi", "--genes-per-instance", "24", "--threads", "1", "--max-memory-per-instance-gb", "2"),
    *("--n-estimators", "10", "--early-stopping-patience", "5", "--max-depth", "4", "--learning-rate", "0.3"),
)
# a run costs a fifth without figures, explanations and refit
FAST = (*SMALL, "--minimal-diagnostics", "--skip-shap", "--consolidation", "voting")
COMMAND = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]


def quiet(stage: str, done: int, total: int) -> None:
    """Take progress and forget it."""


CONTEXT = Context(1, quiet, lambda words: None)
"""One thread; progress and messages are forgotten."""


def call_children(*arguments: object) -> Result:
    """Run a command in this process; its children are processes, each with its imports and its memory."""
    return typer.testing.CliRunner().invoke(app, [str(one) for one in arguments])


def call(*arguments: object) -> Result:
    """Run a command, with all that its children would do, in this process: the same bytes for a quarter of the time.

    For tests to which processes, their memory and their signals do not matter; probes of memory stay children.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mi_duck.processes.run_child", run_here)
        return call_children(*arguments)


def here(*arguments: object, code: int = 0) -> Result:
    """Run a command as `call`, and check its exit code."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    return result


def run_here(
    function: str, arguments: Mapping[str, Any], *, threads: int, report: Report, **watching: Any
) -> ChildResult[Any]:
    """Do what `mi_duck.processes.run_child` does without a child: the same function, through the same JSON."""
    is_probe = str(arguments.get("run", "")).endswith("probes")  # whose memory is measured
    if is_probe or threading.current_thread() is not threading.main_thread():  # several at once need processes
        return run_child(function, arguments, threads=threads, report=report, **watching)
    module, name = function.split(":")
    return processes.run_here(getattr(importlib.import_module(module), name), arguments, report)


def assert_refused(result: Result, code: int, words: str) -> None:
    """Check the exit code and that one line, and no traceback, says what is wrong."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code == 2:
        assert "Usage" in result.stderr
        assert "Error" in result.stderr
    else:
        lines = result.stderr.splitlines()
        assert lines[-1].startswith("error: ")
        assert [line for line in lines if line.startswith("error:")] == lines[-1:]
        assert words in lines[-1]
    assert words in " ".join(result.stderr.replace("│", " ").split())


def contents(folder: Path) -> list[str]:
    """Return what a user sees in a folder, deep."""
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if not file.name.startswith(".") and file.is_file()
    )


def mi_duck(*arguments: object, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if check:
        assert done.returncode == 0, done.stderr
    return done  # type: ignore[no-any-return]


def planned(dataset: Path, run: Path, *flags: str) -> Path:
    """Plan a run in this process."""
    here("plan", dataset, "--out", run, *SMALL, *flags)
    return run


def partitioned(dataset: Path, run: Path, *flags: str) -> Path:
    """Plan a run and write its segments, in this process."""
    planned(dataset, run, *flags)
    partition_here(run=str(run), threads=1, report=quiet)
    return run


def trained(dataset: Path, run: Path, *flags: str, threads: int = 1) -> Path:
    """Plan a run, write its segments and train its instances, in this process."""
    partitioned(dataset, run, *flags)
    for instance in RunFolder(run).read_plan().cut.instances:
        train_instance(run=str(run), instance_id=instance.instance_id, threads=threads, report=quiet)
    return run


def finished_run(dataset: Path, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one finished run, made by real processes; every worker has a copy of it; only to be read.

    With two threads instances are trained at once, and the run is scored while it is explained: the same bytes.
    """
    made = made_once(
        factory,
        f"finished on {dataset.name}",
        lambda out: mi_duck("run", dataset, "--out", out, *SMALL, "--threads", "2"),
    )
    return _copy(made, factory.getbasetemp() / f"finished run on {dataset.name}")


def plain_run(dataset: Path, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one finished run without figures and explanations, made in this process; only to be read."""
    made = made_once(factory, f"plain on {dataset.name}", lambda out: here("run", dataset, "--out", out, *FAST))
    return _copy(made, factory.getbasetemp() / f"plain run on {dataset.name}")


def _copy(made: Path, own: Path) -> Path:
    """Return a copy of a run, for tests lock what they read."""
    if not own.exists():
        shutil.copytree(made, own)
    return own


def resealed(path: Path, edit: Callable[[Any], object]) -> None:
    """Change a JSON file; its own hash, where it has one, is right again."""
    values = json.loads(path.read_bytes())
    has_seal = values.pop("seal", None) is not None
    edit(values)
    write_json(path, sealed(values) if has_seal else values)


def fingerprint(run: Path) -> dict[str, str]:
    """Return the hash of all that an uninterrupted run must equal: plan, models, predictions, scores."""
    names = ("plan.json", "genes.parquet", "oof_predictions.parquet", "consolidated_model.miduck")
    names += ("consolidation_summary.json", "metrics.csv")
    files = [run / name for name in names]
    for folder in sorted(run.glob("multi_instance_training/*")):
        files += [
            file
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "measurement.json" and file.parent.name != "shap_analysis"
        ]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _minding_signals() -> None:
    """Undo what a shell ignores for tests that it runs in the background or under nohup: what is ignored stays so."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def restore_signals() -> None:
    """Give the signals of this process their usual meaning."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_minding_signals,
    )


def wait_for_line(process: subprocess.Popen[str], words: str) -> list[str]:
    """Read standard error up to a line with these words, or to its end."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            break
    return lines


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and its children, and collect it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def child_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the child of a command, once there is one."""
    while process.poll() is None:
        children = psutil.Process(process.pid).children()
        if children:
            return children[0]
        time.sleep(0.02)
    raise AssertionError(f"no child: {process.stderr.read() if process.stderr else ''}")

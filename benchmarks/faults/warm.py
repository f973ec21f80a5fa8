"""Runs mi_duck commands in forks of a process that has imported everything: the same code, a third of the time.

A run of a few hundred rows spends nine tenths of its time on importing libraries in its dozen child processes. Here
command and children are forks, with sessions, pipes, signals and exit codes of their own, so kills land in the work.
``chaos.py --cold`` and the tests use real processes; both give the same hashes.
"""

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mi_duck.processes

ROOT = Path(__file__).resolve().parents[2]
SLOW = (
    *("scipy.special", "scipy.optimize", "xgboost", "duckdb", "pyarrow.parquet", "pyarrow.csv", "psutil", "jinja2"),
    *("sklearn.calibration", "sklearn.metrics", "sklearn.isotonic", "sklearn.linear_model", "sklearn.ensemble"),
    *("matplotlib.figure", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg"),
)


def import_everything() -> None:
    """Import what commands and children import, and compile the page; numeric libraries must have one thread already."""
    for file in sorted((ROOT / "mi_duck").rglob("*.py")):
        if file.stem not in ("__main__", "cli"):
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for name in SLOW:
        importlib.import_module(name)
    importlib.import_module("cli")
    importlib.import_module("mi_duck.report.page").environment().get_template("report.html.j2")  # compiled once


class ForkedChild:
    """What ``mi_duck.processes`` uses of `subprocess.Popen`, by a fork."""

    def __init__(
        self, command: Sequence[str], *, stdin: int, env: Mapping[str, str], pass_fds: tuple[int, ...]
    ) -> None:
        self.returncode: int | None = None
        read_end, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _end_with(lambda: _serve(read_end, env, pass_fds))
        os.close(read_end)
        self.stdin = os.fdopen(write_end, "wb")

    def poll(self) -> int | None:
        """Return the exit code, or None while the child runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 3600.0) -> int:
        """Wait for the end of the child."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("child", timeout)
            time.sleep(0.005)
        return int(self.returncode or 0)

    def terminate(self) -> None:
        """Ask the child to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End the child."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


SUBPROCESS = SimpleNamespace(Popen=ForkedChild, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
"""What ``mi_duck.processes`` uses of `subprocess`, by forks."""


def _serve(read_end: int, env: Mapping[str, str], pass_fds: tuple[int, ...]) -> int:
    """Be the child: nothing of the parent's files but its pipe, as after an exec."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)
    os.dup2(read_end, 0)
    begin = 3
    for kept in sorted(pass_fds):
        os.closerange(begin, kept)
        begin = kept + 1
    os.closerange(begin, 4096)
    os.environ.clear()
    os.environ.update(env)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    return mi_duck.processes.main()


def _end_with(work: Callable[[], Any]) -> None:
    """Run what a forked process is for, and end it without a word to what it inherited."""
    code = 1
    try:
        code = int(work() or 0)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120
        os._exit(code)


def start(
    arguments: Sequence[object],
    *,
    output: Path,
    errors: Path,
    env: Mapping[str, str],
    before: Callable[[], None] | None = None,
) -> ForkedChild:
    """Start a command in a session of its own; ``before`` is called in it, to set limits and faults."""
    process = object.__new__(ForkedChild)
    process.returncode = None
    process.pid = os.fork()
    if process.pid == 0:
        _end_with(lambda: _command([str(one) for one in arguments], output, errors, env, before))
    return process


def _command(
    arguments: list[str], output: Path, errors: Path, env: Mapping[str, str], before: Callable[[], None] | None
) -> int:
    os.setsid()
    for number, target in ((0, os.devnull), (1, output), (2, errors)):
        handle = os.open(target, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number else 0), 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", 1, encoding="utf-8")
    os.environ.update(env)
    mi_duck.processes.subprocess = SUBPROCESS  # type: ignore[assignment]
    if before:
        before()
    sys.argv = ["mi-duck", *arguments]
    cli = importlib.import_module("cli")
    cli.app(prog_name="mi-duck")
    return 0

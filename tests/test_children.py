"""A child process gives its result, its peak and its errors to its parent, and never outlives it."""

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mi_duck.errors import DataError, IncompleteRunError, MemoryBudgetError, PlanError
from mi_duck.processes import SPINS, ending_deferred, run_child
from mi_duck.usage import peak_bytes

Report = Callable[[str, int, int], None]


def ignore(stage: str, done: int, total: int) -> None:
    """Take progress and forget it."""


# ---- what the children of these tests run -----------------------------------------------------------------------------


def add(*, one: int, two: int, report: Report) -> dict[str, Any]:
    for done in range(3):
        report("adding", done + 1, 3)
    return {"sum": one + two, "threads": os.environ["OMP_NUM_THREADS"], "spins": os.environ.get("GOMP_SPINCOUNT")}


def take(*, megabytes: int, report: Report) -> int:
    block = bytearray(megabytes << 20)
    block[::4096] = b"x" * len(block[::4096])
    return len(block)


def refuse(*, report: Report) -> None:
    raise PlanError("the numbers\ncannot work together")


def stumble(*, report: Report) -> None:
    raise RuntimeError("a bug")


def leave(*, code: int, report: Report) -> None:
    os._exit(code)


def kill_itself(*, number: int, report: Report) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def speak_and_die(*, report: Report) -> None:
    os.write(int(os.environ["MI_DUCK_PIPE"]), b'{"progress": ["half a li')
    os.kill(os.getpid(), signal.SIGKILL)


def outgrow(*, report: Report) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), used + (32 << 20)))
    bytearray(256 << 20)


def outgrow_in_xgboost(*, report: Report) -> None:
    import numpy as np
    import xgboost as xgb

    matrix = np.zeros((300_000, 40), dtype=np.float32)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), used + (16 << 20)))
    xgb.QuantileDMatrix(matrix, label=matrix[:, 0], nthread=1)


def wait(*, file: str, report: Report) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)


def hit_itself(*, report: Report) -> bool:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    return True


def save_and_leave(*, file: str, report: Report) -> None:
    with ending_deferred() as is_asked_to_end:
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_asked_to_end()
        Path(file).write_text("saved")
    Path(file).write_text("went on")


def where_modules_come_from(*, report: Report) -> str:
    import json

    return str(json.__file__)


# ---- tests ------------------------------------------------------------------------------------------------------------


def call(name: str, *, threads: int = 1, report: Report = ignore, **arguments: Any) -> Any:
    return run_child(f"test_children:{name}", arguments, threads=threads, report=report)


def test_run_child__returns_the_result_and_the_progress() -> None:
    told: list[tuple[str, int, int]] = []
    result = call("add", threads=3, report=lambda *step: told.append(step), one=2, two=40)
    assert result.value == {"sum": 42, "threads": "3", "spins": None}  # the policy of the tests counts
    assert told[-1] == ("adding", 3, 3)
    assert 0 < result.wall_seconds < 60


def test_run_child__says_how_long_threads_spin_where_the_user_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert call("add", one=2, two=40).value["spins"] == SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert call("add", one=2, two=40).value["spins"] == "7"


def test_run_child__measures_the_peak_of_the_child() -> None:
    small, large = (call("take", megabytes=megabytes).peak_bytes for megabytes in (1, 200))
    assert 190 << 20 < large - small < 210 << 20


def test_peak_bytes__of_a_process_that_is_gone_is_zero() -> None:
    assert peak_bytes(2**22 + 1) == 0
    assert peak_bytes() > 10 << 20


def test_run_child__an_error_of_ours_arrives_as_itself() -> None:
    with pytest.raises(PlanError, match="cannot work together"):
        call("refuse")


def test_run_child__a_bug_shows_its_traceback_and_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IncompleteRunError, match="stumble died with exit code 1"):
        call("stumble")
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_run_child__a_child_that_leaves_without_a_word_is_reported() -> None:
    for code in (0, 7):
        with pytest.raises(IncompleteRunError, match=f"exit code {code}"):
            call("leave", code=code)


def test_run_child__kill_9_counts_as_memory_and_other_signals_by_name() -> None:
    with pytest.raises(MemoryBudgetError, match="killed by signal 9 at 0.* --max-memory-per-instance-gb"):
        call("kill_itself", number=int(signal.SIGKILL))
    with pytest.raises(IncompleteRunError, match="signal 11 .Segmentation fault"):
        call("kill_itself", number=int(signal.SIGSEGV))


def test_run_child__half_a_line_of_a_killed_child_is_no_second_error() -> None:
    with pytest.raises(MemoryBudgetError, match="signal 9"):
        call("speak_and_die")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["outgrow", "outgrow_in_xgboost"])
def test_run_child__memory_that_the_system_refuses_is_a_memory_error(name: str) -> None:
    with pytest.raises(MemoryBudgetError, match="could not get more memory"):
        call(name)


def test_run_child__finds_modules_where_its_parent_does_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    assert not call("where_modules_come_from").value.startswith(str(tmp_path))


def test_run_child__signals_for_the_parent_do_not_reach_the_child() -> None:
    """A terminal and a scheduler send them to both; the parent ends the child when it is ready."""
    assert call("hit_itself").value


def test_ending_deferred__work_is_saved_before_the_process_ends(tmp_path: Path) -> None:
    with pytest.raises(IncompleteRunError, match="was asked to end .SIGTERM.; what it had done is saved"):
        call("save_and_leave", file=str(tmp_path / "state"))
    assert (tmp_path / "state").read_text() == "saved"


def test_run_child__an_unknown_kind_of_argument_fails_in_the_parent() -> None:
    with pytest.raises(TypeError, match="JSON"):
        call("add", one=Path(), two=1)


def test_run_child__an_interrupt_ends_the_child(tmp_path: Path) -> None:
    """The report raises where a signal handler would; the child is ended before the error leaves."""
    script = (
        "import signal, sys, threading, os, time\n"
        "from mi_duck.processes import run_child\n"
        "from pathlib import Path\n"
        "def stop(number, frame): raise SystemExit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "run_child('test_children:wait', {'file': sys.argv[1]}, threads=1, report=print)\n"
    )
    assert _end_parent(script, tmp_path / "pid", signal.SIGTERM) == 143
    _assert_gone(tmp_path / "pid")


@pytest.mark.parametrize("after", ["while it runs", "when it has ended"])
def test_run_child__an_interrupt_while_it_looks_after_the_child_leaves_at_once(
    after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a signal handler hits: there is no lock that would stay locked, and a child is waited for once."""
    real, raised = os.waitpid, []

    def interrupted(pid: int, options: int) -> tuple[int, int]:
        found = real(pid, options)
        if not raised and (found[0] != 0) == (after == "when it has ended"):
            raised.append(pid)
            raise SystemExit(143)
        return found

    monkeypatch.setattr("os.waitpid", interrupted)
    function, arguments = ("wait", {"file": str(tmp_path / "pid")}) if after == "while it runs" else ("hit_itself", {})
    begun = time.monotonic()
    with pytest.raises(SystemExit):
        run_child(f"test_children:{function}", arguments, threads=1, report=lambda *step: None)
    assert time.monotonic() - begun < 20
    with pytest.raises(ChildProcessError):
        real(raised[0], os.WNOHANG)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's notice of a parent's death")
def test_run_child__a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from mi_duck.processes import run_child\n"
        "run_child('test_children:wait', {'file': sys.argv[1]}, threads=1, report=print)\n"
    )
    assert _end_parent(script, tmp_path / "pid", signal.SIGKILL) == -signal.SIGKILL
    _assert_gone(tmp_path / "pid")


def _end_parent(script: str, pid_file: Path, number: signal.Signals) -> int:
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(pid_file)], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 60
    while not (pid_file.is_file() and pid_file.read_text()):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.send_signal(number)
    return parent.wait(timeout=30)


def _assert_gone(pid_file: Path) -> None:
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"child {pid} still runs")


def test_errors__have_the_exit_codes_that_workflow_managers_read() -> None:
    assert (DataError.exit_code, IncompleteRunError.exit_code, PlanError.exit_code) == (65, 69, 78)
    assert MemoryBudgetError.exit_code == 137


# ---- memory of the commands themselves ----------------------------------------------------------------------------------

HELD_BEHIND_ONE = """
import psutil
from mi_duck.processes import share_the_machine
if {is_called}:
    share_the_machine()
blocks = [bytes(100_000) for _ in range(2_000)]
blocks = blocks[-1:]  # the last one lies above all others
print(psutil.Process().memory_info().rss >> 20)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver()[0], reason="the C library has no such thresholds")
def test_share_the_machine__gives_back_what_lies_below_a_block_in_use() -> None:
    held = [
        int(subprocess.check_output([sys.executable, "-c", HELD_BEHIND_ONE.format(is_called=is_called)], timeout=60))
        for is_called in (False, True)
    ]
    assert held[1] + 100 < held[0]


LOADED = """
import sys
from mi_duck.processes import NO_PANDAS, without_pandas
if {is_called}:
    without_pandas()
    without_pandas()
import pyarrow, xgboost
numbers = pyarrow.chunked_array([[1, 2], [3]]).to_numpy()
print(numbers.sum(), "pandas" in sys.modules, sys.meta_path.count(NO_PANDAS))
"""


def test_without_pandas__arrow_and_xgboost_do_without_what_they_would_load() -> None:
    found = [
        subprocess.check_output(
            [sys.executable, "-c", LOADED.format(is_called=is_called)], text=True, timeout=60
        ).split()
        for is_called in (False, True)
    ]
    assert found == [["6", "True", "0"], ["6", "False", "1"]]


def has_pandas(*, report: Report) -> bool:
    import pyarrow as pa

    return bool(pa.chunked_array([[1]]).to_numpy().any()) and "pandas" in sys.modules


def test_run_child__has_no_pandas() -> None:
    assert run_child("test_children:has_pandas", {}, threads=1, report=ignore).value is False

"""Instances that are trained at once: the same bytes as one after the other, within the memory, and no end leaves a child."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from plans import changed
from runs import FAST, call, end, partitioned, quiet, started, wait_for_line

from mi_duck import console
from mi_duck import processes as children
from mi_duck.atomic_files import file_sha256
from mi_duck.errors import CheckpointError
from mi_duck.processes import WHOLE_RUN, CancelledError, Context, Pool, Task, run_child
from mi_duck.resources import GIB, cuda_devices
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Instance
from mi_duck.workflow.training import Job, expected_bytes, most_at_once, next_job, train

# a training that lasts long enough to be interrupted, without the calibration that takes as long as it
LONG = ("--no-calibrate-per-class", "--n-estimators", "60", "--early-stopping-patience", "0")


@pytest.fixture(scope="module")
def ready(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a planned run of three instances with its segments; only to be copied."""
    return partitioned(lean_dataset, tmp_path_factory.mktemp("ready") / "run", *LONG)


@pytest.fixture(scope="module")
def one_by_one(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the hashes of the run that trained one instance after the other."""
    run = shutil.copytree(ready, tmp_path_factory.mktemp("one_by_one") / "run")
    for arguments in (("train", run), ("consolidate", run)):
        result = call(*arguments, "--threads", 1)
        assert result.exit_code == 0, result.output
    return hashes(run)


@pytest.fixture
def run(ready: Path, tmp_path: Path) -> Path:
    return shutil.copytree(ready, tmp_path / "run")


def hashes(run: Path) -> dict[str, str]:
    """Return the hash of every file of a run that does not tell of times and peaks."""
    passing = ("measurement.json", "stage_times.json", "provenance.json", "run.log")
    files = [file for file in run.rglob("*") if file.is_file() and file.name not in passing]
    names = {file: file.relative_to(run) for file in files}
    return {
        str(name): file_sha256(file) for file, name in names.items() if not any(part[0] == "." for part in name.parts)
    }


def of_instances(found: dict[str, str], *numbers: int) -> dict[str, str]:
    """Return the hashes of all files of these instances."""
    wanted = {f"instance_{number:02d}" for number in numbers}
    return {name: digest for name, digest in found.items() if not wanted.isdisjoint(Path(name).parts)}


@contextlib.contextmanager
def training(
    run: Path, *flags: object, n_children: int
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Start ``train`` and wait for so many instances under way; end what is left of it."""
    process = started("train", run, *flags)
    try:
        for _ in range(n_children):
            wait_for_line(process, "training on")
        while len(found := program_children(process)) < n_children:
            assert process.poll() is None
            time.sleep(0.01)
        yield process, found
    finally:
        end(process)


def program_children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the children of a command that run their program: a fork still has the words and the environment of its parent."""
    return [one for one in psutil.Process(process.pid).children() if "mi_duck.processes" in one.cmdline()]


def assert_gone(processes: list[psutil.Process]) -> None:
    """Check that processes end within the 5 seconds that an orphan may live."""
    psutil.wait_procs(processes, timeout=5)
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


# ---- which run at once ------------------------------------------------------------------------------------------------


def job(number: int, gib: float) -> Job:
    instance = Instance(number - 1, 0, 1, 1, 1, 1, int(gib * GIB), 1.0)
    return Job(number, instance)


def test_most_at_once__is_what_is_asked_for_or_what_can_fit_together_or_one() -> None:
    assert most_at_once([1, 1, 1], 2, 100) == 2
    assert most_at_once([1, 1, 1], 9, 100) == 3
    assert most_at_once([9, 4, 5], 3, 9) == 2  # 4 + 5
    assert most_at_once([9, 4, 5], 3, 8) == 1
    assert most_at_once([9, 9], 2, 1) == 1
    assert most_at_once([], 2, 1) == 1


def test_next_job__one_that_fits_goes_before_a_larger_one_and_one_always_may() -> None:
    small, large = job(1, 1.0), job(2, 3.0)
    room = {"at_once": 3, "room_bytes": 4 * GIB}
    assert next_job([large, small], [], [], **room) == large
    assert next_job([job(3, 99.0)], [], [], **room) == job(3, 99.0)
    assert next_job([large, small], [job(3, 2.0)], [], **room) == small
    assert next_job([large], [job(3, 2.0)], [], **room) is None
    assert next_job([small], [job(3, 1.0), job(4, 1.0)], [], **room) == small
    assert next_job([small], [job(3, 1.0), job(4, 1.0)], [], at_once=2, room_bytes=99 * GIB) is None


def test_next_job__goes_by_the_peaks_measured_so_far() -> None:
    """Where a peak was half again as high as predicted, two of 2 GiB need 6 and not 4."""
    one, other = job(1, 2.0), job(2, 2.0)
    assert expected_bytes(one, [0.0, 1.5, 1.2]) == 3 * GIB
    assert expected_bytes(one, [0.0]) == expected_bytes(one, []) == 2 * GIB
    assert next_job([other], [one], [], at_once=2, room_bytes=5 * GIB) == other
    assert next_job([other], [one], [1.5], at_once=2, room_bytes=5 * GIB) is None


# ---- threads ----------------------------------------------------------------------------------------------------------


def wait_there(*, file: str, report: Callable[[str, int, int], None]) -> None:
    """Wait for the end; a child runs it."""
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)


def waiting_child(file: Path, task: Task) -> str:
    run_child("test_workers:wait_there", {"file": str(file)}, threads=1, report=quiet, is_cancelled=task.is_cancelled)
    return "done"


def test_crew__an_error_ends_the_others_with_their_children_and_is_raised(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def fail(task: Task) -> str:
        while not pid.is_file() or not pid.read_text():
            time.sleep(0.01)
        raise CheckpointError("foreign")

    with Pool[str, str]() as pool:
        pool.start("waits", lambda task: waiting_child(pid, task))
        pool.start("fails", fail)
        with pytest.raises(CheckpointError, match="foreign"):
            pool.next()
    assert not psutil.pid_exists(int(pid.read_text()))
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_do)")]


def test_crew__gives_what_ended_first_and_tells_who_had_company() -> None:
    gate = threading.Event()

    def first(task: Task) -> bool:
        gate.wait(30)
        return task.ran_concurrently

    with Pool[int, bool]() as pool:
        pool.start(1, first)
        pool.start(2, lambda task: task.ran_concurrently)
        assert pool.next() == (2, True)
        gate.set()
        assert pool.next() == (1, True)
        pool.start(3, lambda task: task.ran_concurrently)
        assert pool.next() == (3, False)
        assert pool.running == {}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_crew__a_bug_in_a_thread_is_a_bug() -> None:
    def stumble(task: Task) -> str:
        raise ZeroDivisionError

    with Pool[int, str]() as pool:
        pool.start(7, stumble)
        with pytest.raises(RuntimeError, match="the thread of 7 died"):
            pool.next()


def test_run_child__work_that_is_off_begins_no_child(tmp_path: Path) -> None:
    task = Task()
    task.cancel()
    with pytest.raises(CancelledError):
        waiting_child(tmp_path / "pid", task)
    assert not (tmp_path / "pid").exists()


# ---- commands ---------------------------------------------------------------------------------------------------------


def test_train__killed_ended_and_crashed_at_once_goes_on_to_the_same_bytes(
    run: Path, one_by_one: dict[str, str]
) -> None:
    """Three workers are killed with their command, two end by a signal, one of three crashes: others go on, nothing is lost."""
    with training(run, "--threads", 7, "--workers", 3, n_children=3) as (process, found):
        assert {one.environ()["OMP_NUM_THREADS"] for one in found} == {"2"}
        found[0].kill()
        wait_for_line(process, "tried once more, from where it was saved: train_instance was killed by signal 9")
        assert [one.is_running() for one in found[1:]] == [True, True]
        found = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        assert_gone(found)
    with training(run, "--threads", 1, "--workers", 2, n_children=2) as (process, found):
        status = json.loads(call("status", run, "--json").stdout)
        assert [one["status"] for one in status["instances"]] == ["running", "running", "to do"]
        saved = [run / ".scratch" / "progress" / f"instance_{number:02d}" for number in (0, 1)]
        while not all(folder.is_dir() and any(folder.glob("*.miduck")) for folder in saved):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        words = process.communicate(timeout=30)[1]
        assert process.returncode == 143, words
        assert words.splitlines()[-1] == "ended by SIGTERM; the same command goes on where it stopped"
        assert "Traceback" not in words
        assert " lost" not in words
        assert_gone(found)
    assert not list(run.glob("multi_instance_training/*/manifest.json"))
    with training(run, "--threads", 1, "--workers", 3, n_children=3) as (process, found):
        found[0].send_signal(signal.SIGSEGV)
        words = process.communicate(timeout=120)[1]
        assert process.returncode == 69, words
    assert re.search(
        r"^error: 1 of 3 instances lost \(instance_0\d\), .*signal 11.*; the same command tries them again$",
        words.splitlines()[-1],
    )
    assert "rounds were saved before" in words
    status = json.loads(call("status", run, "--json").stdout)
    assert (status["n_done"], status["n_lost"]) == (2, 1)
    for arguments in (("train", run, "--workers", 2), ("consolidate", run)):
        result = call(*arguments, "--threads", 1)
        assert result.exit_code == 0, result.output
    assert hashes(run) == one_by_one


def test_run__fewer_at_once_where_memory_is_too_little_for_more(
    lean_dataset: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler's allocation is twice what one instance needs: six tenths of that are room for one."""
    peak = max(one.predicted_bytes for one in RunFolder(run).read_plan().cut.instances)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(2 * peak >> 20))
    process = started("run", lean_dataset, "--out", run, *FAST, *LONG, "--workers", 2)
    try:
        lines = wait_for_line(process, "[Instance 2/3] training on")
    finally:
        end(process)
    said = [line for line in lines if " of 2 workers: " in line]
    assert len(said) == 1
    found = re.fullmatch(
        r"1 of 2 workers: 2 instances at once need ([\d.]+) GiB at least, and ([\d.]+) GiB may be taken \(0\.6 of [\d.]+ GiB "
        r"available \(SLURM_MEM_PER_NODE\)\); free memory or plan smaller instances \(--genes-per-instance\) to let more run\n",
        said[0],
    )
    assert found
    assert float(found[1]) > float(found[2])
    assert any(
        line.startswith("    instance_00: ") and " s, peak " in line for line in lines
    )  # before the second began


def test_train__what_lacks_memory_beside_others_is_tried_again_beside_fewer(
    run: Path, one_by_one: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has nothing left from when the second begins to when one is stopped; nothing is split or lost for that."""
    lines: list[str] = []
    enough = children.LEAST_LEFT

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("[Instance 2/3] training on") and not any("tried again later" in one for one in lines):
            monkeypatch.setattr(children, "LEAST_LEFT", 1 << 60)
        if "tried again later" in line:
            monkeypatch.setattr(children, "LEAST_LEFT", enough)

    folder = RunFolder(run)
    assert train(folder, folder.read_plan(), Context(2, quiet, say)) == (3, ())  # two at once, for two threads
    again = [line for line in lines if "tried again later, with fewer beside it: train_instance was stopped: " in line]
    assert again
    assert all("MiB are left on the machine" in line for line in again)
    assert not [line for line in lines if "split" in line or "lost" in line]
    assert not (run / "splits.json").exists()
    assert of_instances(hashes(run), 0, 1, 2) == of_instances(one_by_one, 0, 1, 2)


@pytest.mark.skipif(bool(cuda_devices()), reason="would train on it")
def test_train__one_at_once_on_a_device_and_an_error_ends_it_all(run: Path) -> None:
    """The plan comes from a machine with a device; here the first child finds none."""
    folder = RunFolder(run)
    plan = folder.read_plan()
    folder.plan.write_text(changed(plan, device="cuda").to_json())
    result = call("train", run, "--workers", 2)
    assert result.exit_code == 78, result.output
    assert "1 of 2 workers: the memory of the device is planned for one instance at a time" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: --device cuda: this process sees no CUDA device")
    assert "[Instance 2/3]" not in result.stderr


def test_train__workers_are_no_matter_of_one_instance(run: Path) -> None:
    result = call("train", run, "--instance", 0, "--workers", 2)
    assert result.exit_code == 2
    assert "--instance trains one" in result.stderr
    assert call("train", run, "--workers", 0).exit_code == 2


def test_reporting__each_instance_has_a_bar_and_other_work_one_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last picture counts; bars of before are gone."""
    for last, shown in (
        (
            [("instance_00: fold 1/3", 1, 9), ("instance_01: cuts", 2, 9)],
            ["instance_00: fold 1/3", "instance_01: cuts"],
        ),
        ([("instance_01: cuts", 9, 9), ("instance_00: fold 2/3", 1, 9)], ["instance_00: fold 2/3"]),
        ([("instance_00: fold 1/3", 1, 9), ("report", 1, 3)], ["report"]),
        ([(WHOLE_RUN, 60, 660), ("report", 1, 3)], [WHOLE_RUN, "report"]),
    ):
        screen = io.StringIO()
        monkeypatch.setattr(console, "errors", console.Screen(file=screen, force_terminal=True, width=100))
        with console.reporting() as report:
            for step in [("sorting rows", 1, 2), ("instance_01: matrix", 1, 2), *last]:
                report(*step)
            screen.truncate(screen.seek(0))
        picture = screen.getvalue()
        assert [name for name in shown if name not in picture] == []
        assert sum(picture.count(word) for word in ("sorting rows", "instance_0", "report", WHOLE_RUN)) == len(shown)
        assert ("about 10 min left" in picture) == (WHOLE_RUN in shown)

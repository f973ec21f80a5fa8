"""The harness of faults runs a few tries of each, and what it found stays mended."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plans import changed
from runs import FAST, planned

from mi_duck.atomic_files import published_folder, remove_leftovers, strict_json
from mi_duck.errors import CheckpointError, StorageError
from mi_duck.run.folder import RunFolder, run_lock
from mi_duck.run.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
CHAOS = ROOT / "benchmarks" / "chaos.py"


def chaos(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the harness in a process of its own: it forks, which a process with threads must not."""
    command = [sys.executable, str(CHAOS), "--folder", str(folder), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_chaos__a_few_tries_of_every_fault_lose_nothing(tmp_path: Path) -> None:
    done = chaos(tmp_path, "--fast")
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads((tmp_path / "state.json").read_bytes())
    assert set(state) >= {"F1", "F2", "F4", "F5", "F6", "F8", "F9", "F14", "F17", "F18", "F28"}
    again = chaos(tmp_path, "--fast", "--table")
    assert again.stdout.splitlines()[2:] == done.stdout.splitlines()[2:], "the state is what the table is made of"


def test_faults__strike_in_the_child_processes_too(small_dataset: Path, tmp_path: Path) -> None:
    """A real command with the shim on its path: changes of two processes are counted, and the one asked for fails."""
    shim = CHAOS.parent / "faults"
    env = os.environ | {
        "PYTHONPATH": f"{shim}{os.pathsep}{ROOT}",
        "MI_DUCK_FAULT": "count",
        "MI_DUCK_FAULT_AT": str(tmp_path / "run"),
        "MI_DUCK_FAULT_COUNT": str(tmp_path / "count"),
    }
    flags = [flag for flag in FAST if flag not in ("--minimal-diagnostics", "--skip-shap")] + [
        "--memory-per-gene-mb",
        "1",
    ]
    command = [sys.executable, str(ROOT / "cli.py"), "plan", str(small_dataset), "--out", str(tmp_path / "run"), *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "count").read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == 2  # the command, and the child that reports leaks
    in_child = next(n for n, line in enumerate(lines, 1) if line.split()[1] == "write" and "leakage.csv" in line)
    env |= {"MI_DUCK_FAULT": f"ENOSPC:{in_child}", "MI_DUCK_FAULT_COUNT": str(tmp_path / "again")}
    subprocess.run(["rm", "-r", str(tmp_path / "run")], check=True)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == StorageError.exit_code, done.stderr
    assert "No space left on device; free some space" in done.stderr
    assert "Traceback" not in done.stderr


def test_plan__a_changed_digit_is_damage(small_dataset: Path, tmp_path: Path) -> None:
    folder = RunFolder(planned(small_dataset, tmp_path / "run", "--memory-per-gene-mb", "1"))
    text, plan = folder.plan.read_text(), folder.read_plan()
    digit = text.index('"stop_rank": ') + len('"stop_rank": ')
    folder.plan.write_text(text[:digit] + ("1" if text[digit] != "1" else "2") + text[digit + 1 :])
    with pytest.raises(CheckpointError, match="plan.json is damaged"):
        folder.read_plan()
    assert Plan.from_json(changed(plan, n_rows=7).to_json()).data.n_rows == 7


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', '{"a": 1, "a": 2}', "{"])
def test_strict_json__refuses_what_json_has_not(text: str) -> None:
    assert strict_json('{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(ValueError):
        strict_json(text)


def test_strict_json__names_a_doubled_key_in_few_letters() -> None:
    key = "k" * 10_000
    with pytest.raises(ValueError) as refused:
        strict_json(f'{{"{key}": 1, "{key}": 2}}')
    assert len(str(refused.value)) < 100


def test_published_folder__deletes_what_a_killed_build_left_and_nothing_else(tmp_path: Path) -> None:
    """What another process still writes is locked by it."""
    written = ".dataset.9.partial"
    others = [".dataset.17.tmp", ".dataset.x.partial", ".dataset2.17.partial", written]
    for name in [".dataset.17.partial", ".dataset.4.partial", *others]:
        (tmp_path / name / "master").mkdir(parents=True)
    lock = os.open(tmp_path / written, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with published_folder(tmp_path / "dataset") as folder:
        (folder / "a").touch()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, folder.name])
    os.close(lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "dataset"])


def test_synth__killed_leaves_nothing_that_the_next_one_keeps(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mi_duck", "synth", "--out", str(tmp_path / "data"), "--genes", "3000"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while not list(tmp_path.glob(".data.*.partial")):
        assert killed.poll() is None
        assert time.monotonic() - begun < 60
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert list(tmp_path.glob(".data.*.partial"))
    command[-1] = "20"
    subprocess.run(command, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_remove_leftovers__deletes_what_killed_writers_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    mine = [tmp_path / ".plan.json.123.tmp", tmp_path / "deep" / ".importance.csv.45.tmp"]
    others = [tmp_path / "notes.12.tmp", tmp_path / ".notes.tmp", tmp_path / "deep" / ".a.b.tmp"]
    for path in (*mine, *others):
        path.write_text("half")
    remove_leftovers(tmp_path)
    assert [path for path in (*mine, *others) if path.exists()] == others


def test_run_lock__only_who_is_alone_cleans_up(tmp_path: Path) -> None:
    """Array jobs hold the lock together, and one must not delete what another is writing."""
    half = tmp_path / ".measurement.json.77.tmp"
    half.write_text("half")
    with run_lock(tmp_path, shared=True), run_lock(tmp_path, name=".lock_instance_00"):
        assert half.exists()
    with run_lock(tmp_path):
        assert not half.exists()


def test_run_lock__deletes_the_folder_that_it_made_if_nothing_came_of_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError), run_lock(tmp_path / "new"):
        raise CheckpointError("refused")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(CheckpointError), run_lock(tmp_path / "old"):
        raise CheckpointError("refused")
    assert [one.name for one in (tmp_path / "old").iterdir()] == [".lock"]
    with run_lock(tmp_path / "used"):
        (tmp_path / "used" / "plan.json").touch()
    assert (tmp_path / "used" / "plan.json").exists()

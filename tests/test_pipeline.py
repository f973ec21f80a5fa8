"""The whole run: what is planned, trained, interrupted, gone on with, refused."""

import contextlib
import csv
import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from runs import (
    FAST,
    SMALL,
    call,
    child_of,
    end,
    fingerprint,
    finished_run,
    here,
    partitioned,
    plain_run,
    planned,
    quiet,
    started,
    wait_for_line,
)

from mi_duck.evaluate.evaluate import evaluate_run
from mi_duck.processes import Context
from mi_duck.run.folder import RunFolder, run_lock
from mi_duck.settings import Diagnostics
from mi_duck.workflow.pipeline import lacks_diagnostics, score_and_describe


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(small_dataset, tmp_path_factory)


def test_run__leaves_a_whole_folder_and_no_scratch(run: Path) -> None:
    visible = {file.name for file in run.iterdir() if not file.name.startswith(".")}
    assert {
        *("plan.json", "genes.parquet", "run.duckdb", "provenance.json", "multi_instance_training"),
        *("consolidated_model.miduck", "consolidation_summary.json", "metrics.csv", "oof_predictions.parquet"),
    } <= visible
    assert not (run / ".scratch").exists()
    assert not [file for file in run.rglob("*") if file.name.endswith(".tmp")]


def test_run__every_gene_has_one_fold_and_is_in_an_instance(run: Path, small_dataset: Path) -> None:
    plan = RunFolder(run).read_plan()
    genes = pq.read_table(run / "genes.parquet")
    assert sorted(genes["gene_id"].to_pylist()) == sorted(
        set(pq.read_table(small_dataset / "master", columns=["gene_id"])["gene_id"].to_pylist())
    )
    assert genes["gene_rank"].to_pylist() == list(range(60))
    covered = {rank for one in plan.cut.instances for rank in range(one.first_rank, one.stop_rank)}
    assert covered == set(range(60))
    assert len(plan.cut.instances) >= 3


def test_run__a_second_time_does_nothing(run: Path, small_dataset: Path) -> None:
    passing = (".lock", "run.log")
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name not in passing}
    again = here("run", small_dataset, "--out", run, *FAST)
    n = len(RunFolder(run).read_plan().cut.instances)
    assert f"Checkpointing: found {n} existing instances to reuse" in again.stderr
    assert f"[Instance 1/{n}] reusing instance_00" in again.stderr
    assert "nothing to do" in again.stderr
    assert "ensemble" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name not in passing} == before


def test_run__deletes_what_a_kill_left_of_its_scratch(
    run: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scratch is deleted last, when all else says that the run is complete; where the disk refuses, that is said."""

    def fail(name: str, **_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)

    again = tmp_path / "run"
    shutil.copytree(run, again)
    left = again / ".scratch" / "segments" / "segment_000000_000010" / "keys.bin"
    left.parent.mkdir(parents=True)
    left.touch()
    with monkeypatch.context() as patched:
        patched.setattr("os.unlink", fail)
        failed = call("run", small_dataset, "--out", again, *FAST)
    assert failed.exit_code == 74, failed.output
    assert ".scratch" in failed.stderr
    assert "nothing to do" in here("run", small_dataset, "--out", again, *FAST).stderr
    assert not (again / ".scratch").exists()


def test_run__killed_three_times_ends_like_an_uninterrupted_one(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    """Kill -9 a random time after planning began, after training began, and after the second instance began."""
    out = tmp_path / "run"
    draw = random.Random(7)
    for words in ("rows,", "[Instance 1/", "[Instance 2/"):
        process = started("run", small_dataset, "--out", out, *FAST)
        try:
            wait_for_line(process, words)
            time.sleep(draw.uniform(0, 1.5))
        finally:
            end(process)
        assert process.returncode == -signal.SIGKILL
    here("run", small_dataset, "--out", out, *FAST)
    assert fingerprint(out) == fingerprint(run)
    assert not [file for file in out.rglob("*") if ".tmp" in file.name or file.name == ".scratch"]


def test_run__killed_parent_takes_its_child_along_and_a_damaged_instance_is_trained_again(
    run: Path, small_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    damaged = out / "multi_instance_training" / "instance_01" / "fold_models.miduck"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    process = started("run", small_dataset, "--out", out, *FAST)
    wait_for_line(process, "[Instance 2/3] training on")
    child = child_of(process)
    process.kill()
    process.communicate()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    again = here("run", small_dataset, "--out", out, *FAST)
    assert "found 2 existing instances to reuse" in again.stderr
    assert fingerprint(out) == fingerprint(run)


def test_run__a_child_killed_by_signal_9_is_reported_and_tried_once_more(small_dataset: Path, tmp_path: Path) -> None:
    out = partitioned(small_dataset, tmp_path / "run", "--strategy", "single")
    process = started("train", out, "--threads", 1)
    wait_for_line(process, "[Instance 1/1] training on")
    child_of(process).kill()
    words = process.communicate(timeout=120)[1]
    assert process.returncode == 0, words
    assert "[Instance 1/1] tried once more, from where it was saved: train_instance was killed by signal 9 at" in words
    assert "Traceback" not in words
    assert [file.parent.name for file in out.glob("multi_instance_training/*/manifest.json")] == ["instance_00"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_run__an_interrupt_leaves_with_its_code_and_no_child(
    small_dataset: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = partitioned(small_dataset, tmp_path / "run", "--strategy", "single", "--n-estimators", "2000")
    process = started("train", out, "--threads", 1)
    wait_for_line(process, "[Instance 1/1] training on")
    child = child_of(process)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on where it stopped" in words
    assert "Traceback" not in words
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


def test_stages__alone_and_in_any_order_equal_the_run(
    small_dataset: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Plan, train --instance from the last to the first, consolidate, evaluate, with what is asked for beside the scores."""
    out = planned(small_dataset, tmp_path / "run", "--threads", "2")  # as the run; all else with one
    n = len(RunFolder(out).read_plan().cut.instances)
    assert call("evaluate", out).exit_code == 65
    for number in reversed(range(n)):
        here("train", out, "--instance", number, "--threads", 1)
    again = call("train", out, "--instance", 0)
    assert f"[Instance 1/{n}] reusing instance_00" in again.stderr
    status = json.loads(call("status", out, "--json").stdout)
    assert (status["n_done"], status["is_consolidated"], status["is_finished"]) == (n, False, False)
    here("consolidate", out, "--threads", 1)
    evaluate_run(run=str(out), is_minimal=True, calibration_analysis=False, report=quiet)  # without intervals
    asked = ("--calibration-analysis", "--neigh-sample", 7)
    assert "95 % intervals" in here("evaluate", out, *asked, "--threads", 1).stdout
    assert fingerprint(out) == fingerprint(finished_run(small_dataset, tmp_path_factory))
    assert json.loads(call("status", out, "--json").stdout)["is_finished"]
    folder = RunFolder(out)
    assert folder.curves.is_file()
    assert (folder.calibration_analysis / "calibration.json").is_file()
    with (folder.neighbours / "neighbours.csv").open(newline="") as lines:
        assert len({row["site"] for row in csv.DictReader(lines)}) == 7
    assert not lacks_diagnostics(folder, Diagnostics(neigh_sample=7))
    assert lacks_diagnostics(folder, Diagnostics(neigh_sample=8))
    assert not lacks_diagnostics(folder, Diagnostics(calibration_analysis=False))


def test_evaluate__of_a_run_without_the_scores_of_members_says_how_to_have_them(
    small_dataset: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path / "run"
    shutil.copytree(plain_run(small_dataset, tmp_path_factory), out)
    before = fingerprint(out)
    assert "no intervals:" in here("run", small_dataset, "--out", out, *FAST).stdout
    refused = call("evaluate", out)
    assert refused.exit_code == 65
    assert (
        f"'mi-duck consolidate {out} --consolidation voting --voting probability --weights uniform'" in refused.stderr
    )
    assert fingerprint(out) == before
    assert "nothing to do" in here("run", small_dataset, "--out", out, *FAST).stderr  # refusing took nothing away
    here("consolidate", out, "--threads", 1)
    assert fingerprint(out)["consolidated_model.miduck"] == before["consolidated_model.miduck"]
    assert RunFolder(out).members.is_file()  # from here evaluate goes on, as above
    folder, said, killed = RunFolder(out), list[str](), list[int]()

    def kill_first_child() -> None:
        while not killed:
            for one in psutil.Process().children():
                if "mi_duck.processes" in one.cmdline():
                    one.kill()
                    killed.append(one.pid)
                    break
            time.sleep(0.01)

    killer = threading.Thread(target=kill_first_child)
    killer.start()
    # what is killed while two are at work is done again alone
    score_and_describe(folder, Diagnostics(minimal_diagnostics=True, skip_shap=True), Context(2, quiet, said.append))
    killer.join()
    assert "scoring and explaining one after the other: " in said[0]
    assert fingerprint(out) == before


def test_consolidate__of_some_instances_says_so_and_leaves_69(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.rmtree(out / "multi_instance_training" / "instance_02")
    result = here("consolidate", out, "--threads", 1, code=69)
    assert "1 of 3 instances are not trained" in result.stderr
    summary = json.loads((out / "consolidation_summary.json").read_bytes())
    assert summary["coverage_fraction"] == summary["n_genes_trained"] / 60 < 1
    assert [one["weight"] for one in summary["members"]] == [0.5, 0.5]
    assert f"Gene coverage: {summary['n_genes_trained']}/60" in result.stderr


def test_run__on_a_folder_in_use_is_75(run: Path, small_dataset: Path) -> None:
    with run_lock(run):
        for arguments in (("run", small_dataset, "--out", run, *FAST), ("train", run), ("consolidate", run)):
            result = call(*arguments)
            assert result.exit_code == 75
            assert "another mi-duck works on" in result.stderr


def test_plan__that_is_whole_keeps_its_genes_although_flushing_it_failed(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        if (folder / "plan.json").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("mi_duck.atomic_files.sync_folder", fail)
        failed = call("plan", small_dataset, "--out", out, *SMALL)
    assert failed.exit_code == 74, failed.output
    assert not [file for file in out.rglob("*") if file.name.endswith(".tmp")]
    assert here("train", out, "--partition-only").exit_code == 0


def test_run__of_other_data_trains_all_instances_anew(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    other = tmp_path / "other"
    shutil.copytree(small_dataset, other)
    file = next(other.rglob("*.parquet"))
    pq.write_table(pq.read_table(file).slice(1), file)
    refused = call("run", other, "--out", out, *FAST)
    assert refused.exit_code == 65
    assert "is read instead of" in refused.stderr
    result = here("run", other, "--out", out, *FAST, "--replace")
    assert "reusing" not in result.stderr
    assert fingerprint(out) == fingerprint_of(other, tmp_path / "fresh")


def fingerprint_of(dataset: Path, out: Path) -> dict[str, str]:
    """Return the fingerprint of a run in a folder of its own."""
    here("run", dataset, "--out", out, *FAST)
    return fingerprint(out)


def test_run__without_resume_is_refused_and_force_begins_anew(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    refused = call("run", small_dataset, "--out", run, *FAST, "--no-resume-from-checkpoint")
    assert refused.exit_code == 65
    assert "holds a run already" in refused.stderr
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "notes.txt").write_text("mine")
    flags = (*FAST, "--strategy", "single", "--n-estimators", "2")
    forced = here("run", small_dataset, "--out", out, *flags, "--force-retrain-all")
    assert "reusing" not in forced.stderr
    assert [file.name for file in (out / "multi_instance_training").iterdir()] == ["instance_00"]
    assert RunFolder(out).read_plan().settings.n_estimators == 2
    assert json.loads(call("status", out, "--json").stdout)["is_finished"]
    assert (out / "notes.txt").read_text() == "mine"


def test_train__from_another_folder_with_a_relative_dataset(small_dataset: Path, tmp_path: Path) -> None:
    """A plan made with a relative path names one file of two; training starts elsewhere."""
    (tmp_path / "data").mkdir()
    source = next(small_dataset.rglob("*.parquet"))
    for name in ("a.parquet", "b.parquet"):
        shutil.copy(source, tmp_path / "data" / name)
    flags = (*SMALL, "--strategy", "single", "--n-estimators", "2")
    with contextlib.chdir(tmp_path):
        here("plan", "data/a.parquet", "--out", "run", *flags)
    (tmp_path / "elsewhere").mkdir()
    with contextlib.chdir(tmp_path / "elsewhere"):
        here("train", tmp_path / "run", "--threads", 1)


def test_train__after_the_dataset_changed_is_65(small_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(small_dataset, tmp_path / "data")
    out = planned(tmp_path / "data", tmp_path / "run")
    file = next((tmp_path / "data").rglob("*.parquet"))
    pq.write_table(pq.read_table(file).slice(1), file)
    result = here("train", out, "--threads", 1, code=65)
    assert "changed since plan.json was made" in result.stderr


def test_run__a_damaged_file_of_the_run_is_65_in_one_line(run: Path, tmp_path: Path) -> None:
    for name, damage, words in (
        ("plan.json", b"[" * 100_000, "plan.json is damaged"),
        ("plan.json", b"null", "plan.json is damaged"),
        ("plan.json", b'{"version": 99}', "format 99"),
        ("plan.json", b"\xff", "plan.json is damaged"),
        ("genes.parquet", b"PAR1", "not the one that plan.json was made with"),
    ):
        out = tmp_path / "run"
        shutil.copytree(run, out)
        (out / name).write_bytes(damage)
        result = here("consolidate", out, "--threads", 1, code=65)
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
        shutil.rmtree(out)
    for text in (b"[]", b"null", b"{", b'{"plan_sha256": 3}'):
        shutil.copytree(run, out)
        (out / "provenance.json").write_bytes(text)
        assert not json.loads(call("status", out, "--json").stdout)["is_finished"]
        shutil.rmtree(out)

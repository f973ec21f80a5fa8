"""The whole run: what is planned, trained, interrupted, gone on with, refused."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cli import app
from mi_duck.errors import PlanError
from mi_duck.folders import RunFolder
from mi_duck.locks import run_lock
from mi_duck.stages import partition_here
from mi_duck.train.train import train_instance

# small enough for seconds, large enough for three instances that learn something
SMALL = (
    *("--strategy", "multi", "--genes-per-instance", "24", "--threads", "1", "--max-memory-per-instance-gb", "2"),
    *("--n-estimators", "20", "--early-stopping-patience", "5", "--max-depth", "4", "--learning-rate", "0.3"),
)
FAST = (*SMALL, "--minimal-diagnostics", "--skip-shap")  # a run costs a fifth without figures and explanations
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


def plain_run(dataset: Path, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one finished run without figures and explanations, as `finished_run`."""
    out = factory.getbasetemp() / "plain run"
    if not out.exists():
        mi_duck("run", dataset, "--out", out, *FAST)
    return out


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
    covered = {rank for one in plan.instances for rank in range(one.first_rank, one.stop_rank)}
    assert covered == set(range(60))
    assert len(plan.instances) >= 3


def test_run__a_second_time_does_nothing(run: Path, small_dataset: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != ".lock"}
    again = mi_duck("run", small_dataset, "--out", run, *FAST)
    n = len(RunFolder(run).read_plan().instances)
    assert f"Checkpointing: found {n} existing instances to reuse" in again.stderr
    assert f"[Instance 1/{n}] reusing instance_00" in again.stderr
    assert "nothing to do" in again.stderr
    assert "ensemble" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != ".lock"} == before


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
    mi_duck("run", small_dataset, "--out", out, *FAST)
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
    again = mi_duck("run", small_dataset, "--out", out, *FAST)
    assert "found 2 existing instances to reuse" in again.stderr
    assert fingerprint(out) == fingerprint(run)


def child_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the child of a command, once there is one."""
    while process.poll() is None:
        children = psutil.Process(process.pid).children()
        if children:
            return children[0]
        time.sleep(0.02)
    raise AssertionError(f"no child: {process.stderr.read() if process.stderr else ''}")


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
    """Plan, train --instance from the last to the first, consolidate, evaluate."""
    out = planned(small_dataset, tmp_path / "run")
    n = len(RunFolder(out).read_plan().instances)
    assert call("evaluate", out).exit_code == 65
    for number in reversed(range(n)):
        result = call("train", out, "--instance", number, "--threads", 1)
        assert result.exit_code == 0, result.output
    again = call("train", out, "--instance", 0)
    assert f"[Instance 1/{n}] reusing instance_00" in again.stderr
    status = json.loads(call("status", out, "--json").stdout)
    assert (status["n_done"], status["is_consolidated"], status["is_finished"]) == (n, False, False)
    for command in ("consolidate", "evaluate"):
        result = call(command, out, "--threads", 1)
        assert result.exit_code == 0, result.output
    assert fingerprint(out) == fingerprint(finished_run(small_dataset, tmp_path_factory))
    assert json.loads(call("status", out, "--json").stdout)["is_finished"]


def test_consolidate__of_some_instances_says_so_and_leaves_69(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.rmtree(out / "multi_instance_training" / "instance_02")
    result = call("consolidate", out, "--threads", 1)
    assert result.exit_code == 69
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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-depth", "5"), "max_depth: 4 then, 5 now"),
        (("--learning-rate", "0.2", "--seed", "1"), "learning_rate: 0.3 then, 0.2 now; seed: 42 then, 1 now"),
        (("--instance-overlap", "0.2"), "instance_overlap: 0.1 then, 0.2 now"),
        (("--sample-genes", "30"), "sample_genes: None then, 30 now"),
        (("--exclude", "^5mer"), "features differ"),
        (("--fold-by", "gene_id"), "columns differ"),
    ],
)
def test_plan__asked_for_other_settings_is_another_request(
    run: Path, small_dataset: Path, flags: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise PlanError("planned anew")

    monkeypatch.setattr("mi_duck.pipeline._forget_plan", stop)  # the run is everyone's
    result = call("run", small_dataset, "--out", run, *FAST, *flags)
    assert result.exit_code == 78, result.output
    assert f"was begun otherwise ({words}); what still matches is kept" in result.stderr


def test_run__of_other_data_trains_all_instances_anew(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    other = tmp_path / "other"
    shutil.copytree(small_dataset, other)
    file = next(other.rglob("*.parquet"))
    pq.write_table(pq.read_table(file).slice(1), file)
    result = mi_duck("run", other, "--out", out, *FAST)
    assert "is gone" in result.stderr
    assert "instances match no longer; they are set aside in" in result.stderr
    assert "reusing" not in result.stderr
    assert fingerprint(out) == fingerprint_of(other, tmp_path / "fresh")


def fingerprint_of(dataset: Path, out: Path) -> dict[str, str]:
    """Return the fingerprint of a run in a folder of its own."""
    mi_duck("run", dataset, "--out", out, *FAST)
    return fingerprint(out)


def test_run__without_resume_is_refused_and_force_begins_anew(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    refused = call("run", small_dataset, "--out", run, *FAST, "--no-resume-from-checkpoint")
    assert refused.exit_code == 65
    assert "holds a run already" in refused.stderr
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "notes.txt").write_text("mine")
    flags = (*FAST, "--strategy", "single", "--n-estimators", "2")
    forced = mi_duck("run", small_dataset, "--out", out, *flags, "--force-retrain-all")
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
    mi_duck("plan", "data/a.parquet", "--out", "run", *flags, cwd=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    done = mi_duck("train", tmp_path / "run", "--threads", 1, cwd=tmp_path / "elsewhere", check=False)
    assert done.returncode == 0, done.stderr


def test_train__after_the_dataset_changed_is_65(small_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(small_dataset, tmp_path / "data")
    out = planned(tmp_path / "data", tmp_path / "run")
    file = next((tmp_path / "data").rglob("*.parquet"))
    pq.write_table(pq.read_table(file).slice(1), file)
    result = call("train", out, "--threads", 1)
    assert result.exit_code == 65
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
        result = call("consolidate", out, "--threads", 1)
        assert result.exit_code == 65, (name, damage[:20], result.output)
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
        shutil.rmtree(out)
    for text in (b"[]", b"null", b"{", b'{"plan_sha256": 3}'):
        shutil.copytree(run, out)
        (out / "provenance.json").write_bytes(text)
        assert not json.loads(call("status", out, "--json").stdout)["is_finished"]
        shutil.rmtree(out)

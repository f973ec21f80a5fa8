"""Finished runs are never lost: another request is refused, or done beside them until its results are complete."""

import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import CONTEXT, FAST, SMALL, call, here, plain_run

from mi_duck.atomic_files import file_sha256
from mi_duck.errors import CheckpointError
from mi_duck.run.folder import RunFolder
from mi_duck.run.progress import LOG, noting, stages_now
from mi_duck.workflow import replace
from mi_duck.workflow.replace import beside, change_places, check_ours, clear_remains

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ROOT / "benchmarks" / "faults"
OTHER = (*FAST, "--n-estimators", "4")
"""A request that differs from the one of the shared run."""


def contents(root: Path) -> dict[str, str]:
    """Return the hash of every file of a run, hidden ones and the log apart."""
    return {
        file.relative_to(root).as_posix(): file_sha256(file)
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name != LOG and not any(one.startswith(".") for one in file.relative_to(root).parts)
    }


@pytest.fixture(scope="module")
def run(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(lean_dataset, tmp_path_factory)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Return a copy of the shared finished run, with a file of its user's."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "notes.txt").write_text("mine")
    return out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-depth", "5"), "max_depth: 4 then, 5 now"),
        (("--learning-rate", "0.2", "--seed", "1"), "learning_rate: 0.3 then, 0.2 now; seed: 42 then, 1 now"),
        (("--instance-overlap", "0.2"), "instance_overlap: 0.1 then, 0.2 now"),
        (("--sample-genes", "2"), "sample_genes: None then, 2 now"),
        (("--n-folds", "4"), "n_folds: 3 then, 4 now"),
        (("--n-folds", "100"), "n_folds: 3 then, 100 now"),
        (("--strategy", "single"), "strategy: multi then, single now"),
        (("--genes-per-instance", "1"), "genes_per_instance: 24 then, 1 now"),
        (("--max-memory-per-instance-gb", "0.1"), "max_memory_per_instance_gb: 2.0 then, 0.1 now"),
        (("--memory-per-gene-mb", "8"), "memory_per_gene_mb: None then, 8.0 now"),
        (("--n-estimators", "1"), "n_estimators: 10 then, 1 now"),
        (("--early-stopping-patience", "0"), "early_stopping_patience: 5 then, 0 now"),
        (("--max-bin", "16"), "max_bin: 256 then, 16 now"),
        (("--no-calibrate-per-class",), "calibrate_per_class: True then, False now"),
        (("--consolidation", "auto"), "consolidation: voting then, auto now"),
        (("--voting", "margin"), "voting: "),
        (("--weights", "f1"), "weights: "),
        (("--holdout-genes", "0.2"), "holdout_genes: "),
        (("--sample-negatives", "0.5"), "sample_negatives: "),
        (("--screen-features", "20"), "screen_features: "),
        (("--layout", "sentinel"), "layout: "),
        (("--cv", "matrices"), "cv: "),
        (("--exclude", "^5mer"), "features differ"),
        (("--fold-by", "gene_id"), "columns differ"),
    ],
)
def test_finished_run__asked_for_something_else_is_refused_untouched(
    run: Path, lean_dataset: Path, flags: tuple[str, ...], words: str
) -> None:
    before = contents(run)
    result = call("run", lean_dataset, "--out", run, *FAST, *flags)
    assert result.exit_code == 65, result.output
    assert f"is a finished run of another request ({words}" in result.stderr
    assert "choose another --out, or give --replace" in result.stderr
    assert contents(run) == before


def test_finished_run__of_all_genes_is_the_same_where_that_is_said_expressly(run: Path, lean_dataset: Path) -> None:
    before = contents(run)
    result = call("run", lean_dataset, "--out", run, *FAST, "--train-all-genes")
    assert result.exit_code == 0, result.output
    assert contents(run) == before


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--sample-genes", "2"), 78),
        (("--n-folds", "100"), 78),
        (("--max-memory-per-instance-gb", "0.1"), 78),
        (("--classes", "a,b,c"), 65),
        (("--gene-column", "absent"), 65),
        (("--label-column", "position"), 65),
        (("--fold-by", "absent"), 65),
        (("--exclude", "."), 65),
        (("--holdout-genes", "0.999"), 78),
    ],
)
def test_finished_run__stays_whole_when_what_is_to_replace_it_cannot_be_planned(
    copy: Path, lean_dataset: Path, flags: tuple[str, ...], code: int
) -> None:
    before = contents(copy)
    result = call("run", lean_dataset, "--out", copy, *FAST, *flags, "--replace")
    assert result.exit_code == code, result.output
    assert contents(copy) == before
    assert not beside(copy).exists()


@pytest.mark.parametrize(
    ("flags", "code"),
    [(("--sample-genes", "2"), 78), (("--n-folds", "100"), 78), (("--max-memory-per-instance-gb", "0.1"), 78)],
)
def test_unfinished_run__keeps_its_plan_when_another_cannot_be_made(
    copy: Path, lean_dataset: Path, flags: tuple[str, ...], code: int
) -> None:
    (copy / "provenance.json").unlink()
    before = contents(copy)
    result = call("run", lean_dataset, "--out", copy, *FAST, *flags)
    assert result.exit_code == code, result.output
    assert contents(copy) == before


def test_replace__gives_the_bytes_of_a_run_in_a_new_folder_and_keeps_the_users_files(
    copy: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    result = here("run", lean_dataset, "--out", copy, *OTHER, "--replace")
    assert "stays as it is until the new results" in result.stderr
    here("run", lean_dataset, "--out", tmp_path / "fresh", *OTHER)
    old, new = contents(copy), contents(tmp_path / "fresh")
    assert old.pop("notes.txt")
    assert old.keys() == new.keys()
    same = {name for name in new if old[name] == new[name]}
    # these hold times and measured memory
    assert {name.rpartition("/")[2] for name in new.keys() - same} <= {
        *("measurement.json", "stage_times.json", "memory.json", "run.duckdb", "provenance.json", "report.html"),
        *("unified_training_summary.txt", "plan.json", "consolidation_summary.json", "run_metadata.json"),
    }
    assert not beside(copy).exists()
    assert here("run", lean_dataset, "--out", copy, *OTHER).stderr.count("nothing to do")


def test_replace__keeps_instances_that_match(copy: Path, lean_dataset: Path) -> None:
    models = {path: path.stat().st_ino for path in copy.rglob("multi_instance_training/*/*.ubj")}
    result = here(
        "run", lean_dataset, "--out", copy, *FAST, "--consolidation", "voting", "--voting", "margin", "--replace"
    )
    assert result.stderr.count("reusing") == 3
    assert {path: path.stat().st_ino for path in copy.rglob("multi_instance_training/*/*.ubj")} == models
    assert RunFolder(copy).read_plan().asked.voting == "margin"


def test_force_retrain_all__trains_anew_beside_the_old_results(copy: Path, lean_dataset: Path) -> None:
    result = here("run", lean_dataset, "--out", copy, *FAST, "--force-retrain-all")
    assert "reusing" not in result.stderr
    assert (copy / "notes.txt").read_text() == "mine"


def test_replace__that_lost_an_instance_leaves_the_old_results(
    copy: Path, lean_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mi_duck.errors import IncompleteRunError
    from mi_duck.workflow import training

    before, original = contents(copy), training.train_one

    def fail(folder: RunFolder, plan: object, instance: object, *rest: object, **more: object) -> None:
        if instance.instance_id == 1:  # type: ignore[attr-defined]
            raise IncompleteRunError("it died")
        original(folder, plan, instance, *rest, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_one", fail)
        result = call("run", lean_dataset, "--out", copy, *OTHER, "--replace")
    assert result.exit_code == 69
    assert f"{copy} keeps its old results" in result.stderr
    assert contents(copy) == before
    here("run", lean_dataset, "--out", copy, *OTHER, "--replace")  # goes on
    assert RunFolder(copy).read_plan().asked.n_estimators == 4


# ---- foreign folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("name", ["metrics.csv", "plan.json", "notes", ".hidden", "master/part-00000.parquet"])
def test_folder_that_is_no_run__is_refused_untouched(
    tmp_path: Path, lean_dataset: Path, command: str, name: str
) -> None:
    out = tmp_path / "mine"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"mine": 1}')
    result = call(command, lean_dataset, "--out", out, *(FAST if command == "run" else SMALL))
    assert result.exit_code == 65, result.output
    assert "is not empty and not a run of mi-duck" in result.stderr
    assert [path.name for path in out.rglob("*") if path.is_file()] == [Path(name).name]


def test_folder__absent_empty_or_a_run_is_ours(run: Path, tmp_path: Path) -> None:
    check_ours(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    check_ours(tmp_path / "empty")
    check_ours(run)
    (tmp_path / "copied").mkdir()
    shutil.copy(run / "plan.json", tmp_path / "copied")  # without hidden files
    check_ours(tmp_path / "copied")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".lock").write_text("of another program")
    with pytest.raises(CheckpointError, match="not a run"):
        check_ours(tmp_path / "other")


# ---- changing places --------------------------------------------------------------------------------------------------


def places(tmp_path: Path) -> tuple[Path, Path]:
    """Make a small old run with a file of its user's, and the complete run that is to replace it."""
    out = tmp_path / "run"
    new = beside(out)
    for folder, words in ((out, "old"), (new, "new")):
        (folder / "multi_instance_training").mkdir(parents=True)
        (folder / "plan.json").write_text(words)
        (folder / "multi_instance_training" / "model").write_text(words)
    (out / "notes.txt").write_text("mine")
    (new / replace.MARK).write_text("run")
    return out, new


def state(out: Path) -> tuple[str, ...]:
    """Return what a folder holds: its two files of a run, which belong together, and the user's."""
    return tuple((out / name).read_text() for name in ("plan.json", "multi_instance_training/model", "notes.txt"))


@pytest.mark.parametrize("can_exchange", [True, False])
def test_change_places__swaps_and_takes_the_users_files_along(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(replace, "_exchange", lambda one, other: False)
    out, new = places(tmp_path)
    change_places(new, out)
    assert state(out) == ("new", "new", "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (out / replace.MARK).exists()


def killed_while_changing(out: Path, kind: str, number: int, count: Path) -> int:
    """Change places in a fork that is killed before or after its k-th change of a file; return its exit status."""
    child = os.fork()
    if child == 0:
        os.environ |= {"MI_DUCK_FAULT": f"{kind}:{number}", "MI_DUCK_FAULT_COUNT": str(count)}
        os.environ |= {"MI_DUCK_FAULT_AT": str(out.parent)}
        runpy.run_path(str(FAULTS / "sitecustomize.py"))
        try:
            change_places(beside(out), out)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("how", ["one step", "two steps"])
def test_change_places__killed_at_any_change_of_a_file_leaves_old_or_new(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every rename, unlink and rmdir that Python does; then the change is ended."""
    if how == "two steps":
        monkeypatch.setattr(replace, "_exchange", lambda one, other: False)
    seen = set()
    for kind in ("kill", "kill-after"):
        for number in range(1, 40):
            root = tmp_path / f"{kind}{number}"
            root.mkdir()
            out, _ = places(root)
            code = killed_while_changing(out, kind, number, tmp_path / f"count_{kind}{number}")
            if how == "one step":  # there is never a moment without a whole run
                assert (out / "plan.json").read_text() == (out / "multi_instance_training" / "model").read_text()
            clear_remains(out)
            found = state(out)
            assert found in (("old", "old", "mine"), ("new", "new", "mine"))
            seen.add(found[0])
            if found[0] == "old":
                change_places(beside(out), out)  # as the same command would
            assert state(out) == ("new", "new", "mine")
            assert [path.name for path in root.iterdir()] == ["run"]
            if code == 0:
                break
            assert code == -signal.SIGKILL
        else:
            pytest.fail("it never came to an end")
    assert "new" in seen


def test_replace__killed_at_random_leaves_the_old_results_or_the_new(copy: Path, lean_dataset: Path) -> None:
    """Real kills of a real command; at the end it is complete."""
    before = contents(copy)
    words = ["run", str(lean_dataset), "--out", str(copy), *OTHER, "--replace"]
    rng, done = random.Random(7), None
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.5, 6))
        process.kill()
        done = process.wait()
        if RunFolder(copy).read_plan().asked.n_estimators == 20:
            assert contents(copy) == before
        else:
            break
    here(*words)
    after = contents(copy)
    assert RunFolder(copy).read_plan().asked.n_estimators == 4
    assert (copy / "notes.txt").read_text() == "mine"
    # a kill between the end of an instance and the note of its peak leaves it without that note
    assert {name for name in before.keys() ^ after.keys() if not name.endswith("/measurement.json")} == set()
    assert done in (-signal.SIGKILL, 0)
    assert json.loads(call("status", copy, "--json").stdout)["is_finished"]


# ---- what is being done now -------------------------------------------------------------------------------------------


def test_progress__is_seen_while_it_runs_and_gone_afterwards(tmp_path: Path) -> None:
    assert stages_now(tmp_path) == []
    with noting(tmp_path, "run", CONTEXT) as context:
        (stage,) = stages_now(tmp_path)
        assert (stage.command, stage.name) == ("run", "starting")
        context.report("instance_00: rounds of fold 1/3 donor", 30, 120)
        context.report("instance_01: cuts", 1, 9)
        stages = stages_now(tmp_path)
        assert [(one.name, one.done, one.total) for one in stages] == [
            ("instance_00: rounds of fold 1/3 donor", 30, 120),
            ("instance_01: cuts", 1, 9),
        ]
        record = stages[0].record(stages[0].begun + 60)
        assert (record["seconds"], record["seconds_left"]) == (60, 180)
        assert "30 of 120, for 60 s" in stages[0].text(stages[0].begun + 60)
        status = call("status", tmp_path)
        assert status.exit_code == 0
        assert "now, run: instance_00: rounds of fold 1/3 donor, 30 of 120" in status.stdout
        refused = call("sql", tmp_path, "select 1")
        assert refused.exit_code == 65
        assert "has no plan yet, it is being made" in refused.stderr
        assert "has no plan yet, it is being made" in call("train", tmp_path).stderr
    assert stages_now(tmp_path) == []
    assert "begin one with 'mi-duck plan" in call("status", tmp_path).stderr


def test_progress__of_a_killed_process_is_not_shown(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from mi_duck.processes import Context\n"
        "from mi_duck.run.progress import noting\n"
        "with noting(Path(sys.argv[1]), 'run', Context(1, lambda *a: None, print)) as context:\n"
        "    context.report('x', 1, 2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=env, check=False)
    assert (tmp_path / ".progress").is_file()
    assert stages_now(tmp_path) == []


def test_finish__calls_instances_that_were_never_begun_not_trained_yet(lean_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    here("plan", lean_dataset, "--out", out, *FAST[: FAST.index("--minimal-diagnostics")])
    here("train", out, "--instance", 0, "--threads", 1)
    result = call("finish", out, "--minimal-diagnostics", "--skip-shap", "--threads", 1)
    assert result.exit_code == 69
    assert "2 of 3 instances not trained yet (instance_01, instance_02)" in result.stderr
    assert "lost" not in result.stderr

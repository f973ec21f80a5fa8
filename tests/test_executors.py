"""Instances trained elsewhere: the index of a job array, jobs of Slurm by a made-up sbatch, workers of Dask."""

import errno
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main
from plans import changed
from runs import assert_refused, call, end, mi_duck, quiet, wait_for_line
from typer.testing import Result

from cli import app
from mi_duck.atomic_files import file_sha256
from mi_duck.boosting.train import train_instance
from mi_duck.executors.elsewhere import BEGINS_AT, array_index
from mi_duck.executors.slurm import WATCHER_BYTES, array_of, job_sizes, scripts, slurm_folder
from mi_duck.genome.synthetic import synthesise
from mi_duck.rows.partition import partition_here
from mi_duck.run.folder import RunFolder, run_lock
from mi_duck.run.instance_folder import TRAINED, is_trained
from mi_duck.run.plan import Plan
from mi_duck.settings import Diagnostics, flags_of

FLAGS = (
    *("--strategy", "multi", "--genes-per-instance", "12", "--memory-per-gene-mb", "1", "--n-estimators", "6"),
    *("--max-memory-per-instance-gb", "0.5", "--n-folds", "2", "--threads", "1"),
)
QUICK = ("--minimal-diagnostics", "--skip-shap", "--no-calibration-analysis", "--no-monitor-overfitting")
NAME = 'it\'s a "run" of 100 % $HOME #1; `x`'
"""A folder that a shell, or Slurm, would take apart if it were not quoted."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 24 genes, three instances."""
    folder = tmp_path_factory.mktemp("executors") / "data"
    synthesise(folder, n_genes=24, rows_per_gene=120, n_features=20)
    return folder


@pytest.fixture(scope="module")
def reference(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was trained here, one instance after the other."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert call("plan", dataset, "--out", run, *FLAGS).exit_code == 0
    partition_here(run=str(run), threads=1, report=quiet)
    for instance in RunFolder(run).read_plan().cut.instances:
        train_instance(run=str(run), instance_id=instance.instance_id, threads=1, report=quiet)
    return run


@pytest.fixture
def planned(reference: Path, tmp_path: Path) -> Path:
    """Return a run with nothing but its plan."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("plan.json", "genes.parquet", "memory.json"):
        shutil.copy(reference / name, run)
    return run


def invoke(*arguments: object, **environment: str) -> Result:
    """Run a command, with all that its children would do, in this process and with these variables of schedulers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in BEGINS_AT:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        return call(*arguments)


def trained_files(run: Path) -> dict[str, str]:
    """Return the hash of every file that training wrote, by instance and name."""
    instances = RunFolder(run).instances.glob("instance_*")
    return {f"{where.name}/{name}": file_sha256(where / name) for where in instances for name in TRAINED}


# ---- the index of a job array -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "instance_id"),
    [
        ({}, None),
        ({"SLURM_ARRAY_TASK_ID": ""}, None),
        ({"SLURM_ARRAY_TASK_ID": "0"}, 0),
        ({"JOB_COMPLETION_INDEX": "3"}, 3),
        ({"PBS_ARRAY_INDEX": "12"}, 12),
        ({"LSB_JOBINDEX": "1"}, 0),
        ({"LSB_JOBINDEX": "7"}, 6),
        ({"SGE_TASK_ID": "7"}, 6),
        ({"LSB_JOBINDEX": "0"}, None),  # an LSF job that is not an array
        ({"SGE_TASK_ID": "undefined"}, None),  # the same of Grid Engine
        ({"SGE_TASK_ID": "undefined", "SLURM_ARRAY_TASK_ID": "2"}, 2),
    ],
)
def test_array_index__is_an_instance_from_zero(environment: dict[str, str], instance_id: int | None) -> None:
    found = array_index(environment)
    assert (found.instance_id if found else None) == instance_id


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SLURM_ARRAY_TASK_ID": "two"}, "SLURM_ARRAY_TASK_ID is 'two'"),
        ({"PBS_ARRAY_INDEX": "-1"}, "not an index from 0"),
        ({"SLURM_ARRAY_TASK_ID": "²"}, "not an index"),
        ({"SGE_TASK_ID": "0"}, "not an index from 1"),
        (
            {"SLURM_ARRAY_TASK_ID": "1", "JOB_COMPLETION_INDEX": "1"},
            "SLURM_ARRAY_TASK_ID and JOB_COMPLETION_INDEX are set",
        ),
    ],
)
def test_array_index__that_is_none_is_refused(environment: dict[str, str], words: str, planned: Path) -> None:
    assert_refused(invoke("train", planned, **environment), 2, words)


def test_train__takes_the_index_of_the_array(planned: Path, reference: Path) -> None:
    """Grid Engine's task 2 is instance 1; one that the plan has not is refused, and --instance wins over the index."""
    partition_here(run=str(planned), threads=1, report=quiet)
    assert_refused(invoke("train", planned, SLURM_ARRAY_TASK_ID="9"), 78, "the plan has instances 0 to 2")
    assert_refused(invoke("train", planned, "--instance", "8", SLURM_ARRAY_TASK_ID="0"), 78, "--instance 8")
    result = invoke("train", planned, "--threads", "1", SGE_TASK_ID="2")
    assert result.exit_code == 0, result.output
    assert "SGE_TASK_ID is 2: instance 1 alone" in result.stderr
    assert [where.name for where in sorted(RunFolder(planned).instances.iterdir())] == ["instance_01"]
    assert trained_files(planned).items() < trained_files(reference).items()


def test_locks__that_a_file_system_lacks_are_named(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Lustre that is mounted without them: no two jobs could know of each other."""

    def refuse(handle: object, kind: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("mi_duck.run.folder.fcntl.flock", refuse)
    assert_refused(invoke("train", planned, "--instance", "0"), 74, "mount this file system with locks")


# ---- what the scripts ask for -----------------------------------------------------------------------------------------


def plan_of(run: Path) -> Plan:
    return RunFolder(run).read_plan()


def texts_of(run: Path, plan: Plan, **options: object) -> dict[str, str]:
    values = {
        "names": ("partition", "instances", "finish"),
        "cores": 3,
        "at_once": None,
        "sbatch_options": (),
        "diagnostics": Diagnostics(),
    }
    return scripts(RunFolder(run), plan, plan.cut.instances, **(values | options))  # type: ignore[arg-type]


def directives(text: str) -> dict[str, str]:
    """Return the options that a script asks Slurm for."""
    lines = [line.removeprefix("#SBATCH ").strip('"') for line in text.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_scripts__ask_for_what_the_plan_predicts(reference: Path) -> None:
    plan = plan_of(reference)
    large = tuple(replace(one, predicted_bytes=(8 + one.instance_id) << 30) for one in plan.cut.instances)
    plan = changed(plan, instances=large, rates=replace(plan.costs.rates, start_seconds=3600.0))
    asked = directives(texts_of(reference, plan, at_once=2)["instances.sh"])
    assert asked["--array"] == "0-2%2"
    assert asked["--cpus-per-task"] == "3"
    # 10 GiB for the largest, 15 % more, and the process that watches; rounded up
    assert asked["--mem"] == f"{-(-int(1.15 * (10 << 30) + WATCHER_BYTES) // (1 << 20))}M"
    assert int(asked["--time"]) >= 120  # twice the hour that was predicted
    assert asked["--signal"] == "B:TERM@120"
    assert "--requeue" in asked
    assert asked["--open-mode"] == "append"
    sizes = job_sizes(plan, plan.cut.instances, cores=1)
    assert sizes["finish"].minutes >= sizes["instances"].minutes >= sizes["partition"].minutes > 0
    assert sizes["finish"].mebibytes >= sizes["instances"].mebibytes > sizes["partition"].mebibytes >= 1024


def test_scripts__list_what_is_left(reference: Path) -> None:
    one = plan_of(reference).cut.instances[0]
    numbers = (7, 0, 1, 2, 5, 8, 11)
    assert array_of([replace(one, instance_id=number) for number in numbers]) == "0-2,5,7-8,11"


def test_scripts__hand_signals_to_the_command(reference: Path) -> None:
    """The command takes the place of the shell, which would not pass them on."""
    for name, text in texts_of(reference, plan_of(reference)).items():
        last = text.rstrip().splitlines()[-1]
        assert last.startswith("exec ") == (name != "submit.sh")


def test_scripts__are_valid_whatever_the_run_is_called(reference: Path, tmp_path: Path) -> None:
    """What a shell makes of the command is the command that was meant."""
    run = tmp_path / NAME
    texts = texts_of(run, plan_of(reference), diagnostics=Diagnostics(neigh_sample=7))
    for name, text in texts.items():
        file = tmp_path / name
        file.write_text(text.replace(f"exec {shlex.quote(sys.executable)} ", "printf '%s\\n' "))
        subprocess.run(["sh", "-n", file], check=True)
        if name != "submit.sh":
            environment = {"SLURM_ARRAY_TASK_ID": "2", "PATH": os.environ["PATH"]}
            words = subprocess.run(["sh", file], env=environment, capture_output=True, text=True, check=True).stdout
            assert words.splitlines()[:3] == ["-P", "-m", "mi_duck"]
            assert words.splitlines()[4] == str(run)
    assert words.splitlines()[5:7] == ["--neigh-sample", "7"]


def test_scripts__cannot_hold_what_breaks_a_line(planned: Path) -> None:
    run = planned
    for name, words in (("two\nlines", "cannot stand in a script"), ("back\\slash", "has a backslash")):
        run = run.rename(run.with_name(name))
        assert_refused(invoke("train", run, "--executor", "slurm"), 78, words)


def test_flags_of__ask_for_the_same_diagnostics() -> None:
    """What `mi-duck finish` makes of the flags is what was asked of `mi-duck run`, for every diagnostic."""
    command = typer.main.get_command(app).commands["finish"]  # type: ignore[attr-defined]
    plain = command.make_context("finish", ["run"]).params
    changed = Diagnostics(
        minimal_diagnostics=True,
        monitor_overfitting=False,
        calibration_analysis=False,
        true_rate_genes=7,
        neigh_sample=3,
        skip_shap=True,
        shap_sample=50,
        shap_background=20,
        figure_format="png",
    )
    assert list(flags_of(Diagnostics())) == []
    asked = command.make_context("finish", ["run", *flags_of(changed)]).params
    differing = {name: value for name, value in asked.items() if value != plain[name]}
    assert differing == {
        "minimal_diagnostics": True,
        "monitor_overfitting": False,
        "calibration_analysis": False,
        "true_rate_genes": 7,
        "neigh_sample": 3,
        "skip_shap": True,
        "shap_sample": 50,
        "shap_background": 20,
        "figure_format": "png",
    }


# ---- jobs of Slurm ----------------------------------------------------------------------------------------------------

SBATCH = """#!/usr/bin/env python3
# Takes jobs as sbatch does; a test runs them.
import json, pathlib, re, sys
if not pathlib.Path(__file__).with_name("open").exists():
    sys.exit("sbatch: error: Batch job submission failed: Invalid account")
queue = pathlib.Path(__file__).with_name("queue.jsonl")
number = 100 + (len(queue.read_text().splitlines()) if queue.exists() else 0)
script = pathlib.Path(sys.argv[-1])
dependency = [word.split(":")[1] for word in sys.argv if word.startswith("--dependency=afterany:")]
with queue.open("a") as file:
    print(json.dumps({"number": str(number), "script": str(script), "after": dependency}), file=file)
print(f"{number};cluster")
"""


class FakeSlurm:
    """Takes jobs by an ``sbatch`` on the PATH; runs the tasks of an array shuffled, some killed and done again, some twice."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.codes: list[int] = []
        (folder / "open").touch()
        (folder / "sbatch").write_text(SBATCH)
        (folder / "sbatch").chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which its ``sbatch`` is found, and no real ``squeue``."""
        return {"PATH": f"{self.folder}:{Path(sys.executable).parent}:/usr/bin:/bin"}

    def jobs(self) -> Iterator[tuple[str, Path]]:
        """Yield number and script of what was submitted, each once, in an order that the dependencies allow."""
        ended: list[str] = []
        queue = self.folder / "queue.jsonl"
        for job in map(json.loads, queue.read_text().splitlines()):
            assert set(job["after"]) <= set(ended)
            yield job["number"], Path(job["script"])
            ended.append(job["number"])
        queue.unlink()

    def start(self, script: Path, task: int | None = None) -> subprocess.Popen[str]:
        """Start a script as a job."""
        variables = {"SLURM_JOB_ID": "1"} | ({} if task is None else {"SLURM_ARRAY_TASK_ID": str(task)})
        return subprocess.Popen(
            ["sh", str(script)],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: Path, *, killed: int, doubled: int) -> None:
        """Run the tasks of a script: the first few are killed in the middle and requeued, the next are started twice."""
        found = re.search(r"--array=([\d,-]+)", script.read_text())
        tasks: list[int | None] = [None]
        if found:
            ranges = [part.split("-") for part in found[1].split(",")]
            tasks = [number for part in ranges for number in range(int(part[0]), int(part[-1]) + 1)]
        self.rng.shuffle(tasks)
        for place, task in enumerate(tasks):
            if place < killed:
                victim = self.start(script, task)
                assert "training on" in wait_for_line(victim, "training on")[-1]
                end(victim)
            first = self.start(script, task)
            others = [self.start(script, task)] if killed <= place < killed + doubled else []
            codes = []
            for process in (first, *others):
                errors = process.communicate()[1]
                assert "Traceback" not in errors
                codes.append(process.returncode)
            if others:  # who comes second finds it claimed, or done
                assert sorted(codes) in ([0, 0], [0, 75])
            self.codes.append(min(codes))


def command_of(script: Path) -> list[str]:
    """Return the words after ``mi-duck`` of the command that a script runs."""
    return shlex.split(script.read_text().rstrip().splitlines()[-1].partition(" -m mi_duck ")[2])


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    folder = tmp_path / "slurm bin"
    folder.mkdir()
    return FakeSlurm(folder, seed=1)


def test_slurm__gives_the_models_of_a_run_here(
    slurm: FakeSlurm, dataset: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tasks shuffled, killed, requeued and done twice, and an instance that is lost at first."""
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    run = tmp_path / NAME
    command = ("run", dataset, "--out", run, *FLAGS, *QUICK, "--executor", "slurm")
    submitted = invoke(*command, "--slurm-options", "--partition=long", "--json")
    assert submitted.exit_code == 0, submitted.output
    assert json.loads(submitted.stdout) == {"partition": "100", "instances": "101", "finish": "102"}
    jobs = slurm.jobs()
    assert invoke(*command_of(next(jobs)[1])).exit_code == 0
    _, script = next(jobs)
    assert directives(script.read_text())["--partition"] == "long"
    script.write_text(script.read_text().replace("--array=0-2", "--array=0-1"))  # as if the third were never started
    slurm.run(script, killed=1, doubled=1)
    assert slurm.codes == [0, 0]
    assert [is_trained(RunFolder(run), plan_of(run), one) for one in plan_of(run).cut.instances] == [True, True, False]
    assert_refused(invoke(*command_of(next(jobs)[1])), 69, "1 of 3 instances not trained yet (instance_02)")
    assert json.loads((run / "consolidation_summary.json").read_bytes())["instances_lost"] == [2]
    assert [number for number, _ in jobs] == []

    again = invoke(*command)
    assert again.exit_code == 0, again.output
    left = {script.name: script for _, script in slurm.jobs()}
    assert list(left) == ["partition.sh", "instances.sh", "finish.sh"]  # the rows went with the scratch of the ensemble
    assert directives(left["instances.sh"].read_text())["--array"] == "2"
    slurm.run(left["instances.sh"], killed=0, doubled=0)
    assert invoke(*command_of(left["finish.sh"])).exit_code == 0
    assert trained_files(run) == trained_files(reference)
    assert invoke("finish", reference, *QUICK, "--threads", "1").exit_code == 0
    assert file_sha256(RunFolder(run).model) == file_sha256(RunFolder(reference).model)
    done = invoke(*command)
    assert done.exit_code == 0
    assert "nothing to do" in done.stderr


def test_slurm__fits_leaves_together_in_jobs_of_their_own(
    slurm: FakeSlurm, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that is worth it: six parts of two folds, three final ones, shuffled and begun twice; one that is missing is done."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert invoke("run", dataset, "--out", whole, *FLAGS, *QUICK).exit_code == 0
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    monkeypatch.setattr("mi_duck.workflow.refit.WORTH_SECONDS", 0.0)
    submitted = invoke("run", dataset, "--out", run, *FLAGS, *QUICK, "--executor", "slurm", "--json")
    assert submitted.exit_code == 0, submitted.output
    assert list(json.loads(submitted.stdout)) == ["partition", "instances", "refit", "refit_final", "finish"]
    scripts_of = {script.stem: script for _, script in slurm.jobs()}
    assert directives(scripts_of["refit"].read_text())["--array"] == "0-5"
    assert directives(scripts_of["refit_final"].read_text())["--array"] == "6-8"
    assert directives(scripts_of["refit"].read_text())["--cpus-per-task"] == "1"
    for name in ("partition", "instances"):
        slurm.run(scripts_of[name], killed=0, doubled=0)
    assert_refused(invoke("consolidate", run, "--refit-part", 6, "--threads", "1"), 65, "is not refitted yet")
    slurm.run(scripts_of["refit"], killed=0, doubled=2)
    scratch = run / ".scratch" / "refit"
    assert len(list(scratch.glob("fold_*.miduck"))) == 6
    slurm.run(scripts_of["refit_final"], killed=0, doubled=0)
    assert sorted(file.name for file in scratch.iterdir()) == sorted(
        f"{name}_class_{index}.miduck" for name in ("fold_0", "fold_1", "final") for index in range(3)
    )
    stamps = {file: file.stat().st_mtime_ns for file in scratch.iterdir()}
    missing = scratch / "fold_1_class_2.miduck"
    missing.unlink()
    assert invoke("consolidate", run, "--threads", "1").exit_code == 0
    changed_files = [file for file, stamp in stamps.items() if file.stat().st_mtime_ns != stamp]
    assert changed_files == [missing]
    assert file_sha256(RunFolder(run).model) == file_sha256(RunFolder(whole).model)
    assert file_sha256(RunFolder(run).out_of_fold) == file_sha256(RunFolder(whole).out_of_fold)
    assert invoke("consolidate", run, "--refit-part", 0, "--voting", "margin").exit_code == 2
    assert_refused(invoke("consolidate", run, "--refit-part", 9), 78, "parts are 0 to 5, then the final ones, 6 to 8")


def test_slurm__that_is_not_here_gets_its_scripts(
    planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = invoke("train", planned, "--executor", "slurm", "--threads", "1")
    assert_refused(result, 78, f"run 'sh {slurm_folder(RunFolder(planned))}/submit.sh'")
    written = sorted(file.name for file in slurm_folder(RunFolder(planned)).glob("*.sh"))
    assert written == ["instances.sh", "partition.sh", "submit.sh"]  # the run is trained alone, not finished


def test_slurm__that_refuses_is_quoted(slurm: FakeSlurm, planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    (slurm.folder / "open").unlink()
    result = invoke("train", planned, "--executor", "slurm")
    assert_refused(result, 78, "Slurm refused a job: sbatch: error: Batch job submission failed: Invalid account")


def test_slurm__is_not_given_a_run_twice(slurm: FakeSlurm, planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its jobs wait in the queue, or while somebody submits it."""
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    squeue = slurm.folder / "squeue"
    squeue.write_text("#!/bin/sh\necho '101_[0-2]'\n")
    squeue.chmod(0o755)
    assert invoke("train", planned, "--executor", "slurm").exit_code == 0
    assert_refused(invoke("train", planned, "--executor", "slurm"), 75, "end them with 'scancel 100 101'")
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    with run_lock(planned, name=".lock_submission"):
        assert_refused(invoke("train", planned, "--executor", "slurm"), 75, "another mi-duck")
    assert invoke("train", planned, "--executor", "slurm").exit_code == 0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--executor", "slurm", "--slurm-options", "--partition='long"), 78, "quote it as for a shell"),
        (("--executor", "slurm", "--slurm-options", "long"), 78, "'long' is not an option"),
        (("--executor", "slurm", "--slurm-options", "--comment='a\nb'"), 78, "cannot stand in a script"),
        (("--slurm-options", "--partition=long"), 2, "--slurm-options needs --executor slurm"),
        (("--executor", "slurm", "--dask-scheduler", "tcp://127.0.0.1:1"), 2, "--dask-scheduler needs --executor dask"),
        (("--executor", "slurm", "--instance", "0"), 2, "--instance trains one"),
        (("--partition-only", "--instance", "0"), 2, "--instance trains one"),
        (("--workers", "2", "--instance", "0"), 2, "--instance trains one"),
        (("--partition-only", "--workers", "2"), 2, "--partition-only trains none"),
        (("--executor", "pbs"), 2, "pbs"),
    ],
)
def test_executor__refuses_what_cannot_work(flags: tuple[str, ...], code: int, words: str, planned: Path) -> None:
    assert_refused(invoke("train", planned, *flags), code, words)


def test_executor__needs_a_plan(tmp_path: Path) -> None:
    for command in (
        ("train", tmp_path, "--executor", "slurm"),
        ("train", tmp_path, "--partition-only"),
        ("finish", tmp_path),
    ):
        assert_refused(invoke(*command), 65, "no plan")


def test_finish__of_a_run_without_a_trained_instance_is_refused(planned: Path) -> None:
    assert_refused(invoke("finish", planned), 69, "3 of 3 instances not trained yet")
    assert not (planned / "consolidated_model.miduck").exists()


# ---- workers of Dask --------------------------------------------------------------------------------------------------


def test_dask__gives_the_models_of_a_run_here(planned: Path, reference: Path) -> None:
    pytest.importorskip("distributed", reason="pip install 'mi-duck[dask]'")
    pytest.importorskip("cryptography", reason="pip install 'mi-duck[dask]'")
    done = mi_duck("train", planned, "--executor", "dask", "--threads", "2")
    assert "training 3 instances by Dask at tls://127.0.0.1:" in done.stderr
    assert trained_files(planned) == trained_files(reference)


def test_dask__fits_leaves_together_by_its_workers(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="pip install 'mi-duck[dask]'")
    pytest.importorskip("cryptography", reason="pip install 'mi-duck[dask]'")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert invoke("run", dataset, "--out", whole, *FLAGS, *QUICK).exit_code == 0
    monkeypatch.setattr("mi_duck.workflow.refit.WORTH_SECONDS", 0.0)
    done = invoke("run", dataset, "--out", run, *FLAGS, *QUICK, "--executor", "dask")
    assert done.exit_code == 0, done.output
    assert "fitting leaves together by Dask, in 9 parts" in done.stderr
    assert file_sha256(RunFolder(run).model) == file_sha256(RunFolder(whole).model)


def test_dask__that_is_not_installed_is_named(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert_refused(invoke("train", planned, "--executor", "dask"), 78, "pip install 'mi-duck[dask]'")

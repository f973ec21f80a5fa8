"""Trains a run by jobs of Slurm: writes their scripts to ``RUN/slurm``, submits them, and returns.

The jobs follow from ``plan.json`` alone, and what is done is known from the run folder, so submitting again submits what is
left, and nothing has to stay running meanwhile.
"""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

from mi_duck.checkpoint import storage_errors, write_file, write_json
from mi_duck.children import Say
from mi_duck.errors import PlanError, RunBusyError
from mi_duck.executors.slurm_scripts import DESCRIBED, job_sizes, scripts, slurm_folder
from mi_duck.folders import RunFolder
from mi_duck.locks import run_lock
from mi_duck.pipeline import Diagnostics, is_scored
from mi_duck.runs import untrained
from mi_duck.stages import is_partitioned

JOBS = "jobs.json"
MOST_CORES = 8  # of a job where the user names no number; this machine may have many more than a node gives


def submit(
    root: Path,
    *,
    sbatch_options: str | None,
    threads: int,
    at_once: int | None = None,
    diagnostics: Diagnostics | None,
    say: Say,
) -> dict[str, str]:
    """Submit jobs that train the instances that are not done, and one that finishes the run.

    Parameters
    ----------
    root
        The run folder.
    sbatch_options
        More options of sbatch, quoted as for a shell.
    threads
        Cores of each job.
    at_once
        Most instances trained at once.
    diagnostics
        What finishing the run writes beside model and scores; None to leave it unfinished.
    say
        Takes messages.

    Returns
    -------
    dict[str, str]
        Numbers of the jobs by their names; empty where nothing is left to do.

    Raises
    ------
    CheckpointError
        There is no plan.
    RunBusyError
        The jobs of the last submission have not ended.
    PlanError
        There is no Slurm here, or it refused a job.
    """
    words = _words(sbatch_options)
    folder = RunFolder(root)
    plan = folder.read_plan()
    with run_lock(root, name=".lock_submission"):
        home = slurm_folder(folder)
        _refuse_queued(home)
        left = [loss.instance for loss in untrained(folder, plan)]
        if not left and diagnostics is None:
            say(f"nothing to do: all instances of {root} are trained")
            return {}
        if not left and diagnostics and is_scored(folder, plan, diagnostics) and diagnostics.are_explained(folder):
            return {}  # which finishing the run will say
        names = [name for name in DESCRIBED if name != "finish" or diagnostics is not None]
        if not left:
            names = ["finish"]
        elif is_partitioned(folder, plan):
            names.remove("partition")
        texts = scripts(
            folder,
            plan,
            left,
            names=names,
            cores=threads,
            at_once=at_once,
            sbatch_options=words,
            diagnostics=diagnostics or Diagnostics(),
        )
        with storage_errors(home):
            (home / "logs").mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_file(home / name, text.encode())
        for name in names:
            size = job_sizes(plan, left, cores=threads)[name]
            tasks = f"{len(left)} tasks, each with " if name == "instances" else ""
            say(f"job {name}: {tasks}{size.mebibytes:,} MiB, {size.cores} cores, at most {size.minutes:,} minutes")
        return _submitted(home, say)


def _words(sbatch_options: str | None) -> list[str]:
    """Return the words of the user's options.

    Raises
    ------
    PlanError
        They are no options: a quote is open, or the first would be taken for the name of a script.
    """
    try:
        words = shlex.split(sbatch_options or "")
    except ValueError as error:
        raise PlanError(f"--slurm-options {sbatch_options}: {error}; quote it as for a shell") from error
    if words and not words[0].startswith("-"):
        raise PlanError(f"--slurm-options {sbatch_options}: '{words[0]}' is no option; write it as '--partition=long'")
    return words


def _refuse_queued(home: Path) -> None:
    """Refuse to submit while jobs of the last submission wait or run, as far as Slurm is here to be asked."""
    try:
        jobs = json.loads((home / JOBS).read_bytes())
        numbers = ",".join(sorted(str(int(number)) for number in jobs.values()))
    except (OSError, ValueError, TypeError, AttributeError):  # none was submitted
        return
    if not numbers or shutil.which("squeue") is None:
        return
    asked = subprocess.run(
        ["squeue", "--noheader", "--format=%i", f"--jobs={numbers}"], capture_output=True, text=True, check=False
    )
    queued = sorted(set(asked.stdout.split()))
    if queued:
        raise RunBusyError(
            f"jobs of {home.parent} are still in the queue: {', '.join(queued[:5])}; wait for them, or end them with 'scancel "
            f"{numbers.replace(',', ' ')}'"
        )


def _submitted(home: Path, say: Say) -> dict[str, str]:
    """Run ``submit.sh``; return the numbers of the jobs by their names."""
    if shutil.which("sbatch") is None:
        raise PlanError(
            f"no sbatch on the PATH; the scripts are written: on a machine of the cluster run 'sh {home / 'submit.sh'}'"
        )
    done = subprocess.run(["sh", str(home / "submit.sh")], capture_output=True, text=True, check=False)
    jobs = dict(line.split() for line in done.stdout.splitlines())
    write_json(home / JOBS, jobs)
    if done.returncode != 0:
        queued = f"; in the queue already, for 'scancel': {' '.join(jobs.values())}" if jobs else ""
        cause = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PlanError(
            f"Slurm refused a job: {cause}; mend --slurm-options, or edit the scripts and run 'sh {home / 'submit.sh'}'{queued}"
        )
    say(f"submitted; 'mi-duck status {home.parent}' shows how far it is, {home / 'logs'} what the jobs print")
    return jobs

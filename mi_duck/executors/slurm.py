"""Trains a run by jobs of Slurm: writes their scripts to ``RUN/slurm``, submits them, and returns.

A job array trains one instance per task. Before it, one job writes the rows of all instances, so that no task holds cores
while it waits for another that does; after it, one job finishes the run, whether all tasks ended well or not. Where leaves are
fitted together and that takes long, two arrays before the last job do its parts. The jobs follow from ``plan.json`` alone, and
what is done is known from the run folder, so submitting again submits what is left, and nothing has to stay running meanwhile.

Memory is that of the largest instance with a margin, and the command that watches its child process. What a control group
counts beside is the cache of files, which the kernel gives back before it kills, so nothing is asked for it.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from mi_duck.atomic_files import storage_errors, write_file, write_json
from mi_duck.errors import PlanError, RunBusyError
from mi_duck.plan.times import instance_seconds
from mi_duck.processes import Say
from mi_duck.rows.partition import is_partitioned
from mi_duck.run.folder import RunFolder, is_explained, run_lock
from mi_duck.run.plan import Instance, Plan
from mi_duck.settings import Diagnostics, flags_of
from mi_duck.workflow.pipeline import explaining, is_finished, lacks_diagnostics, untrained
from mi_duck.workflow.refit import core_seconds, is_worth_parts, n_parts, part_bytes, parts_on_disk
from mi_duck.workflow.true_rate import lacks_true_rate

JOBS = "jobs.json"
PACKAGES = Path(__file__).resolve().parents[2]  # where Python finds mi_duck, installed or a checkout
MIB = 1 << 20
MARGIN = 1.15  # times the predicted peak; predictions are within .97 and 1.05 where they are measured
WATCHER_BYTES = 192 * MIB  # the command itself, beside the process that trains
LEAST_BYTES = 2048 * MIB  # SQL takes 1 GiB, and what reads and writes Parquet beside it
SLOWER = 2.0  # times the predicted seconds without early stopping, for nodes and disks slower than here
SPARE_MINUTES = 30  # to start, to wait for disks, and to write the rows where no job did
ROWS_WRITTEN_A_MINUTE = 300_000  # a sixth of what two cores and a disk of their own write
ROWS_SCORED_A_MINUTE = 50_000  # a quarter of what one busy core scored
SCORED_ROW_BYTES = 400  # twice what scoring 360,000 rows took beside what any process takes
MARGIN_SECONDS = 120  # between being asked to end and being killed; a round is finished and saved in less

DESCRIBED = {
    "partition": "Writes the rows that each instance of the run is trained on.",
    "instances": "Trains one instance of the run, the one of this task's number.",
    "refit": "Fits the leaves of all instances together: one class of one fold, the part of this task's number.",
    "refit_final": "Fits the leaves of the final boosters together: one class, the part of this task's number.",
    "finish": "Makes model, scores, explanations and report of what was trained; 69 where an instance was lost.",
}
"""The jobs of a run in their order."""
SCRIPT = """#!/bin/sh
# {described}
# Doing it twice, or again after it was interrupted, does no harm. Edit it as you like; submit.sh submits it.
{options}

export PYTHONPATH={packages}"${{PYTHONPATH:+:$PYTHONPATH}}"
# exec: the shell becomes the command, which the signal before the limit reaches: it saves what it has and ends
exec {command}
"""


@dataclass(frozen=True, slots=True)
class JobSize:
    """What a job asks for: memory in MiB, a limit in minutes, cores."""

    mebibytes: int
    minutes: int
    cores: int


def job_sizes(plan: Plan, instances: Sequence[Instance], *, cores: int) -> dict[str, JobSize]:
    """Return what each job of `DESCRIBED` asks for; ``instances`` are those that are to be trained, and may be none."""
    n_rows = plan.data.n_rows + plan.data.n_holdout_rows
    part_minutes = core_seconds(plan, plan.settings.n_estimators) / n_parts(plan)[0] / 60
    largest = max((one.predicted_bytes for one in instances), default=0)
    settings, layout, rates = plan.settings, plan.costs.model.layout, plan.costs.rates
    most = [
        instance_seconds(
            plan.cut.strategy_used, one.n_training_rows, settings, layout, rates, settings.n_estimators
        )  # no fit stops early
        for one in instances
    ]
    training = max(MARGIN * largest + WATCHER_BYTES, LEAST_BYTES)
    scoring = max(training, LEAST_BYTES + SCORED_ROW_BYTES * n_rows)
    writing_minutes = SPARE_MINUTES + n_rows / ROWS_WRITTEN_A_MINUTE
    training_minutes = writing_minutes + SLOWER * max(most, default=0.0) / 60
    refitting = max(MARGIN * part_bytes(plan) + WATCHER_BYTES, LEAST_BYTES)
    of_part = JobSize(ceil(refitting / MIB), ceil(writing_minutes + SLOWER * part_minutes), 1)
    return {
        "partition": JobSize(ceil(LEAST_BYTES / MIB), ceil(writing_minutes), cores),
        "refit": of_part,
        "refit_final": of_part,
        "instances": JobSize(ceil(training / MIB), ceil(training_minutes), cores),
        "finish": JobSize(ceil(scoring / MIB), ceil(training_minutes + n_rows / ROWS_SCORED_A_MINUTE), cores),
    }


def scripts(
    folder: RunFolder,
    plan: Plan,
    instances: Sequence[Instance],
    *,
    names: Sequence[str],
    cores: int,
    at_once: int | None,
    refits_at_once: int | None = None,
    sbatch_options: Sequence[str],
    diagnostics: Diagnostics,
) -> dict[str, str]:
    """Return the texts of the scripts by file name: one for each job, and ``submit.sh``, which submits them.

    Parameters
    ----------
    names
        Which jobs of `DESCRIBED` there are, in their order.
    at_once
        Most tasks of the array that may run at once; None for as many as there is room for.
    sbatch_options
        Words that the user adds; they win over ours.

    Raises
    ------
    PlanError
        The path of the run or a word of the user's cannot stand in a script.
    """
    home = slurm_folder(folder)
    if broken := [text for text in (str(home), *sbatch_options) if not text.isprintable()]:
        raise PlanError(f"{broken[0]!r} cannot stand in a script of Slurm, which has it in one line; choose another")
    if "\\" in str(home):
        raise PlanError(f"Slurm cannot write to {home}, whose path has a backslash; choose another --out")
    sizes = job_sizes(plan, instances, cores=cores)
    run = shlex.quote(str(folder.root.absolute()))
    title = re.sub(r"[^\w.-]", "_", folder.root.absolute().name)
    words = {
        "partition": f"train {run} --partition-only",
        "instances": f'train {run} --instance "$SLURM_ARRAY_TASK_ID"',
        "refit": f'consolidate {run} --refit-part "$SLURM_ARRAY_TASK_ID"',
        "refit_final": f'consolidate {run} --refit-part "$SLURM_ARRAY_TASK_ID"',
        "finish": " ".join([f"finish {run}", *flags_of(diagnostics)]),
    }
    most = {"instances": at_once} | dict.fromkeys(("refit", "refit_final"), refits_at_once)
    of_folds, final = n_parts(plan)
    arrays = {
        "instances": array_of(instances),
        "refit": ranges_of(range(of_folds)),
        "refit_final": ranges_of(range(of_folds, of_folds + final)),
    }
    found = {}
    for name in names:
        size, is_array = sizes[name], name in arrays
        wanted = [
            f"--job-name=mi_duck_{name}_{title}",
            *([f"--array={arrays[name]}{f'%{most[name]}' if most[name] else ''}"] if is_array else []),
            "--ntasks=1",
            f"--cpus-per-task={size.cores}",
            f"--mem={size.mebibytes}M",
            f"--time={size.minutes}",
            *(["--gres=gpu:1"] if name == "instances" and plan.settings.device != "cpu" else []),
            f"--signal=B:TERM@{MARGIN_SECONDS}",
            "--requeue",
            "--open-mode=append",
            f"--output={str(home).replace('%', '%%')}/logs/{name}-{'%A_%a' if is_array else '%j'}.log",
        ]
        lines = [sbatch_word(word) for word in wanted]
        if sbatch_options:
            lines.append(" ".join(map(sbatch_word, sbatch_options)))
        found[f"{name}.sh"] = SCRIPT.format(
            described=DESCRIBED[name],
            options="\n".join(f"#SBATCH {line}" for line in lines),
            packages=shlex.quote(str(PACKAGES)),
            command=f"{shlex.quote(sys.executable)} -P -m mi_duck {words[name]} --threads {size.cores}",
        )
    return found | {"submit.sh": _submission(home, names)}


def _submission(home: Path, names: Sequence[str]) -> str:
    """Return the script that submits the others, each after the one before it has ended, however that did."""
    lines = [
        "#!/bin/sh",
        "# Submits the jobs of the run, each after the one before it; prints their names and numbers.",
    ]
    lines.append("set -eu")
    before = ""
    for name in names:
        after = f' --dependency="afterany:${before}"' if before else ""
        lines += [
            f"{name}=$(sbatch --parsable{after} {shlex.quote(str(home / f'{name}.sh'))})",
            f"{name}=${{{name}%%;*}}  # without the name of the cluster",
            f'echo "{name} ${name}"',
        ]
        before = name
    return "\n".join([*lines, ""])


def slurm_folder(folder: RunFolder) -> Path:
    """Return where the scripts of a run and what its jobs print lie."""
    return folder.root.absolute() / "slurm"


def array_of(instances: Sequence[Instance]) -> str:
    """Return the numbers of instances as Slurm writes them, such as ``0-3,7``."""
    return ranges_of(one.instance_id for one in instances)


def ranges_of(numbers: Iterable[int]) -> str:
    """Return numbers of tasks as Slurm writes them, such as ``0-3,7``."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def sbatch_word(text: str) -> str:
    """Return a word as it must stand in a ``#SBATCH`` line, where Slurm knows quotes and backslashes, but not as shells do."""
    if re.fullmatch(r"[\w.,:;/%@=+-]+", text, flags=re.ASCII):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


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
    sbatch_options
        More options of sbatch, quoted as for a shell.
    threads
        Cores of each job.
    diagnostics
        What finishing the run writes beside model and scores; None to leave it unfinished.

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
        if not left and diagnostics and _is_complete(folder, plan, diagnostics):
            return {}  # which finishing the run will say
        is_refitting = diagnostics is not None and is_worth_parts(plan, plan.asked.consolidation)
        if is_refitting and diagnostics and is_finished(folder, plan) and not lacks_diagnostics(folder, diagnostics):
            is_refitting = False  # the model is there; what is missing comes after it
        needed = {
            "partition": (bool(left) or is_refitting) and not is_partitioned(folder, plan),
            "instances": bool(left),
            "refit": is_refitting,
            "refit_final": is_refitting,
            "finish": diagnostics is not None,
        }
        names = [name for name in DESCRIBED if needed[name]]
        texts = scripts(
            folder,
            plan,
            left,
            names=names,
            cores=threads,
            at_once=at_once,
            refits_at_once=_refits_at_once(folder, plan, at_once),
            sbatch_options=words,
            diagnostics=diagnostics or Diagnostics(),
        )
        with storage_errors(home):
            (home / "logs").mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_file(home / name, text.encode())
        sizes = job_sizes(plan, left, cores=threads)
        for name in names:
            size = sizes[name]
            n_tasks = dict(zip(("instances", "refit", "refit_final"), (len(left), *n_parts(plan)), strict=True))
            tasks = f"{n_tasks[name]} tasks, each with " if name in n_tasks else ""
            cores = f"{size.cores} core{'s' if size.cores > 1 else ''}"
            say(f"job {name}: {tasks}{size.mebibytes:,} MiB, {cores}, at most {size.minutes:,} minutes")
        return _submitted(home, say)


def _refits_at_once(folder: RunFolder, plan: Plan, at_once: int | None) -> int | None:
    """Return how many parts of a refit may be done at once, whose leaf numbers lie side by side; None where all may."""
    n_tasks = n_parts(plan)[0]
    most = min(at_once or n_tasks, parts_on_disk(folder, plan))
    return most if most < n_tasks else None


def _is_complete(folder: RunFolder, plan: Plan, diagnostics: Diagnostics) -> bool:
    """Return whether a run is finished and has all that is asked for."""
    is_scored = is_finished(folder, plan) and not lacks_diagnostics(folder, diagnostics)
    is_scored = is_scored and not lacks_true_rate(folder, diagnostics)
    return is_scored and (diagnostics.skip_shap or is_explained(folder, **explaining(diagnostics)))


def _words(sbatch_options: str | None) -> list[str]:
    """Return the words of the user's options; refuse an open quote, and a first word that would be taken for a script."""
    try:
        words = shlex.split(sbatch_options or "")
    except ValueError as error:
        raise PlanError(f"--slurm-options {sbatch_options}: {error}; quote it as for a shell") from error
    if words and not words[0].startswith("-"):
        wrong = f"'{words[0]}' is not an option; write it as '--partition=long'"
        raise PlanError(f"--slurm-options {sbatch_options}: {wrong}")
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
        remedy = f"wait for them, or end them with 'scancel {numbers.replace(',', ' ')}'"
        raise RunBusyError(f"jobs of {home.parent} are still in the queue: {', '.join(queued[:5])}; {remedy}")


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
            f"Slurm refused a job: {cause}; correct --slurm-options, or edit the scripts and run "
            f"'sh {home / 'submit.sh'}'{queued}"
        )
    say(f"submitted; 'mi-duck status {home.parent}' shows how far it is, {home / 'logs'} what the jobs print")
    return jobs

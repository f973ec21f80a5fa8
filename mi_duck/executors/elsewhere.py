"""Where instances are trained: here, by jobs of Slurm, by workers of Dask, or by tasks of any scheduler's job array."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mi_duck.processes import Context
from mi_duck.settings import Diagnostics, Executing

MOST_CORES = 8  # of a Slurm job where the user names no number; this machine may have many more than a node gives
NEEDED = {"slurm_options": "slurm", "dask_scheduler": "dask"}
"""Options that act with one executor alone."""
BEGINS_AT = {
    "SLURM_ARRAY_TASK_ID": 0,
    "JOB_COMPLETION_INDEX": 0,  # Kubernetes, jobs with indexed completion
    "PBS_ARRAY_INDEX": 0,
    "LSB_JOBINDEX": 1,
    "SGE_TASK_ID": 1,
}
"""Variables of schedulers, and what stands for instance 0: Slurm's, PBS's and Kubernetes' arrays may begin at 0."""
NO_ARRAY = {("LSB_JOBINDEX", "0"), ("SGE_TASK_ID", "undefined")}
"""What LSF and Grid Engine set in jobs that are not arrays."""


def useless_option(executing: Executing) -> str | None:
    """Return in words which option would do nothing with the executor that is asked for; None where all act."""
    for name, executor in NEEDED.items():
        if getattr(executing, name) is not None and executing.executor != executor:
            return f"--{name.replace('_', '-')} needs --executor {executor}"
    return None


def is_elsewhere(executing: Executing) -> bool:
    """Return whether instances are trained on other machines, whose memory is not known here."""
    return executing.executor == "slurm" or executing.dask_scheduler is not None


def train_elsewhere(
    folder: Path, executing: Executing, context: Context, diagnostics: Diagnostics | None = None
) -> dict[str, str]:
    """Have the instances of a run trained by Dask or Slurm; ``executing.executor`` is not ``local``.

    Parameters
    ----------
    context
        Its threads count where workers are started here.
    diagnostics
        What the last job of Slurm writes beside model and scores; None to leave the run unfinished.

    Returns
    -------
    dict[str, str]
        Numbers of the jobs that do the rest later; empty where all is done.
    """
    if executing.executor == "dask":
        from mi_duck.executors.dask_workers import train_with_dask

        scheduler = executing.dask_scheduler
        threads = context.threads if scheduler is None else executing.threads
        train_with_dask(
            folder,
            context,
            scheduler=scheduler,
            threads=threads,
            at_once=executing.workers,
            is_finishing=diagnostics is not None,
        )
        return {}
    from mi_duck.executors.slurm import submit

    return submit(
        folder,
        sbatch_options=executing.slurm_options,
        threads=executing.threads or min(context.threads, MOST_CORES),
        at_once=executing.workers,
        diagnostics=diagnostics,
        say=context.say,
    )


@dataclass(frozen=True, slots=True)
class ArrayIndex:
    """An index of a job array: the variable that holds it, its value, and the instance (from 0) that it stands for."""

    variable: str
    value: str
    instance_id: int


def array_index(environment: Mapping[str, str]) -> ArrayIndex | None:
    """Return the index of the job array that this process is a task of, from its environment; None where it is of none.

    Raises
    ------
    ValueError
        A variable does not hold an index, or several schedulers give one.
    """
    there = {name: environment.get(name, "") for name in BEGINS_AT}
    found = {name: value for name, value in there.items() if value and (name, value) not in NO_ARRAY}
    if not found:
        return None
    if len(found) > 1:
        names = " and ".join(found)
        raise ValueError(f"{names} are set, so which array this is a task of is unclear; give --instance N")
    ((name, value),) = found.items()
    if not (value.isascii() and value.isdecimal()) or int(value) < BEGINS_AT[name]:
        raise ValueError(f"{name} is '{value}', not an index from {BEGINS_AT[name]}; unset it or give --instance N")
    return ArrayIndex(name, value, int(value) - BEGINS_AT[name])

"""Where instances are trained: here, by jobs of Slurm, or by workers of Dask; chosen by ``--executor``."""

from pathlib import Path

from mi_duck.processes import Context
from mi_duck.settings import Diagnostics, Executing

MOST_CORES = 8  # of a Slurm job where the user names no number; this machine may have many more than a node gives
NEEDED = {"slurm_options": "slurm", "dask_scheduler": "dask"}
"""Options that act with one executor alone."""


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
    """Have the instances of a run trained by Dask or Slurm.

    Parameters
    ----------
    folder
        Of the run.
    executing
        Where; ``executor`` is not ``local``.
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
        train_with_dask(folder, context, scheduler=scheduler, threads=threads, at_once=executing.workers)
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

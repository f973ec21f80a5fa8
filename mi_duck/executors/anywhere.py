"""All steps of a run, its instances trained wherever the request says: what the command line and Python call."""

import tempfile
from pathlib import Path

from mi_duck.data.dataset import Dataset
from mi_duck.executors.elsewhere import is_elsewhere, train_elsewhere
from mi_duck.plan.make_plan import make_plan
from mi_duck.processes import Context
from mi_duck.run.plan import Plan
from mi_duck.settings import Asked, Diagnostics, Executing, Resuming
from mi_duck.workflow import pipeline


def run_request(
    dataset: Dataset,
    out: Path,
    asked: Asked,
    context: Context,
    resuming: Resuming,
    diagnostics: Diagnostics,
    executing: Executing,
) -> dict[str, str]:
    """Plan, train, consolidate, evaluate, explain, report; see `mi_duck.workflow.pipeline.run`.

    Returns
    -------
    dict[str, str]
        Numbers of the jobs of Slurm that do the rest later; empty where all is done.
    """
    request = (dataset, out, asked, context, resuming, diagnostics)
    if executing.executor == "local":
        pipeline.run(*request, workers=executing.workers)
        return {}
    where = pipeline.plan_run(*request, is_elsewhere=is_elsewhere(executing))
    jobs = train_elsewhere(where, executing, context, diagnostics)
    if not jobs:
        pipeline.finish_run(where, diagnostics, context)
    return jobs


def train_request(
    run: Path, context: Context, executing: Executing, *, instance_id: int | None, partition_only: bool
) -> dict[str, str]:
    """Train the instances of a plan that are not done, or one alone, or only write their rows.

    Returns
    -------
    dict[str, str]
        Numbers of the jobs of Slurm that train later; empty where all is done.
    """
    if partition_only:
        pipeline.partition_run(run, context)
    elif executing.executor != "local":
        jobs = train_elsewhere(run, executing, context)
        if jobs:
            return jobs
        pipeline.check_trained(run)
    else:
        pipeline.train_run(run, context, instance_id=instance_id, workers=executing.workers)
    return {}


def tried_plan(dataset: Dataset, asked: Asked, context: Context, executing: Executing) -> Plan:
    """Return the plan of a request; what it writes while it measures is deleted."""
    with tempfile.TemporaryDirectory(prefix="mi_duck_plan_") as folder:
        return make_plan(dataset, Path(folder) / "run", asked, context, is_elsewhere=is_elsewhere(executing))

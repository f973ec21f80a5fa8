"""What may be asked of a run that exists: train, tell, consolidate, evaluate, explain, report; each alone."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_duck.data.dataset import Dataset
from mi_duck.errors import CheckpointError, IncompleteRunError
from mi_duck.plan.make_plan import PlanOptions
from mi_duck.processes import Report, Say, Task
from mi_duck.rows.partition import partition
from mi_duck.run.explanation import check_background
from mi_duck.run.folder import RunFolder, invalidate_file_list, listing_files_again
from mi_duck.run.instance_folder import instance_state, is_trained
from mi_duck.run.locks import run_lock
from mi_duck.run.plan import Plan, Settings, instances_for
from mi_duck.workflow.pipeline import (
    Diagnostics,
    check_request,
    complete,
    consolidate_run,
    describe_instances,
    evaluate,
    explain_model,
    finish,
    is_finished,
    lacks_diagnostics,
    write_page,
)
from mi_duck.workflow.resume import plan_of_request
from mi_duck.workflow.training import Lost, loss_text, train, train_or_split


def explain_alone(
    root: Path, *, sample_size: int, background_size: int, threads: int, report: Report
) -> dict[str, Any]:
    """Explain the model of a consolidated run, as a stage of its own; return the summary.

    Raises
    ------
    CheckpointError
        The run is not consolidated.
    DataError
        A background is asked for without the shap package.
    """
    folder = RunFolder(root)
    folder.read_plan()
    if background_size:
        check_background()
    with run_lock(root), listing_files_again(folder):
        return explain_model(
            folder,
            sample_size=sample_size,
            background_size=background_size,
            with_figures=True,
            threads=threads,
            report=report,
        )


def report_alone(root: Path, *, with_overfitting: bool, report: Report) -> list[str]:
    """Write the report of an evaluated run anew, with all figures; return what it warns of.

    Raises
    ------
    CheckpointError
        The run is not evaluated.
    """
    with run_lock(root), listing_files_again(RunFolder(root)):
        return write_page(RunFolder(root), with_plots=True, with_overfitting=with_overfitting, report=report)


def plan_run(
    dataset: Dataset,
    out: Path,
    *,
    options: PlanOptions,
    settings: Settings,
    threads: int,
    resume: bool,
    force: bool,
    is_elsewhere: bool,
    diagnostics: Diagnostics,
    report: Report,
    say: Say,
) -> Plan:
    """Return the plan of a run that is to be trained by other processes, made now or kept.

    Parameters
    ----------
    dataset, options, settings, threads, resume, force, is_elsewhere
        As for `mi_duck.workflow.resume.plan_of_request`.
    out
        The run folder.
    diagnostics
        What `finish_run` will be asked for.
    report, say
        Take progress and messages.
    """
    check_request(dataset, out, diagnostics)
    with run_lock(out):
        return plan_of_request(
            dataset,
            RunFolder(out),
            options=options,
            settings=settings,
            threads=threads,
            resume=resume,
            force=force,
            is_elsewhere=is_elsewhere,
            report=report,
            say=say,
        )


def finish_run(root: Path, *, diagnostics: Diagnostics, threads: int, report: Report, say: Say) -> None:
    """Make of the trained instances all that a run gives: model, scores, explanations, report; train nothing.

    Raises
    ------
    CheckpointError
        There is no plan.
    IncompleteRunError
        Instances are not trained; all that the others give is written.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    if diagnostics.with_shap and diagnostics.shap_background:
        check_background()
    with run_lock(root):
        started = datetime.now(UTC).isoformat(timespec="seconds")
        lost = untrained(folder, plan)
        if len(lost) < len(plan.instances):
            complete(folder, diagnostics, 0, started, threads=threads, report=report, say=say)
    if lost:
        raise IncompleteRunError(loss_text(plan, lost, f"'mi-duck train {root}' tries them again"))


def check_trained(root: Path) -> None:
    """Refuse a run of which instances are not trained.

    Raises
    ------
    IncompleteRunError
        Some are not.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    lost = untrained(folder, plan)
    if lost:
        raise IncompleteRunError(loss_text(plan, lost))


def untrained(folder: RunFolder, plan: Plan) -> tuple[Lost, ...]:
    """Return the instances of a plan that are not trained, each with why, as far as that is known."""
    found = []
    for instance in plan.instances:
        state = instance_state(folder, plan, instance)
        if state.name != "done":
            why = state.detail or f"{instance.name} was not trained"
            found.append(Lost(instance, IncompleteRunError(why)))
    return tuple(found)


def partition_run(root: Path, *, threads: int, report: Report) -> None:
    """Write the rows of all instances, so that jobs that train them need not wait for the one that would.

    Raises
    ------
    CheckpointError
        There is no plan.
    """
    folder = RunFolder(root)
    with run_lock(root, shared=True):
        partition(folder, folder.read_plan(), threads=threads, report=report)


def train_run(root: Path, *, instance_id: int | None, threads: int, workers: int = 1, report: Report, say: Say) -> None:
    """Train the instances of a plan that are not done, or one alone.

    Parameters
    ----------
    root, threads, workers, report, say
        As in `mi_duck.workflow.training.train`.
    instance_id
        The one; None for all.

    Raises
    ------
    CheckpointError
        There is no plan.
    PlanError
        The plan has no such instance.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    if instance_id is None:
        with run_lock(root):
            lost = train(folder, plan, threads=threads, workers=workers, report=report, say=say)[1]
        if lost:
            raise IncompleteRunError(loss_text(folder.read_plan(), lost))
        return
    with run_lock(root, shared=True):
        waiting = list(instances_for(plan, instance_id))
        while waiting:
            instance = waiting.pop(0)
            place = f"[Instance {[*plan.instances, instance].index(instance) + 1}/{len(plan.instances)}]"
            if is_trained(folder, plan, instance):
                say(f"{place} reusing {instance.name}")
                continue
            partition(folder, plan, threads=threads, report=report)
            outcome = train_or_split(folder, instance, place, Task(), threads=threads, report=report, say=say)
            if outcome.cause is not None:
                raise outcome.cause
            waiting += outcome.halves
            plan = folder.read_plan()


def consolidate_alone(
    root: Path, *, voting: str | None = None, weights: str | None = None, threads: int, report: Report, say: Say
) -> None:
    """Join what is trained into one model, as a stage of its own; voting and weights are the plan's unless given."""
    folder = RunFolder(root)
    plan = folder.read_plan()
    with run_lock(root), listing_files_again(folder):
        consolidate_run(folder, plan, threads=threads, voting=voting, weights=weights, report=report, say=say)
    n_missing = sum(not is_trained(folder, plan, one) for one in plan.instances)
    if n_missing:
        raise IncompleteRunError(
            f"{n_missing} of {len(plan.instances)} instances are not trained, so the model is of the others; 'mi-duck train "
            f"{root}' goes on"
        )


def evaluate_alone(
    root: Path, *, calibration_analysis: bool = True, neigh_sample: int = 0, threads: int, report: Report
) -> None:
    """Score a consolidated run and write its catalogue, as a stage of its own.

    Parameters
    ----------
    root, threads
        The run.
    calibration_analysis, neigh_sample
        As in `mi_duck.evaluate.evaluate.evaluate_run`.
    report
        Takes progress.

    Raises
    ------
    CheckpointError
        The run is not consolidated.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    with run_lock(root):
        if not folder.model.is_file():
            raise CheckpointError(f"{root} has no consolidated model yet; run 'mi-duck consolidate {root}'")
        if is_finished(folder, plan) and not lacks_diagnostics(folder, calibration_analysis, neigh_sample):
            return
        invalidate_file_list(folder)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        evaluate(
            folder,
            threads=threads,
            calibration_analysis=calibration_analysis,
            neigh_sample=neigh_sample,
            report=report,
        )
        describe_instances(folder, threads=threads, is_minimal=False, report=report)
        finish(folder, plan, started, report=report)

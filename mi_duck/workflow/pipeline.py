"""The steps of a run, once and in their order: `run` takes all of them, each command alone takes one.

`run` plans and trains, `complete` makes of the trained instances all that a run gives. Every step with memory of its own
runs in a child process (`mi_duck.workflow.steps`), so the memory of one never adds to that of the next.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from mi_duck import __version__
from mi_duck.atomic_files import file_sha256
from mi_duck.data.dataset import Dataset, check_apart
from mi_duck.errors import CheckpointError, IncompleteRunError, MemoryBudgetError, StorageError
from mi_duck.evaluate.catalogue import complete_stages, write_catalogue
from mi_duck.processes import ChildResult, Context, Pool, Task, in_child
from mi_duck.report.summary import write_summary
from mi_duck.rows.partition import partition
from mi_duck.run.folder import (
    RunFolder,
    check_background,
    check_files,
    invalidate_file_list,
    is_explained,
    listing_files_again,
    read_provenance,
    read_shap_summary,
    run_lock,
    write_provenance,
)
from mi_duck.run.instance_folder import instance_state, is_trained
from mi_duck.run.plan import Plan, instances_for
from mi_duck.run.progress import noting
from mi_duck.run.stage_times import (
    CATALOGUE,
    EXPLAINING,
    HOLDOUT,
    JOINING,
    REPORT,
    SCORING,
    keep_stages,
)
from mi_duck.settings import Asked, Diagnostics, Resuming
from mi_duck.usage import Meter
from mi_duck.workflow import steps
from mi_duck.workflow.refit import is_worth_parts, refit
from mi_duck.workflow.replace import (
    change_places,
    check_ours,
    discarded_if_refused,
    folder_to_write,
    link_matching,
    target_of,
)
from mi_duck.workflow.resume import differences_asked, plan_of_request
from mi_duck.workflow.time_left import with_time_left
from mi_duck.workflow.training import Lost, boosted_plan, loss_text, train, train_or_split
from mi_duck.workflow.true_rate import lacks_true_rate, say_what_is_left_out, score_every_position

OF_TREES = (
    *("n_estimators", "early_stopping_patience", "max_depth", "learning_rate", "max_bin"),
    *("layout_used", "cv_used", "xgb_parameters"),
)
"""Settings of boosted trees that other classifiers have no use for."""

# ---- all steps ----------------------------------------------------------------------------------------------------------


def run(
    dataset: Dataset,
    out: Path,
    asked: Asked,
    context: Context,
    resuming: Resuming = Resuming(),
    diagnostics: Diagnostics = Diagnostics(),
    *,
    workers: int | None = None,
) -> Plan:
    """Plan, train, consolidate, evaluate, explain, report; what is done already is not done again.

    Raises
    ------
    IncompleteRunError
        Instances were lost; all that the others give is written.
    """
    check_request(dataset, out, diagnostics)
    with run_lock(out), noting(out, "run", context) as context:
        folder = folder_to_write(out, resuming, context.say, partial(differences_asked, dataset=dataset, asked=asked))
        with nullcontext() if folder.root == out else run_lock(folder.root):
            plan = _plan(dataset, folder, out, asked, context, resuming)
            say_what_is_left_out(plan, diagnostics, context)
            started = now()
            to_do = [one for one in plan.cut.instances if not is_trained(folder, plan, one)]
            context = with_time_left(plan, to_do, diagnostics, context, workers=workers or context.threads)
            n_trained, lost = train(folder, plan, context, workers=workers)
            plan = complete(folder, diagnostics, n_trained, started, context)
            if folder.root != out and not lost:
                change_places(folder.root, out)
                context.say(f"{out} now has the new results")
    if lost:
        where = "" if folder.root == out else f"; {out} keeps its old results"
        raise IncompleteRunError(loss_text(plan, lost) + where)
    return plan


def complete(folder: RunFolder, diagnostics: Diagnostics, n_trained: int, started: str, context: Context) -> Plan:
    """Make of the trained instances all that a run gives; return its plan. The run's lock is held.

    Where none was trained just now, what is complete stays.
    """
    plan = folder.read_plan()
    if n_trained == 0 and is_finished(folder, plan) and not lacks_diagnostics(folder, diagnostics):
        delete_scratch(folder)  # what a kill left while the run deleted it
        is_explaining = not (diagnostics.skip_shap or is_explained(folder, **explaining(diagnostics)))
        is_scanning = lacks_true_rate(folder, diagnostics)
        if not (is_explaining or is_scanning):
            context.say(f"nothing to do: {folder.root} is complete")
            return plan
        with listing_files_again(folder):
            if is_scanning:
                scan(folder, plan, diagnostics, context)
            if is_explaining:
                explain(folder, diagnostics, context)
            write_page(folder, diagnostics, context)
        return plan
    partition(folder, plan, context)  # refuses a dataset that changed, before a file of the run is
    made_by_planning = (
        folder.memory,
        *(file for file in folder.leakage.rglob("*") if file.suffix in (".csv", ".json")),
    )
    check_files(folder, made_by_planning, remedy="restore it, or give the command another --out")
    invalidate_file_list(folder)
    consolidate(folder, plan, context)
    score_and_describe(folder, diagnostics, context)
    publish(folder, plan, started, diagnostics, context)
    return plan


def score_and_describe(folder: RunFolder, diagnostics: Diagnostics, context: Context) -> None:
    """Score a consolidated run; beside it, where a second thread is free, complete its instances and explain its model.

    Neither reads what the other writes. What lacks memory beside the other is done again alone.
    """
    if context.threads > 1 and not context.in_this_process:
        # one thread draws and explains while the others score; a terminal shows one stage, so one of them alone reports
        is_shown = Event()

        def report(stage: str, done: int, total: int) -> None:
            if is_shown.is_set():
                context.report(stage, done, total)

        try:
            with Pool[str, ChildResult[None]]() as pool:
                describe = partial(_describe, folder, diagnostics, replace(context, threads=1, report=report))
                pool.start("describe", lambda task: describe(is_cancelled=task.is_cancelled))
                evaluate(folder, diagnostics, replace(context, threads=context.threads - 1))
                is_shown.set()
                _, described = pool.next()
        except MemoryBudgetError as error:
            context.say(f"scoring and explaining one after the other: {error}")
        else:
            keep_stages(folder, EXPLAINING, described.stages)
            return
    evaluate(folder, diagnostics, context)
    keep_stages(folder, EXPLAINING, _describe(folder, diagnostics, context).stages)


def _describe(
    folder: RunFolder,
    diagnostics: Diagnostics,
    context: Context,
    is_cancelled: Callable[[], bool] | None = None,
) -> ChildResult[None]:
    """Complete the folders of instances and explain the model, unless that is done."""
    asked = explaining(diagnostics)
    return in_child(steps.describe, context, is_cancelled=is_cancelled)(
        run=str(folder.root),
        threads=context.threads,
        is_minimal=diagnostics.minimal_diagnostics,
        figure_format=diagnostics.figure_format,
        explaining=None if diagnostics.skip_shap or is_explained(folder, **asked) else asked,
    )


def check_request(dataset: Dataset, out: Path, diagnostics: Diagnostics) -> None:
    """Refuse what could not end well before anything is done."""
    check_ours(out)
    check_apart(dataset, out)
    if diagnostics.shap_background and not diagnostics.skip_shap:
        check_background()


# ---- one step each ------------------------------------------------------------------------------------------------------


def consolidate(
    folder: RunFolder,
    plan: Plan,
    context: Context,
    *,
    consolidation: str | None = None,
    voting: str | None = None,
    weights: str | None = None,
) -> None:
    """Score all rows out of fold and join the trained instances into one model file.

    The run is partitioned. Where an instance is not trained, the model of the others is written, with its coverage inside.
    """
    consolidation = consolidation or plan.asked.consolidation
    if sum(is_trained(folder, plan, one) for one in plan.cut.instances) < 2:
        consolidation = "voting"  # of one there is nothing to fit together
    if context.threads > 1 and is_worth_parts(plan, consolidation):
        refit(folder, plan, context)
    joined = in_child(steps.consolidate, context)(
        run=str(folder.root),
        threads=context.threads,
        consolidation=consolidation,
        voting=voting or plan.asked.voting,
        weights=weights or plan.asked.weights,
    )
    keep_stages(folder, JOINING, joined.stages)
    for message in joined.value["messages"]:
        context.say(message)


def evaluate(folder: RunFolder, diagnostics: Diagnostics, context: Context) -> None:
    """Score base model, members and ensemble on all rows out of fold, the model on held-out genes, and whole genes."""
    scored = in_child(steps.evaluate, context)(
        run=str(folder.root),
        calibration_analysis=diagnostics.calibration_analysis,
        neigh_sample=diagnostics.sites_shown,
        is_minimal=diagnostics.minimal_diagnostics,
    )
    keep_stages(folder, SCORING, scored.stages)
    if folder.read_plan().data.n_holdout_genes:
        held_out = in_child(steps.evaluate_holdout, context)(run=str(folder.root), threads=context.threads)
        keep_stages(folder, HOLDOUT, held_out.stages)
    score_every_position(folder, diagnostics, context)


def scan(folder: RunFolder, plan: Plan, diagnostics: Diagnostics, context: Context) -> None:
    """Score every position of some genes of a run that is finished but for this."""
    score_every_position(folder, diagnostics, context)
    write_catalogue(folder, plan, read_provenance(folder))


def explain(folder: RunFolder, diagnostics: Diagnostics, context: Context) -> dict[str, Any]:
    """Explain the consolidated model, unless that is done; return the summary."""
    asked = explaining(diagnostics)
    if not is_explained(folder, **asked):
        explained = in_child(steps.explain, context)(run=str(folder.root), **asked, threads=context.threads)
        keep_stages(folder, EXPLAINING, explained.stages)
        if folder.catalogue.is_file():  # its table of importances
            write_catalogue(folder, folder.read_plan(), read_provenance(folder))
    return read_shap_summary(folder)


def explaining(diagnostics: Diagnostics) -> dict[str, Any]:
    """Return what of the model is to be explained."""
    return {
        "sample_size": diagnostics.shap_sample,
        "background_size": diagnostics.shap_background,
        "with_figures": not diagnostics.minimal_diagnostics,
        "figure_format": diagnostics.figure_format,
    }


def write_page(folder: RunFolder, diagnostics: Diagnostics, context: Context) -> list[str]:
    """Write ``report.html`` with its figures; return what it warns of."""
    made = in_child(steps.write_report, replace(context, threads=1))(
        run=str(folder.root),
        with_plots=not diagnostics.minimal_diagnostics,
        with_overfitting=diagnostics.monitor_overfitting,
        figure_format=diagnostics.figure_format,
    )
    keep_stages(folder, REPORT, made.stages)
    return list(made.value["warnings"])


def publish(folder: RunFolder, plan: Plan, started: str, diagnostics: Diagnostics, context: Context) -> None:
    """Write the catalogue, the report and, last, the provenance with the hash of every file; delete the scratch."""
    provenance = {
        "plan_sha256": file_sha256(folder.plan),
        "model_sha256": file_sha256(folder.model),
        "dataset_fingerprint": plan.data.fingerprint,
        "settings": settings_shown(plan),
        "versions": versions(),
        "started_at": started,
        "finished_at": now(),
        "status": "finished" if all(is_trained(folder, plan, one) for one in plan.cut.instances) else "incomplete",
    }
    meter = Meter()
    write_catalogue(folder, plan, provenance)
    keep_stages(folder, CATALOGUE, meter.stages())
    warnings = write_page(folder, diagnostics, context)
    complete_stages(folder, plan)
    write_summary(folder, plan, provenance, warnings=warnings)
    write_provenance(folder, provenance)
    delete_scratch(folder)


def settings_shown(plan: Plan) -> dict[str, Any]:
    """Return the decided settings as provenance and report have them: texts instead of lists, none of what does not apply."""
    values = {name: value for name, value in asdict(plan.settings).items() if name != "zero_is_missing"}
    values |= {name: ", ".join(values[name]) for name in ("xgb_parameters", "estimator_options")}
    if plan.settings.is_boosted:
        return {name: value for name, value in values.items() if not name.startswith("estimator")}
    values |= {"epochs": values["n_estimators"], "epoch_patience": values["early_stopping_patience"]}
    return {name: value for name, value in values.items() if name not in OF_TREES}


def delete_scratch(folder: RunFolder) -> None:
    """Delete what only training needs, gigabytes of it; where the disk refuses, the next run tries again."""
    if folder.scratch.exists():
        try:
            shutil.rmtree(folder.scratch)
        except OSError as error:
            raise StorageError(
                f"cannot delete {folder.scratch} ({error.strerror}), all else of the run is complete; "
                "run the same command again or delete it"
            ) from error


def is_finished(folder: RunFolder, plan: Plan) -> bool:
    """Return whether the last step of a run ended for this plan and this model, and no file was changed since.

    Diagnostics may have been deleted; what later steps and readers rest on may not.
    """
    results = (folder.catalogue, folder.metrics, folder.out_of_fold, folder.summary, folder.thresholds, folder.page)
    try:
        provenance = json.loads(folder.provenance.read_bytes())
        hashes = {folder.root / name: digest for name, digest in provenance["files"].items()}
        return bool(
            provenance["status"] == "finished"
            and provenance["plan_sha256"] == file_sha256(folder.plan)
            and provenance["model_sha256"] == file_sha256(folder.model)
            and all(file.is_file() for file in results)
            and all(file_sha256(file) == digest for file, digest in hashes.items() if file.exists())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def lacks_diagnostics(folder: RunFolder, diagnostics: Diagnostics) -> bool:
    """Return whether tables or figures are asked for that a finished run has not; explanations apart."""
    if not diagnostics.minimal_diagnostics and not folder.curves.is_file():
        return True
    if not diagnostics.minimal_diagnostics and not has_figures(folder, diagnostics.figure_format):
        return True
    if diagnostics.calibration_analysis and not (folder.calibration_analysis / "calibration.json").is_file():
        return True
    try:
        written = json.loads((folder.neighbours / "neighbours.json").read_bytes())["n_sites_asked"]
    except (OSError, ValueError, KeyError, TypeError):
        written = 0
    return bool(diagnostics.sites_shown and diagnostics.sites_shown != written)


def has_figures(folder: RunFolder, figure_format: str | None) -> bool:
    """Return whether figures are in a format; where none is asked for they stay what they are."""
    return figure_format is None or (folder.root / f"pr_base_vs_meta.{figure_format}").is_file()


def versions() -> dict[str, str]:
    """Return the versions of mi_duck and of what its results depend on."""
    return {"mi-duck": __version__} | {
        name: importlib.metadata.version(name) for name in ("duckdb", "numpy", "pyarrow", "scikit-learn", "xgboost")
    }


def now() -> str:
    """Return the time, as provenance and report have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- commands of one step -----------------------------------------------------------------------------------------------


def plan_run(
    dataset: Dataset,
    out: Path,
    asked: Asked,
    context: Context,
    resuming: Resuming,
    diagnostics: Diagnostics,
    *,
    is_elsewhere: bool,
) -> Path:
    """Plan a run that is to be trained by other processes, or keep its plan; return the folder in which it is done."""
    check_request(dataset, out, diagnostics)
    with run_lock(out), noting(out, "plan", context) as context:
        folder = folder_to_write(out, resuming, context.say, partial(differences_asked, dataset=dataset, asked=asked))
        with nullcontext() if folder.root == out else run_lock(folder.root):
            _plan(dataset, folder, out, asked, context, resuming, is_elsewhere=is_elsewhere)
        return folder.root


def _plan(
    dataset: Dataset,
    folder: RunFolder,
    out: Path,
    asked: Asked,
    context: Context,
    resuming: Resuming,
    *,
    is_elsewhere: bool = False,
) -> Plan:
    """Return the plan of a request; one that is done beside a finished run takes over the instances that match."""
    with discarded_if_refused(folder, out):
        plan = plan_of_request(dataset, folder, asked, context, resuming=resuming, is_elsewhere=is_elsewhere)
    if folder.root != out and not resuming.force_retrain_all:
        link_matching(RunFolder(out), folder, plan)
    return plan


def partition_run(root: Path, context: Context) -> None:
    """Write the rows of all instances, so that jobs that train them need not wait for the one that would."""
    folder = RunFolder(root)
    with run_lock(root, shared=True), noting(root, "train", context, suffix="_partition") as context:
        partition(folder, boosted_plan(folder), context)


def train_run(root: Path, context: Context, *, instance_id: int | None, workers: int | None = None) -> None:
    """Train the instances of a plan that are not done, or one alone.

    Raises
    ------
    PlanError
        The plan has no such instance.
    """
    folder = RunFolder(root)
    plan = boosted_plan(folder)
    if instance_id is None:
        with run_lock(root), noting(root, "train", context) as context:
            lost = train(folder, plan, context, workers=workers)[1]
        if lost:
            raise IncompleteRunError(loss_text(folder.read_plan(), lost))
        return
    with run_lock(root, shared=True), noting(root, "train", context, suffix=f"_{instance_id}") as context:
        waiting = list(instances_for(plan, instance_id))
        while waiting:
            instance = waiting.pop(0)
            planned = plan.cut.instances
            label = f"[Instance {[*planned, instance].index(instance) + 1}/{len(planned)}]"
            if is_trained(folder, plan, instance):
                context.say(f"{label} reusing {instance.name}")
                continue
            partition(folder, plan, context)
            outcome = train_or_split(folder, instance, label, Task(), context)
            if outcome.cause is not None:
                raise outcome.cause
            waiting += outcome.halves
            plan = folder.read_plan()


def finish_run(root: Path, diagnostics: Diagnostics, context: Context) -> None:
    """Make of the trained instances all that a run gives: model, scores, explanations, report; train nothing.

    Raises
    ------
    IncompleteRunError
        Instances are not trained; all that the others give is written.
    """
    folder = RunFolder(root)
    plan = boosted_plan(folder)
    if diagnostics.shap_background and not diagnostics.skip_shap:
        check_background()
    with run_lock(root), noting(root, "finish", context) as context:
        started = now()
        lost = untrained(folder, plan)
        if len(lost) < len(plan.cut.instances):
            complete(folder, diagnostics, 0, started, context)
        target = target_of(root)
        if target is not None and not lost:
            with run_lock(target):
                change_places(root, target)
    if lost:
        raise IncompleteRunError(loss_text(plan, lost, f"'mi-duck train {root}' tries them again"))


def consolidate_run(
    root: Path,
    context: Context,
    *,
    consolidation: str | None = None,
    voting: str | None = None,
    weights: str | None = None,
) -> None:
    """Join what is trained into one model; what is not given is the plan's.

    Raises
    ------
    IncompleteRunError
        Instances are not trained; the model of the others is written.
    """
    folder = RunFolder(root)
    plan = boosted_plan(folder)
    with run_lock(root), noting(root, "consolidate", context) as context:
        partition(folder, plan, context)
        # what was changed before is not listed again as it is now
        if not is_finished(folder, plan):
            invalidate_file_list(folder)
        with listing_files_again(folder):
            consolidate(folder, plan, context, consolidation=consolidation, voting=voting, weights=weights)
    n_missing = len(untrained(folder, plan))
    if n_missing:
        raise IncompleteRunError(
            f"{n_missing} of {len(plan.cut.instances)} instances are not trained, so the model is of the others; "
            f"'mi-duck train {root}' goes on"
        )


def evaluate_run(root: Path, diagnostics: Diagnostics, context: Context) -> None:
    """Score a consolidated run and write its catalogue."""
    folder = RunFolder(root)
    plan = boosted_plan(folder)
    with run_lock(root), noting(root, "evaluate", context) as context:
        if not folder.model.is_file():
            raise CheckpointError(f"{root} has no consolidated model yet; run 'mi-duck consolidate {root}'")
        if is_finished(folder, plan):
            if not lacks_diagnostics(folder, diagnostics):
                if lacks_true_rate(folder, diagnostics):
                    with listing_files_again(folder):
                        scan(folder, plan, diagnostics, context)
                        write_page(folder, diagnostics, context)
                return
            if not folder.members.is_file():
                raise CheckpointError(
                    f"{root} is finished and no longer has the scores of its members, from which all others are made; "
                    f"'mi-duck consolidate {root}{_as_joined(folder)}' makes them again, then the same command goes on"
                )
        invalidate_file_list(folder)
        started = now()
        evaluate(folder, diagnostics, context)
        in_child(steps.describe, context)(
            run=str(root),
            threads=context.threads,
            is_minimal=False,
            figure_format=diagnostics.figure_format,
            explaining=None,
        )
        publish(folder, plan, started, diagnostics, context)


def _as_joined(folder: RunFolder) -> str:
    """Return the words by which `consolidate` joins the instances of a run as they are joined now."""
    joined = json.loads(folder.summary.read_bytes())
    if joined["voting"] == "refit":
        return " --consolidation refit"
    return f" --consolidation voting --voting {joined['voting']} --weights {joined['weights']}"


def explain_run(root: Path, diagnostics: Diagnostics, context: Context) -> dict[str, Any]:
    """Explain the model of a consolidated run; return the summary."""
    folder = RunFolder(root)
    boosted_plan(folder)
    if diagnostics.shap_background:
        check_background()
    with run_lock(root):
        check_files(folder)  # before they are listed as they are now
        with listing_files_again(folder):
            return explain(folder, diagnostics, context)


def report_run(root: Path, diagnostics: Diagnostics, context: Context) -> list[str]:
    """Write the report of an evaluated run anew, with all figures; return what it warns of."""
    folder = RunFolder(root)
    with run_lock(root):
        check_files(folder)  # before they are listed as they are now
        with listing_files_again(folder):
            return write_page(folder, diagnostics, context)


def check_trained(root: Path) -> None:
    """Refuse a run of which instances are not trained."""
    folder = RunFolder(root)
    plan = folder.read_plan()
    lost = untrained(folder, plan)
    if lost:
        raise IncompleteRunError(loss_text(plan, lost))


def untrained(folder: RunFolder, plan: Plan) -> tuple[Lost, ...]:
    """Return the instances of a plan that are not trained, each with why, as far as that is known."""
    found = []
    for instance in plan.cut.instances:
        state = instance_state(folder, plan, instance)
        if state.name != "done":
            why = state.detail or f"{instance.name} was not trained yet"
            found.append(Lost(instance, IncompleteRunError(why), was_begun=state.name != "absent"))
    return tuple(found)

"""The whole run as one readable function, and each of its stages alone; the only module that knows their order."""

import importlib.metadata
import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from mi_duck import __version__
from mi_duck.catalogue import write_catalogue
from mi_duck.checkpoint import file_sha256, storage_errors, write_file
from mi_duck.children import Report, Say, run_child
from mi_duck.data.dataset import Dataset
from mi_duck.errors import CheckpointError, IncompleteRunError
from mi_duck.explain.explained import check_background, is_explained, read_summary
from mi_duck.folders import RunFolder
from mi_duck.jobs import loss_text, train
from mi_duck.locks import run_lock
from mi_duck.plan.plan import Plan, Settings
from mi_duck.plan.planning import PlanOptions, check_place, make_plan
from mi_duck.plan.splitting import write_splits
from mi_duck.provenance import relisted, take_files_out, write_provenance
from mi_duck.report.summary import write_summary
from mi_duck.stages import (
    changed_files,
    consolidate_run,
    describe_instances,
    evaluate,
    write_page,
)
from mi_duck.train.instance_state import checkpoint_key, is_trained, read_manifest


class Explaining(TypedDict):
    """What of the model is explained; see `mi_duck.explain.analysis`."""

    sample_size: int
    background_size: int
    with_figures: bool


def run(
    dataset: Dataset,
    out: Path,
    *,
    options: PlanOptions,
    settings: Settings,
    threads: int,
    workers: int = 1,
    resume: bool = True,
    force: bool = False,
    minimal_diagnostics: bool = False,
    monitor_overfitting: bool = True,
    calibration_analysis: bool = True,
    neigh_sample: int = 0,
    with_shap: bool = True,
    shap_sample: int = 1000,
    shap_background: int = 0,
    report: Report,
    say: Say,
) -> Plan:
    """Plan, train, consolidate, evaluate, explain; what is done already is not done again.

    Parameters
    ----------
    dataset, out, options, settings, threads
        As for `mi_duck.plan.planning.make_plan`.
    workers
        Most instances to train at once.
    resume
        Whether to go on in a folder that holds a run; else that is refused.
    force
        Whether to delete the instances of such a run first.
    minimal_diagnostics
        Whether to leave out plots, curves and the instances' scores on genes that they never saw.
    monitor_overfitting
        Whether to judge the learning curves: ``overfitting/``.
    calibration_analysis, neigh_sample
        As in `mi_duck.ensemble.scoring.evaluate_run`.
    with_shap
        Whether to explain the model by SHAP values.
    shap_sample, shap_background
        Rows to explain, and rows of the background; see `mi_duck.explain.analysis`.
    report, say
        Take progress and messages.
    """
    folder = RunFolder(out)
    check_place(dataset, out)
    if with_shap and shap_background:
        check_background()
    with run_lock(out):
        if force:
            _forget(folder)
        if folder.plan.exists() and not resume:
            raise CheckpointError(
                f"{out} holds a run already; leave --resume-from-checkpoint on or choose another --out"
            )
        plan = _kept_plan(folder, dataset, options, settings, say) if folder.plan.exists() else None
        if plan is None:
            plan = make_plan(dataset, out, options=options, settings=settings, threads=threads, report=report, say=say)
        keep_matching(folder, plan, say)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        n_trained, lost = train(folder, plan, threads=threads, workers=workers, report=report, say=say)
        plan = folder.read_plan()
        wanted_sites = 0 if minimal_diagnostics else neigh_sample
        explaining: Explaining = {
            "sample_size": shap_sample,
            "background_size": shap_background,
            "with_figures": not minimal_diagnostics,
        }
        if (
            n_trained == 0
            and is_finished(folder, plan)
            and not lacks_diagnostics(folder, calibration_analysis, wanted_sites)
        ):
            if not with_shap or is_explained(folder, **explaining):
                say(f"nothing to do: {out} is complete")
                return plan
            with relisted(folder):
                explain_model(folder, **explaining, threads=threads, report=report)
                write_page(
                    folder, with_plots=not minimal_diagnostics, with_overfitting=monitor_overfitting, report=report
                )
            return plan
        take_files_out(folder)
        consolidate_run(folder, plan, threads=threads, report=report, say=say)
        evaluate(
            folder,
            threads=threads,
            calibration_analysis=calibration_analysis,
            neigh_sample=wanted_sites,
            is_minimal=minimal_diagnostics,
            report=report,
        )
        describe_instances(folder, threads=threads, is_minimal=minimal_diagnostics, report=report)
        if with_shap:
            explain_model(folder, **explaining, threads=threads, report=report)
        finish(
            folder,
            plan,
            started,
            with_plots=not minimal_diagnostics,
            with_overfitting=monitor_overfitting,
            report=report,
        )
    if lost:  # all that the others give is written
        raise IncompleteRunError(loss_text(plan, lost))
    return plan


def finish(
    folder: RunFolder,
    plan: Plan,
    started: str,
    *,
    with_plots: bool = True,
    with_overfitting: bool = True,
    report: Report,
) -> None:
    """Write the catalogue, the report and, last, the provenance with the hash of every file; delete the scratch."""
    provenance = {
        "plan_sha256": file_sha256(folder.plan),
        "model_sha256": file_sha256(folder.model),
        "dataset_fingerprint": plan.dataset_fingerprint,
        "settings": asdict(plan.settings),
        "versions": versions(),
        "started_at": started,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "finished" if all(is_trained(folder, plan, one) for one in plan.instances) else "incomplete",
    }
    write_catalogue(folder, plan, provenance)
    warnings = write_page(folder, with_plots=with_plots, with_overfitting=with_overfitting, report=report)
    write_summary(folder, plan, provenance, warnings=warnings)
    write_provenance(folder, provenance)
    shutil.rmtree(folder.scratch, ignore_errors=True)


def explain_model(
    folder: RunFolder, *, sample_size: int, background_size: int, with_figures: bool, threads: int, report: Report
) -> dict[str, Any]:
    """Explain the consolidated model in a child process, unless that is done; return the summary."""
    if not is_explained(folder, sample_size=sample_size, background_size=background_size, with_figures=with_figures):
        run_child(
            "mi_duck.explain.analysis:explain_run",
            {
                "run": str(folder.root),
                "sample_size": sample_size,
                "background_size": background_size,
                "with_figures": with_figures,
                "threads": threads,
            },
            threads=threads,
            report=report,
        )
    return read_summary(folder)


def is_finished(folder: RunFolder, plan: Plan) -> bool:
    """Return whether the last stage of a run ended for this plan and this model, and no file was changed since.

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


def lacks_diagnostics(folder: RunFolder, calibration_analysis: bool, neigh_sample: int) -> bool:
    """Return whether tables are asked for that a finished run has not."""
    if calibration_analysis and not (folder.calibration_analysis / "calibration.json").is_file():
        return True
    try:
        asked = json.loads((folder.neighbours / "neighbours.json").read_bytes())["n_sites_asked"]
    except (OSError, ValueError, KeyError, TypeError):
        asked = 0
    return bool(neigh_sample and neigh_sample != asked)


def versions() -> dict[str, str]:
    """Return the versions of mi_duck and of what its results depend on."""
    return {"mi-duck": __version__} | {
        name: importlib.metadata.version(name) for name in ("duckdb", "numpy", "pyarrow", "scikit-learn", "xgboost")
    }


def _kept_plan(folder: RunFolder, dataset: Dataset, options: PlanOptions, settings: Settings, say: Say) -> Plan | None:
    """Return the plan of a run that was begun, or None where it must be made anew; say what differs."""
    plan = folder.read_plan()
    changed = differences_asked(plan, dataset, options, settings)
    if not changed:
        return plan
    voting = {"voting": options.voting, "weights": options.weights}
    say(f"{folder.root} was begun otherwise ({'; '.join(changed[:4])}); what still matches is kept")
    if not differences_asked(replace(plan, options=plan.options | voting), dataset, options, settings):
        # how members vote is decided after training
        plan = replace(plan, options=plan.options | voting)
        _forget_results(folder)
        write_file(folder.plan, plan.to_json().encode())
        if folder.splits.is_file():
            write_splits(folder.splits, plan)
        return plan
    _forget_plan(folder)
    return None


def keep_matching(folder: RunFolder, plan: Plan, say: Say) -> None:
    """Set aside the instances that other plans trained, and take back those that this plan would train alike."""
    key_of = {checkpoint_key(plan, instance): instance for instance in plan.instances}
    with storage_errors(folder.root):
        aside = 0
        for where in sorted(folder.instances.glob("instance_*")) if folder.instances.is_dir() else []:
            key = _key(where)
            if key is not None and (key not in key_of or key_of[key].name != where.name):
                folder.stale.mkdir(exist_ok=True)
                target = folder.stale / f"{where.name}_{key[:12]}"
                if target.exists():  # the same instance, set aside before
                    shutil.rmtree(target)
                where.replace(target)
                aside += 1
        back = 0
        for where in sorted(folder.stale.glob("instance_*")) if folder.stale.is_dir() else []:
            key = _key(where)
            if key in key_of and _key(folder.instance(key_of[key])) is None:
                target = folder.instance(key_of[key])
                folder.instances.mkdir(exist_ok=True)
                if target.exists():
                    shutil.rmtree(target)
                where.replace(target)
                back += 1
        if folder.stale.is_dir() and not any(folder.stale.iterdir()):
            folder.stale.rmdir()
    if aside > back:
        say(f"{aside - back} instances match no longer; they are set aside in {folder.stale}")
    elif back:
        say(f"{back} instances of an earlier plan match again")


def _key(where: Path) -> str | None:
    """Return the key of an instance's folder, None where it holds no whole manifest."""
    try:
        return str(read_manifest(where)["key"])
    except (FileNotFoundError, CheckpointError):
        return None


def differences_asked(plan: Plan, dataset: Dataset, options: PlanOptions, settings: Settings) -> list[str]:
    """Return in what a request differs from the one that a plan was made for, each in words."""
    # of the settings that options decide, the plan holds what was decided
    asked = {name: value for name, value in asdict(plan.settings).items() if name not in (*plan.options, "layout")}
    changed = sorted(
        f"{name}: {old} then, {now[name]} now"
        for before, now in ((plan.options, asdict(options)), (asked, asdict(settings)))
        for name, old in before.items()
        if now[name] != old
    )
    # of the dataset's features a plan may leave out leaks, and those that a pilot found useless
    usable = [name for name in dataset.features if name not in plan.leaky_features]
    kept = usable if options.screen_features is None else [name for name in usable if name in plan.features]
    if list(plan.features) != kept:
        changed.append("features differ")
    if plan.classes != dataset.classes:
        changed.append("classes differ")
    columns = ("gene_column", "label_column", "fold_column", "base_scores")
    if any(getattr(plan, name) != getattr(dataset, name) for name in columns):
        changed.append("columns differ")
    if plan.full_hash != dataset.full_hash:
        changed.append(f"full_hash: {plan.full_hash} then, {dataset.full_hash} now")
    elif plan.dataset_fingerprint != dataset.fingerprint:
        changed.append(changed_files(plan, dataset))
    return changed


def _forget(folder: RunFolder) -> None:
    """Delete what an earlier run left in its folder; only names of ours, the plan first."""
    _forget_plan(folder)
    with storage_errors(folder.root):
        for trash in (folder.instances, folder.stale):
            if trash.is_dir():
                shutil.rmtree(trash)


def _forget_plan(folder: RunFolder) -> None:
    """Delete the plan, what it rests on and all results; the instances stay."""
    with storage_errors(folder.root):
        for file in (folder.plan, folder.splits, folder.genes, folder.memory_plot):
            file.unlink(missing_ok=True)
        for trash in (folder.scratch, folder.leakage):
            if trash.is_dir():
                shutil.rmtree(trash)
    _forget_results(folder)


def _forget_results(folder: RunFolder) -> None:
    """Delete what was made of the instances, provenance first, so that nothing old counts as finished."""
    with storage_errors(folder.root):
        for file in (folder.provenance, *folder.results):
            file.unlink(missing_ok=True)
        for trash in folder.result_folders:
            if trash.is_dir():
                shutil.rmtree(trash)

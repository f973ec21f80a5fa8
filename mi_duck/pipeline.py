"""The whole run as one readable function, and each of its stages alone; the only module that knows their order."""

import importlib.metadata
import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_duck import __version__
from mi_duck.catalogue import write_catalogue
from mi_duck.checkpoint import file_sha256, storage_errors, write_json
from mi_duck.children import Report, Say, run_child
from mi_duck.data.dataset import Dataset
from mi_duck.errors import (
    CheckpointError,
)
from mi_duck.explain.analysis import is_explained, read_summary
from mi_duck.explain.tree_shap import check_background
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Plan, Settings
from mi_duck.plan.planning import PlanOptions, check_place, make_plan
from mi_duck.report.summary import write_summary
from mi_duck.stages import (
    changed_files,
    consolidate_run,
    describe_instances,
    evaluate,
    run_lock,
    train,
    write_page,
)


def run(
    dataset: Dataset,
    out: Path,
    *,
    options: PlanOptions,
    settings: Settings,
    threads: int,
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
        if folder.plan.exists():
            if not resume:
                raise CheckpointError(
                    f"{out} holds a run already; leave --resume-from-checkpoint on or choose another --out"
                )
            plan = folder.read_plan()
            _refuse_other_request(folder, plan, dataset, options, settings)
        else:
            plan = make_plan(dataset, out, options=options, settings=settings, threads=threads, report=report, say=say)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        n_trained = train(folder, plan, threads=threads, report=report, say=say)
        wanted_sites = 0 if minimal_diagnostics else neigh_sample
        if (
            n_trained == 0
            and is_finished(folder, plan)
            and not lacks_diagnostics(folder, calibration_analysis, wanted_sites)
        ):
            if not with_shap or is_explained(
                folder, sample_size=shap_sample, background_size=shap_background, with_figures=not minimal_diagnostics
            ):
                say(f"nothing to do: {out} is complete")
                return plan
            explain_model(
                folder,
                sample_size=shap_sample,
                background_size=shap_background,
                with_figures=not minimal_diagnostics,
                threads=threads,
                report=report,
            )
            write_page(folder, with_plots=not minimal_diagnostics, with_overfitting=monitor_overfitting, report=report)
            return plan
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
            explain_model(
                folder,
                sample_size=shap_sample,
                background_size=shap_background,
                with_figures=not minimal_diagnostics,
                threads=threads,
                report=report,
            )
        finish(
            folder,
            plan,
            started,
            with_plots=not minimal_diagnostics,
            with_overfitting=monitor_overfitting,
            report=report,
        )
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
    """Write the catalogue, the report and, last, the provenance; delete the scratch."""
    provenance = {
        "plan_sha256": file_sha256(folder.plan),
        "model_sha256": file_sha256(folder.model),
        "dataset_fingerprint": plan.dataset_fingerprint,
        "settings": asdict(plan.settings),
        "versions": versions(),
        "started_at": started,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "finished",
    }
    write_catalogue(folder, plan, provenance)
    warnings = write_page(folder, with_plots=with_plots, with_overfitting=with_overfitting, report=report)
    write_summary(folder, plan, provenance, warnings=warnings)
    write_json(folder.provenance, provenance)
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
    """Return whether the last stage of a run ended for this plan and this model."""
    try:
        provenance = json.loads(folder.provenance.read_bytes())
        return (
            provenance["plan_sha256"] == file_sha256(folder.plan)
            and provenance["model_sha256"] == file_sha256(folder.model)
            and folder.catalogue.is_file()
            and folder.metrics.is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
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


def _refuse_other_request(
    folder: RunFolder, plan: Plan, dataset: Dataset, options: PlanOptions, settings: Settings
) -> None:
    """Refuse to go on with a run that was begun with other data or settings; name what differs."""
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
    if changed:
        raise CheckpointError(
            f"{folder.root} was begun otherwise ({'; '.join(changed[:4])}); choose another --out or add --force-retrain-all"
        )


def _forget(folder: RunFolder) -> None:
    """Delete what an earlier run left in its folder; only names of ours, the plan first."""
    with storage_errors(folder.root):
        for file in (
            folder.plan,
            folder.genes,
            folder.out_of_fold,
            folder.model,
            folder.summary,
            folder.metrics,
            folder.thresholds,
            folder.curves,
            folder.base_vs_meta,
            folder.gene_deltas,
            folder.gene_coverage,
            folder.instance_comparison,
            folder.catalogue,
            folder.training_summary,
            folder.provenance,
            folder.page,
            folder.holdout_predictions,
            *folder.root.glob("*_base_vs_meta*.pdf"),
            folder.root / "memory_per_gene.pdf",
        ):
            file.unlink(missing_ok=True)
        for trash in (
            folder.scratch,
            folder.overfitting,
            folder.calibration_analysis,
            folder.neighbours,
            folder.leakage,
            folder.shap,
            folder.root / "feature_importance_analysis",
            folder.root / "multi_instance_training",
        ):
            if trash.is_dir():
                shutil.rmtree(trash)

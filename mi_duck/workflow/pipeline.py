"""The stages of a run, each alone: partition rows, consolidate, evaluate, report; each in child processes.

The whole run as one readable function, and each of its stages alone; the only module that knows their order.
"""

import importlib.metadata
import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from mi_duck import __version__
from mi_duck.atomic_files import file_sha256
from mi_duck.data.dataset import Dataset, check_place
from mi_duck.errors import IncompleteRunError, StorageError
from mi_duck.evaluate.catalogue import write_catalogue
from mi_duck.plan.make_plan import PlanOptions
from mi_duck.processes import Report, Say, run_child
from mi_duck.report.summary import write_summary
from mi_duck.rows.partition import partition
from mi_duck.run.explanation import check_background, is_explained, read_summary
from mi_duck.run.folder import RunFolder, invalidate_file_list, listing_files_again, write_provenance
from mi_duck.run.instance_folder import is_trained
from mi_duck.run.locks import run_lock
from mi_duck.run.plan import Plan, Settings
from mi_duck.workflow.resume import plan_of_request
from mi_duck.workflow.training import loss_text, train


def consolidate_run(
    folder: RunFolder,
    plan: Plan,
    *,
    threads: int,
    voting: str | None = None,
    weights: str | None = None,
    report: Report,
    say: Say,
) -> None:
    """Score all rows out of fold and join the trained instances into one model file.

    Parameters
    ----------
    folder, plan, threads
        The run.
    voting, weights
        As in `mi_duck.ensemble.voting`; by default those of the plan.
    report, say
        Take progress and messages.

    Raises
    ------
    CheckpointError
        No instance is trained.

    Notes
    -----
    Where an instance is not trained, the model of the others is written, with its coverage inside.
    """
    partition(folder, plan, threads=threads, report=report)
    joined = run_child(
        "mi_duck.ensemble.consolidate:join_run",
        {
            "run": str(folder.root),
            "threads": threads,
            "voting": voting or plan.options["voting"],
            "weights": weights or plan.options["weights"],
        },
        threads=threads,
        report=report,
    ).value
    for message in joined["messages"]:
        say(message)


def evaluate(
    folder: RunFolder,
    *,
    threads: int,
    calibration_analysis: bool = True,
    neigh_sample: int = 0,
    is_minimal: bool = False,
    report: Report,
) -> None:
    """Score base model, members and ensemble; see `mi_duck.evaluate.evaluate.evaluate_run`; then on held-out genes."""
    run_child(
        "mi_duck.evaluate.evaluate:evaluate_run",
        {
            "run": str(folder.root),
            "calibration_analysis": calibration_analysis,
            "neigh_sample": neigh_sample,
            "is_minimal": is_minimal,
        },
        threads=threads,
        report=report,
    )
    if folder.read_plan().n_holdout_genes:
        run_child(
            "mi_duck.evaluate.holdout:evaluate_holdout",
            {"run": str(folder.root), "threads": threads},
            threads=threads,
            report=report,
        )


def describe_instances(folder: RunFolder, *, threads: int, is_minimal: bool, report: Report) -> None:
    """Complete the folders of the trained instances: scores beside the base model, curves, importances, unseen genes."""
    run_child(
        "mi_duck.report.instance_files:describe_instances",
        {"run": str(folder.root), "threads": threads, "is_minimal": is_minimal},
        threads=threads,
        report=report,
    )


def write_page(folder: RunFolder, *, with_plots: bool, with_overfitting: bool, report: Report) -> list[str]:
    """Write ``report.html`` with its figures in a child process; return what it warns of."""
    made = run_child(
        "mi_duck.report.page:write_report",
        {"run": str(folder.root), "with_plots": with_plots, "with_overfitting": with_overfitting},
        threads=1,
        report=report,
    )
    return list(made.value["warnings"])


class Explaining(TypedDict):
    """What of the model is explained; see `mi_duck.explain.analysis`."""

    sample_size: int
    background_size: int
    with_figures: bool


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What is written beside model, scores and catalogue.

    Parameters
    ----------
    is_minimal
        Whether to leave out plots, curves and the instances' scores on genes that they never saw.
    monitor_overfitting
        Whether to judge the learning curves: ``overfitting/``.
    calibration_analysis, neigh_sample
        As in `mi_duck.evaluate.evaluate.evaluate_run`.
    with_shap
        Whether to explain the model by SHAP values.
    shap_sample, shap_background
        Rows to explain, and rows of the background; see `mi_duck.explain.analysis`.
    """

    is_minimal: bool = False
    monitor_overfitting: bool = True
    calibration_analysis: bool = True
    neigh_sample: int = 0
    with_shap: bool = True
    shap_sample: int = 1000
    shap_background: int = 0

    @property
    def sites_shown(self) -> int:
        """Sites whose neighbourhood is written."""
        return 0 if self.is_minimal else self.neigh_sample

    @property
    def explaining(self) -> Explaining:
        """What of the model is explained."""
        return {
            "sample_size": self.shap_sample,
            "background_size": self.shap_background,
            "with_figures": not self.is_minimal,
        }

    def are_explained(self, folder: RunFolder) -> bool:
        """Return whether the model of a run is explained as asked, if that is asked."""
        return not self.with_shap or is_explained(folder, **self.explaining)


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
    diagnostics: Diagnostics = Diagnostics(),
    report: Report,
    say: Say,
) -> Plan:
    """Plan, train, consolidate, evaluate, explain; what is done already is not done again.

    Parameters
    ----------
    dataset, out, options, settings, threads
        As for `mi_duck.plan.make_plan.make_plan`.
    workers
        Most instances to train at once.
    resume
        Whether to go on in a folder that holds a run; else that is refused.
    force
        Whether to delete the instances of such a run first.
    diagnostics
        What is written beside model and scores.
    report, say
        Take progress and messages.
    """
    folder = RunFolder(out)
    check_request(dataset, out, diagnostics)
    with run_lock(out):
        plan = plan_of_request(
            dataset,
            folder,
            options=options,
            settings=settings,
            threads=threads,
            resume=resume,
            force=force,
            report=report,
            say=say,
        )
        started = datetime.now(UTC).isoformat(timespec="seconds")
        n_trained, lost = train(folder, plan, threads=threads, workers=workers, report=report, say=say)
        plan = complete(folder, diagnostics, n_trained, started, threads=threads, report=report, say=say)
    if lost:  # all that the others give is written
        raise IncompleteRunError(loss_text(plan, lost))
    return plan


def check_request(dataset: Dataset, out: Path, diagnostics: Diagnostics) -> None:
    """Refuse what could not end well before anything is done.

    Raises
    ------
    DataError
        The run would lie in the dataset; or a background is asked for without the shap package.
    """
    check_place(dataset, out)
    if diagnostics.with_shap and diagnostics.shap_background:
        check_background()


def complete(
    folder: RunFolder, diagnostics: Diagnostics, n_trained: int, started: str, *, threads: int, report: Report, say: Say
) -> Plan:
    """Make of the trained instances all that a run gives; return its plan. The run's lock is held.

    Parameters
    ----------
    folder, diagnostics
        The run, and what is written beside model and scores.
    n_trained
        Instances that were trained just now; where there are none, what is complete stays.
    started
        When the run began, ISO 8601.
    threads, report, say
        As for `run`.
    """
    plan = folder.read_plan()
    with_plots = not diagnostics.is_minimal
    if n_trained == 0 and is_scored(folder, plan, diagnostics):
        delete_scratch(folder)  # what a kill left while the run deleted it
        if diagnostics.are_explained(folder):
            say(f"nothing to do: {folder.root} is complete")
            return plan
        with listing_files_again(folder):
            explain_model(folder, **diagnostics.explaining, threads=threads, report=report)
            write_page(folder, with_plots=with_plots, with_overfitting=diagnostics.monitor_overfitting, report=report)
        return plan
    invalidate_file_list(folder)
    consolidate_run(folder, plan, threads=threads, report=report, say=say)
    evaluate(
        folder,
        threads=threads,
        calibration_analysis=diagnostics.calibration_analysis,
        neigh_sample=diagnostics.sites_shown,
        is_minimal=diagnostics.is_minimal,
        report=report,
    )
    describe_instances(folder, threads=threads, is_minimal=diagnostics.is_minimal, report=report)
    if diagnostics.with_shap:
        explain_model(folder, **diagnostics.explaining, threads=threads, report=report)
    finish(
        folder,
        plan,
        started,
        with_plots=with_plots,
        with_overfitting=diagnostics.monitor_overfitting,
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
    delete_scratch(folder)


def delete_scratch(folder: RunFolder) -> None:
    """Delete what only training needs, gigabytes of it.

    Raises
    ------
    StorageError
        The disk does not delete it; the next run of the same command tries again.
    """
    if folder.scratch.exists():
        try:
            shutil.rmtree(folder.scratch)
        except OSError as error:
            raise StorageError(
                f"cannot delete {folder.scratch} ({error.strerror}), all else of the run is complete; "
                "run the same command again or delete it"
            ) from error


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


def is_scored(folder: RunFolder, plan: Plan, diagnostics: Diagnostics) -> bool:
    """Return whether a run is finished, with all tables that are asked for; explanations apart."""
    asked = (diagnostics.calibration_analysis, diagnostics.sites_shown)
    return is_finished(folder, plan) and not lacks_diagnostics(folder, *asked)


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

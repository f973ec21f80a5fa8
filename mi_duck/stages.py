"""The stages of a run, each alone: partition rows, consolidate, evaluate, report; each in child processes."""

from pathlib import Path

from mi_duck.checkpoint import file_sha256, write_json
from mi_duck.children import Report, Say, run_child
from mi_duck.data.dataset import Dataset, open_dataset, resolved
from mi_duck.database import SQL_BYTES, Database
from mi_duck.ensemble.ensemble import InstanceModel, consolidate
from mi_duck.ensemble.model_files import load_unified_model, save_model
from mi_duck.ensemble.thresholds import values_of
from mi_duck.errors import DataError
from mi_duck.folders import RunFolder
from mi_duck.locks import run_lock
from mi_duck.plan.plan import Plan
from mi_duck.train.calibrate import Calibrator
from mi_duck.train.instance_state import is_trained
from mi_duck.train.instances import genes_file
from mi_duck.train.partition import write_segments


def open_planned(plan: Plan, *, with_hashes: bool = True) -> Dataset:
    """Open the dataset of a plan again and check that it is the same.

    Parameters
    ----------
    plan
        The plan.
    with_hashes
        Whether every byte is looked at, if the plan was made with ``--full-hash``; else names, sizes and footers are.

    Raises
    ------
    DataError
        It changed or is gone.
    """
    dataset = open_dataset(
        plan.location,
        gene_column=plan.gene_column,
        label_column=plan.label_column,
        classes=plan.classes,
        fold_by=None if plan.fold_column in (plan.gene_column, "overlap_cluster") else plan.fold_column,
        full_hash=plan.full_hash and with_hashes,
    )
    changed = changed_files(plan, dataset)
    if changed:
        raise DataError(
            f"{plan.location} changed since plan.json was made: {changed}; restore it or plan anew into another --out"
        )
    return dataset


def changed_files(plan: Plan, dataset: Dataset) -> str:
    """Return in words which file of a plan's dataset is gone, is new, or has changed; empty if all are the same."""
    if dataset.fingerprint == plan.dataset_fingerprint:
        return ""
    now = {resolved(file): place for place, file in enumerate(dataset.files)}
    gone, new = [file for file in plan.files if file not in now], sorted(set(now) - set(plan.files))
    if gone or new:
        verb = "is gone" if gone else "is new"
        return f"{(gone or new)[0]} {verb}" + (
            f", with {len(gone or new) - 1:,} others" if len(gone or new) > 1 else ""
        )
    for file, pin, whole in zip(plan.files, plan.pins, plan.hashes or plan.pins, strict=False):
        place = now[file]
        if dataset.pins[place] != pin or (plan.full_hash and dataset.full_hash and dataset.hashes[place] != whole):
            return f"{file} is another file now"
    return "a file changed" if plan.full_hash == dataset.full_hash else ""


def partition(folder: RunFolder, plan: Plan, *, threads: int, report: Report) -> None:
    """Write the segments that are missing, in a child process; of several jobs one does it and the others wait."""
    with run_lock(folder.root, name=".lock_partition", wait=True):
        run_child(
            "mi_duck.stages:partition_here",
            {"run": str(folder.root), "threads": threads},
            threads=threads,
            report=report,
        )


def partition_here(*, run: str, threads: int, report: Report) -> None:
    """Write the segments that are missing, in this process."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    is_done = all((folder.segments / segment.name / "segment.json").is_file() for segment in plan.all_segments)
    dataset = open_planned(plan, with_hashes=not is_done)
    if is_done:
        return
    with Database(threads=threads, memory_bytes=SQL_BYTES, scratch=folder.scratch / "sql") as db:
        db.open_source(
            dataset.files,
            gene_column=plan.gene_column,
            label_column=plan.label_column,
            fold_column=plan.fold_column,
            position_column=plan.position_column,
            site_scores=plan.base_scores[1:],
        )
        db.load_parquet("gene_index", genes_file(folder, plan))
        db.table("row_groups", files=Database.patterns(dataset.files))
        write_segments(db, plan, folder.segments, dataset=dataset, report=report)


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
        As in `mi_duck.ensemble.variants`; by default those of the plan.
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
    scored = run_child(
        "mi_duck.ensemble.out_of_fold:predict_out_of_fold",
        {
            "run": str(folder.root),
            "threads": threads,
            "voting": voting or plan.options["voting"],
            "weights": weights or plan.options["weights"],
        },
        threads=threads,
        report=report,
    ).value
    name = f"{scored['voting']}/{scored['method']}"
    losses: dict[str, float] = scored["log_loss"]
    if len(losses) > 1:
        others = ", ".join(f"{other} {loss:.6f}" for other, loss in losses.items() if other != name)
        say(f"Voting and weights: {name} has the lowest cross-fitted log loss, {losses[name]:.6f} ({others})")
    trained = [instance for instance in plan.instances if is_trained(folder, plan, instance)]
    covered = {rank for instance in trained for rank in range(instance.first_rank, instance.stop_rank)}
    members = [load_unified_model(folder.instance(instance)) for instance in trained]
    model = consolidate(
        [member for member in members if isinstance(member, InstanceModel)],
        n_genes=len(covered),
        thresholds=values_of(scored["thresholds"]),
        voting=scored["voting"],
        weights=scored["weights"],
        calibrators=[Calibrator.from_dict(values) for values in scored["calibrators"]],
    )
    save_model(folder.model, model)
    write_json(folder.thresholds, scored["thresholds"])
    write_json(
        folder.summary,
        {
            "model_sha256": file_sha256(folder.model),
            "out_of_fold_sha256": file_sha256(folder.out_of_fold),
            "dataset_fingerprint": plan.dataset_fingerprint,
            "classes": model.classes,
            "n_features": len(model.features),
            "n_instances": len(plan.instances),
            "instances_lost": [one.instance_id for one in plan.instances if one not in trained],
            "voting": model.voting,
            "weights": scored["method"],
            "variant": name,
            "cross_fitted_log_loss": losses,
            "all_weights": scored["all_weights"],
            "n_genes": plan.n_genes,
            "n_genes_trained": len(covered),
            "coverage_fraction": len(covered) / plan.n_genes,
            "thresholds": model.thresholds,
            "members": [
                {
                    "instance_id": instance.instance_id,
                    "n_genes": instance.n_genes,
                    "n_rows": instance.n_rows,
                    "weight": weight,
                    "rounds": member.metadata["rounds"],
                    "model_sha256": file_sha256(folder.instance(instance) / "model_multiclass.miduck"),
                    "fold_models_sha256": file_sha256(folder.instance(instance) / "fold_models.miduck"),
                    "genes_sha256": file_sha256(folder.instance(instance) / "genes.txt"),
                }
                for instance, member, weight in zip(trained, model.members, model.weights, strict=True)
            ],
        },
    )
    say(f"Gene coverage: {len(covered):,}/{plan.n_genes:,} ({len(covered) / plan.n_genes:.1%})")


def evaluate(
    folder: RunFolder,
    *,
    threads: int,
    calibration_analysis: bool = True,
    neigh_sample: int = 0,
    is_minimal: bool = False,
    report: Report,
) -> None:
    """Score base model, members and ensemble; see `mi_duck.ensemble.scoring.evaluate_run`; then on held-out genes."""
    run_child(
        "mi_duck.ensemble.scoring:evaluate_run",
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
            "mi_duck.ensemble.holdout:evaluate_holdout",
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

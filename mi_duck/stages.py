"""The stages of a run, each alone: partition rows, consolidate, evaluate, report; each in child processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_duck.children import Report, Say, run_child
from mi_duck.data.dataset import Dataset, open_dataset, resolved
from mi_duck.data.files import row_groups
from mi_duck.database import SQL_BYTES, Database
from mi_duck.errors import DataError
from mi_duck.folders import RunFolder
from mi_duck.locks import run_lock
from mi_duck.plan.plan import Plan, Segment
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


def partition(
    folder: RunFolder, plan: Plan, *, threads: int, report: Report, is_off: Callable[[], bool] | None = None
) -> None:
    """Write the segments that are missing, in a child process; of several jobs one does it and the others wait.

    Parameters
    ----------
    folder, plan
        The run; the plan may have splits that are not noted yet.
    threads, report, is_off
        As in `mi_duck.children.run_child`.
    """
    segments = [asdict(segment) for segment in plan.all_segments]
    with run_lock(folder.root, name=".lock_partition", wait=True):
        run_child(
            "mi_duck.stages:partition_here",
            {"run": str(folder.root), "threads": threads, "segments": segments},
            threads=threads,
            report=report,
            is_off=is_off,
        )


def partition_here(
    *, run: str, threads: int, report: Report, segments: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Write the segments that are missing, in this process; by default all of the plan's."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    wanted = plan.all_segments if segments is None else tuple(Segment(**one) for one in segments)
    is_done = all((folder.segments / segment.name / "segment.json").is_file() for segment in wanted)
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
        db.load("row_groups", row_groups(dataset.files))
        write_segments(db, plan, folder.segments, dataset=dataset, report=report, wanted=wanted)


def is_partitioned(folder: RunFolder, plan: Plan) -> bool:
    """Return whether every segment is written; whether it is whole is checked where it is read."""
    return all((folder.segments / segment.name / "segment.json").is_file() for segment in plan.all_segments)


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
    joined = run_child(
        "mi_duck.ensemble.joining:join_run",
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

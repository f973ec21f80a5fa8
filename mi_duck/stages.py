"""The stages of a run, each alone: partition rows, train instances, consolidate, evaluate; each in child processes."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mi_duck.checkpoint import file_sha256, remove_leftovers, storage_errors, write_json
from mi_duck.children import Report, Say, run_child
from mi_duck.data.dataset import Dataset, open_dataset
from mi_duck.database import SQL_BYTES, Database
from mi_duck.ensemble.ensemble import InstanceModel, consolidate
from mi_duck.ensemble.model_files import load_unified_model, save_model
from mi_duck.ensemble.thresholds import values_of
from mi_duck.errors import DataError, IncompleteRunError, MemoryBudgetError, MiDuckError, PlanError, RunBusyError
from mi_duck.folders import RunFolder
from mi_duck.plan.filling import layout_of
from mi_duck.plan.memory import MemoryModel
from mi_duck.plan.plan import Instance, Plan
from mi_duck.resources import GIB
from mi_duck.train.calibrate import Calibrator
from mi_duck.train.instances import genes_file, is_trained
from mi_duck.train.partition import write_segments
from mi_duck.train.segments import read_filling, segments_of


@contextmanager
def run_lock(out: Path, *, name: str = ".lock", shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock of the run folder.

    Parameters
    ----------
    out
        The run folder.
    name
        ``.lock`` is the whole run; an instance and the partition of the rows have their own.
    shared
        Hold it together with others that ask for it so: several instances may be trained at once, by array jobs.
    wait
        Wait for it instead of giving up.

    Raises
    ------
    RunBusyError
        Another process holds it.
    """
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = (out / name).open("w")
    with handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RunBusyError(f"another mi-duck works on {out}; wait for it or choose another --out") from error
        if name == ".lock" and not shared:  # so nobody else writes here
            with storage_errors(out):
                remove_leftovers(out)
        yield


def open_planned(plan: Plan) -> Dataset:
    """Open the dataset of a plan again and check that it is the same.

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
    )
    if dataset.fingerprint != plan.dataset_fingerprint:
        raise DataError(f"{plan.location} changed since plan.json was made; restore it or plan anew into another --out")
    return dataset


def partition(folder: RunFolder, plan: Plan, *, threads: int, report: Report) -> None:
    """Write the segments that are missing, in a child process."""
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
    if all((folder.segments / segment.name / "segment.json").is_file() for segment in plan.all_segments):
        return
    dataset = open_planned(plan)
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
        write_segments(db, plan, folder.segments, report=report)


def train(folder: RunFolder, plan: Plan, *, threads: int, report: Report, say: Say) -> int:
    """Train every instance that is not done, one child process each; return how many that were.

    Raises
    ------
    MemoryBudgetError, IncompleteRunError
        An instance died; the others are done.
    """
    done = [instance for instance in plan.instances if is_trained(folder, plan, instance)]
    if done:
        say(f"Checkpointing: found {len(done)} existing instance{'s' if len(done) > 1 else ''} to reuse")
    if len(done) < len(plan.instances):
        partition(folder, plan, threads=threads, report=report)
    lost: list[tuple[Instance, MiDuckError]] = []
    over = [peak_over_prediction(folder, instance) for instance in done]
    for instance in plan.instances:
        place = f"[Instance {instance.instance_id + 1}/{len(plan.instances)}]"
        if instance in done:
            say(f"{place} reusing {instance.name}")
            continue
        say(f"{place} training on {instance.n_genes:,} genes, {instance.n_rows:,} rows")
        try:
            if any(over):
                expected = max(over) * instance.predicted_bytes
                say(f"    expected peak {expected / GIB:.2f} GiB, by the instances measured so far")
            train_one(folder, instance, threads=threads, report=report, say=say)
            over.append(peak_over_prediction(folder, instance))
        except (MemoryBudgetError, IncompleteRunError) as error:
            say(f"{place} lost: {error}")
            lost.append((instance, error))
    if lost:
        raise type(lost[0][1])(
            f"{len(lost)} of {len(plan.instances)} instances lost ({', '.join(instance.name for instance, _ in lost)}); "
            f"first cause: {lost[0][1]}; the same command tries them again"
        )
    return len(plan.instances) - len(done)


def peak_over_prediction(folder: RunFolder, instance: Instance) -> float:
    """Return measured over predicted peak of a trained instance; 0 where it was not measured."""
    try:
        measured = json.loads((folder.instance(instance) / "measurement.json").read_bytes())
        return float(measured["peak_bytes"]) / instance.predicted_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def train_one(folder: RunFolder, instance: Instance, *, threads: int, report: Report, say: Say) -> None:
    """Train one instance in a child process under its budget, and note its peak memory and time.

    Raises
    ------
    MemoryBudgetError, PlanError
        The rows as they are need more than the budget, or the process passed it.
    """
    plan = folder.read_plan()
    check_filling(folder, plan, instance)
    try:
        result = run_child(
            "mi_duck.train.train:train_instance",
            {"run": str(folder.root), "instance_id": instance.instance_id, "threads": threads},
            threads=threads,
            report=report,
            limit_bytes=plan.budget_bytes,
        )
    except MemoryBudgetError as error:
        fewer = max(int(0.8 * instance.n_genes * min(1.0, plan.budget_bytes / max(instance.predicted_bytes, 1))), 1)
        raise MemoryBudgetError(
            f"{error}; predicted were {instance.predicted_bytes / GIB:.2f} GiB. Plan anew with "
            f"--genes-per-instance {fewer:,}, a larger --max-memory-per-instance-gb, or --strategy external"
        ) from error
    phases: dict[str, int] = result.value["phases"]
    peak = max([result.peak_bytes, *phases.values()])
    write_json(
        folder.instance(instance) / "measurement.json",
        {
            "peak_bytes": peak,
            "phases": phases,
            "wall_seconds": round(result.wall_seconds, 3),
            "build_seconds": round(result.value["build_seconds"], 3),
            "boost_seconds": round(result.value["boost_seconds"], 3),
        },
    )
    say(
        f"    {result.wall_seconds:.0f} s, peak {peak / GIB:.2f} GiB (predicted "
        f"{instance.predicted_bytes / GIB:.2f}), rounds {', '.join(str(n) for n in result.value['rounds'])}"
    )


def check_filling(folder: RunFolder, plan: Plan, instance: Instance) -> None:
    """Refuse an instance whose rows, now that all are counted, need more than its budget.

    The plan knows missing values and zeros from the rows that the probes read; partitioning has counted them all.

    Raises
    ------
    MemoryBudgetError, PlanError
        They do.
    """
    model = MemoryModel.from_dict(plan.memory)
    if model.megabytes_per_gene is not None:
        return
    filling = read_filling(plan, segments_of(plan, instance.first_rank, instance.stop_rank), folder.segments)
    layout = layout_of(model.layout, filling, plan.settings.layout, plan.zero_is_missing)
    needed = model.with_layout(layout).needed_bytes(instance.n_training_rows, instance.n_genes)
    if needed > plan.budget_bytes:
        refuse = PlanError if plan.budget_is_users_number else MemoryBudgetError
        share = layout.missing_share - model.layout.missing_share
        raise refuse(
            f"{instance.name} needs {needed / GIB:.2f} GiB, but the budget is {plan.budget_bytes / GIB:.2f} GiB "
            f"({plan.budget_source}): {share:.2%} more of its cells are missing than in the rows that were measured; plan "
            "anew with --layout sentinel or a smaller --genes-per-instance"
        )


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
    IncompleteRunError
        An instance is not trained; the model of the others is written, with its coverage inside.
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
    if len(trained) < len(plan.instances):
        raise IncompleteRunError(
            f"{len(plan.instances) - len(trained)} of {len(plan.instances)} instances are not trained, so the model covers "
            f"{len(covered):,} of {plan.n_genes:,} genes; 'mi-duck train {folder.root}' goes on"
        )


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

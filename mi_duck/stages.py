"""The stages of a run, each alone: partition rows, train instances, consolidate, evaluate; each in child processes."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mi_duck.checkpoint import file_sha256, storage_errors, write_json
from mi_duck.children import Report, Say, run_child
from mi_duck.data.dataset import Dataset, open_dataset
from mi_duck.database import SQL_BYTES, Database
from mi_duck.ensemble.ensemble import InstanceModel, consolidate
from mi_duck.ensemble.model_files import load_unified_model, save_model
from mi_duck.errors import DataError, IncompleteRunError, MemoryBudgetError, MiDuckError, RunBusyError
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Instance, Plan
from mi_duck.resources import GIB
from mi_duck.train.instances import genes_file, is_trained
from mi_duck.train.partition import write_segments


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
    if all((folder.segments / segment.name / "segment.json").is_file() for segment in plan.segments):
        return
    dataset = open_planned(plan)
    with Database(threads=threads, memory_bytes=SQL_BYTES, scratch=folder.scratch / "sql") as db:
        db.open_source(
            dataset.files,
            gene_column=plan.gene_column,
            label_column=plan.label_column,
            fold_column=plan.fold_column,
        )
        db.load_parquet("gene_index", genes_file(folder, plan))
        db.table("row_groups", files=Database.patterns(dataset.files))
        write_segments(db, plan, folder.segments, report=report)


def train(folder: RunFolder, plan: Plan, *, threads: int, report: Report, say: Say) -> None:
    """Train every instance that is not done, one child process each.

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
    for instance in plan.instances:
        place = f"[Instance {instance.instance_id + 1}/{len(plan.instances)}]"
        if instance in done:
            say(f"{place} reusing {instance.name}")
            continue
        say(f"{place} training on {instance.n_genes:,} genes, {instance.n_rows:,} rows")
        try:
            train_one(folder, instance, threads=threads, report=report, say=say)
        except (MemoryBudgetError, IncompleteRunError) as error:
            say(f"{place} lost: {error}")
            lost.append((instance, error))
    if lost:
        raise type(lost[0][1])(
            f"{len(lost)} of {len(plan.instances)} instances lost ({', '.join(instance.name for instance, _ in lost)}); "
            f"first cause: {lost[0][1]}; the same command tries them again"
        )


def train_one(folder: RunFolder, instance: Instance, *, threads: int, report: Report, say: Say) -> None:
    """Train one instance in a child process and note its peak memory and time."""
    result = run_child(
        "mi_duck.train.train:train_instance",
        {"run": str(folder.root), "instance_id": instance.instance_id, "threads": threads},
        threads=threads,
        report=report,
    )
    phases: dict[str, int] = result.value["phases"]
    peak = max([result.peak_bytes, *phases.values()])
    write_json(
        folder.instance(instance) / "measurement.json",
        {"peak_bytes": peak, "phases": phases, "wall_seconds": round(result.wall_seconds, 3)},
    )
    say(
        f"    {result.wall_seconds:.0f} s, peak {peak / GIB:.2f} GiB (predicted "
        f"{instance.predicted_bytes / GIB:.2f}), rounds {', '.join(str(n) for n in result.value['rounds'])}"
    )


def consolidate_run(folder: RunFolder, plan: Plan, *, threads: int, report: Report, say: Say) -> None:
    """Score all rows out of fold and join the trained instances into one model file.

    Raises
    ------
    IncompleteRunError
        An instance is not trained; the model of the others is written, with its coverage inside.
    """
    partition(folder, plan, threads=threads, report=report)
    scored = run_child(
        "mi_duck.ensemble.out_of_fold:predict_out_of_fold",
        {"run": str(folder.root), "threads": threads},
        threads=threads,
        report=report,
    )
    trained = [instance for instance in plan.instances if is_trained(folder, plan, instance)]
    covered = {rank for instance in trained for rank in range(instance.first_rank, instance.stop_rank)}
    members = [load_unified_model(folder.instance(instance)) for instance in trained]
    model = consolidate(
        [member for member in members if isinstance(member, InstanceModel)],
        n_genes=len(covered),
        thresholds=scored.value["thresholds"],
    )
    save_model(folder.model, model)
    write_json(
        folder.summary,
        {
            "model_sha256": file_sha256(folder.model),
            "voting": model.voting,
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
                    "model_sha256": file_sha256(folder.instance(instance) / "model_multiclass.miduck"),
                }
                for instance, weight in zip(trained, model.weights, strict=True)
            ],
        },
    )
    say(f"Gene coverage: {len(covered):,}/{plan.n_genes:,} ({len(covered) / plan.n_genes:.1%})")
    if len(trained) < len(plan.instances):
        raise IncompleteRunError(
            f"{len(plan.instances) - len(trained)} of {len(plan.instances)} instances are not trained, so the model covers "
            f"{len(covered):,} of {plan.n_genes:,} genes; 'mi-duck train {folder.root}' goes on"
        )


def evaluate(folder: RunFolder, *, threads: int, report: Report) -> None:
    """Score base model, members and ensemble; write ``metrics.csv`` and ``run.duckdb``."""
    run_child(
        "mi_duck.ensemble.out_of_fold:evaluate_run",
        {"run": str(folder.root), "threads": threads},
        threads=threads,
        report=report,
    )

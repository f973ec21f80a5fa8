"""The whole run as one readable function, and each of its stages alone; the only module that knows their order."""

import fcntl
import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_duck import __version__
from mi_duck.catalogue import measurement, write_catalogue
from mi_duck.checkpoint import file_sha256, storage_errors, write_json
from mi_duck.children import Report, run_child
from mi_duck.database import Database
from mi_duck.dataset import Dataset, open_dataset
from mi_duck.ensemble import InstanceModel, consolidate, load_unified_model, save_model
from mi_duck.errors import (
    CheckpointError,
    DataError,
    IncompleteRunError,
    MemoryBudgetError,
    MiDuckError,
    PlanError,
    RunBusyError,
)
from mi_duck.folders import RunFolder
from mi_duck.instances import is_trained
from mi_duck.partition import write_segments
from mi_duck.plan import Instance, Plan, Settings
from mi_duck.planning import SQL_BYTES, PlanOptions, Say, make_plan
from mi_duck.resources import GIB


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the run folder for this process alone.

    Raises
    ------
    RunBusyError
        Another process holds it.
    """
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = (out / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    location = plan.location
    if not Path(location).exists() and plan.files:
        location = str(Path(plan.files[0]).parent)
    dataset = open_dataset(
        location,
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
        "mi_duck.pipeline:partition_here",
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
        db.load_parquet("gene_index", folder.genes)
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
        "mi_duck.train:train_instance",
        {"run": str(folder.root), "instance_id": instance.instance_id, "threads": threads},
        threads=threads,
        report=report,
    )
    write_json(
        folder.instance(instance) / "measurement.json",
        {"peak_bytes": result.peak_bytes, "wall_seconds": round(result.wall_seconds, 3)},
    )
    say(
        f"    {result.wall_seconds:.0f} s, peak {result.peak_bytes / GIB:.2f} GiB (predicted "
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
        "mi_duck.out_of_fold:predict_out_of_fold",
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
        "mi_duck.out_of_fold:evaluate_run",
        {"run": str(folder.root), "threads": threads},
        threads=threads,
        report=report,
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
    report: Report,
    say: Say,
) -> Plan:
    """Plan, train, consolidate, evaluate; what is done already is not done again.

    Parameters
    ----------
    dataset, out, options, settings, threads
        As for `mi_duck.planning.make_plan`.
    resume
        Whether to go on in a folder that holds a run; else that is refused.
    force
        Whether to delete the instances of such a run first.
    report, say
        Take progress and messages.
    """
    folder = RunFolder(out)
    request = {
        "dataset": dataset.fingerprint,
        "features": list(dataset.features),
        "classes": list(dataset.classes),
        "columns": [dataset.gene_column, dataset.label_column, dataset.fold_column],
        "options": asdict(options),
        "settings": asdict(settings),
    }
    with run_lock(out):
        if force:
            _forget(folder)
        if folder.plan.exists():
            if not resume:
                raise CheckpointError(
                    f"{out} holds a run already; leave --resume-from-checkpoint on or choose another --out"
                )
            plan = folder.read_plan()
            _refuse_other_request(folder, request)
        else:
            plan = make_plan(dataset, out, options=options, settings=settings, threads=threads, say=say)
            write_json(out / ".request.json", request)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        train(folder, plan, threads=threads, report=report, say=say)
        if is_finished(folder, plan):
            say(f"nothing to do: {out} is complete")
            return plan
        consolidate_run(folder, plan, threads=threads, report=report, say=say)
        evaluate(folder, threads=threads, report=report)
        finish(folder, plan, started)
    return plan


def finish(folder: RunFolder, plan: Plan, started: str) -> None:
    """Write the catalogue and, last, the provenance; delete the scratch."""
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
    write_json(folder.provenance, provenance)
    shutil.rmtree(folder.scratch, ignore_errors=True)


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
    except (OSError, ValueError, KeyError):
        return False


def versions() -> dict[str, str]:
    """Return the versions of mi_duck and of what its results depend on."""
    return {"mi-duck": __version__} | {
        name: importlib.metadata.version(name) for name in ("duckdb", "numpy", "pyarrow", "scikit-learn", "xgboost")
    }


def _refuse_other_request(folder: RunFolder, request: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun with other data or settings; name what differs."""
    try:
        before = json.loads((folder.root / ".request.json").read_bytes())
    except (OSError, ValueError):
        before = request  # planned by 'mi-duck plan': the plan is the truth
        plan = folder.read_plan()
        if plan.dataset_fingerprint != request["dataset"] or asdict(plan.settings) != request["settings"]:
            before = {"dataset": plan.dataset_fingerprint, "settings": asdict(plan.settings)}
    changed = []
    for name, value in before.items():
        if isinstance(value, dict):
            changed += [
                f"{key}: {old} then, {request[name].get(key)} now"
                for key, old in value.items()
                if request[name].get(key) != old
            ]
        elif request[name] != value:
            changed.append(f"{name} differ" if name != "dataset" else "the dataset's files changed")
    if changed:
        raise CheckpointError(
            f"{folder.root} was begun otherwise ({'; '.join(changed[:4])}); choose another --out or add --force-retrain-all"
        )


def _forget(folder: RunFolder) -> None:
    """Delete what an earlier run left in its folder; only names of ours, the plan first."""
    with storage_errors(folder.root):
        for file in (
            folder.plan,
            folder.root / ".request.json",
            folder.genes,
            folder.out_of_fold,
            folder.model,
            folder.summary,
            folder.metrics,
            folder.catalogue,
            folder.provenance,
        ):
            file.unlink(missing_ok=True)
        for trash in (folder.scratch, folder.root / "multi_instance_training"):
            if trash.is_dir():
                shutil.rmtree(trash)


def train_run(root: Path, *, instance_id: int | None, threads: int, report: Report, say: Say) -> None:
    """Train the instances of a plan that are not done, or one alone.

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
            train(folder, plan, threads=threads, report=report, say=say)
        return
    if instance_id >= len(plan.instances):
        raise PlanError(f"--instance {instance_id}: the plan has instances 0 to {len(plan.instances) - 1}")
    instance = plan.instances[instance_id]
    place = f"[Instance {instance_id + 1}/{len(plan.instances)}]"
    with run_lock(root):
        if is_trained(folder, plan, instance):
            say(f"{place} reusing {instance.name}")
            return
        partition(folder, plan, threads=threads, report=report)
        say(f"{place} training on {instance.n_genes:,} genes, {instance.n_rows:,} rows")
        train_one(folder, instance, threads=threads, report=report, say=say)


def run_status(root: Path) -> dict[str, Any]:
    """Return what is done in a run, without touching it.

    Raises
    ------
    CheckpointError
        There is no plan.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    instances = []
    for instance in plan.instances:
        done = is_trained(folder, plan, instance)
        measured = measurement(folder, plan, instance.instance_id) if done else {}
        instances.append(
            {
                "instance": instance.name,
                "status": "done" if done else "to do",
                "genes": instance.n_genes,
                "rows": instance.n_rows,
                "predicted_gib": round(instance.predicted_bytes / GIB, 2),
                "peak_gib": round(measured["peak_bytes"] / GIB, 2) if "peak_bytes" in measured else None,
                "wall_seconds": measured.get("wall_seconds"),
            }
        )
    return {
        "n_done": sum(one["status"] == "done" for one in instances),
        "is_consolidated": folder.model.is_file(),
        "is_finished": is_finished(folder, plan),
        "instances": instances,
    }


def consolidate_alone(root: Path, *, threads: int, report: Report, say: Say) -> None:
    """Join what is trained into one model, as a stage of its own."""
    folder = RunFolder(root)
    plan = folder.read_plan()
    with run_lock(root):
        consolidate_run(folder, plan, threads=threads, report=report, say=say)


def evaluate_alone(root: Path, *, threads: int, report: Report) -> None:
    """Score a consolidated run and write its catalogue, as a stage of its own.

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
        if is_finished(folder, plan):
            return
        started = datetime.now(UTC).isoformat(timespec="seconds")
        evaluate(folder, threads=threads, report=report)
        finish(folder, plan, started)

"""The whole run as one readable function, and each of its stages alone; the only module that knows their order."""

import importlib.metadata
import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_duck import __version__
from mi_duck.catalogue import measurement, write_catalogue
from mi_duck.checkpoint import file_sha256, storage_errors, write_json
from mi_duck.children import Report, Say
from mi_duck.data.dataset import Dataset
from mi_duck.errors import (
    CheckpointError,
    PlanError,
)
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Plan, Settings
from mi_duck.plan.planning import PlanOptions, check_place, make_plan
from mi_duck.resources import GIB
from mi_duck.stages import consolidate_run, evaluate, partition, run_lock, train, train_one
from mi_duck.train.instances import is_trained


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
        As for `mi_duck.plan.planning.make_plan`.
    resume
        Whether to go on in a folder that holds a run; else that is refused.
    force
        Whether to delete the instances of such a run first.
    report, say
        Take progress and messages.
    """
    folder = RunFolder(out)
    check_place(dataset, out)
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
    except (OSError, ValueError, KeyError, TypeError):
        return False


def versions() -> dict[str, str]:
    """Return the versions of mi_duck and of what its results depend on."""
    return {"mi-duck": __version__} | {
        name: importlib.metadata.version(name) for name in ("duckdb", "numpy", "pyarrow", "scikit-learn", "xgboost")
    }


def _refuse_other_request(
    folder: RunFolder, plan: Plan, dataset: Dataset, options: PlanOptions, settings: Settings
) -> None:
    """Refuse to go on with a run that was begun with other data or settings; name what differs."""
    changed = sorted(
        f"{name}: {old} then, {now[name]} now"
        for before, now in ((plan.options, asdict(options)), (asdict(plan.settings), asdict(settings)))
        for name, old in before.items()
        if now[name] != old
    )
    changed += [f"{name} differ" for name in ("features", "classes") if getattr(plan, name) != getattr(dataset, name)]
    columns = ("gene_column", "label_column", "fold_column", "base_scores")
    if any(getattr(plan, name) != getattr(dataset, name) for name in columns):
        changed.append("columns differ")
    if plan.dataset_fingerprint != dataset.fingerprint:
        changed.append("the dataset's files changed")
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
    with run_lock(root, shared=True), run_lock(root, name=f".lock_{instance.name}"):
        if is_trained(folder, plan, instance):
            say(f"{place} reusing {instance.name}")
            return
        with run_lock(root, name=".lock_partition", wait=True):
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

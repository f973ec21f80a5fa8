"""From what a user asks to the plan of a run: made, kept, or made anew with the instances kept that still match."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from mi_duck.atomic_files import storage_errors, sync_folder, write_file
from mi_duck.data.dataset import Dataset, changed_files
from mi_duck.errors import CheckpointError
from mi_duck.plan.make_plan import make_plan
from mi_duck.processes import Context, Say
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import checkpoint_key, key_of_folder
from mi_duck.run.plan import Plan, write_splits
from mi_duck.settings import Asked, Resuming


def plan_of_request(
    dataset: Dataset,
    folder: RunFolder,
    asked: Asked,
    context: Context,
    *,
    resuming: Resuming = Resuming(),
    is_elsewhere: bool = False,
    n_sizes: int | None = None,
) -> Plan:
    """Return the plan of a run, made now or kept, with the instances in place that match it; the run's lock is held.

    ``is_elsewhere`` and ``n_sizes`` are as for `make_plan`.

    Raises
    ------
    CheckpointError
        The folder holds a run, and ``--no-resume-from-checkpoint`` is asked for.
    """
    if resuming.force_retrain_all:
        forget(folder)
    if folder.plan.exists() and not resuming.resume_from_checkpoint:
        raise CheckpointError(
            f"{folder.root} holds a run already; leave --resume-from-checkpoint on or choose another --out"
        )
    plan = _kept_plan(folder, dataset, asked, context) if folder.plan.exists() else None
    if plan is None:
        plan = _planned_beside(folder, dataset, asked, context, is_elsewhere=is_elsewhere, n_sizes=n_sizes)
    keep_matching(folder, plan, context.say)
    return plan


def _kept_plan(folder: RunFolder, dataset: Dataset, asked: Asked, context: Context) -> Plan | None:
    """Return the plan of a run that was begun, or None where it must be made anew; say what differs."""
    plan = folder.read_plan()
    changed = differences_asked(plan, dataset, asked)
    if not changed:
        return plan
    context.say(f"{folder.root} was begun otherwise ({'; '.join(changed[:4])}); what still matches is kept")
    voted = replace(plan, asked=_joined_as(plan.asked, asked))
    if not differences_asked(voted, dataset, asked):  # how members are joined is decided after training
        _forget_results(folder)
        write_file(folder.plan, voted.to_json().encode())
        if folder.splits.is_file():
            write_splits(folder.splits, voted)
        return voted
    return None


def _joined_as(before: Asked, asked: Asked) -> Asked:
    """Return what was asked before, but for how instances become one model."""
    return replace(before, consolidation=asked.consolidation, voting=asked.voting, weights=asked.weights)


def _planned_beside(
    folder: RunFolder, dataset: Dataset, asked: Asked, context: Context, *, is_elsewhere: bool, n_sizes: int | None
) -> Plan:
    """Make the plan of a run in a folder of its own, so that a request that cannot be planned takes nothing from the run."""
    beside = RunFolder(folder.root / ".planning")
    with storage_errors(folder.root):
        shutil.rmtree(beside.root, ignore_errors=True)
        beside.root.mkdir(parents=True)
        if folder.memory.is_file():  # measured before, perhaps for the same data
            shutil.copy2(folder.memory, beside.memory)
    try:
        plan = make_plan(dataset, beside.root, asked, context, is_elsewhere=is_elsewhere, n_sizes=n_sizes)
        _forget_plan(folder)
        with storage_errors(folder.root):
            for path in sorted(beside.root.iterdir(), key=lambda path: path == beside.plan):  # the plan last
                path.replace(folder.root / path.name)
            sync_folder(folder.root)
    finally:
        shutil.rmtree(beside.root, ignore_errors=True)
    return plan


def keep_matching(folder: RunFolder, plan: Plan, say: Say) -> None:
    """Set aside the instances that other plans trained, and take back those that this plan would train alike."""
    key_of = {checkpoint_key(plan, instance): instance for instance in plan.cut.instances}
    aside = back = 0
    with storage_errors(folder.root):
        for where in sorted(folder.instances.glob("instance_*")):
            key = key_of_folder(where)
            if key is not None and (key not in key_of or key_of[key].name != where.name):
                _move(where, folder.stale / f"{where.name}_{key[:12]}")
                aside += 1
        for where in sorted(folder.stale.glob("instance_*")):
            key = key_of_folder(where)
            if key in key_of and key_of_folder(folder.instance(key_of[key])) is None:
                _move(where, folder.instance(key_of[key]))
                back += 1
        if folder.stale.is_dir() and not any(folder.stale.iterdir()):
            folder.stale.rmdir()
    if aside > back:
        say(f"{aside - back} instances match no longer; they are set aside in {folder.stale}")
    elif back:
        say(f"{back} instances of an earlier plan match again")


def _move(where: Path, target: Path) -> None:
    """Move an instance's folder in place of what may be there, such as the same instance, set aside before."""
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    where.replace(target)


def differences_asked(plan: Plan, dataset: Dataset, asked: Asked, *, estimator: str = "") -> list[str]:
    """Return in what a request differs from the one that a plan was made for, each in words.

    ``estimator`` is as in `mi_duck.run.plan.Settings`.
    """
    if plan.settings.estimator != estimator:
        names = [one or "boosted trees" for one in (plan.settings.estimator, estimator)]
        return [f"a run of {names[0]} then, of {names[1]} now"]
    now, data = asdict(asked), plan.data
    changed = sorted(
        f"{name}: {old} then, {now[name]} now"
        for name, old in asdict(plan.asked).items()
        if now[name] != old and name != "train_all_genes"  # which says what holds without it
    )
    # of the dataset's features a plan may leave out leaks, and those that a pilot found useless
    usable = [name for name in dataset.features if name not in data.leaky_features]
    kept = usable if not data.pilot_genes else [name for name in usable if name in data.features]
    if list(data.features) != kept:
        changed.append("features differ")
    if data.made != dataset.made:
        changed.append("levels of text columns or dates differ")
    if data.recipe != dataset.recipe:
        changed.append("features are made of sequence otherwise")
    if data.classes != dataset.classes:
        changed.append("classes differ")
    columns = ("gene_column", "label_column", "fold_column", "base_scores", "kept", "weight_column")
    if any(getattr(data, name) != getattr(dataset, name) for name in columns):
        changed.append("columns differ")
    if data.full_hash != dataset.full_hash:
        changed.append(f"full_hash: {data.full_hash} then, {dataset.full_hash} now")
    elif data.fingerprint != dataset.fingerprint:
        changed.append(changed_files(data, dataset))
    return changed


def forget(folder: RunFolder) -> None:
    """Delete what an earlier run left in its folder; only names of ours, the plan first."""
    _forget_plan(folder)
    _delete(folder, folder.instances, folder.stale)


def _forget_plan(folder: RunFolder) -> None:
    """Delete the plan, what it rests on and all results; the instances stay."""
    _delete(
        folder,
        folder.plan,
        folder.stage_times,
        folder.splits,
        folder.genes,
        *folder.memory_plots,
        folder.scratch,
        folder.leakage,
    )
    _forget_results(folder)


def _forget_results(folder: RunFolder) -> None:
    """Delete what was made of the instances, provenance first, so that nothing old counts as finished."""
    _delete(folder, folder.provenance, *folder.results, *folder.result_folders)


def _delete(folder: RunFolder, *paths: Path) -> None:
    """Delete files and folders of a run, in this order."""
    with storage_errors(folder.root):
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

"""The commands ``cv`` and ``blend``: any classifier on the folds of a run, and several runs as one.

Both leave the folder of a run: the same out-of-fold file, scores, catalogue and report, and a model that predicts. An
interrupted one goes on with the same command, after the last fold that was complete.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from mi_duck.archive import read_parts
from mi_duck.atomic_files import file_sha256, storage_errors, write_file
from mi_duck.classifiers import steps as classifier_steps
from mi_duck.classifiers.blend import names_of
from mi_duck.classifiers.estimators import Estimator, named_estimator
from mi_duck.classifiers.planning import classifier_plan
from mi_duck.data.dataset import Dataset, open_planned
from mi_duck.errors import CheckpointError, DataError, MemoryBudgetError, PlanError
from mi_duck.numbers import gibibytes
from mi_duck.plan.make_plan import make_plan
from mi_duck.processes import Context, in_child
from mi_duck.resources import memory_budget
from mi_duck.rows.partition import partition
from mi_duck.run.folder import RunFolder, instance_lock, invalidate_file_list, run_lock
from mi_duck.run.genes import read_gene_table
from mi_duck.run.instance_folder import is_trained, write_measurement
from mi_duck.run.plan import Cut, Instance, Plan, PlannedData, holdout_segments, make_segments
from mi_duck.run.progress import noting
from mi_duck.run.stage_times import JOINING, keep_stages
from mi_duck.settings import Asked, Classifying, Diagnostics, Resuming
from mi_duck.workflow import steps
from mi_duck.workflow.pipeline import check_request, delete_scratch, evaluate, is_finished, now, publish
from mi_duck.workflow.replace import change_places, discarded_if_refused, folder_to_write
from mi_duck.workflow.resume import differences_asked, forget

BLEND = "blend"
BLEND_BYTES = 190 << 20
"""Interpreter, NumPy, Arrow, SciPy and XGBoost."""


def cross_validate(
    dataset: Dataset,
    out: Path,
    asked: Asked,
    classifying: Classifying,
    context: Context,
    resuming: Resuming = Resuming(),
    diagnostics: Diagnostics = Diagnostics(),
) -> Plan:
    """Plan, cross-validate a classifier on the global folds, train it on all genes, score and report it.

    Raises
    ------
    CheckpointError
        The folder holds something else, or the run of another request, and nothing says that it may be replaced.
    PlanError, MemoryBudgetError
        It needs more memory than the budget; the message says what would fit.
    DataError
        A classifier of the user's own cannot be used, or takes no weights and the rows have some.
    """
    if classifying.estimator is None:
        raise PlanError("name a classifier: --estimator logistic, or package.module:factory")
    check_request(dataset, out, diagnostics)
    estimator = named_estimator(classifying.estimator, classifying.parameters)
    with run_lock(out), noting(out, "cv", context) as context:
        estimator = _tried(estimator, dataset, asked, context)
        request = _Request(dataset, asked, classifying, estimator)
        folder = folder_to_write(out, resuming, context.say, request.differences)
        with nullcontext() if folder.root == out else run_lock(folder.root):
            with discarded_if_refused(folder, out):
                plan = _plan(folder, request, resuming, context)
            if not _is_done(folder, plan, context):
                _complete(folder, plan, diagnostics, context)
            if folder.root != out:
                change_places(folder.root, out)
                context.say(f"{out} now has the new results")
    return plan


def _tried(estimator: Estimator, dataset: Dataset, asked: Asked, context: Context) -> Estimator:
    """Return a classifier, one of the user's own as it is known after it was tried; refuse weights that it cannot take."""
    if estimator.is_own:
        found = in_child(classifier_steps.try_estimator, replace(context, threads=1))(
            name=estimator.name,
            options=list(estimator.options),
            n_classes=len(dataset.classes),
            seed=asked.seed,
        ).value
        estimator = Estimator(**found | {"options": tuple(found["options"])})
    if dataset.weight_column is not None and not estimator.takes_weights:
        raise DataError(f"{estimator.name} takes no sample_weight, and rows have weights; leave --weight-column out")
    return estimator


def _complete(folder: RunFolder, plan: Plan, diagnostics: Diagnostics, context: Context) -> None:
    """Do all that follows the plan, except what is done already."""
    started = now()
    partition(folder, plan, context)
    invalidate_file_list(folder)
    (instance,) = plan.cut.instances
    with instance_lock(folder, instance):
        if not is_trained(folder, plan, instance):
            _train(folder, plan, context)
    joined = in_child(classifier_steps.join_classifier, context)(run=str(folder.root))
    keep_stages(folder, JOINING, joined.stages)
    evaluate(folder, diagnostics, context)
    publish(folder, plan, started, diagnostics, context)


@dataclass(frozen=True, slots=True)
class _Request:
    """A classifier that is asked for on some data."""

    dataset: Dataset
    asked: Asked
    classifying: Classifying
    estimator: Estimator

    def differences(self, plan: Plan) -> list[str]:
        """Return in what it differs from the request that a plan was made for, each in words."""
        estimator, settings = self.estimator, plan.settings
        if changed := differences_asked(plan, self.dataset, self.asked, estimator=estimator.name):
            return changed
        there = (settings.estimator_options, settings.estimator_made)
        if there != (estimator.options, estimator.made):
            return [f"the classifier was {_words(*there)} and is {_words(estimator.options, estimator.made)}"]
        epochs = (settings.n_estimators, settings.early_stopping_patience)
        is_same = epochs == (self.classifying.epochs, self.classifying.epoch_patience)
        return [] if is_same else ["epochs or their patience differ"]


def _plan(folder: RunFolder, request: _Request, resuming: Resuming, context: Context) -> Plan:
    """Return the plan of the folder where it is that of the request, or make one.

    Raises
    ------
    CheckpointError
        The folder holds what was begun of another request, and nothing says that it may be replaced.
    """
    if folder.plan.exists():
        plan = folder.read_plan()
        changed = request.differences(plan)
        if not changed:
            return plan
        if not resuming.replace:
            raise CheckpointError(
                f"{folder.root} was begun for another request ({'; '.join(changed[:4])}); choose another --out, or give --replace"
            )
        forget(folder)
    return make_plan(
        request.dataset,
        folder.root,
        request.asked,
        context,
        rest=lambda indexed, budget: classifier_plan(
            indexed, budget, request.asked, request.classifying, request.estimator, threads=context.threads
        ),
    )


def _words(options: Sequence[str], made: str) -> str:
    return made or ", ".join(options)


def _is_done(folder: RunFolder, plan: Plan, context: Context) -> bool:
    if not is_finished(folder, plan):
        return False
    delete_scratch(folder)  # what a kill left while it was deleted
    context.say(f"nothing to do: {folder.root} is complete")
    return True


def _train(folder: RunFolder, plan: Plan, context: Context) -> None:
    """Train the classifier in a child under its budget, and note its peak memory and time."""
    (instance,) = plan.cut.instances
    context.say(
        f"{plan.settings.estimator}: training on {plan.data.noun.count(instance.n_genes)}, {instance.n_training_rows:,} rows"
    )
    budget = plan.cut.budget.budget_bytes
    try:
        result = in_child(classifier_steps.train_classifier, context, limit_bytes=budget, frees_at_once=True)(
            run=str(folder.root), threads=context.threads
        )
    except MemoryBudgetError as error:
        raise type(error)(
            f"{error}; predicted were {gibibytes(instance.predicted_bytes)} GiB. Use fewer genes (--sample-genes), features "
            "(--screen-features) or rows (--sample-negatives), or a larger --max-memory-per-instance-gb"
        ) from error
    found = result.value
    peak = max(result.peak_bytes, found["peak_before"])
    seconds = result.wall_seconds + found["seconds_before"]
    write_measurement(
        folder,
        instance,
        peak_bytes=peak,
        phases=found["phases"],
        wall_seconds=seconds,
        build_seconds=found["build_seconds"],
        boost_seconds=found["boost_seconds"],
        stages=result.stages,
    )
    for words in found["messages"]:
        context.say(f"    {words}")
    context.say(
        f"    {seconds:.0f} s, peak {gibibytes(peak)} GiB (predicted {gibibytes(instance.predicted_bytes)})"
        + (f"; {found['folds_before']} of its fits were saved before" if found["folds_before"] else "")
    )


def blend(
    runs: Sequence[Path], out: Path, method: str, context: Context, diagnostics: Diagnostics = Diagnostics()
) -> dict[str, float]:
    """Join finished runs of the same rows and folds into one, by cross-fitted weights; return the weight of each run.

    Raises
    ------
    CheckpointError
        A run is not finished, or runs differ in data, genes, folds or seed.
    PlanError
        Fewer than two runs are named.
    """
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise PlanError("a blend needs two runs or more, each named once")
    folders = {name: RunFolder(run) for name, run in names_of(runs).items()}
    plans = {name: folder.read_plan() for name, folder in folders.items()}
    for name, folder in folders.items():
        if not is_finished(folder, plans[name]):
            raise CheckpointError(f"{folder.root} is not finished; the command that began it goes on, then blend it")
    first, *others = plans
    for name in others:
        if words := _differences(plans[first], plans[name]):
            raise CheckpointError(
                f"{first} and {name} differ in {words}; blend runs of the same data, genes, folds and seed"
            )
    if any(plan.data.weight_column is not None for plan in plans.values()):
        raise CheckpointError("runs whose rows have weights cannot be blended; blend runs without --weight-column")
    dataset = open_planned(plans[first].data)
    check_request(dataset, out, diagnostics)
    with run_lock(out), noting(out, BLEND, context) as context:
        folder = RunFolder(out)
        plan = _blend_plan(folder, folders, plans, method)
        members = {name: str(one.root) for name, one in folders.items()}
        if _is_done(folder, plan, context):
            return _weights(folder)
        started = now()
        (instance,) = plan.cut.instances
        invalidate_file_list(folder)
        if not is_trained(folder, plan, instance):
            result = in_child(classifier_steps.blend_runs, context)(run=str(out), members=members, method=method)
            write_measurement(
                folder,
                instance,
                peak_bytes=result.peak_bytes,
                phases={},
                wall_seconds=result.wall_seconds,
                build_seconds=0.0,
                boost_seconds=result.wall_seconds,
                stages=result.stages,
            )
        weights = _weights(folder)
        context.say("weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in weights.items()))
        partition(folder, plan, context)
        joined = in_child(classifier_steps.join_classifier, context)(run=str(out))
        keep_stages(folder, JOINING, joined.stages)
        evaluate(folder, diagnostics, context)
        in_child(steps.evaluate_blend, context)(
            run=str(out), members=members, weights=weights, is_minimal=diagnostics.minimal_diagnostics
        )
        publish(folder, plan, started, diagnostics, context)
    return weights


def _differences(one: Plan, other: Plan) -> str:
    """Return in what two plans differ so that their rows or folds would, in words, or nothing."""
    names = ("fingerprint", "classes", "fold_column", "gene_column", "label_column", "n_genes", "n_rows")
    found = [name.replace("_", " ") for name in names if getattr(one.data, name) != getattr(other.data, name)]
    found += [
        name.replace("_", " ")
        for name in ("seed", "n_folds")
        if getattr(one.settings, name) != getattr(other.settings, name)
    ]
    return ", ".join(found)


def _blend_plan(folder: RunFolder, folders: dict[str, RunFolder], plans: dict[str, Plan], method: str) -> Plan:
    """Return the plan of the blend, kept or written now: that of the first run, with the features and pilot genes of all.

    Raises
    ------
    CheckpointError
        The folder holds something else, or another blend.
    """
    options = (f"weights={method}", *(f"{name}={file_sha256(one.out_of_fold)[:16]}" for name, one in folders.items()))
    if folder.plan.exists():
        plan = folder.read_plan()
        if (plan.settings.estimator, plan.settings.estimator_options) != (BLEND, options):
            what = f"a blend of {', '.join(plan.settings.estimator_options)}" if _is_blend(plan) else "another run"
            raise CheckpointError(f"{folder.root} holds {what}; choose another --out")
        return plan
    first = next(iter(plans.values()))
    first_folder = next(iter(folders.values()))
    data = _joined_data([plan.data for plan in plans.values()])
    settings = replace(
        first.settings,
        layout_used="missing",
        zero_is_missing=(),
        easy_share=1.0,
        xgb_parameters=(),
        estimator=BLEND,
        estimator_options=options,
        estimator_made="",
    )
    budget = memory_budget(
        max_gb=first.asked.max_memory_per_instance_gb, safety_factor=first.asked.memory_safety_factor
    )
    peak = BLEND_BYTES + data.n_rows * (120 + len(data.classes) * (8 * len(plans) + 40))
    genes = read_gene_table(first_folder, first)
    instance = Instance(
        instance_id=0,
        first_rank=0,
        stop_rank=data.n_genes,
        n_genes=data.n_genes,
        n_rows=data.n_rows,
        n_training_rows=int(genes.n_training_rows.sum()),  # of the first run, whose genes.parquet this is
        predicted_bytes=peak,
        predicted_seconds=1e-4 * data.n_rows,
    )
    segments = make_segments((instance,), genes.n_rows)
    cut = Cut("single", budget, data.n_genes, 0, (instance,), segments, holdout_segments(data), ())
    plan = Plan(first.asked, data, settings, replace(first.costs, bytes_per_row=peak / data.n_rows), cut)
    with storage_errors(folder.root):
        shutil.copyfile(first_folder.genes, folder.genes)
    write_file(folder.plan, plan.to_json().encode())
    return plan


def _joined_data(every: Sequence[PlannedData]) -> PlannedData:
    """Return the data of a blend: those of the first run, with the features of all, scored where all are scored."""
    small, wide = (
        {name for data in every for name in getattr(data, kind)} for kind in ("small_features", "wide_features")
    )
    features = tuple(dict.fromkeys(name for data in every for name in data.features))
    return replace(
        every[0],
        features=features,
        small_features=tuple(name for name in features if name in small),
        wide_features=tuple(name for name in features if name in wide),
        pilot_genes=max(data.pilot_genes for data in every),
        levels=tuple(dict.fromkeys(one for data in every for one in data.levels)),
        dates=tuple(dict.fromkeys(one for data in every for one in data.dates)),
        easy_below=None,
    )


def _is_blend(plan: Plan) -> bool:
    return plan.settings.estimator == BLEND


def _weights(folder: RunFolder) -> dict[str, float]:
    """Return the weight of each run of a blend by its name, as its model has them."""
    (where,) = folder.instances.glob("instance_*")
    facts = json.loads(read_parts(where / "model_multiclass.miduck")["model.json"])
    return dict(zip(facts["names"], facts["weights"], strict=True))

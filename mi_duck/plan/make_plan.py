"""From a dataset to the plan of a run: index genes, assign folds, predict memory, cut instances."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256, write_file
from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.data.dataset import Dataset, resolved, resolved_location
from mi_duck.data.genes import Fold, GeneIndex, assign_folds, index_genes, say_selection, write_genes
from mi_duck.data.statistics import feature_bins, read_statistics, split_features, unfit_values, warnings_of
from mi_duck.errors import CheckpointError, DataError, PlanError
from mi_duck.leakage.leakage import LEAKY, without_leaks
from mi_duck.plan.choices import choose_cv, choose_layout, choose_sample, screened
from mi_duck.plan.layouts import SPARSE, layout_of, zeros_to_leave_out
from mi_duck.plan.probes import (
    density_of,
    is_worth_probing,
    least_genes,
    measure,
    open_small_run,
    probe_sizes,
    write_memory,
)
from mi_duck.plan.splitting import missing_class
from mi_duck.plan.strategies import (
    CutRequest,
    alternatives,
    check_graphics_memory,
    choose_strategy,
    instance_seconds,
    windows_of,
)
from mi_duck.plan.windows import Windows
from mi_duck.processes import Report, Say
from mi_duck.resources import GIB, Budget, check_device, memory_budget
from mi_duck.rows.segments import segments_bytes
from mi_duck.run.costs import Layout, MemoryModel, Rates
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import PLAN_VERSION, Instance, Plan, Settings, holdout_segments, make_segments


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user may ask of a plan; the flags of the command line under their names."""

    train_all_genes: bool = False
    sample_genes: int | None = None
    genes_per_instance: int = 1500
    max_instances: int = 10
    instance_overlap: float = 0.1
    memory_per_gene_mb: float | None = None
    max_memory_per_instance_gb: float = 15.0
    memory_safety_factor: float = 0.6
    auto_adjust_instance_size: bool = True
    strategy: str = "auto"
    layout: str = "auto"
    cv: str = "auto"
    sample_negatives: float | None = None
    screen_features: int | None = None
    voting: str = "probability"
    weights: str = "uniform"
    auto_exclude_leaky: bool = False
    holdout_genes: str | None = None


def make_plan(
    dataset: Dataset,
    out: Path,
    *,
    options: PlanOptions,
    settings: Settings,
    threads: int,
    is_elsewhere: bool = False,
    report: Report,
    say: Say,
) -> Plan:
    """Index genes, assign folds, predict memory, cut instances; write ``genes.parquet`` and ``plan.json``.

    Parameters
    ----------
    dataset
        The dataset.
    out
        Run folder; must not hold a plan.
    options, settings
        What the user asked for.
    threads
        Threads of the training, which count a little in its memory.
    is_elsewhere
        As for `mi_duck.resources.memory_budget`.
    report, say
        Take progress and messages for the user.

    Raises
    ------
    DataError, PlanError, MemoryBudgetError
        See `mi_duck.data.genes`, `mi_duck.run.plan`.
    """
    folder = RunFolder(out)
    if folder.plan.exists():
        raise CheckpointError(
            f"{out} holds a plan already; 'mi-duck train {out}' goes on with it, or choose another --out"
        )
    try:
        draft = draft_plan(dataset, folder, options, settings, threads, say, report=report)
        budget = memory_budget(
            max_gb=options.max_memory_per_instance_gb,
            safety_factor=options.memory_safety_factor,
            is_elsewhere=is_elsewhere,
        )
        plan = _with_instances(draft, dataset, folder, options, budget, threads=threads, report=report, say=say)
        write_file(folder.plan, plan.to_json().encode())
    finally:
        if not folder.plan.exists():  # it may be there whole although writing it failed at last
            folder.genes.unlink(missing_ok=True)
            shutil.rmtree(folder.leakage, ignore_errors=True)
        shutil.rmtree(folder.scratch, ignore_errors=True)
    _say_plan(plan, draft.folds, say)
    return plan


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan without instances, the tables it was made from, and the memory model by formula."""

    plan: Plan
    index: GeneIndex
    folds: tuple[Fold, ...]
    genes: pa.Table
    bins: dict[str, int]
    model: MemoryModel


def draft_plan(
    dataset: Dataset,
    folder: RunFolder,
    options: PlanOptions,
    settings: Settings,
    threads: int,
    say: Say,
    *,
    report: Report | None = None,
) -> Draft:
    """Index the genes, assign folds, write ``genes.parquet``; look for leaks where progress is reported."""
    if options.train_all_genes and options.sample_genes is not None:
        raise PlanError("--train-all-genes and --sample-genes exclude each other; give one")
    check_device(settings.device, options.strategy)
    with Database(threads=threads, memory_bytes=SQL_BYTES) as db:
        index = index_genes(
            db, dataset, seed=settings.seed, sample_genes=options.sample_genes, holdout=options.holdout_genes
        )
        say_selection(index, dataset, say)
        folds = assign_folds(db, dataset, n_folds=settings.n_folds, seed=settings.seed)
        statistics = read_statistics(db, dataset)
        if unfit := unfit_values(dataset, statistics, layout=options.layout):
            raise DataError(unfit)
        for warning in warnings_of(db, dataset, statistics):
            say(f"warning: {warning}")
        table = db.arrow("genes")
        held_out, table = table.slice(index.n_genes), table.slice(0, index.n_genes)
        if report is not None:
            small, is_excluding = split_features(dataset, statistics)[0], options.auto_exclude_leaky
            dataset = without_leaks(db, dataset, folder, small, settings.seed, is_excluding, threads, report, say)
        training_rows = table["n_rows"].to_pylist()
        share, easy_below = choose_sample(
            db, dataset, options.sample_negatives, n_rows=index.n_rows, seed=settings.seed
        )
        if easy_below is not None:
            training_rows = db.arrow("gene_training_rows")["n_training_rows"].to_pylist()
            say(
                f"easy negatives: those whose site score is below {easy_below:.4g}; {share:g} of them are trained on, "
                f"{sum(training_rows):,} of {index.n_rows:,} rows in all; all rows are scored (--sample-negatives)"
            )
        table = table.append_column("n_training_rows", pa.array(training_rows, pa.int64()))
    small, wide = split_features(dataset, statistics)
    dataset.check_unchanged()
    write_genes(folder.genes, table, held_out)
    plan = Plan(
        version=PLAN_VERSION,
        location=resolved_location(dataset.location),
        files=tuple(resolved(file) for file in dataset.files),
        dataset_fingerprint=dataset.fingerprint,
        gene_column=dataset.gene_column,
        label_column=dataset.label_column,
        fold_column=dataset.fold_column,
        position_column=dataset.position_column,
        classes=dataset.classes,
        labels=dataset.labels,
        base_scores=dataset.base_scores,
        features=dataset.features,
        small_features=small,
        wide_features=wide,
        zero_is_missing=(),
        easy_below=easy_below,
        pilot_genes=0,
        sample_genes=options.sample_genes,
        n_genes_dataset=index.n_genes_dataset,
        n_genes=index.n_genes,
        n_rows=index.n_rows,
        genes_sha256=file_sha256(folder.genes),
        options=asdict(options),
        settings=replace(
            settings,
            cv=choose_cv(options.cv, settings, n_features=len(dataset.features), n_wide=len(wide)),
            sample_negatives=share,
        ),
        strategy="",
        alternatives=(),
        genes_per_instance=options.genes_per_instance,
        overlap_genes=0,
        budget_bytes=0,
        budget_source="",
        budget_is_users_number=False,
        memory={},
        bytes_per_row=0.0,
        record_bytes=len(small) + 4 * len(wide),
        instances=(),
        segments=(),
        n_holdout_genes=index.n_holdout_genes,
        n_holdout_rows=index.n_holdout_rows,
        leaky_features=tuple(name for name, why in dataset.excluded if why == LEAKY),
        pins=dataset.pins,
        hashes=dataset.hashes,
        full_hash=dataset.full_hash,
    )
    bins = feature_bins(dataset, statistics, settings.max_bin)
    n_missing = int(sum(statistics[name]["n_nulls"] or 0 for name in wide))  # DuckDB adds up to a Decimal
    layout = Layout(
        n_features=len(dataset.features),
        n_wide=len(wide),
        bins=sum(bins.values()),
        missing_share=n_missing / (dataset.n_rows * len(dataset.features)),
        stored_share=1.0,
        has_sparse_column=any((statistics[name]["n_nulls"] or 0) > (1 - SPARSE) * dataset.n_rows for name in wide),
        n_classes=len(dataset.classes),
        max_bin=settings.max_bin,
        max_depth=settings.max_depth,
        threads=threads,
        cv=plan.settings.cv,
        scored_per_row=index.n_rows / sum(training_rows),
    )
    return Draft(plan, index, folds, table, bins, MemoryModel(layout, options.memory_per_gene_mb))


def cut_request(options: PlanOptions, plan: Plan, training_rows: NDArray[np.int64]) -> CutRequest:
    """Return what a plan must fit, from what was asked and the training rows of each gene, shape (n_genes,)."""
    return CutRequest(
        gene_rows=training_rows,
        genes_per_instance=options.genes_per_instance,
        overlap=options.instance_overlap,
        max_instances=options.max_instances,
        auto_adjust=options.auto_adjust_instance_size,
        settings=plan.settings,
        n_classes=len(plan.classes),
        record_bytes=plan.record_bytes,
        n_rows=plan.n_rows,
    )


def _with_instances(
    draft: Draft,
    dataset: Dataset,
    folder: RunFolder,
    options: PlanOptions,
    budget: Budget,
    *,
    threads: int,
    report: Report,
    say: Say,
) -> Plan:
    """Return the plan with layout and instances, by measured memory where measuring is worth it."""
    gene_rows = draft.genes["n_rows"].to_numpy()
    training_rows = draft.genes["n_training_rows"].to_numpy()
    if options.screen_features is not None:
        plan, model = screened(
            draft.plan,
            draft.model,
            draft.genes,
            draft.bins,
            folder,
            wanted=options.screen_features,
            threads=threads,
            report=report,
            say=say,
        )
        draft = replace(draft, plan=plan, model=model)
    plan, model, rates = draft.plan, draft.model, Rates()
    model = model.with_layout(replace(model.layout, is_external=options.strategy == "external"))
    sizes = probe_sizes(training_rows, options.genes_per_instance) if options.memory_per_gene_mb is None else []
    is_probed = is_worth_probing(plan, training_rows, sizes)
    request = cut_request(options, plan, training_rows)
    density = None
    if is_probed or options.layout == "zeros":
        looked = sizes if is_probed else [least_genes(training_rows)]
        small_run, small = open_small_run(
            folder, plan, gene_rows, training_rows, looked, threads=threads, report=report
        )
        density = density_of(small_run, small, max(looked))
        layout, reason = choose_layout(
            options.layout,
            options.strategy,
            request,
            model,
            density,
            budget,
            train_all_genes=options.train_all_genes,
        )
        say(f"layout '{layout}': {reason}")
        zeros = zeros_to_leave_out(model.layout, density)
        plan = replace(
            plan,
            settings=replace(plan.settings, layout=layout),
            zero_is_missing=zeros if layout == "zeros" else (),
            strategy=options.strategy,
        )
        model = model.with_layout(layout_of(model.layout, density, layout, zeros))
        small = replace(small, settings=plan.settings, zero_is_missing=plan.zero_is_missing, strategy=plan.strategy)
        if is_probed:
            model, rates, _ = measure(model, folder, small_run, small, threads=threads, report=report)
    elif options.layout == "sentinel":
        plan = replace(plan, settings=replace(plan.settings, layout="sentinel"))
        model = model.with_layout(replace(model.layout, missing_share=0.0, stored_share=1.0, has_sparse_column=False))
    request = replace(request, settings=plan.settings)
    strategy = choose_strategy(options.strategy, request, model, budget, train_all_genes=options.train_all_genes)
    zeros = zeros_to_leave_out(model.layout, density) if density is not None else ()
    found = alternatives(request, model, rates, budget, density, zeros, strategy=strategy)
    windows = windows_of(strategy, request, model, budget)
    for remark in windows.remarks:
        say(remark)
    _advise(windows, strategy, say)
    before, before_training = (np.concatenate([[0], np.cumsum(rows)]) for rows in (gene_rows, training_rows))
    instances = tuple(
        Instance(
            number,
            first,
            stop,
            stop - first,
            int(before[stop] - before[first]),
            n_training,
            model.predict_bytes(n_training, stop - first),
            instance_seconds(strategy, n_training, request, model, rates),
        )
        for number, (first, stop) in enumerate(windows.ranges)
        for n_training in [int(before_training[stop] - before_training[first])]
    )
    _check_classes(instances, draft.genes, dataset, plan.settings)
    if plan.settings.device != "cpu":
        say(check_graphics_memory(instances, model.layout))
    if not is_probed:
        write_memory(folder, model, rates)
    return replace(
        plan,
        strategy=strategy,
        alternatives=tuple(asdict(one) for one in found),
        genes_per_instance=windows.genes_per_instance,
        overlap_genes=windows.overlap_genes,
        budget_bytes=budget.budget_bytes,
        budget_source=budget.won,
        budget_is_users_number=budget.is_users_number,
        memory=model.to_dict(),
        bytes_per_row=model.bytes_per_row()
        or (options.memory_per_gene_mb or 0) * (1 << 20) * plan.n_genes / plan.n_rows,
        instances=instances,
        segments=make_segments(instances, gene_rows),
        holdout_segments=holdout_segments(plan),
    )


def _advise(windows: Windows, strategy: str, say: Say) -> None:
    """Print what experience says about sizes; it binds nothing."""
    if strategy == "multi" and not 500 <= windows.genes_per_instance <= 5000:
        say(f"warning: {windows.genes_per_instance:,} genes per instance; 500 to 5,000 are usual")


def _check_classes(instances: tuple[Instance, ...], genes: Any, dataset: Dataset, settings: Settings) -> None:
    """Refuse a plan in which some fold of some instance would train without a class."""
    counts = np.array(genes["label_counts"].to_pylist(), dtype=np.int64)
    folds = genes["fold"].to_numpy()
    for instance in instances:
        window = slice(instance.first_rank, instance.stop_rank)
        absent = missing_class(counts[window], folds[window], settings.n_folds)
        if absent:
            fold, index = absent
            raise PlanError(
                f"{instance.name} has no row of class {dataset.classes[index]} outside fold {fold}; set a larger "
                "--genes-per-instance or fewer --n-folds"
            )


def _say_plan(plan: Plan, folds: tuple[Fold, ...], say: Say) -> None:
    say(
        f"{plan.n_genes:,} genes, {plan.n_rows:,} rows, {len(plan.features):,} features "
        f"({len(plan.small_features):,} as bytes); {len(folds)} folds over '{plan.fold_column}'"
    )
    say(
        f"budget {plan.budget_bytes / GIB:.2f} GiB an instance: {plan.budget_source}; predictions are "
        + ("measured" if MemoryModel.from_dict(plan.memory).is_measured else "by formula, not yet measured")
    )
    say(f"disk for the run's scratch: {segments_bytes(plan) / 1e9:.2f} GB")

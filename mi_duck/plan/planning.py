"""From a dataset to the plan of a run: index genes, assign folds, predict memory, cut instances."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.checkpoint import file_sha256, storage_errors, write_file
from mi_duck.children import Report, Say
from mi_duck.data.dataset import Dataset
from mi_duck.data.genes import Fold, GeneIndex, assign_folds, index_genes
from mi_duck.data.inspection import data_warnings, split_features
from mi_duck.database import SQL_BYTES, Database
from mi_duck.errors import CheckpointError, DataError, MemoryBudgetError, PlanError
from mi_duck.folders import RunFolder
from mi_duck.plan.memory import Layout, MemoryModel
from mi_duck.plan.plan import PLAN_VERSION, Instance, Plan, Settings, make_segments
from mi_duck.plan.probes import is_worth_probing, measure, probe_sizes
from mi_duck.plan.windows import Windows, cut_windows
from mi_duck.resources import GIB, Budget, memory_budget
from mi_duck.train.segments import segments_bytes

MULTI_ABOVE_GENES = 1500


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


def check_place(dataset: Dataset, out: Path) -> None:
    """Refuse a run folder that holds the dataset or lies in its folder, where its files would become data.

    Raises
    ------
    DataError
        The two are not apart.
    """
    place = out.resolve()
    if any(file.resolve().is_relative_to(place) for file in dataset.files):
        raise DataError(f"--out {out} holds the dataset itself; choose another folder")
    if Path(dataset.location).is_dir() and place.is_relative_to(Path(dataset.location).resolve()):
        raise DataError(f"--out {out} would become part of the dataset {dataset.location}; choose another folder")


def make_plan(
    dataset: Dataset,
    out: Path,
    *,
    options: PlanOptions,
    settings: Settings,
    threads: int,
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
    report, say
        Take progress and messages for the user.

    Raises
    ------
    DataError, PlanError, MemoryBudgetError
        See `mi_duck.data.genes`, `mi_duck.plan.plan`.
    """
    folder = RunFolder(out)
    if folder.plan.exists():
        raise CheckpointError(
            f"{out} holds a plan already; 'mi-duck train {out}' goes on with it, or choose another --out"
        )
    is_made = False
    try:
        draft = draft_plan(dataset, folder, options, settings, threads, say)
        plan = _with_instances(draft, dataset, folder, options, threads=threads, report=report, say=say)
        write_file(folder.plan, plan.to_json().encode())
        is_made = True
    finally:
        if not is_made:
            folder.genes.unlink(missing_ok=True)
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
    model: MemoryModel


def draft_plan(
    dataset: Dataset, folder: RunFolder, options: PlanOptions, settings: Settings, threads: int, say: Say
) -> Draft:
    """Index the genes, assign folds, write ``genes.parquet``; all of a plan but its instances."""
    if options.train_all_genes and options.sample_genes is not None:
        raise PlanError("--train-all-genes and --sample-genes exclude each other; give one")
    with Database(threads=threads, memory_bytes=SQL_BYTES) as db:
        if options.sample_genes is not None:
            index = index_genes(db, dataset, seed=settings.seed, sample_genes=options.sample_genes)
            say(f"Sampling {index.n_genes:,} genes out of {index.n_genes_dataset:,}")
            say(f"Selected {index.n_rows:,} rows from {index.n_genes:,} genes")
        else:
            index = index_genes(db, dataset, seed=settings.seed)
        folds = assign_folds(db, dataset, n_folds=settings.n_folds, seed=settings.seed)
        statistics = {row["name"]: row for row in db.rows("column_statistics", files=Database.patterns(dataset.files))}
        table = db.arrow("genes")
    for warning in data_warnings(dataset, statistics):
        say(f"warning: {warning}")
    small, wide = split_features(dataset, statistics)
    with storage_errors(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
        temporary = folder.root / ".genes.parquet.tmp"
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        temporary.replace(folder.genes)
    plan = Plan(
        version=PLAN_VERSION,
        location=str(Path(dataset.location).absolute()),  # a later step may run elsewhere
        files=tuple(str(file.resolve()) for file in dataset.files),
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
        sample_genes=options.sample_genes,
        n_genes_dataset=index.n_genes_dataset,
        n_genes=index.n_genes,
        n_rows=index.n_rows,
        genes_sha256=file_sha256(folder.genes),
        options=asdict(options),
        settings=settings,
        strategy="",
        genes_per_instance=options.genes_per_instance,
        overlap_genes=0,
        budget_bytes=0,
        budget_source="",
        memory_is_measured=False,
        bytes_per_row=0.0,
        record_bytes=len(small) + 4 * len(wide),
        instances=(),
        segments=(),
    )
    layout = _layout(dataset, statistics, settings, threads, len(wide))
    return Draft(plan, index, folds, table, MemoryModel(layout, options.memory_per_gene_mb))


def _with_instances(
    draft: Draft,
    dataset: Dataset,
    folder: RunFolder,
    options: PlanOptions,
    *,
    threads: int,
    report: Report,
    say: Say,
) -> Plan:
    """Return the plan with instances cut within the budget, by measured memory where measuring is worth it."""
    index, model = draft.index, draft.model
    gene_rows = draft.genes["n_rows"].to_numpy()
    sizes = probe_sizes(gene_rows, options.genes_per_instance) if options.memory_per_gene_mb is None else []
    if is_worth_probing(draft.plan, gene_rows, sizes):
        model = measure(model, folder, draft.plan, gene_rows, sizes=sizes, threads=threads, report=report)
    budget = memory_budget(max_gb=options.max_memory_per_instance_gb, safety_factor=options.memory_safety_factor)
    strategy, windows = _choose(index, gene_rows, model, budget, options)
    for remark in windows.remarks:
        say(remark)
    _advise(windows, strategy, say)
    before = np.concatenate([[0], np.cumsum(gene_rows)])
    instances = tuple(
        Instance(
            number,
            first,
            stop,
            stop - first,
            int(before[stop] - before[first]),
            model.predict_bytes(int(before[stop] - before[first]), stop - first),
        )
        for number, (first, stop) in enumerate(windows.ranges)
    )
    _check_classes(instances, draft.genes, dataset, draft.plan.settings)
    return replace(
        draft.plan,
        strategy=strategy,
        genes_per_instance=windows.genes_per_instance,
        overlap_genes=windows.overlap_genes,
        budget_bytes=budget.budget_bytes,
        budget_source=budget.won,
        memory_is_measured=model.is_measured,
        bytes_per_row=model.bytes_per_row()
        or (options.memory_per_gene_mb or 0) * (1 << 20) * index.n_genes / index.n_rows,
        instances=instances,
        segments=make_segments(instances, gene_rows),
    )


def _layout(
    dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]], settings: Settings, threads: int, n_wide: int
) -> Layout:
    """Return what memory depends on, from the footers: bins of whole-number columns are bounded by their range."""
    bins, has_missing = 0, False
    kinds = pq.read_schema(dataset.files[0])
    for name in dataset.features:
        facts = statistics[name]
        whole = "int" in str(kinds.field(name).type) and facts["is_known"] and facts["low"] is not None
        bins += min(settings.max_bin, int(facts["high"] - facts["low"]) + 1) if whole else settings.max_bin
        has_missing |= not facts["is_known"] or facts["n_nulls"] > 0
    return Layout(
        n_features=len(dataset.features),
        n_wide=n_wide,
        bins=bins,
        has_missing=has_missing,
        n_classes=len(dataset.classes),
        max_bin=settings.max_bin,
        max_depth=settings.max_depth,
        threads=threads,
    )


def _choose(
    index: GeneIndex, gene_rows: Any, model: MemoryModel, budget: Budget, options: PlanOptions
) -> tuple[str, Windows]:
    """Return the strategy and its windows: one window over all genes for ``single``."""
    whole = Windows(((0, index.n_genes),), index.n_genes, 0, ())
    single_bytes = model.predict_bytes(index.n_rows, index.n_genes)
    strategy = options.strategy
    if strategy == "auto":
        prefers_multi = options.train_all_genes and index.n_genes > MULTI_ABOVE_GENES
        strategy = "multi" if prefers_multi or single_bytes > budget.budget_bytes else "single"
    if strategy == "single":
        if single_bytes > budget.budget_bytes:
            kind = PlanError if budget.is_users_number else MemoryBudgetError
            raise kind(
                f"a single model of {index.n_rows:,} rows needs {single_bytes / GIB:.2f} GiB, but the budget is "
                f"{budget.budget_bytes / GIB:.2f} GiB ({budget.won}); set --strategy multi"
            )
        return strategy, whole
    if options.memory_per_gene_mb is None:
        rows_limit, genes = model.rows_within(budget.budget_bytes), options.genes_per_instance
    else:
        rows_limit = int(gene_rows.sum())
        most = int((budget.budget_bytes - model.predict_bytes(0, 0)) / (options.memory_per_gene_mb * (1 << 20)))
        genes = min(options.genes_per_instance, most)
        if genes < 1 or (genes < options.genes_per_instance and not options.auto_adjust_instance_size):
            raise PlanError(
                f"--genes-per-instance {options.genes_per_instance} at --memory-per-gene-mb {options.memory_per_gene_mb:g} needs "
                f"{model.predict_bytes(0, options.genes_per_instance) / GIB:.2f} GiB, but the budget is "
                f"{budget.budget_bytes / GIB:.2f} GiB ({budget.won}), which holds {max(most, 0):,} genes"
            )
    if rows_limit == 0:
        kind = PlanError if budget.is_users_number else MemoryBudgetError
        raise kind(
            f"the budget of {budget.budget_bytes / GIB:.2f} GiB ({budget.won}) holds no row; training needs "
            f"{model.predict_bytes(int(gene_rows.max()), 1) / GIB:.2f} GiB for the largest gene alone"
        )
    return strategy, cut_windows(
        gene_rows,
        genes_per_instance=genes,
        overlap=options.instance_overlap,
        max_instances=options.max_instances,
        rows_limit=rows_limit,
        auto_adjust=options.auto_adjust_instance_size,
        budget=budget,
        predict_bytes=lambda rows: model.predict_bytes(rows, 1),
    )


def _advise(windows: Windows, strategy: str, say: Say) -> None:
    """Print what experience says about sizes; it binds nothing."""
    if strategy == "multi" and not 500 <= windows.genes_per_instance <= 5000:
        say(f"warning: {windows.genes_per_instance:,} genes an instance; 500 to 5,000 are usual")


def _check_classes(instances: tuple[Instance, ...], genes: Any, dataset: Dataset, settings: Settings) -> None:
    """Refuse a plan in which some fold of some instance would train without a class."""
    counts = np.array(genes["label_counts"].to_pylist(), dtype=np.int64)
    folds = genes["fold"].to_numpy()
    for instance in instances:
        window = slice(instance.first_rank, instance.stop_rank)
        for fold in range(settings.n_folds):
            training = counts[window][folds[window] != fold].sum(axis=0)
            if (training == 0).any():
                name = dataset.classes[int(np.flatnonzero(training == 0)[0])]
                raise PlanError(
                    f"{instance.name} has no row of class {name} outside fold {fold}; set a larger --genes-per-instance or "
                    "fewer --n-folds"
                )


def _say_plan(plan: Plan, folds: tuple[Fold, ...], say: Say) -> None:
    say(
        f"{plan.n_genes:,} genes, {plan.n_rows:,} rows, {len(plan.features):,} features "
        f"({len(plan.small_features):,} as bytes); {len(folds)} folds over '{plan.fold_column}'"
    )
    say(
        f"budget {plan.budget_bytes / GIB:.2f} GiB an instance: {plan.budget_source}; predictions are "
        + ("measured" if plan.memory_is_measured else "by formula, not yet measured")
    )
    say(f"disk for the run's scratch: {segments_bytes(plan) / 1e9:.2f} GB")

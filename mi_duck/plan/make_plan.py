"""From a dataset to the plan of a run: index genes, assign folds, choose a layout, measure costs, cut instances.

`make_plan` is a line: each step returns a record that is complete, and the next step reads it.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mi_duck.atomic_files import file_sha256, storage_errors, write_file
from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.data.dataset import Dataset, resolved, resolved_location
from mi_duck.data.genes import GeneCounts, assign_folds, check_weights, index_genes, say_selection, write_genes
from mi_duck.data.identical import telling_features
from mi_duck.data.sampling import sample_negatives
from mi_duck.data.statistics import (
    id_warnings,
    most_values,
    read_statistics,
    split_features,
    unfit_values,
    warnings_of,
)
from mi_duck.errors import CheckpointError, DataError, PlanError
from mi_duck.leakage.leakage import LEAKY, without_leaks
from mi_duck.plan.choices import (
    best_features,
    choose_cv,
    choose_features,
    choose_layout,
    choose_sample,
    hint_of_levels,
    pilot_size,
    unused_instance_options,
)
from mi_duck.plan.probes import (
    PILOT_DEPTH,
    PILOT_RATE,
    SmallRun,
    density_of,
    is_worth_probing,
    least_genes,
    measure,
    open_small_run,
    probe_sizes,
    screen,
    write_memory,
)
from mi_duck.plan.strategies import (
    SPARSE,
    CutRequest,
    alternatives,
    check_graphics_memory,
    choose_strategy,
    instance_seconds,
    layout_of,
    usual_rounds,
    usual_trees,
    windows_of,
    without_missing,
    zeros_to_leave_out,
)
from mi_duck.plan.windows import LEAST_SIZES, Windows, missing_class, nested_ranges, refusal_of, window_instance
from mi_duck.processes import Context
from mi_duck.resources import GIB, Budget, check_device, memory_budget
from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.constraints import check_constraints, unused_in
from mi_duck.run.costs import Costs, Layout, MemoryModel, Rates
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneTable
from mi_duck.run.made import dates_in, levels_in
from mi_duck.run.plan import Cut, Instance, Plan, PlannedData, Settings, holdout_segments, make_segments
from mi_duck.run.stage_times import PLANNING, keep_stages, metered
from mi_duck.run.xgboost_parameters import checked_parameters, leaf_weight, with_usual
from mi_duck.settings import Asked


@dataclass(frozen=True, slots=True)
class Indexed:
    """The data of a plan, and the tables that only planning needs.

    Parameters
    ----------
    genes
        Without those held out.
    bins
        Histogram bins of every feature, at most.
    crowded
        Features of one byte that may have more values than bins, so that they are sketched as wider ones are.
    easy_share
        Share of the easy negatives that is trained on.
    missing_share, has_sparse_column
        Of the cells of all columns, by the footers, and whether a column is filled to less than a fifth.
    weight
        Of all rows together, 1 each where they have no weights.
    pilot
        The rows that features were chosen on, with all features; None where all are kept.
    """

    data: PlannedData
    genes: GeneTable
    bins: dict[str, int]
    crowded: frozenset[str]
    easy_share: float
    missing_share: float
    has_sparse_column: bool
    weight: float
    pilot: SmallRun | None = None

    @property
    def n_sketched(self) -> int:
        """How many features are sketched, at most."""
        return len(self.data.wide_features) + len(self.crowded & set(self.data.small_features))


@dataclass(frozen=True, slots=True)
class LaidOut:
    """How missing values and zeros are treated, and the rows that were looked at to decide it.

    Parameters
    ----------
    model
        Memory by formula, in that layout.
    zeros
        Features whose zeros would count as missing in the layout ``zeros``.
    density, small_run
        How columns are filled, and the rows of a few genes on disk; None where no rows were looked at.
    is_probed
        Whether memory and time are to be measured on them.
    """

    settings: Settings
    model: MemoryModel
    zeros: tuple[str, ...]
    density: ColumnDensity | None
    small_run: SmallRun | None
    is_probed: bool


def make_plan(
    dataset: Dataset,
    out: Path,
    asked: Asked,
    context: Context,
    *,
    is_elsewhere: bool = False,
    n_sizes: int | None = None,
    rest: Callable[[Indexed, Budget], Plan] | None = None,
) -> Plan:
    """Index genes, assign folds, predict memory, cut instances; write ``genes.parquet``, ``stage_times.json`` and ``plan.json``.

    Parameters
    ----------
    out
        Run folder; must not hold a plan.
    context
        Its threads count a little in the memory of training.
    is_elsewhere
        As for `mi_duck.resources.memory_budget`.
    n_sizes
        Plan so many nested instances, each with twice the genes of the one before and the last with all, for a learning
        curve; None: instances as asked.
    rest
        Makes the plan once data and features are known, where it is not boosted trees that are to be trained.

    Raises
    ------
    DataError, PlanError, MemoryBudgetError
        See `mi_duck.data.genes`, `mi_duck.plan.windows`.
    """
    folder = RunFolder(out)
    if folder.plan.exists():
        raise CheckpointError(
            f"{out} holds a plan already; 'mi-duck train {out}' goes on with it, or choose another --out"
        )
    is_new = not out.exists()
    meter, context = metered(context)
    try:
        indexed = plan_data(dataset, folder, asked, context)
        budget = memory_budget(
            max_gb=asked.max_memory_per_instance_gb,
            safety_factor=asked.memory_safety_factor,
            is_elsewhere=is_elsewhere,
        )
        wanted = choose_features(
            asked.screen_features, n_features=len(indexed.data.features), n_genes=indexed.data.n_genes
        )
        if wanted and (asked.screen_features or not rest):  # other classifiers keep all unless asked
            indexed = screen_features(indexed, wanted, folder, asked, context, is_probed=rest is None)
        elif asked.screen_features:
            context.say(
                f"--screen-features {asked.screen_features:,} keeps all {len(indexed.data.features):,} features"
            )
        for name in unused_in(checked_parameters(asked.xgb), dataset, indexed.data):
            context.say(f"--xgb: {name} was left out of the features, so its constraint does nothing")
        plan = rest(indexed, budget) if rest else _of_trees(indexed, folder, asked, budget, context, n_sizes)
        keep_stages(folder, PLANNING, meter.stages())
        write_file(folder.plan, plan.to_json().encode())
    finally:
        if not folder.plan.exists():  # it may be there whole although writing it failed at last
            folder.genes.unlink(missing_ok=True)
            folder.stage_times.unlink(missing_ok=True)
            shutil.rmtree(folder.leakage, ignore_errors=True)
        shutil.rmtree(folder.scratch, ignore_errors=True)
        if is_new and out.exists() and not any(out.iterdir()):
            out.rmdir()
    _say_plan(plan, context)
    return plan


def _of_trees(
    indexed: Indexed, folder: RunFolder, asked: Asked, budget: Budget, context: Context, n_sizes: int | None
) -> Plan:
    laid_out = lay_out(indexed, folder, asked, budget, context)
    costs = measure_costs(indexed, laid_out, folder, asked, context)
    cut = cut_instances(indexed, laid_out, costs, asked, budget, context, n_sizes=n_sizes)
    if not laid_out.is_probed:  # nothing is written for a plan that is refused
        write_memory(folder, costs.model, costs.rates)
    return Plan(asked, indexed.data, laid_out.settings, costs, cut)


def plan_data(
    dataset: Dataset, folder: RunFolder, asked: Asked, context: Context, *, with_leakage: bool = True
) -> Indexed:
    """Index the genes, assign folds, choose rows; write ``genes.parquet`` and, if asked, the report of leaky features."""
    if asked.train_all_genes and asked.sample_genes is not None:
        raise PlanError("--train-all-genes and --sample-genes exclude each other; give one")
    check_device(asked.device, asked.strategy)
    check_constraints(checked_parameters(asked.xgb), dataset)
    with storage_errors(folder.root):
        folder.scratch.mkdir(parents=True, exist_ok=True)  # where DuckDB spills
    with Database(threads=context.threads, memory_bytes=SQL_BYTES, scratch=folder.scratch / "sql") as db:
        index = index_genes(
            db,
            dataset,
            seed=asked.seed,
            sample_genes=asked.sample_genes,
            holdout=asked.holdout_genes,
            group_identical=asked.group_identical,
        )
        content = telling_features(dataset, seed=asked.seed)
        say_selection(index, dataset, context.say)
        assign_folds(db, dataset, n_folds=asked.n_folds, seed=asked.seed)
        weight = check_weights(db, dataset, n_rows=index.n_rows)
        statistics = read_statistics(db, dataset)
        if unfit := unfit_values(dataset, statistics, layout=asked.layout):
            raise DataError(unfit)
        ids = id_warnings(dataset, statistics)
        for warning in warnings_of(db, dataset, statistics, index) + ids:
            context.say(f"warning: {warning}")
        if hint := hint_of_levels(dataset, asked.max_depth):
            context.say(hint)
        table = db.arrow("genes")
        held_out, table = table.slice(index.n_genes), table.slice(0, index.n_genes)
        small, wide = split_features(dataset, statistics)
        if with_leakage:
            dataset = without_leaks(
                db, dataset, folder, small, seed=asked.seed, is_excluding=asked.auto_exclude_leaky, context=context
            )
            small, wide = split_features(dataset, statistics)
        share, easy_below = choose_sample(db, dataset, asked.sample_negatives, n_rows=index.n_rows)
        training_rows = table["n_rows"]
        if easy_below is not None:
            sample_negatives(db, easy_below=easy_below, share=share, seed=asked.seed, background=dataset.labels[0])
            training_rows = db.arrow("gene_training_rows")["n_training_rows"]
            context.say(
                f"easy negatives: those whose site score is below {easy_below:.4g}; {share:g} of them are trained on, "
                f"{sum(training_rows.to_pylist()):,} of {index.n_rows:,} rows in all; all rows are scored "
                "(--sample-negatives)"
            )
    table = table.append_column("n_training_rows", training_rows.combine_chunks().cast(pa.int64()))
    dataset.check_unchanged()
    write_genes(folder.genes, table, held_out)
    n_values = most_values(dataset, statistics)
    nulls = {name: int(statistics[name]["n_nulls"] or 0) for name in wide}  # DuckDB adds up to a Decimal
    return Indexed(
        data=_planned_data(
            replace(dataset, warnings=dataset.warnings + ids),
            *(index, small, wide, easy_below, content, file_sha256(folder.genes)),
        ),
        genes=GeneTable.of(table),
        bins={name: min(asked.max_bin, n_values.get(name, asked.max_bin)) for name in dataset.features},
        crowded=frozenset(name for name in small if n_values.get(name, 0) > asked.max_bin),
        easy_share=share,
        missing_share=sum(nulls.values()) / (dataset.n_rows * len(dataset.features)),
        has_sparse_column=any(count > (1 - SPARSE) * dataset.n_rows for count in nulls.values()),
        weight=weight,
    )


def _planned_data(
    dataset: Dataset,
    index: GeneCounts,
    small: tuple[str, ...],
    wide: tuple[str, ...],
    easy_below: float | None,
    content: tuple[str, ...],
    genes_sha256: str,
) -> PlannedData:
    return PlannedData(
        location=resolved_location(dataset.location),
        files=tuple(resolved(file) for file in dataset.files),
        **_same(dataset, "pins", "hashes", "full_hash", "fingerprint", "classes", "labels", "base_scores", "features"),
        **_same(dataset, "warnings", "gene_column", "label_column", "fold_column", "position_column", "kept"),
        levels=levels_in(dataset.made),
        dates=dates_in(dataset.made),
        **_same(dataset, "recipe", "weight_column"),
        small_features=small,
        wide_features=wide,
        leaky_features=tuple(name for name, why in dataset.excluded if why == LEAKY),
        pilot_genes=0,
        easy_below=easy_below,
        content_columns=content,
        identical_rows=0 if index.identical.n_joined else index.identical.n_rows,
        identical_genes=0 if index.identical.n_joined else index.identical.n_genes,
        **_same(index, "n_genes_dataset", "n_genes", "n_rows", "n_holdout_genes", "n_holdout_rows"),
        genes_sha256=genes_sha256,
    )


def _same(record: object, *names: str) -> dict[str, Any]:
    """Return fields of a record that another record has under the same names."""
    return {name: getattr(record, name) for name in names}


def screen_features(
    indexed: Indexed, wanted: int, folder: RunFolder, asked: Asked, context: Context, *, is_probed: bool
) -> Indexed:
    """Return the data with the features that a pilot on the genes of lowest rank gained most from.

    Base scores stay, because they are what the model is compared with. The genes of the pilot are trained on but never
    scored: they chose the features. Where memory is to be probed too (``is_probed``), the rows of the probes are read in the
    same pass over the files.
    """
    data = indexed.data
    n_genes = pilot_size(indexed.genes.group.tolist())
    settings = replace(
        decided(indexed, asked),
        learning_rate=PILOT_RATE,
        max_depth=PILOT_DEPTH,
        xgb_parameters=checked_parameters(asked.xgb),  # rows are few, and every feature is to be seen at every node
    )
    model = formula_of(indexed, asked, threads=context.threads)
    looked = [n_genes, *(_looked_at(indexed, asked, decided(indexed, asked), model.layout)[0] if is_probed else [])]
    pilot = open_small_run(folder, asked, data, settings, indexed.genes, looked, context, model=model, name="pilot")
    gains = screen(pilot, context)
    kept = best_features(gains, data.features, wanted, always=data.base_scores)
    features, small, wide = (
        tuple(name for name in names if name in kept)
        for names in (data.features, data.small_features, data.wide_features)
    )
    share = sum(gains[name] for name in features) / max(sum(gains.values()), 1e-300)
    context.say(
        f"screening: a pilot on {data.noun.count(n_genes)} keeps {len(features):,} of {len(data.features):,} features, "
        f"{share:.1%} of the gain; these {data.noun.many} are trained on and not scored (--screen-features 0 keeps all)"
    )
    fewer = replace(
        data,
        features=features,
        small_features=small,
        wide_features=wide,
        screened_features=tuple(name for name in data.features if name not in kept),
        pilot_genes=n_genes,
    )
    return replace(indexed, data=fewer, bins={name: indexed.bins[name] for name in features}, pilot=pilot)


def _looked_at(indexed: Indexed, asked: Asked, settings: Settings, layout: Layout) -> tuple[list[int], bool]:
    """Return how many genes to look at, all from rank 0 and maybe none, and whether they are to be trained on to measure."""
    training_rows = indexed.genes.n_training_rows
    sizes = probe_sizes(training_rows, asked.genes_per_instance) if asked.memory_per_gene_mb is None else []
    if is_worth_probing(settings, training_rows, sizes, layout):
        return sizes, True
    return [least_genes(training_rows)] if asked.layout == "zeros" else [], False


def decided(indexed: Indexed, asked: Asked, layout: str = "missing", zeros: tuple[str, ...] = ()) -> Settings:
    """Return the settings of the training: as asked, and what follows from data and layout."""
    data = indexed.data
    return Settings(
        **_same(asked, "seed", "n_folds", "n_estimators", "early_stopping_patience", "max_depth", "learning_rate"),
        **_same(asked, "max_bin", "device"),
        calibrate=asked.calibrate_per_class,
        xgb_parameters=with_usual(
            checked_parameters(asked.xgb),
            n_features=len(data.features),
            weight=indexed.weight,
        ),
        layout_used=layout,
        zero_is_missing=zeros if layout == "zeros" else (),
        cv_used=choose_cv(asked.cv, asked.n_estimators, n_features=len(data.features), n_sketched=indexed.n_sketched),
        easy_share=indexed.easy_share,
    )


def formula_of(indexed: Indexed, asked: Asked, *, threads: int) -> MemoryModel:
    """Return the memory of training by formula, with missing values as in the footers."""
    data, genes, settings = indexed.data, indexed.genes, decided(indexed, asked)
    shares = genes.label_counts.sum(axis=0) / genes.label_counts.sum()
    least = leaf_weight(settings.xgb_parameters)
    if data.weight_column is not None:
        least = min(least, 1.0)  # weights of the user's own may let leaves have few rows all the same
    layout = Layout(
        n_features=len(data.features),
        n_wide=indexed.n_sketched,
        bins=sum(indexed.bins.values()),
        missing_share=indexed.missing_share,
        stored_share=1.0,
        has_sparse_column=indexed.has_sparse_column,
        n_classes=len(data.classes),
        max_bin=asked.max_bin,
        max_depth=asked.max_depth,
        threads=threads,
        cv=settings.cv_used,
        is_external=asked.strategy == "external",
        scored_per_row=data.n_rows / int(genes.n_training_rows.sum()),
        leaf_rows=least / float((shares * (1 - shares)).max()),
        has_weights=data.weight_column is not None,
        n_trees=usual_trees(settings, len(data.classes)),
    )
    return MemoryModel(layout, asked.memory_per_gene_mb)


def cut_request(indexed: Indexed, settings: Settings, asked: Asked) -> CutRequest:
    """Return what a cut into instances must fit."""
    data = indexed.data
    return CutRequest(
        training_rows=indexed.genes.n_training_rows,
        genes_per_instance=asked.genes_per_instance,
        overlap=asked.instance_overlap,
        max_instances=asked.max_instances,
        auto_adjust=asked.auto_adjust_instance_size,
        settings=settings,
        n_classes=len(data.classes),
        record_bytes=data.record_bytes,
        n_rows_written=data.n_rows + data.n_holdout_rows,
        noun=data.noun,
        is_refitted=asked.consolidation != "voting",
    )


def lay_out(indexed: Indexed, folder: RunFolder, asked: Asked, budget: Budget, context: Context) -> LaidOut:
    """Choose the layout of missing values and zeros, by the rows of a few genes where looking at them is worth it."""
    settings, model = decided(indexed, asked), formula_of(indexed, asked, threads=context.threads)
    looked, is_probed = _looked_at(indexed, asked, settings, model.layout)
    if not looked:
        layout = "sentinel" if asked.layout == "sentinel" else "missing"
        if layout == "sentinel":
            model = model.with_layout(without_missing(model.layout))
        return LaidOut(decided(indexed, asked, layout), model, (), None, None, False)
    small_run = open_small_run(
        folder, asked, indexed.data, settings, indexed.genes, looked, context, model=model, wider=indexed.pilot
    )
    density = density_of(small_run, max(looked))
    layout, reason = choose_layout(asked, cut_request(indexed, settings, asked), model, density, budget)
    context.say(f"layout '{layout}': {reason}")
    zeros = zeros_to_leave_out(model.layout, density)
    return LaidOut(
        settings=decided(indexed, asked, layout, zeros),
        model=model.with_layout(layout_of(model.layout, density, layout, zeros)),
        zeros=zeros,
        density=density,
        small_run=small_run,
        is_probed=is_probed,
    )


def measure_costs(indexed: Indexed, laid_out: LaidOut, folder: RunFolder, asked: Asked, context: Context) -> Costs:
    """Return memory and time of training: measured on the small run where that is worth it, else by formula."""
    model, rates = laid_out.model, Rates()
    if laid_out.is_probed and laid_out.small_run is not None:
        small_run = laid_out.small_run.with_settings(laid_out.settings)
        model, rates, _ = measure(model, folder, small_run, context)
    data = indexed.data
    per_gene = (asked.memory_per_gene_mb or 0) * (1 << 20)
    return Costs(
        model, rates, model.bytes_per_row() or per_gene * data.n_genes / int(indexed.genes.n_training_rows.sum())
    )


def cut_instances(
    indexed: Indexed,
    laid_out: LaidOut,
    costs: Costs,
    asked: Asked,
    budget: Budget,
    context: Context,
    *,
    n_sizes: int | None = None,
) -> Cut:
    """Choose the strategy and cut the genes into instances that fit the budget; ``n_sizes`` as for `make_plan`.

    Raises
    ------
    PlanError, MemoryBudgetError
        They do not fit, or a fold of an instance would train without a class.
    """
    settings, model, rates = laid_out.settings, costs.model, costs.rates
    request = cut_request(indexed, settings, asked)
    strategy = choose_strategy(asked, request, model, budget) if n_sizes is None else "single"
    windows = (
        windows_of(strategy, request, model, budget)
        if n_sizes is None
        else _nested(indexed, request, model, budget, n_sizes)
    )
    others = alternatives(request, model, rates, budget, laid_out.density, laid_out.zeros, strategy=strategy)
    if unused := unused_instance_options(asked, strategy):
        context.say(unused)
    for remark in windows.remarks:
        context.say(remark)
    if strategy == "multi" and not 500 <= windows.genes_per_instance <= 5000:
        context.say(f"warning: {request.noun.count(windows.genes_per_instance)} per instance; 500 to 5,000 are usual")

    def seconds_of(n_rows: int) -> float:
        return instance_seconds(strategy, n_rows, settings, model.layout, rates, usual_rounds(settings))

    instances = tuple(
        window_instance(number, first, stop, indexed.genes, model, seconds_of)
        for number, (first, stop) in enumerate(windows.ranges)
    )
    check_classes(instances, indexed, settings)
    if settings.device != "cpu":
        context.say(check_graphics_memory(instances, model.layout))
    return Cut(
        strategy_used=strategy,
        budget=budget,
        most_genes=windows.genes_per_instance,
        overlap_genes=windows.overlap_genes,
        instances=instances,
        segments=make_segments(instances, indexed.genes.n_rows),
        holdout_segments=holdout_segments(indexed.data),
        alternatives=tuple(asdict(one) for one in others),
    )


def _nested(indexed: Indexed, request: CutRequest, model: MemoryModel, budget: Budget, n_sizes: int) -> Windows:
    """Return nested windows; those of so few genes that a fold would train without a class are left out."""
    genes, settings = indexed.genes, request.settings
    before = np.cumsum(request.training_rows)
    needed = model.needed_bytes(int(before[-1]), len(before))
    if needed > budget.budget_bytes:
        n_fitting = int(np.searchsorted(before, model.rows_within(budget.budget_bytes), side="right"))
        raise refusal_of(budget)(
            f"a learning curve ends with one model of all {request.noun.count(len(before))}, which needs "
            f"{needed / GIB:.2f} GiB, but the budget is {budget.budget_bytes / GIB:.2f} GiB ({budget.won}); --sample-genes "
            f"{n_fitting} would fit, and --screen-features and --sample-negatives make it smaller"
        )
    ranges = tuple(
        (first, stop)
        for first, stop in nested_ranges(indexed.data.n_genes, n_sizes)
        if missing_class(genes.label_counts[first:stop], genes.fold[first:stop], settings.n_folds) is None
    )
    if len(ranges) < LEAST_SIZES:
        raise PlanError(
            f"{request.noun.count(indexed.data.n_genes)} are too few for a learning curve: only {len(ranges)} of {n_sizes} sizes "
            f"have every class outside each fold, at least {LEAST_SIZES} are needed"
        )
    return Windows(ranges, len(before), 0, ())


def check_classes(instances: tuple[Instance, ...], indexed: Indexed, settings: Settings) -> None:
    """Refuse a plan in which some fold of some instance would train without a class."""
    genes = indexed.genes
    for instance in instances:
        window = slice(instance.first_rank, instance.stop_rank)
        absent = missing_class(genes.label_counts[window], genes.fold[window], settings.n_folds)
        if absent:
            fold, index = absent
            raise PlanError(
                f"{instance.name} has no row of class {indexed.data.classes[index]} outside fold {fold}; set a larger "
                "--genes-per-instance or fewer --n-folds"
            )


def _say_plan(plan: Plan, context: Context) -> None:
    data, budget = plan.data, plan.cut.budget
    context.say(
        f"{data.noun.count(data.n_genes)}, {data.n_rows:,} rows, {len(data.features):,} features "
        f"({len(data.small_features):,} as bytes); {plan.settings.n_folds} folds over '{data.fold_column}'"
    )
    context.say(
        f"budget {budget.budget_bytes / GIB:.2f} GiB per instance: {budget.won}; predictions are "
        + ("measured" if plan.costs.model.is_measured else "by formula, not yet measured")
    )
    own = next(one for one in plan.cut.alternatives if one["strategy"] == plan.cut.strategy_used)
    context.say(f"disk for the run's scratch: {own['disk_bytes'] / 1e9:.2f} GB")

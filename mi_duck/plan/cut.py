"""The last step of a plan: genes are cut into instances that fit the budget, and other ways to train are set beside it.

Memory of a graphics device follows XGBoost 3.2's ELLPACK page and has not been compared with a device.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, log2

import numpy as np

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.numbers import gibibytes
from mi_duck.plan.indexing import Indexed
from mi_duck.plan.layouts import LAYOUTS, LaidOut, cell_factor, layout_of
from mi_duck.plan.strategies import STRATEGIES, CutRequest, choose_strategy, windows_of
from mi_duck.plan.times import instance_seconds, leaves_bytes, refit_seconds, usual_rounds
from mi_duck.plan.windows import LEAST_SIZES, Windows, missing_class, nested_ranges, refusal_of, window_instance
from mi_duck.processes import Context
from mi_duck.resources import GIB, cuda_devices
from mi_duck.rows.segments import KEYS, ColumnDensity
from mi_duck.run.costs import Costs, Layout, MemoryModel, Rates, index_bytes
from mi_duck.run.plan import Cut, Instance, Settings, holdout_segments, make_segments
from mi_duck.settings import Asked, flags_of

CONTEXT_BYTES = 512 << 20  # of CUDA and XGBoost's kernels
SHARE = 0.9  # of a device's memory that a plan may take
INSTANCE_OPTIONS = ("genes_per_instance", "max_instances", "instance_overlap", "auto_adjust_instance_size")


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to train.

    Parameters
    ----------
    n_instances, genes_per_instance
        0 where there is no plan.
    peak_bytes
        Predicted peak of the largest instance.
    seconds
        Predicted time of all instances, and of fitting their leaves together, with the usual rounds.
    disk_bytes
        Scratch: rows in small types and, of ``external``, the matrix, of several instances the leaf numbers of the classes
        that are refitted at once, one for each thread.
    is_feasible
        Whether it fits the budget.
    reason
        Why not; empty where it does.
    """

    strategy: str
    layout: str
    n_instances: int
    genes_per_instance: int
    peak_bytes: int
    seconds: float
    disk_bytes: int
    is_feasible: bool
    reason: str


def cut_instances(
    indexed: Indexed,
    request: CutRequest,
    laid_out: LaidOut,
    costs: Costs,
    asked: Asked,
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
    rounds = usual_rounds(settings)
    strategy = choose_strategy(asked, request, model) if n_sizes is None else "single"
    windows = (
        windows_of(strategy, request, model) if n_sizes is None else _nested(indexed, request, settings, model, n_sizes)
    )
    others = alternatives(request, settings, model, rates, laid_out.density, laid_out.zeros, strategy=strategy)
    if unused := unused_instance_options(asked, strategy):
        context.say(unused)
    for remark in windows.remarks:
        context.say(remark)
    if strategy == "multi" and not 500 <= windows.most_genes <= 5000:
        context.say(f"warning: {request.noun.count(windows.most_genes)} per instance; 500 to 5,000 are usual")

    def seconds_of(n_rows: int) -> float:
        return instance_seconds(strategy, n_rows, settings, model.layout, rates, rounds)

    instances = tuple(
        window_instance(number, first, stop, indexed.genes, model, seconds_of)
        for number, (first, stop) in enumerate(windows.ranges)
    )
    check_classes(instances, indexed, settings)
    if settings.device != "cpu":
        context.say(check_graphics_memory(instances, model.layout))
    return Cut(
        strategy_used=strategy,
        budget=request.budget,
        most_genes=windows.most_genes,
        overlap_genes=windows.overlap_genes,
        instances=instances,
        segments=make_segments(instances, indexed.genes.n_rows),
        holdout_segments=holdout_segments(indexed.data),
        alternatives=tuple(asdict(one) for one in others),
    )


def _nested(indexed: Indexed, request: CutRequest, settings: Settings, model: MemoryModel, n_sizes: int) -> Windows:
    """Return nested windows; those of so few genes that a fold would train without a class are left out."""
    genes, budget = indexed.genes, request.budget
    before = np.cumsum(request.training_rows)
    needed = model.needed_bytes(int(before[-1]), len(before))
    if needed > budget.budget_bytes:
        n_fitting = int(np.searchsorted(before, model.rows_within(budget.budget_bytes), side="right"))
        raise refusal_of(budget)(
            f"a learning curve ends with one model of all {request.noun.count(len(before))}, which needs "
            f"{gibibytes(needed)} GiB, but the budget is {gibibytes(budget.budget_bytes)} GiB ({budget.won}); "
            f"{f'--sample-genes {n_fitting} would fit, and ' if n_fitting >= LEAST_SIZES else ''}"
            f"--screen-features {'and --sample-negatives make' if indexed.data.base_scores else 'makes'} it smaller"
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


def unused_instance_options(asked: Asked, strategy: str) -> str | None:
    """Return that options about instances change nothing where ``auto`` takes one model; None where none is given."""
    given = " ".join(flags_of(asked, names=INSTANCE_OPTIONS))
    if asked.strategy != "auto" or strategy != "single" or not given:
        return None
    return (
        f"warning: one model of all fits and is trained, so {given} changes nothing; --strategy multi makes instances"
    )


def alternatives(
    request: CutRequest,
    settings: Settings,
    model: MemoryModel,
    rates: Rates,
    density: ColumnDensity | None,
    zero_is_missing: Sequence[str],
    *,
    strategy: str,
) -> tuple[Alternative, ...]:
    """Return every strategy in the layout of the plan, then every other layout in the strategy of the plan.

    Without a density of the columns, other layouts are left out.
    """
    chosen, rounds = settings.layout_used, usual_rounds(settings)
    found = [_alternative(one, chosen, request, settings, model, rates, rounds) for one in STRATEGIES]
    if density is not None:
        for layout in LAYOUTS:
            if layout == chosen or (layout == "sentinel" and not density.has_missing):
                continue
            other = layout_of(model.layout, density, layout, zero_is_missing)
            factor = cell_factor(other.missing_share) / cell_factor(model.layout.missing_share)
            slower = replace(rates, per_cell_and_round=rates.per_cell_and_round * factor)
            found.append(_alternative(strategy, layout, request, settings, model.with_layout(other), slower, rounds))
    return tuple(found)


def _alternative(
    strategy: str,
    layout: str,
    request: CutRequest,
    settings: Settings,
    model: MemoryModel,
    rates: Rates,
    rounds: int,
) -> Alternative:
    is_external = strategy == "external"
    own = model.with_layout(replace(model.layout, is_external=is_external))
    scratch = request.n_rows_written * (request.record_bytes + KEYS.itemsize)
    total = int(request.training_rows.sum())
    if is_external:
        scratch += index_bytes(total, own.layout)
    try:
        windows = windows_of(strategy, request, own)
    except (PlanError, MemoryBudgetError) as error:
        peak = own.predict_bytes(total, len(request.training_rows)) if strategy != "multi" else 0
        return Alternative(strategy, layout, 0, 0, peak, 0.0, scratch, False, str(error))
    sizes = [(int(request.training_rows[first:stop].sum()), stop - first) for first, stop in windows.ranges]
    peak = max(own.predict_bytes(rows, genes) for rows, genes in sizes)
    seconds = sum(instance_seconds(strategy, rows, settings, own.layout, rates, rounds) for rows, _ in sizes)
    if len(sizes) > 1 and request.is_refitted:
        at_once = min(own.layout.threads, settings.n_folds * request.n_fitted)
        seconds += refit_seconds(len(sizes) * request.n_fitted, total, settings, rounds) / at_once
        scratch += at_once * leaves_bytes(len(sizes), total, settings, rounds)
    return Alternative(strategy, layout, len(sizes), windows.most_genes, peak, seconds, scratch, True, "")


def gpu_bytes(n_rows: int, layout: Layout) -> int:
    """Return the memory that training takes on a device, in bytes.

    Notes
    -----
    A bin of a dense matrix takes the bits of the largest column, one of a matrix with missing values the bits of all columns
    together, for every cell. A row has gradients (two copies of 8 bytes), row ids and positions (20), margin, label and
    weight (4 each). A node has 16 bytes a bin.
    """
    bits = ceil(log2((layout.bins if layout.missing_share else layout.max_bin) + 1))
    cells = n_rows * layout.n_features * bits / 8
    return int(CONTEXT_BYTES + cells + 48 * n_rows + 16 * layout.bins * 2**layout.max_depth)


def check_graphics_memory(instances: Sequence[Instance], layout: Layout) -> str:
    """Return in words what the largest instance takes of the smallest device; an error where that is more than there is."""
    largest = max(instances, key=lambda one: one.n_training_rows)
    needed = gpu_bytes(largest.n_training_rows, layout)
    device = min(cuda_devices(), key=lambda one: one.total_bytes)
    words = f"{gibibytes(needed)} GiB by formula, of {device.total_bytes / GIB:.1f} GiB of {device.name}"
    if needed > SHARE * device.total_bytes:
        fewer = max(1, int(largest.n_genes * SHARE * device.total_bytes / needed))
        raise MemoryBudgetError(
            f"{largest.name} needs {words}; set --genes-per-instance {fewer:,} or less, or leave --device cuda out"
        )
    return f"graphics memory of the largest instance: {words}"

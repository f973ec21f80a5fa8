"""What each strategy and each layout takes: peak memory, time, disk, and whether it fits the budget.

``single`` is one instance of all genes, ``multi`` several that overlap, ``external`` one instance whose matrix lies on disk
(XGBoost's external memory): the same trees as ``single`` in a fraction of its memory, as fast as the disk or the system's
cache of it. A layout says how missing values and zeros are treated; see `mi_duck.run.plan.Settings`.

The time of a round is that of the cells and that of the nodes, whose histograms are compared bin by bin. Early stopping decides
how many rounds there are, so times are predicted for those that it usually leaves (`usual_rounds`).

Memory of a graphics device follows XGBoost 3.2's ELLPACK page and has not been compared with a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, sqrt

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.plan.windows import Windows, cut_windows, refusal_of
from mi_duck.resources import GIB, Budget, cuda_devices
from mi_duck.rows.segments import KEYS, ColumnDensity
from mi_duck.run.costs import (
    COPIES_WHILE_SAVED,
    Layout,
    MemoryModel,
    Rates,
    expected_nodes,
    growing_bytes,
    index_bytes,
)
from mi_duck.run.genes import STOPPING_SHARE
from mi_duck.run.plan import Instance, Settings, fitted_classes
from mi_duck.settings import Asked
from mi_duck.wording import GENES, Noun

STRATEGIES = ("single", "multi", "external")

LAYOUTS = ("missing", "zeros", "sentinel")
SPARSE = 0.2  # XGBoost's column-major copy stores a column that is filled to less as pairs of row and bin
SURELY_DENSE = 0.25  # of many rows: then also of a fold or an instance, whose share differs by a per cent or two
STANDARD_ERRORS = 6.0  # of few rows: four of a difference between two such samples, for the worst of a thousand columns

EXTERNAL_FACTOR = 1.3  # a round on a matrix on disk over one in memory, while the pages stay in the system's cache
SPARSE_FACTOR = 1.25  # a stored cell of a matrix with missing values over a cell of one without
BIN_CELLS = (
    1.75  # a bin of a node of the largest tree over a cell: what 30,000 rows of 300 features and 56 bins each took
)
USUAL_PATH = (
    12  # rounds times step, where early stopping ends: 9 to 17 on two plants and synthetic genes, more of more rows
)
REFIT_SECONDS = 31e-9  # of a core, for a tree and a training row: its leaf number, and five or six passes

CONTEXT_BYTES = 512 << 20  # of CUDA and XGBoost's kernels
SHARE = 0.9  # of a device's memory that a plan may take


@dataclass(frozen=True, slots=True)
class CutRequest:
    """What a plan must fit.

    Parameters
    ----------
    training_rows
        Training rows of each gene in rank order, shape (n_genes,).
    genes_per_instance, overlap, max_instances, auto_adjust
        As the user asked.
    record_bytes
        Of one row in the segments.
    n_rows_written
        Rows that segments hold: of all genes, trained on or not, and of those held out.
    noun
        What the groups are called.
    is_refitted
        Whether the leaves of several instances are fitted together.
    """

    training_rows: NDArray[np.int64]
    genes_per_instance: int
    overlap: float
    max_instances: int
    auto_adjust: bool
    settings: Settings
    n_classes: int
    record_bytes: int
    n_rows_written: int
    noun: Noun = GENES
    is_refitted: bool = True


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


def layout_of(base: Layout, density: ColumnDensity, layout: str, zero_is_missing: Sequence[str]) -> Layout:
    """Return what memory depends on, for one way to treat missing values and zeros.

    ``zero_is_missing`` counts in the layout ``zeros`` alone.
    """
    if layout == "sentinel":
        return without_missing(base)
    absent = dict(density.missing)
    if layout == "zeros":
        absent |= {name: density.zeros[name] for name in zero_is_missing}
    filled = [(density.n_rows - count) / density.n_rows for count in absent.values()]
    n_features, n_whole = base.n_features, base.n_features - len(absent)
    return replace(
        base,
        missing_share=sum(1 - share for share in filled) / n_features,
        stored_share=(n_whole + sum(share if share < SPARSE else 1.0 for share in filled)) / n_features,
        has_sparse_column=any(share < SPARSE for share in filled),
    )


def without_missing(base: Layout) -> Layout:
    """Return what memory depends on where no value is missing."""
    return replace(base, missing_share=0.0, stored_share=1.0, has_sparse_column=False)


def zeros_to_leave_out(base: Layout, density: ColumnDensity) -> tuple[str, ...]:
    """Return the features whose zeros count as missing in the layout ``zeros``: all of one byte, or the surely dense ones.

    One column below a fifth makes XGBoost store row ids beside all columns, 8 bytes per cell; whichever choice takes less
    memory is taken. (Taking columns from a fifth on measured 2.02 GiB instead of .85 on real data, and from a quarter on .89
    instead of .39 where only 56 genes were looked at: one of 720 columns fell below a fifth in the rows of one instance.)
    """
    filled = {name: (density.n_rows - zeros) / density.n_rows for name, zeros in density.zeros.items()}
    least = {name: max(SURELY_DENSE, SPARSE + STANDARD_ERRORS * density.errors.get(name, 0.0)) for name in filled}
    dense = tuple(name for name, share in filled.items() if share >= least[name])

    def cost(names: tuple[str, ...]) -> int:
        layout = layout_of(base, density, "zeros", names)
        may_be_sparse = layout.has_sparse_column or any(filled[name] < least[name] for name in names)
        return growing_bytes("boost", 1_000_000, replace(layout, has_sparse_column=may_be_sparse))

    return min(tuple(filled), dense, key=cost)


def cell_factor(missing_share: float) -> float:
    """Return what a stored cell of a matrix costs in a round, over one of a matrix without a missing value."""
    return SPARSE_FACTOR if missing_share else 1.0


def usual_rounds(settings: Settings) -> int:
    """Return roughly how many rounds early stopping leaves; all of them without it."""
    if not settings.early_stopping_patience:
        return settings.n_estimators
    return min(settings.n_estimators, round(USUAL_PATH / settings.learning_rate))


def usual_trees(settings: Settings, n_classes: int) -> int:
    """Return roughly how many trees a training holds at most: of all its boosters, and of the copies of the one that grows."""
    rounds = usual_rounds(settings)
    of_final = rounds_of_final_boosters(rounds, settings)
    return round(
        len(fitted_classes(n_classes)) * (settings.n_folds * rounds + of_final) + (COPIES_WHILE_SAVED - 1) * of_final
    )


def training_seconds(rates: Rates, n_rows: int, settings: Settings, layout: Layout, rounds: int) -> float:
    """Return the seconds of training one instance of ``n_rows`` training rows; ``rounds`` of every fold are kept."""
    cells = stored_cells(n_rows, layout)
    n_nodes = expected_nodes(n_rows, layout)
    tried = min(rounds + settings.early_stopping_patience, settings.n_estimators)
    of_class = rates.per_cell_begun * cells * (fold_fits_of_all_rows(settings) + 1)
    of_class += settings.n_folds * tried * round_seconds(rates, share_of_fold(settings) * cells, n_nodes, layout)
    of_class += rounds_of_final_boosters(rounds, settings) * round_seconds(rates, cells, n_nodes, layout)
    built = rates.per_cell_built * cells * builds_of_all_rows(settings)
    return rates.start_seconds + built + len(fitted_classes(layout.n_classes)) * of_class


def stored_cells(n_rows: int, layout: Layout) -> float:
    """Return the cells of so many rows that are not missing."""
    return n_rows * layout.n_features * (1 - layout.missing_share)


def round_seconds(rates: Rates, n_cells: float, n_nodes: float, layout: Layout) -> float:
    """Return the seconds of one round of one booster: it looks at every cell, and at every bin of every node."""
    return rates.per_cell_and_round * (n_cells + BIN_CELLS * layout.bins * n_nodes)


def rounds_of_final_boosters(rounds: float, settings: Settings) -> float:
    """Return the rounds that final boosters have where those of folds have so many; see `mi_duck.boosting.train.final_rounds`."""
    if not settings.early_stopping_patience:
        return rounds
    more_rows = settings.n_folds / (settings.n_folds - 1) / (1 - STOPPING_SHARE)
    return min(settings.n_estimators, rounds * sqrt(more_rows))


def fold_fits_of_all_rows(settings: Settings) -> float:
    """Return the fits of one class in all folds, counted in passes over all rows."""
    return settings.n_folds * share_of_fold(settings)


def share_of_fold(settings: Settings) -> float:
    """Return the share of all rows in the matrix of a fold."""
    return (settings.n_folds - 1) / settings.n_folds if settings.cv_used == "matrices" else 1.0


def builds_of_all_rows(settings: Settings) -> float:
    """Return the matrices built, counted in those of all rows."""
    return fold_fits_of_all_rows(settings) + 1 if settings.cv_used == "matrices" else 1.0


def choose_strategy(asked: Asked, request: CutRequest, model: MemoryModel, budget: Budget) -> str:
    """Return the strategy: as asked, else one model where it fits, else several instances.

    One model is as good as several whose leaves are fitted together, but for .001 of average precision either way, in less
    time (``benchmarks/README.md``).
    """
    if asked.strategy != "auto":
        return asked.strategy
    single = model.needed_bytes(int(request.training_rows.sum()), len(request.training_rows))
    return "single" if single <= budget.budget_bytes else "multi"


def usual_genes(asked: Asked, request: CutRequest, model: MemoryModel, budget: Budget) -> int:
    """Return the genes of an instance of the strategy that would be chosen, if memory does not make them fewer."""
    n_genes = len(request.training_rows)
    if choose_strategy(asked, request, model, budget) != "multi":
        return n_genes
    return min(max(request.genes_per_instance, ceil(n_genes / request.max_instances)), n_genes)


def windows_of(strategy: str, request: CutRequest, model: MemoryModel, budget: Budget) -> Windows:
    """Return the windows of a strategy: one over all genes, or several.

    Raises
    ------
    PlanError, MemoryBudgetError
        It does not fit: the first where a number of the user is the bound.
    """
    training_rows, n_genes = request.training_rows, len(request.training_rows)
    refuse = refusal_of(budget)
    words = f"the budget is {budget.budget_bytes / GIB:.2f} GiB ({budget.won})"
    if strategy != "multi":
        needed = model.needed_bytes(int(training_rows.sum()), n_genes)
        if needed > budget.budget_bytes:
            what = "a single model" if strategy == "single" else "a model with its matrix on disk"
            other = "--strategy multi" + (" or --strategy external" if strategy == "single" else "")
            raise refuse(
                f"{what} of {int(training_rows.sum()):,} rows needs {needed / GIB:.2f} GiB, but {words}; set {other}"
            )
        return Windows(((0, n_genes),), n_genes, 0, ())
    genes = request.genes_per_instance
    if model.megabytes_per_gene is None:
        rows_limit = model.rows_within(budget.budget_bytes)
    else:
        rows_limit = int(training_rows.sum())
        most = int((budget.budget_bytes - model.predict_bytes(0, 0)) / (model.megabytes_per_gene * (1 << 20)))
        if most < 1 or (most < genes and not request.auto_adjust):
            raise PlanError(
                f"--genes-per-instance {genes} at --memory-per-gene-mb {model.megabytes_per_gene:g} needs "
                f"{model.predict_bytes(0, genes) / GIB:.2f} GiB, but {words}, which holds {request.noun.count(max(most, 0))}"
            )
        genes = min(genes, most)
    if rows_limit == 0:
        needed = model.needed_bytes(int(training_rows.max()), 1)
        raise refuse(
            f"the budget of {budget.budget_bytes / GIB:.2f} GiB ({budget.won}) holds no row; training needs "
            f"{needed / GIB:.2f} GiB for the largest {request.noun.one} alone"
        )
    return cut_windows(
        training_rows,
        genes_per_instance=genes,
        overlap=request.overlap,
        max_instances=request.max_instances,
        rows_limit=rows_limit,
        auto_adjust=request.auto_adjust,
        budget=budget,
        needed_bytes=lambda rows: model.needed_bytes(rows, 1),
        noun=request.noun,
    )


def instance_seconds(
    strategy: str, n_rows: int, settings: Settings, layout: Layout, rates: Rates, rounds: int
) -> float:
    """Return the predicted time of one instance of so many training rows, with so many rounds in every fold."""
    return external_factor(strategy, rates) * training_seconds(rates, n_rows, settings, layout, rounds)


def external_factor(strategy: str, rates: Rates) -> float:
    """Return how many times as long a round takes by a strategy as by that whose rates were measured."""
    return float(EXTERNAL_FACTOR ** ((strategy == "external") - rates.is_external))


def refit_seconds(n_boosters: int, n_training_rows: int, settings: Settings, rounds: int | None = None) -> float:
    """Return the predicted CPU seconds of fitting the leaves of so many boosters together, by rule of thumb.

    ``rounds`` of each booster, by default the usual ones.
    """
    trees = n_boosters * (rounds or usual_rounds(settings)) * (settings.n_folds + 1)
    return REFIT_SECONDS * trees * n_training_rows


def alternatives(
    request: CutRequest,
    model: MemoryModel,
    rates: Rates,
    budget: Budget,
    density: ColumnDensity | None,
    zero_is_missing: Sequence[str],
    *,
    strategy: str,
) -> tuple[Alternative, ...]:
    """Return every strategy in the layout of the plan, then every other layout in the strategy of the plan.

    Without a density of the columns, other layouts are left out.
    """
    chosen = request.settings.layout_used
    found = [_alternative(one, chosen, request, model, rates, budget) for one in STRATEGIES]
    if density is not None:
        for layout in LAYOUTS:
            if layout == chosen or (layout == "sentinel" and not density.has_missing):
                continue
            other = layout_of(model.layout, density, layout, zero_is_missing)
            factor = cell_factor(other.missing_share) / cell_factor(model.layout.missing_share)
            slower = replace(rates, per_cell_and_round=rates.per_cell_and_round * factor)
            found.append(_alternative(strategy, layout, request, model.with_layout(other), slower, budget))
    return tuple(found)


def _alternative(
    strategy: str, layout: str, request: CutRequest, model: MemoryModel, rates: Rates, budget: Budget
) -> Alternative:
    is_external = strategy == "external"
    own = model.with_layout(replace(model.layout, is_external=is_external))
    scratch = request.n_rows_written * (request.record_bytes + KEYS.itemsize)
    total = int(request.training_rows.sum())
    if is_external:
        scratch += index_bytes(total, own.layout)
    try:
        windows = windows_of(strategy, request, own, budget)
    except (PlanError, MemoryBudgetError) as error:
        peak = own.predict_bytes(total, len(request.training_rows)) if strategy != "multi" else 0
        return Alternative(strategy, layout, 0, 0, peak, 0.0, scratch, False, str(error))
    sizes = [(int(request.training_rows[first:stop].sum()), stop - first) for first, stop in windows.ranges]
    peak = max(own.predict_bytes(rows, genes) for rows, genes in sizes)
    settings, rounds = request.settings, usual_rounds(request.settings)
    seconds = sum(instance_seconds(strategy, rows, settings, own.layout, rates, rounds) for rows, _ in sizes)
    if len(sizes) > 1 and request.is_refitted:
        at_once = min(own.layout.threads, settings.n_folds * len(fitted_classes(request.n_classes)))
        seconds += refit_seconds(len(sizes) * len(fitted_classes(request.n_classes)), total, settings) / at_once
        scratch += at_once * leaves_bytes(len(sizes), total, settings)
    return Alternative(strategy, layout, len(sizes), windows.genes_per_instance, peak, seconds, scratch, True, "")


def leaves_bytes(n_instances: int, n_rows: int, settings: Settings) -> int:
    """Return the disk that refitting one class takes: leaf numbers of all training rows, and margins after two passes."""
    per_row = 1 if settings.max_depth <= 8 else 2  # 256 leaves have numbers of a byte
    rounds = rounds_of_final_boosters(usual_rounds(settings), settings)
    return int(n_rows * (n_instances * rounds * per_row + 2 * 8))


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
    words = f"{needed / GIB:.2f} GiB by formula, of {device.total_bytes / GIB:.1f} GiB of {device.name}"
    if needed > SHARE * device.total_bytes:
        fewer = max(1, int(largest.n_genes * SHARE * device.total_bytes / needed))
        raise MemoryBudgetError(
            f"{largest.name} needs {words}; set --genes-per-instance {fewer:,} or less, or leave --device cuda out"
        )
    return f"graphics memory of the largest instance: {words}"

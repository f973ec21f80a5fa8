"""What each strategy and each layout would take: peak memory, time, disk, and whether it fits the budget.

``single`` is one instance of all genes, ``multi`` several that overlap, ``external`` one instance whose matrix lies on disk
(XGBoost's external memory): the same trees as ``single`` in a fraction of its memory, as fast as the disk or the system's
cache of it.

Graphics memory: which devices this process sees, and what training takes of one, by formula.

The formula follows XGBoost 3.2's ELLPACK page and has not been compared with a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.plan.layouts import layout_of
from mi_duck.plan.timing import EXTERNAL_FACTOR, cell_factor, training_seconds
from mi_duck.plan.windows import Windows, cut_windows
from mi_duck.resources import GIB, Budget, cuda_devices
from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.costs import Layout, MemoryModel, Rates, disk_bytes
from mi_duck.run.plan import Instance, Settings

STRATEGIES = ("single", "multi", "external")
MULTI_ABOVE_GENES = 1500


@dataclass(frozen=True, slots=True)
class CutRequest:
    """What a plan must fit.

    Parameters
    ----------
    gene_rows
        Training rows of each gene in rank order, shape (n_genes,).
    genes_per_instance, overlap, max_instances, auto_adjust
        Of instances, as the user asked.
    settings
        Of the training.
    n_classes
        Boosters of one fit.
    record_bytes
        Of one row in the segments.
    n_rows
        Rows of all genes, trained on or not.
    """

    gene_rows: NDArray[np.int64]
    genes_per_instance: int
    overlap: float
    max_instances: int
    auto_adjust: bool
    settings: Settings
    n_classes: int
    record_bytes: int
    n_rows: int


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to train.

    Parameters
    ----------
    strategy, layout
        See the module and `mi_duck.run.plan.Settings`.
    n_instances, genes_per_instance
        Of the plan; 0 where there is none.
    peak_bytes
        Predicted peak of the largest instance.
    seconds
        Predicted time of all instances if no fit stops early.
    disk_bytes
        Scratch: rows in small types and, of ``external``, the matrix.
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


def choose_strategy(
    asked: str, request: CutRequest, model: MemoryModel, budget: Budget, *, train_all_genes: bool
) -> str:
    """Return the strategy: as asked, else the first of single and multi that fits.

    Several instances come first where all genes are asked for expressly and are more than 1,500.
    """
    if asked != "auto":
        return asked
    if train_all_genes and len(request.gene_rows) > MULTI_ABOVE_GENES:
        return "multi"
    single = model.needed_bytes(int(request.gene_rows.sum()), len(request.gene_rows))
    return "single" if single <= budget.budget_bytes else "multi"


def usual_genes(asked: str, request: CutRequest, model: MemoryModel, budget: Budget, *, train_all_genes: bool) -> int:
    """Return the genes of an instance of the strategy that would be chosen, if memory does not make them fewer."""
    n_genes = len(request.gene_rows)
    if choose_strategy(asked, request, model, budget, train_all_genes=train_all_genes) != "multi":
        return n_genes
    return min(max(request.genes_per_instance, ceil(n_genes / request.max_instances)), n_genes)


def windows_of(strategy: str, request: CutRequest, model: MemoryModel, budget: Budget) -> Windows:
    """Return the windows of a strategy: one over all genes, or several.

    Raises
    ------
    PlanError, MemoryBudgetError
        It does not fit: the first where a number of the user is the bound.
    """
    gene_rows, n_genes = request.gene_rows, len(request.gene_rows)
    refuse = PlanError if budget.is_users_number else MemoryBudgetError
    words = f"the budget is {budget.budget_bytes / GIB:.2f} GiB ({budget.won})"
    if strategy != "multi":
        needed = model.needed_bytes(int(gene_rows.sum()), n_genes)
        if needed > budget.budget_bytes:
            what = "a single model" if strategy == "single" else "a model with its matrix on disk"
            other = "--strategy multi" + (" or --strategy external" if strategy == "single" else "")
            raise refuse(
                f"{what} of {int(gene_rows.sum()):,} rows needs {needed / GIB:.2f} GiB, but {words}; set {other}"
            )
        return Windows(((0, n_genes),), n_genes, 0, ())
    genes = request.genes_per_instance
    if model.megabytes_per_gene is None:
        rows_limit = model.rows_within(budget.budget_bytes)
    else:
        rows_limit = int(gene_rows.sum())
        most = int((budget.budget_bytes - model.predict_bytes(0, 0)) / (model.megabytes_per_gene * (1 << 20)))
        if most < 1 or (most < genes and not request.auto_adjust):
            raise PlanError(
                f"--genes-per-instance {genes} at --memory-per-gene-mb {model.megabytes_per_gene:g} needs "
                f"{model.predict_bytes(0, genes) / GIB:.2f} GiB, but {words}, which holds {max(most, 0):,} genes"
            )
        genes = min(genes, most)
    if rows_limit == 0:
        needed = model.needed_bytes(int(gene_rows.max()), 1)
        raise refuse(
            f"the budget of {budget.budget_bytes / GIB:.2f} GiB ({budget.won}) holds no row; training needs "
            f"{needed / GIB:.2f} GiB for the largest gene alone"
        )
    return cut_windows(
        gene_rows,
        genes_per_instance=genes,
        overlap=request.overlap,
        max_instances=request.max_instances,
        rows_limit=rows_limit,
        auto_adjust=request.auto_adjust,
        budget=budget,
        needed_bytes=lambda rows: model.needed_bytes(rows, 1),
    )


def instance_seconds(strategy: str, n_rows: int, request: CutRequest, model: MemoryModel, rates: Rates) -> float:
    """Return the predicted time of one instance if no fit stops early."""
    layout = model.layout
    cells = n_rows * layout.n_features * (1 - layout.missing_share)
    factor = EXTERNAL_FACTOR ** ((strategy == "external") - rates.is_external)
    return factor * training_seconds(rates, cells, request.settings, request.n_classes, request.settings.n_estimators)


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

    Parameters
    ----------
    request, model, rates, budget
        What must fit, and what training takes.
    density
        Of the columns; without it other layouts are not told.
    zero_is_missing
        Features whose zeros would count as missing.
    strategy
        Of the plan.
    """
    chosen = request.settings.layout_used
    found = [_alternative(one, chosen, request, model, rates, budget) for one in STRATEGIES]
    if density is not None:
        others = [layout for layout in ("missing", "zeros", "sentinel") if layout != chosen]
        if not density.has_missing:
            others = [layout for layout in others if layout != "sentinel"]
        for layout in others:
            other = layout_of(model.layout, density, layout, zero_is_missing)
            factor = cell_factor(other.missing_share) / cell_factor(model.layout.missing_share)
            slower = replace(rates, per_cell_and_round=rates.per_cell_and_round * factor)
            found.append(_alternative(strategy, layout, request, model.with_layout(other), slower, budget))
    return tuple(found)


def _alternative(
    strategy: str, layout: str, request: CutRequest, model: MemoryModel, rates: Rates, budget: Budget
) -> Alternative:
    is_external = strategy == "external"
    own = (
        model
        if is_external == model.layout.is_external
        else model.with_layout(replace(model.layout, is_external=is_external))
    )
    scratch = request.n_rows * (request.record_bytes + 14)
    total = int(request.gene_rows.sum())
    if is_external:
        scratch += disk_bytes(total, own.layout)
    try:
        windows = windows_of(strategy, request, own, budget)
    except (PlanError, MemoryBudgetError) as error:
        peak = own.predict_bytes(total, len(request.gene_rows)) if strategy != "multi" else 0
        return Alternative(strategy, layout, 0, 0, peak, 0.0, scratch, False, str(error))
    before = np.concatenate([[0], np.cumsum(request.gene_rows)])
    sizes = [(int(before[stop] - before[first]), stop - first) for first, stop in windows.ranges]
    return Alternative(
        strategy,
        layout,
        len(sizes),
        windows.genes_per_instance,
        max(own.predict_bytes(rows, genes) for rows, genes in sizes),
        sum(instance_seconds(strategy, rows, request, own, rates) for rows, _ in sizes),
        scratch,
        True,
        "",
    )


CONTEXT_BYTES = 512 << 20  # of CUDA and XGBoost's kernels
SHARE = 0.9  # of a device's memory that a plan may take


def gpu_bytes(n_rows: int, layout: Layout) -> int:
    """Return the memory that training takes on a device, in bytes.

    Parameters
    ----------
    n_rows
        Rows that are trained on.
    layout
        Of data and training.

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
    """Return what the largest instance takes of the smallest device, in words.

    Raises
    ------
    MemoryBudgetError
        It takes more than there is.
    """
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

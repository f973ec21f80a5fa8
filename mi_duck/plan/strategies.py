"""One instance or several: what each strategy is, which one is taken, and the windows that it makes.

``single`` is one instance of all genes, ``multi`` several that overlap, ``external`` one instance whose matrix lies on disk
(XGBoost's external memory): the same trees as ``single`` in a fraction of its memory, as fast as the disk or the system's
cache of it.
"""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import PlanError
from mi_duck.numbers import gibibytes
from mi_duck.plan.indexing import Indexed
from mi_duck.plan.windows import Windows, cut_windows, refusal_of
from mi_duck.resources import Budget
from mi_duck.run.costs import PLANNED, MemoryModel
from mi_duck.run.plan import fitted_classes
from mi_duck.settings import Asked
from mi_duck.wording import GENES, Noun

STRATEGIES = ("single", "multi", "external")


@dataclass(frozen=True, slots=True)
class CutRequest:
    """What a plan must fit.

    Parameters
    ----------
    budget
        Memory of one instance.
    training_rows
        Training rows of each gene in rank order, shape (n_genes,).
    genes_per_instance, overlap, max_instances, auto_adjust
        As the user asked.
    n_fitted
        Classes that boosters are fitted for.
    record_bytes
        Of one row in the segments.
    n_rows_written
        Rows that segments hold: of all genes, trained on or not, and of those held out.
    noun
        What the groups are called.
    is_refitted
        Whether the leaves of several instances are fitted together.
    """

    budget: Budget
    training_rows: NDArray[np.int64]
    genes_per_instance: int
    overlap: float
    max_instances: int
    auto_adjust: bool
    n_fitted: int
    record_bytes: int
    n_rows_written: int
    noun: Noun = GENES
    is_refitted: bool = True


def cut_request(indexed: Indexed, asked: Asked, budget: Budget) -> CutRequest:
    """Return what a cut into instances must fit."""
    data = indexed.data
    return CutRequest(
        budget=budget,
        training_rows=indexed.genes.n_training_rows,
        genes_per_instance=asked.genes_per_instance,
        overlap=asked.instance_overlap,
        max_instances=asked.max_instances,
        auto_adjust=asked.auto_adjust_instance_size,
        n_fitted=len(fitted_classes(len(data.classes))),
        record_bytes=data.record_bytes,
        n_rows_written=data.n_rows + data.n_holdout_rows,
        noun=data.noun,
        is_refitted=asked.consolidation != "voting",
    )


def choose_strategy(asked: Asked, request: CutRequest, model: MemoryModel) -> str:
    """Return the strategy: as asked, else one model where it fits, else several instances.

    One model is as good as several whose leaves are fitted together, but for .001 of average precision either way, in less
    time (``benchmarks/README.md``).
    """
    if asked.strategy != "auto":
        return asked.strategy
    single = model.needed_bytes(int(request.training_rows.sum()), len(request.training_rows))
    return "single" if single <= request.budget.budget_bytes else "multi"


def usual_genes(asked: Asked, request: CutRequest, model: MemoryModel) -> int:
    """Return the genes of an instance of the strategy that would be chosen, if memory does not make them fewer."""
    n_genes = len(request.training_rows)
    if choose_strategy(asked, request, model) != "multi":
        return n_genes
    return min(max(request.genes_per_instance, ceil(n_genes / request.max_instances)), n_genes)


def windows_of(strategy: str, request: CutRequest, model: MemoryModel) -> Windows:
    """Return the windows of a strategy: one over all genes, or several.

    Raises
    ------
    PlanError, MemoryBudgetError
        It does not fit: the first where a number of the user is the bound.
    """
    training_rows, n_genes, budget = request.training_rows, len(request.training_rows), request.budget
    refuse = refusal_of(budget)
    with_room = "" if model.megabytes_per_gene is not None else f", its peak and {1 - PLANNED:.0%} of room,"
    words = f"the budget is {gibibytes(budget.budget_bytes)} GiB ({budget.won})"
    if strategy != "multi":
        n_rows = int(training_rows.sum())
        needed = model.needed_bytes(n_rows, n_genes)
        if needed > budget.budget_bytes:
            what = "a single model" if strategy == "single" else "a model with its matrix on disk"
            on_disk = model.with_layout(replace(model.layout, is_external=True))
            is_alternative = strategy == "single" and on_disk.needed_bytes(n_rows, n_genes) <= budget.budget_bytes
            other = "--strategy multi" + (" or --strategy external" if is_alternative else "")
            raise refuse(
                f"{what} of {n_rows:,} training rows needs {gibibytes(needed)} GiB{with_room} but {words}; set {other}"
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
                f"{gibibytes(model.predict_bytes(0, genes))} GiB, but {words}, which holds {request.noun.count(max(most, 0))}"
            )
        genes = min(genes, most)
    if rows_limit == 0:
        needed = model.needed_bytes(int(training_rows.max()), 1)
        raise refuse(
            f"the budget of {gibibytes(budget.budget_bytes)} GiB ({budget.won}) holds no row; training needs "
            f"{gibibytes(needed)} GiB for the largest {request.noun.one} alone{with_room.rstrip(',')}"
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

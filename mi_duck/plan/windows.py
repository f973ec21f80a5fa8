"""Cuts genes into overlapping windows that fit a memory budget; pure arithmetic on rows per gene.

Genes stand in their seeded order; a window is a range of consecutive ranks. Every neighbouring pair of windows shares
exactly ``floor(overlap x target)`` genes, no other pair shares any, nothing wraps around, and the windows are balanced
by rows within the cap of genes.

Precedence, strongest first: memory budget, full coverage, most instances, at least three of them, genes per instance,
balance. What cannot be met is refused with the shortfall and the smallest change that works.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.resources import GIB, Budget

LEAST_INSTANCES = 3


@dataclass(frozen=True, slots=True)
class Windows:
    """Result of the cut: starts and stops of the windows, cap of genes, shared genes, and remarks for the user."""

    ranges: tuple[tuple[int, int], ...]
    genes_per_instance: int
    overlap_genes: int
    remarks: tuple[str, ...]


def overlap_genes(target: int, overlap: float) -> int:
    """Return floor(overlap x target), free of binary rounding.

    Examples
    --------
    >>> overlap_genes(100, 0.29)
    29
    """
    return int(Fraction(str(overlap)) * target)


def instances_needed(n_genes: int, target: int, overlap: float) -> int:
    """Return the least number of windows of at most ``target`` genes that cover all genes.

    Examples
    --------
    >>> instances_needed(9280, 1500, 0.1), instances_needed(9280, 1024, 0.1)
    (7, 10)
    """
    shared = overlap_genes(target, overlap)
    return max(1, -(-(n_genes - shared) // (target - shared)))


def smallest_target(n_genes: int, n_instances: int, overlap: float) -> int:
    """Return the least cap of genes with which ``n_instances`` windows cover all genes.

    n windows of g genes cover n g - (n - 1) floor(overlap g) genes, which rises strictly with g.
    """
    low, high = 1, n_genes
    while low < high:
        middle = (low + high) // 2
        if instances_needed(n_genes, middle, overlap) <= n_instances:
            high = middle
        else:
            low = middle + 1
    return low


def cut_windows(
    gene_rows: NDArray[np.int64],
    *,
    genes_per_instance: int,
    overlap: float,
    max_instances: int,
    rows_limit: int,
    auto_adjust: bool,
    budget: Budget,
    needed_bytes: Callable[[int], int],
) -> Windows:
    """Cut genes into at least three overlapping windows within all limits.

    Parameters
    ----------
    gene_rows
        Rows of each gene in rank order, shape (n_genes,).
    genes_per_instance
        Target; grows or shrinks only with ``auto_adjust``.
    overlap
        Share of the target that neighbours share, 0 to 0.5.
    max_instances
        Most windows.
    rows_limit
        Most rows of one window: what the memory budget holds.
    auto_adjust
        Whether the target may change.
    budget
        The memory budget, for messages and exit codes.
    needed_bytes
        Peak memory of a number of rows, for messages.

    Raises
    ------
    PlanError
        The user's numbers cannot work together.
    MemoryBudgetError
        The machine's memory is too small for full coverage.
    """
    n_genes = len(gene_rows)
    before = np.concatenate([[0], np.cumsum(gene_rows)])
    refuse = _refusal(budget)
    remarks = []
    largest = int(gene_rows.max())
    if largest > rows_limit:
        raise refuse(
            f"the largest gene alone has {largest:,} rows and needs {needed_bytes(largest) / GIB:.2f} GiB, but the budget "
            f"is {budget.budget_bytes / GIB:.2f} GiB ({budget.won})"
            + ("; set --max-memory-per-instance-gb to that" if budget.is_users_number else "; use a larger machine")
        )
    target = min(genes_per_instance, n_genes)
    n = instances_needed(n_genes, target, overlap)
    if n < LEAST_INSTANCES:
        n = LEAST_INSTANCES
        if n > max_instances:
            raise PlanError(
                f"--max-instances {max_instances} is below {n}, the least for an ensemble; set --strategy single"
            )
        if n_genes < LEAST_INSTANCES:
            raise PlanError(f"{n_genes} genes cannot make {n} instances; set --strategy single")
        target = smallest_target(n_genes, n, overlap)
        remarks.append(f"at least {n} instances are made, so an instance has up to {target:,} genes")
    elif n > max_instances:
        enough = smallest_target(n_genes, max_instances, overlap)
        if not auto_adjust:
            shared = overlap_genes(target, overlap)
            covered = max_instances * target - (max_instances - 1) * shared
            raise PlanError(
                f"--max-instances {max_instances} of {target:,} genes cover {covered:,} of {n_genes:,} genes; set "
                f"--max-instances {n} or --genes-per-instance {enough} or leave --auto-adjust-instance-size on"
            )
        remarks.append(f"--max-instances {max_instances} needs {enough:,} genes per instance instead of {target:,}")
        target, n = enough, max_instances
    starts = _balanced_starts(before, n, target, overlap_genes(target, overlap), rows_limit)
    if starts is None:
        fewest = max(n + 1, -(-int(before[-1]) // rows_limit))
        for more in range(fewest, n_genes + 1) if auto_adjust else ():
            smaller = smallest_target(n_genes, more, overlap)
            if smaller <= overlap_genes(smaller, overlap) or instances_needed(n_genes, smaller, overlap) != more:
                continue
            if _reachable(before, more, smaller, overlap_genes(smaller, overlap), rows_limit) is not None:
                if more > max_instances:
                    raise refuse(
                        f"the budget of {budget.budget_bytes / GIB:.2f} GiB ({budget.won}) holds {rows_limit:,} rows, so "
                        f"{more} instances are needed to cover all {n_genes:,} genes, but --max-instances is "
                        f"{max_instances}; set --max-instances {more} or allow "
                        f"{_bytes_needed(before, max_instances, overlap, needed_bytes) / GIB:.2f} GiB an instance"
                    )
                remarks.append(
                    f"the budget holds {rows_limit:,} rows, so an instance has up to {smaller:,} genes instead of {target:,}"
                )
                n, target = more, smaller
                break
        else:
            raise refuse(
                f"an instance of {target:,} genes needs up to "
                f"{_bytes_needed(before, n, overlap, needed_bytes) / GIB:.2f} GiB, but the budget is "
                f"{budget.budget_bytes / GIB:.2f} GiB ({budget.won}); allow that much or set a smaller --genes-per-instance"
            )
        starts = _balanced_starts(before, n, target, overlap_genes(target, overlap), rows_limit)
        if starts is None:
            raise PlanError(f"no cut into {n} instances of {target:,} genes exists")
    shared = overlap_genes(target, overlap)
    ranges = tuple((start, after + shared) for start, after in pairwise(starts)) + ((starts[-1], n_genes),)
    return Windows(ranges, target, shared, tuple(remarks))


def _refusal(budget: Budget) -> type[PlanError] | type[MemoryBudgetError]:
    """Return the error of a budget that cannot be met: the user's number, or the machine's."""
    return PlanError if budget.is_users_number else MemoryBudgetError


def _bytes_needed(before: NDArray[np.int64], n: int, overlap: float, needed_bytes: Callable[[int], int]) -> int:
    """Return the peak memory of the largest of ``n`` balanced windows."""
    n_genes = len(before) - 1
    target = smallest_target(n_genes, n, overlap)
    shared = overlap_genes(target, overlap)
    starts = _balanced_starts(before, n, target, shared, int(before[-1]))
    if starts is None:
        return needed_bytes(int(before[-1]))
    stops = [*(start + shared for start in starts[1:]), n_genes]
    return max(needed_bytes(int(before[stop] - before[start])) for start, stop in zip(starts, stops, strict=True))


def _reachable(
    before: NDArray[np.int64], n: int, cap: int, shared: int, rows_limit: int
) -> list[NDArray[np.int64]] | None:
    """Return for each window the starts that can be reached with windows of at most ``rows_limit`` rows, rising.

    A window that begins at s ends ``shared`` genes after its successor's start, so the successor may begin at
    s + least .. s + cap - shared, less where rows run out. Windows beside a middle one must not meet: its successor
    starts at least ``shared`` genes after it. Starts so early that the windows left could not hold the genes left are
    not looked at: few a window are left, however many genes there are.
    """
    n_genes, step = len(before) - 1, cap - shared
    latest = np.minimum(np.searchsorted(before, before[:-1] + rows_limit, side="right") - 1 - shared, n_genes - 1)
    reached = [np.zeros(1, dtype=np.int64)]
    for window in range(1, n):
        places = reached[-1]
        least = 1 if window == 1 else max(shared, 1)
        first = max(n_genes - cap - (n - 1 - window) * step, 0)
        stop = max(min(window * step, n_genes - 1) + 1, first)
        begin, end = places + least, np.minimum(latest[places], places + step) + 1
        change = np.zeros(stop - first + 1, dtype=np.int64)
        np.add.at(change, np.clip(begin[end > begin], first, stop) - first, 1)
        np.add.at(change, np.clip(end[end > begin], first, stop) - first, -1)
        reached.append(first + np.flatnonzero(np.cumsum(change[:-1])))
    sizes = n_genes - reached[-1]
    last = (sizes > (shared if n > 1 else 0)) & (sizes <= cap) & (before[-1] - before[reached[-1]] <= rows_limit)
    reached[-1] = reached[-1][last]
    return reached if len(reached[-1]) else None


def _balanced_starts(before: NDArray[np.int64], n: int, cap: int, shared: int, rows_limit: int) -> list[int] | None:
    """Return the starts of ``n`` windows whose largest has the fewest rows, or None where no cut fits."""
    if _reachable(before, n, cap, shared, rows_limit) is None:
        return None
    low, high = 0, rows_limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reachable(before, n, cap, shared, middle) is not None else (middle, high)
    reached = _reachable(before, n, cap, shared, high)
    if reached is None:
        return None
    # from the last window backwards, the start that brings each window nearest to the mean
    mean = (before[-1] + (n - 1) * shared * before[-1] / (len(before) - 1)) / n
    starts = [_nearest(reached[-1], before[-1] - before[reached[-1]], mean)]
    for window in range(n - 2, -1, -1):
        places, after = reached[window], starts[0]
        least = 1 if window == 0 else max(shared, 1)
        rows = before[after + shared] - before[places]
        fits = (places + least <= after) & (places + cap - shared >= after) & (rows <= high)
        starts.insert(0, _nearest(places[fits], rows[fits], mean))
    return starts


def _nearest(places: NDArray[np.int64], rows: NDArray[np.int64], mean: float) -> int:
    return int(places[np.argmin(np.abs(rows - mean))])

"""Cuts genes into overlapping windows that fit a memory budget, and an instance that ran out of memory into halves.

Genes stand in their seeded order; a window is a range of consecutive ranks. Every neighbouring pair of windows shares
exactly ``floor(overlap x target)`` genes, no other pair shares any, nothing wraps around, and the windows are balanced
by rows within the cap of genes.

Precedence, strongest first: memory budget, full coverage, most instances, at least three of them, genes per instance,
balance. What cannot be met is refused with the shortfall and the smallest change that works.

Half the rows need little more than half the memory, so one split helps wherever a prediction was wrong or a neighbour took
the memory. The plan stays as it is, ``splits.json`` stands beside it. Halves get numbers that follow from their parent's
alone, so several jobs may split at once and a run that is done again splits the same way. A half is not split again: then
something else is wrong.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.numbers import gibibytes
from mi_duck.resources import Budget
from mi_duck.run.costs import MemoryModel
from mi_duck.run.genes import GeneTable
from mi_duck.run.plan import Instance, Plan
from mi_duck.wording import GENES, Noun

LEAST_INSTANCES = 3
LEAST_SIZES = 3  # of a learning curve: its law has as many parameters


@dataclass(frozen=True, slots=True)
class Windows:
    """Result of the cut: starts and stops of the windows, cap of genes per window, shared genes, and remarks for the user."""

    ranges: tuple[tuple[int, int], ...]
    most_genes: int
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

    def is_enough(target: int) -> bool:
        return instances_needed(n_genes, target, overlap) <= n_instances

    return 1 + bisect_left(range(1, n_genes), True, key=is_enough)


def cut_windows(
    training_rows: NDArray[np.int64],
    *,
    genes_per_instance: int,
    overlap: float,
    max_instances: int,
    rows_limit: int,
    auto_adjust: bool,
    budget: Budget,
    needed_bytes: Callable[[int], int],
    noun: Noun = GENES,
) -> Windows:
    """Cut genes into at least three overlapping windows within all limits.

    Parameters
    ----------
    training_rows
        Training rows of each gene in rank order, shape (n_genes,).
    genes_per_instance
        Target; grows or shrinks only with ``auto_adjust``.
    overlap
        Share of the target that neighbours share, 0 to 0.5.
    rows_limit
        Most rows of one window: what the memory budget holds.
    budget, needed_bytes
        The memory budget, and peak memory of a number of rows: for messages and exit codes.
    noun
        What the groups are called there.

    Raises
    ------
    PlanError
        The user's numbers cannot work together.
    MemoryBudgetError
        The machine's memory is too small for full coverage.
    """
    n_genes = len(training_rows)
    before = np.concatenate([[0], np.cumsum(training_rows)])  # before[r]: of all genes of rank below r
    largest = int(training_rows.max())
    if largest > rows_limit:
        raise refusal_of(budget)(
            f"the largest {noun.one} alone has {largest:,} rows and needs {gibibytes(needed_bytes(largest))} GiB, but the budget "
            f"is {gibibytes(budget.budget_bytes)} GiB ({budget.won})"
            + ("; set --max-memory-per-instance-gb to that" if budget.is_users_number else "; use a larger machine")
        )
    n, target, remarks = _asked_windows(n_genes, genes_per_instance, overlap, max_instances, auto_adjust, noun)
    starts = _balanced_starts(before, n, target, overlap_genes(target, overlap), rows_limit)
    if starts is None:
        found = _more_windows(before, n + 1, overlap, rows_limit) if auto_adjust else None
        if found is None:
            raise refusal_of(budget)(
                f"an instance of {noun.count(target)} needs up to "
                f"{gibibytes(_bytes_needed(before, n, overlap, needed_bytes))} GiB, but the budget is "
                f"{gibibytes(budget.budget_bytes)} GiB ({budget.won}); allow that much or set a smaller --genes-per-instance"
            )
        n, smaller = found
        if n > max_instances:
            raise refusal_of(budget)(
                f"the budget of {gibibytes(budget.budget_bytes)} GiB ({budget.won}) holds {rows_limit:,} rows, so "
                f"{n} instances are needed to cover all {noun.count(n_genes)}, but --max-instances is "
                f"{max_instances}; set --max-instances {n} or allow "
                f"{gibibytes(_bytes_needed(before, max_instances, overlap, needed_bytes))} GiB per instance"
            )
        remarks.append(
            f"the budget holds {rows_limit:,} rows, so an instance has up to {noun.count(smaller)} instead of {target:,}"
        )
        target = smaller
        starts = _balanced_starts(before, n, target, overlap_genes(target, overlap), rows_limit)
        if starts is None:
            raise PlanError(f"no cut into {n} instances of {noun.count(target)} exists")
    shared = overlap_genes(target, overlap)
    ranges = tuple((start, after + shared) for start, after in pairwise(starts)) + ((starts[-1], n_genes),)
    return Windows(ranges, target, shared, tuple(remarks))


def _asked_windows(
    n_genes: int, genes_per_instance: int, overlap: float, max_instances: int, auto_adjust: bool, noun: Noun
) -> tuple[int, int, list[str]]:
    """Return number and cap of genes of the windows without regard to memory, and remarks on what differs from what was asked."""
    target = min(genes_per_instance, n_genes)
    n = instances_needed(n_genes, target, overlap)
    if n < LEAST_INSTANCES:
        n = LEAST_INSTANCES
        if n > max_instances:
            raise PlanError(
                f"--max-instances {max_instances} is below {n}, the least for an ensemble; set --strategy single"
            )
        if n_genes < LEAST_INSTANCES:
            raise PlanError(f"{noun.count(n_genes)} cannot make {n} instances; set --strategy single")
        target = smallest_target(n_genes, n, overlap)
        return n, target, [f"at least {n} instances are made, so an instance has up to {noun.count(target)}"]
    if n <= max_instances:
        return n, target, []
    enough = smallest_target(n_genes, max_instances, overlap)
    if not auto_adjust:
        covered = max_instances * target - (max_instances - 1) * overlap_genes(target, overlap)
        raise PlanError(
            f"--max-instances {max_instances} of {noun.count(target)} cover {covered:,} of {noun.count(n_genes)}; set "
            f"--max-instances {n} or --genes-per-instance {enough} or leave --auto-adjust-instance-size on"
        )
    remark = f"--max-instances {max_instances} needs {noun.count(enough)} per instance instead of {target:,}"
    return max_instances, enough, [remark]


def _more_windows(before: NDArray[np.int64], least: int, overlap: float, rows_limit: int) -> tuple[int, int] | None:
    """Return the smallest number of windows, and their cap of genes, with which all fit the rows; None where none does."""
    n_genes = len(before) - 1
    for n in range(max(least, -(-int(before[-1]) // rows_limit)), n_genes + 1):
        target = smallest_target(n_genes, n, overlap)
        shared = overlap_genes(target, overlap)
        if target <= shared or instances_needed(n_genes, target, overlap) != n:
            continue
        if _reachable(before, n, target, shared, rows_limit) is not None:
            return n, target
    return None


def refusal_of(budget: Budget) -> type[PlanError] | type[MemoryBudgetError]:
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
    not looked at: few per window are left, however many genes there are.
    """
    n_genes, step = len(before) - 1, cap - shared
    latest = np.minimum(np.searchsorted(before, before[:-1] + rows_limit, side="right") - 1 - shared, n_genes - 1)
    reached = [np.zeros(1, dtype=np.int64)]
    for window in range(1, n):
        starts = reached[-1]
        least = 1 if window == 1 else max(shared, 1)
        first = max(n_genes - cap - (n - 1 - window) * step, 0)
        stop = max(min(window * step, n_genes - 1) + 1, first)
        begin, end = starts + least, np.minimum(latest[starts], starts + step) + 1
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

    def is_enough(n_rows: int) -> bool:
        return _reachable(before, n, cap, shared, n_rows) is not None

    most_rows = 1 + bisect_left(range(1, rows_limit), True, key=is_enough)
    reached = _reachable(before, n, cap, shared, most_rows)
    if reached is None:
        return None
    # from the last window backwards, the start that brings each window nearest to the mean
    mean = (before[-1] + (n - 1) * shared * before[-1] / (len(before) - 1)) / n
    starts = [_nearest(reached[-1], before[-1] - before[reached[-1]], mean)]
    for window in range(n - 2, -1, -1):
        possible, after = reached[window], starts[0]
        least = 1 if window == 0 else max(shared, 1)
        rows = before[after + shared] - before[possible]
        fits = (possible + least <= after) & (possible + cap - shared >= after) & (rows <= most_rows)
        starts.insert(0, _nearest(possible[fits], rows[fits], mean))
    return starts


def _nearest(starts: NDArray[np.int64], rows: NDArray[np.int64], mean: float) -> int:
    return int(starts[np.argmin(np.abs(rows - mean))])


def halves_of(plan: Plan, instance: Instance, genes: GeneTable) -> tuple[Instance, Instance] | None:
    """Return the halves of an instance, or None where it cannot be split.

    They are cut between two fold groups where the rows trained on come closest to one half, and share no gene; if possible
    among the genes that no neighbour shares, so that nothing changes under a neighbour that is trained at the same time.
    ``plan`` has the splits so far.
    """
    n_planned = plan.cut.n_planned
    if instance.instance_id >= n_planned:
        return None
    first, stop = instance.first_rank, instance.stop_rank
    ranks = np.arange(first + 1, stop)
    borders = ranks[genes.group[first + 1 : stop] != genes.group[first : stop - 1]]
    others = [one for one in plan.cut.instances if one != instance]
    own = borders[[not any(one.first_rank < rank < one.stop_rank for one in others) for rank in borders]]
    borders = own if len(own) else borders
    if not len(borders):
        return None
    before = np.concatenate([[0], np.cumsum(genes.n_training_rows)])
    cut = int(borders[np.argmin(np.abs(2 * before[borders] - before[first] - before[stop]))])
    for half in (slice(first, cut), slice(cut, stop)):
        if missing_class(genes.label_counts[half], genes.fold[half], plan.settings.n_folds):
            return None
    number = n_planned + 2 * instance.instance_id

    def seconds_of(n_rows: int) -> float:
        return instance.predicted_seconds * n_rows / instance.n_training_rows

    model = plan.costs.model
    return (
        window_instance(number, first, cut, genes, model, seconds_of),
        window_instance(number + 1, cut, stop, genes, model, seconds_of),
    )


def window_instance(
    number: int,
    first: int,
    stop: int,
    genes: GeneTable,
    model: MemoryModel,
    seconds_of: Callable[[int], float],
) -> Instance:
    """Return the instance of a window; ``seconds_of`` predicts the time of a number of training rows."""
    n_training_rows = int(genes.n_training_rows[first:stop].sum())
    return Instance(
        instance_id=number,
        first_rank=first,
        stop_rank=stop,
        n_genes=stop - first,
        n_rows=int(genes.n_rows[first:stop].sum()),
        n_training_rows=n_training_rows,
        predicted_bytes=model.predict_bytes(n_training_rows, stop - first),
        predicted_seconds=seconds_of(n_training_rows),
    )


def nested_ranges(n_genes: int, n_sizes: int) -> tuple[tuple[int, int], ...]:
    """Return ranges of ranks from 0, each about twice as long as the one before, the last of all genes.

    Examples
    --------
    >>> nested_ranges(100, 4)
    ((0, 13), (0, 25), (0, 50), (0, 100))
    """
    return tuple((0, -(-n_genes // (1 << halvings))) for halvings in reversed(range(n_sizes)))


def missing_class(label_counts: NDArray[np.int64], folds: NDArray[np.int64], n_folds: int) -> tuple[int, int] | None:
    """Return the first (fold, class) of a window of which no row is outside the fold, so that it could not be trained.

    ``label_counts`` has shape (n_genes, n_classes), ``folds`` shape (n_genes,).
    """
    for fold in range(n_folds):
        absent = np.flatnonzero(label_counts[folds != fold].sum(axis=0) == 0)
        if len(absent):
            return fold, int(absent[0])
    return None

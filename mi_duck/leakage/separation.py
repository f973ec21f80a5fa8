"""How well one column, or the equality of two columns, separates two sets of classes, each with its uncertainty.

Rows of one fold group are not independent, so every standard error is that of a ratio of sums over groups. It comes
from the same counts as the estimate, which is why areas and coefficients are not taken from scikit-learn.

References
----------
Area under the ROC curve: Hanley and McNeil (1982), Radiology 143: the share of pairs in order, ties one half. Its standard
error over groups: Obuchowski (1997), Biometrics 53, nonparametric analysis of clustered ROC curve data. Mutual
information: Cover and Thomas, Elements of Information Theory (2006), section 2.3, in bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 16
FEW_VALUES = 512  # up to here rows are counted by stratum, value and label; above they are taken one by one
DECIMALS = 7  # of float32
ROWS_OF_CLASS = 400  # in which all pairs of columns are compared
LEAST_DIFFERENCE = 0.15  # of the shares in these rows, for a pair to be measured in all rows
MOST_PARTNERS = 3  # columns per feature to which its equality is measured in all rows

Column = NDArray[np.uint8] | NDArray[np.float32]
Whole = NDArray[np.int64]
Real = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tally:
    """The rows of a column, counted by stratum, value and label, in rising order of stratum and value.

    Parameters
    ----------
    stratum, rank, label, count
        Of each cell: its stratum, the rank of its value among the distinct ones (-1 is missing), its label, its rows; shape
        (n_cells,).
    values
        Distinct values in rising order, shape (n_values,).
    group
        Fold group of each stratum, shape (n_strata,).
    """

    stratum: Whole
    rank: Whole
    label: Whole
    count: Whole
    values: NDArray[np.float32]
    group: Whole


@dataclass(frozen=True, slots=True)
class Side:
    """Two sets of classes to separate, by their numbers."""

    one: tuple[int, ...]
    other: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Area:
    """An area of at least one half and its 95 % interval; NaN where a side has no row, or only one group has any."""

    value: float
    low: float
    high: float


UNKNOWN = Area(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class Share:
    """A statement about rows: its area, and the shares of both sides for which it holds."""

    area: Area
    of_one: float
    of_other: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The best cut of a column: its absolute Matthews correlation coefficient, and the lower bound of that."""

    coefficient: float
    low: float


@dataclass(frozen=True, slots=True)
class Copy:
    """The column that a feature equals, and how the statement "they are equal" separates two sides."""

    equal_to: str
    share: Share


def tally(values: Column | NDArray[np.bool_], label: Whole, stratum: Whole, group: Whole) -> Tally:
    """Count the rows of a column; NaN is missing.

    Parameters
    ----------
    values, label, stratum
        Of each row, shape (n_rows,); strata and labels are numbers from 0.
    group
        Fold group of each stratum, shape (n_strata,).
    """
    distinct, rank = _ranked(values)
    n_values, n_labels = len(distinct) + 1, int(label.max(initial=0)) + 1
    if n_values <= FEW_VALUES:
        code = (stratum * n_values + rank + 1) * n_labels + label
        counts = np.bincount(code, minlength=len(group) * n_values * n_labels)
        cell = np.flatnonzero(counts)
        stratum_and_value, of_label = np.divmod(cell, n_labels)
        of_stratum, value = np.divmod(stratum_and_value, n_values)
        return Tally(of_stratum, value - 1, of_label, counts[cell], distinct, group)
    order = np.argsort(stratum * n_values + rank)
    return Tally(stratum[order], rank[order], label[order], np.ones(len(order), dtype=np.int64), distinct, group)


def _ranked(values: Column | NDArray[np.bool_]) -> tuple[NDArray[np.float32], Whole]:
    """Return the distinct values and the rank of each row among them, -1 where it is missing."""
    if values.dtype != np.float32:  # of one byte: counted, which is faster than sorting
        whole = values.astype(np.int64)
        distinct = np.flatnonzero(np.bincount(whole))
        rank_of_value = np.zeros(256, dtype=np.int64)
        rank_of_value[distinct] = np.arange(len(distinct))
        return distinct.astype(np.float32), rank_of_value[whole]
    rank = np.full(len(values), -1, dtype=np.int64)
    is_present = ~np.isnan(values)
    distinct, rank[is_present] = np.unique(values[is_present], return_inverse=True)
    return distinct.astype(np.float32), rank


def selected(cells: Tally, chosen: NDArray[np.bool_]) -> Tally:
    """Return the tally of some of the cells."""
    of_cell = {name: getattr(cells, name)[chosen] for name in ("stratum", "rank", "label", "count")}
    return replace(cells, **of_cell)


def _weights(cells: Tally, side: Side) -> tuple[Real, Real]:
    """Return the rows of each cell that belong to the one side, and those of the other."""
    is_one = np.zeros(256, dtype=np.float64)
    is_other = is_one.copy()
    is_one[list(side.one)], is_other[list(side.other)] = 1, 1
    return cells.count * is_one[cells.label], cells.count * is_other[cells.label]


def area(cells: Tally, side: Side) -> Area:
    """Return the area of a column over all pairs of rows in which it is present."""
    one, other = (rows * (cells.rank >= 0) for rows in _weights(cells, side))
    rank = np.maximum(cells.rank, 0)
    ones = np.bincount(rank, weights=one, minlength=len(cells.values))
    others = np.bincount(rank, weights=other, minlength=len(cells.values))
    n_one, n_other = float(ones.sum()), float(others.sum())
    if n_one == 0 or n_other == 0:
        return UNKNOWN
    # for each value the share of the other side that lies below it, and of the one side above it; ties count one half
    below = (np.cumsum(others) - others / 2) / n_other
    above = (n_one - np.cumsum(ones) + ones / 2) / n_one
    value = float((ones * below).sum() / n_one)
    influence = one * (below[rank] - value) / n_one + other * (above[rank] - value) / n_other
    return _oriented(value, _standard_error(cells, influence, one + other))


def area_within(cells: Tally, side: Side) -> Area:
    """Return the area over the pairs of rows that lie in one stratum."""
    is_present = cells.rank >= 0
    one, other = (rows[is_present] for rows in _weights(cells, side))
    stratum, n_strata = cells.stratum[is_present], len(cells.group)
    if not len(stratum):
        return UNKNOWN
    is_first = np.concatenate([[True], (np.diff(stratum) != 0) | (np.diff(cells.rank[is_present]) != 0)])
    block = np.cumsum(is_first) - 1
    ones, others = (np.bincount(block, weights=rows) for rows in (one, other))
    of_block = stratum[is_first]
    before = np.cumsum(others) - others
    # rows of the other side in earlier strata do not count as below
    first = np.searchsorted(of_block, of_block)
    in_order = np.bincount(of_block, weights=ones * (before - before[first] + others / 2), minlength=n_strata)
    n_ones, n_others = (np.bincount(of_block, weights=rows, minlength=n_strata) for rows in (ones, others))
    pairs = n_ones * n_others
    if pairs.sum() == 0:
        return UNKNOWN
    value = float(in_order.sum() / pairs.sum())
    influence = np.bincount(cells.group, weights=(in_order - value * pairs) / pairs.sum())
    return _oriented(value, _error_of(influence, np.bincount(cells.group, weights=pairs)))


def share(cells: Tally, side: Side, holds: NDArray[np.bool_]) -> Share:
    """Return how a statement about cells, such as "is missing", separates two sides.

    Its area is one half and half the difference of its shares. Missing rows count as all others.
    """
    one, other = _weights(cells, side)
    n_one, n_other = float(one.sum()), float(other.sum())
    if n_one == 0 or n_other == 0:
        return Share(UNKNOWN, float("nan"), float("nan"))
    of_one, of_other = float((one * holds).sum() / n_one), float((other * holds).sum() / n_other)
    influence = (one * (holds - of_one) / n_one - other * (holds - of_other) / n_other) / 2
    found = _oriented(0.5 + (of_one - of_other) / 2, _standard_error(cells, influence, one + other))
    return Share(found, of_one, of_other)


def best_cut(cells: Tally, side: Side) -> Cut:
    """Return the cut between two values that has the largest absolute Matthews correlation coefficient.

    At fixed sizes of both parts the coefficient is in proportion to the difference of the shares of both sides that lie
    below the cut, so its lower bound is that of this difference.
    """
    is_present = cells.rank >= 0
    one, other = (rows * is_present for rows in _weights(cells, side))
    rank = np.maximum(cells.rank, 0)
    ones = np.cumsum(np.bincount(rank, weights=one, minlength=len(cells.values)))
    others = np.cumsum(np.bincount(rank, weights=other, minlength=len(cells.values)))
    if len(ones) < 2 or ones[-1] == 0 or others[-1] == 0:
        return Cut(0.0, 0.0)
    n_one, n_other = float(ones[-1]), float(others[-1])
    below = ones[:-1] + others[:-1]
    spread = np.sqrt(n_one * n_other / np.maximum(below * (n_one + n_other - below), 1))
    coefficient = np.abs(ones[:-1] / n_one - others[:-1] / n_other) * spread
    best = int(coefficient.argmax())
    present = selected(cells, is_present)
    found = share(present, side, present.rank <= best)
    return Cut(float(coefficient[best]), float((2 * found.area.low - 1) * spread[best]))


def most_discriminative_value(cells: Tally, side: Side) -> int:
    """Return the rank of the value whose share differs most between the sides; -1 where every value is missing."""
    if not len(cells.values):
        return -1
    is_present = cells.rank >= 0
    one, other = (np.bincount(cells.rank[is_present], weights=rows[is_present]) for rows in _weights(cells, side))
    return int(np.abs(one / max(one.sum(), 1) - other / max(other.sum(), 1)).argmax())


def mutual_information(cells: Tally, side: Side, bins: int = BINS) -> float:
    """Return the mutual information, in bits, of the side of a row and the quantile bin of its value.

    Equal values are in one bin, that of the middle of their ranks; missing values have a bin of their own.
    """
    is_present = cells.rank >= 0
    counts = np.bincount(cells.rank[is_present], weights=cells.count[is_present], minlength=len(cells.values))
    middle = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1)
    bin_of_rank = np.append(np.minimum((middle * bins).astype(np.int64), bins - 1), bins)  # the last is rank -1
    of_cell = bin_of_rank[cells.rank]
    table = np.stack([np.bincount(of_cell, weights=rows, minlength=bins + 1) for rows in _weights(cells, side)])
    if table.sum() == 0:
        return float("nan")
    joint = table / table.sum()
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log2(joint[some] / expected[some])).sum())


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return Spearman's coefficient of two columns, shape (n_rows,), over the rows where neither is NaN; 0 if one is constant."""
    from scipy.stats import spearmanr  # half a second, and few features need it

    is_present = ~(np.isnan(one) | np.isnan(other))
    first, second = one[is_present], other[is_present]
    if (first == first[:1]).all() or (second == second[:1]).all():
        return 0.0
    return float(spearmanr(first, second).statistic)


def _standard_error(cells: Tally, influence: Real, rows: Real) -> float:
    """Return the standard error of a ratio of sums over fold groups from what each cell adds to it."""
    n_groups = int(cells.group.max(initial=0)) + 1
    group = cells.group[cells.stratum]
    return _error_of(*(np.bincount(group, weights=values, minlength=n_groups) for values in (influence, rows)))


def _error_of(influence: NDArray[Any], rows: NDArray[Any]) -> float:
    n_groups = int((rows > 0).sum())
    return float(np.sqrt(n_groups / (n_groups - 1) * (influence**2).sum())) if n_groups > 1 else float("nan")


def _oriented(value: float, error: float) -> Area:
    value = max(value, 1 - value)
    return Area(value, max(value - 1.96 * error, 0.0), min(value + 1.96 * error, 1.0))


def last_digits(values: Column) -> dict[str, NDArray[np.float32]]:
    """Return what is left of a column of fractions after so many decimals, and its last bit, each under its name.

    They are parts of the value that no measurement fills with meaning, where a label can be hidden.
    """
    exact = np.where(np.isfinite(values), values, np.nan).astype(np.float64)  # what is infinite has no digits
    scaled = {number: exact * 10**number for number in range(DECIMALS)}
    found = {
        f"the digits after decimal {number}": (one - np.round(one)).astype(np.float32) for number, one in scaled.items()
    }
    bit = (values.astype(np.float32).view(np.uint32) & 1).astype(np.float32)
    found["the last bit"] = np.where(np.isnan(values), np.float32(np.nan), bit)
    return found


def promising_digits(values: Column, label: Whole, sides: Sequence[Side], least: float) -> list[str]:
    """Return the names of `last_digits` whose area for one of some sides is so large in a few rows of each class."""
    from scipy.stats import rankdata

    if _is_count(values):
        return []
    few = _few_of_each_class(label)
    digits = last_digits(values[few])
    table = np.nan_to_num(np.stack(list(digits.values())))
    best = np.zeros(len(table))
    for side in sides:
        is_one, is_other = np.isin(label[few], side.one), np.isin(label[few], side.other)
        n_one, n_other = int(is_one.sum()), int(is_other.sum())
        if n_one and n_other:
            ranks = rankdata(table[:, is_one | is_other], axis=1)[:, is_one[is_one | is_other]]
            found = (ranks.sum(axis=1) - n_one * (n_one + 1) / 2) / (n_one * n_other)
            best = np.maximum(best, np.maximum(found, 1 - found))
    return [name for name, one in zip(digits, best.tolist(), strict=True) if one >= least]


def _few_of_each_class(label: Whole) -> Whole:
    """Return the numbers of a few rows of every class, spread evenly."""
    of_class = [np.flatnonzero(label == number) for number in range(int(label.max()) + 1)]
    return np.concatenate([rows[:: max(len(rows) // ROWS_OF_CLASS, 1)][:ROWS_OF_CLASS] for rows in of_class])


def gene_value(cells: Tally) -> NDArray[np.float32] | None:
    """Return the one value of a column in each stratum, NaN where it is missing; None where a stratum has several."""
    stratum, rank = (values[cells.rank >= 0] for values in (cells.stratum, cells.rank))
    if ((np.diff(stratum) == 0) & (np.diff(rank) != 0)).any():  # cells are in order
        return None
    found = np.full(len(cells.group), np.nan, dtype=np.float32)
    found[stratum] = cells.values[rank]
    return found


def copies(
    columns: Mapping[str, Column], label: Whole, gene: Whole, group: Whole, sides: Sequence[Side]
) -> dict[tuple[str, int], Copy]:
    """Return for (feature, index of the comparison) the column whose equality with the feature separates the sides best.

    Notes
    -----
    Counts of one byte often equal each other by coincidence, so columns of such values alone are not compared, and a value
    that more than half of the rows of a column have, such as the zero of a detector, equals nothing. All pairs
    of the others are compared in a few rows of each class, and only those whose shares differ there in all rows.
    """
    names = [name for name, values in columns.items() if not _is_count(values)]
    if len(names) < 2:
        return {}
    picked = _few_of_each_class(label)
    usual = {name: _usual_value(columns[name]) for name in names}
    few = np.stack([np.where(columns[name][picked] == usual[name], np.nan, columns[name][picked]) for name in names])
    is_of_class = np.stack([label[picked] == number for number in range(int(label.max()) + 1)]).astype(np.float32)
    is_of_class /= np.maximum(is_of_class.sum(axis=1, keepdims=True), 1)
    found: dict[tuple[str, int], Copy] = {}
    measured: dict[tuple[int, int], list[Share]] = {}
    for number, name in enumerate(names):
        shares = (few == few[number]).astype(np.float32) @ is_of_class.T
        shares[number] = 0
        difference = np.ptp(shares, axis=1)
        for partner in np.argsort(-difference, kind="stable")[:MOST_PARTNERS].tolist():
            if difference[partner] < LEAST_DIFFERENCE:
                break
            pair = (min(number, partner), max(number, partner))
            if pair not in measured:
                values, others = columns[name], columns[names[partner]]
                is_equal = (values == others) & (values != usual[name]) & (others != usual[names[partner]])
                cells = tally(is_equal, label, gene, group)
                holds = cells.values[cells.rank] == 1  # values are 0 and 1, or one of these alone
                measured[pair] = [share(cells, side, holds) for side in sides]
            for index, one in enumerate(measured[pair]):
                best = found.get((name, index))
                if not np.isnan(one.area.value) and (best is None or one.area.value > best.share.area.value):
                    found[name, index] = Copy(names[partner], one)
    return found


def _usual_value(values: Column) -> float:
    """Return the value that more than half of the rows have; NaN without any."""
    middle = float(np.nanquantile(values, 0.5, method="lower")) if not np.isnan(values).all() else float("nan")
    return middle if 2 * np.count_nonzero(values == middle) > len(values) else float("nan")


def _is_count(values: Column) -> bool:
    """Return whether all values are whole numbers of one byte."""
    if values.dtype == np.uint8:
        return True
    present = values[~np.isnan(values)]
    return bool(((present >= 0) & (present <= 255) & (present == np.floor(present))).all())

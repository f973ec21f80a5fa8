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

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.ranking import average_ranks

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
    """The rows of some columns, counted by column, stratum, value and label, in rising order of the first three.

    Columns are measured together, for most have few values: one call for each would be slower than the counting.

    Parameters
    ----------
    column, stratum, value, label, count
        Of each cell: its column, its stratum, the number of its value (-1 is missing), its label, its rows; shape (n_cells,).
    values
        Distinct values of the columns, one column after another, in rising order within each; shape (n_values,).
    first
        Number of the first value of each column, and of the end of the last; shape (n_columns + 1,).
    group
        Fold group of each stratum, shape (n_strata,).
    """

    column: Whole
    stratum: Whole
    value: Whole
    label: Whole
    count: Whole
    values: NDArray[np.float32]
    first: Whole
    group: Whole

    @property
    def n_columns(self) -> int:
        """How many columns were counted."""
        return len(self.first) - 1

    @property
    def column_of_value(self) -> Whole:
        """The column of each value, shape (n_values,)."""
        return np.repeat(np.arange(self.n_columns), np.diff(self.first))

    def of_value(self, rows: Real) -> Real:
        """Return the sum of cells over each value, shape (n_values,); none of the cells is missing."""
        return _sums(self.value, rows, len(self.values))

    def of_column(self, rows: Real) -> Real:
        """Return the sum of cells over each column, shape (n_columns,)."""
        return _sums(self.column, rows, self.n_columns)

    def up_to(self, rows: Real) -> Real:
        """Return for each value the sum over the values of its column up to it, shape (n_values,)."""
        sums = np.concatenate([[0.0], np.cumsum(rows)])
        before: Real = sums[self.first[self.column_of_value]]
        return sums[1:] - before


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


def _sums(number: Whole, rows: Real, n: int) -> Real:
    """Return the sum of ``rows`` for each of the numbers from 0 to n - 1, shape (n,)."""
    return np.asarray(np.bincount(number, weights=rows, minlength=n), dtype=np.float64)


def tally(columns: Sequence[Column | NDArray[np.bool_]], label: Whole, stratum: Whole, group: Whole) -> Tally:
    """Count the rows of columns; NaN is missing.

    Parameters
    ----------
    columns
        Values of each column, shape (n_rows,).
    label, stratum
        Of each row, shape (n_rows,); strata and labels are numbers from 0.
    group
        Fold group of each stratum, shape (n_strata,).
    """
    n_labels, n_before = int(label.max(initial=0)) + 1, 0
    distinct, parts = [], []
    for number, values in enumerate(columns):
        own, rank = _ranked(values)
        n_values = len(own) + 1
        if n_values <= FEW_VALUES:
            code = (stratum * n_values + rank + 1) * n_labels + label
            counts = np.bincount(code, minlength=len(group) * n_values * n_labels)
            cell = np.flatnonzero(counts)
            stratum_and_value, of_label = np.divmod(cell, n_labels)
            of_stratum, value = np.divmod(stratum_and_value, n_values)
            of_cell = of_stratum, value - 1, of_label, counts[cell]
        else:
            order = np.argsort(stratum * n_values + rank)
            of_cell = stratum[order], rank[order], label[order], np.ones(len(order), dtype=np.int64)
        column = np.full(len(of_cell[0]), number)
        parts.append((column, of_cell[0], np.where(of_cell[1] < 0, -1, of_cell[1] + n_before), *of_cell[2:]))
        distinct.append(own)
        n_before += len(own)
    first = np.cumsum([0, *(len(own) for own in distinct)])
    column, of_stratum, value, of_label, count = (np.concatenate(one) for one in zip(*parts, strict=True))
    return Tally(column, of_stratum, value, of_label, count, np.concatenate(distinct), first, group)


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
    """Return the tally of some of the cells; columns and values keep their numbers."""
    of_cell = {name: getattr(cells, name)[chosen] for name in ("column", "stratum", "value", "label", "count")}
    return replace(cells, **of_cell)


def _present(cells: Tally) -> Tally:
    """Return the tally without missing cells: mostly the tally itself, for what is copied costs as much as what is measured."""
    is_present = cells.value >= 0
    return cells if is_present.all() else selected(cells, is_present)


def _weights(cells: Tally, side: Side) -> tuple[Real, Real]:
    """Return the rows of each cell that belong to the one side, and those of the other."""
    is_one = np.zeros(256, dtype=np.float64)
    is_other = is_one.copy()
    is_one[list(side.one)], is_other[list(side.other)] = 1, 1
    return cells.count * is_one[cells.label], cells.count * is_other[cells.label]


@np.errstate(divide="ignore", invalid="ignore")  # of a column that a side lacks
def area(cells: Tally, side: Side) -> list[Area]:
    """Return the area of each column over all pairs of rows in which it is present."""
    present = _present(cells)
    one, other = _weights(present, side)
    ones, others = present.of_value(one), present.of_value(other)
    n_one, n_other = present.of_column(one), present.of_column(other)
    column = present.column_of_value
    # for each value the share of the other side that lies below it, and of the one side above it; ties count one half
    below = (present.up_to(others) - others / 2) / n_other[column]
    above = (n_one[column] - present.up_to(ones) + ones / 2) / n_one[column]
    found = _sums(column, ones * below, present.n_columns) / n_one
    of_cell, value = present.column, present.value
    influence = one * (below[value] - found[of_cell]) / n_one[of_cell]
    influence += other * (above[value] - found[of_cell]) / n_other[of_cell]
    return _oriented(found, _standard_error(present, of_cell, present.stratum, influence, one + other))


@np.errstate(divide="ignore", invalid="ignore")
def area_within(cells: Tally, side: Side) -> list[Area]:
    """Return the area of each column over the pairs of rows that lie in one stratum."""
    present = _present(cells)
    one, other = _weights(present, side)
    shape = present.n_columns, len(present.group)
    stratum, n_strata = present.column * shape[1] + present.stratum, shape[0] * shape[1]  # of all columns
    is_first = np.ones(len(stratum), dtype=bool)
    is_first[1:] = (np.diff(stratum) != 0) | (np.diff(present.value) != 0)
    block = np.cumsum(is_first) - 1
    ones, others = (_sums(block, rows, int(is_first.sum())) for rows in (one, other))
    of_block = stratum[is_first]
    before = np.cumsum(others) - others
    # rows of the other side in earlier strata do not count as below
    first = np.searchsorted(of_block, of_block)
    in_order = _sums(of_block, ones * (before - before[first] + others / 2), n_strata)
    n_ones, n_others = (_sums(of_block, rows, n_strata) for rows in (ones, others))
    in_order, pairs = in_order.reshape(shape), (n_ones * n_others).reshape(shape)
    n_pairs = pairs.sum(axis=1)
    found = in_order.sum(axis=1) / n_pairs
    influence = (in_order - found[:, None] * pairs) / n_pairs[:, None]
    of_column, of_stratum = np.divmod(np.arange(n_strata), shape[1])
    return _oriented(found, _standard_error(present, of_column, of_stratum, influence.ravel(), pairs.ravel()))


@np.errstate(divide="ignore", invalid="ignore")
def share(cells: Tally, side: Side, holds: NDArray[np.bool_]) -> list[Share]:
    """Return how a statement about cells, such as "is missing", separates two sides, for each column.

    Its area is one half and half the difference of its shares. Missing rows count as all others.
    """
    one, other = _weights(cells, side)
    n_one, n_other = cells.of_column(one), cells.of_column(other)
    of_one, of_other = cells.of_column(one * holds) / n_one, cells.of_column(other * holds) / n_other
    column = cells.column
    influence = one * (holds - of_one[column]) / n_one[column] - other * (holds - of_other[column]) / n_other[column]
    areas = _oriented(
        0.5 + (of_one - of_other) / 2, _standard_error(cells, column, cells.stratum, influence / 2, one + other)
    )
    return [
        Share(found, *shares) if not np.isnan(found.value) else Share(UNKNOWN, float("nan"), float("nan"))
        for found, *shares in zip(areas, of_one.tolist(), of_other.tolist(), strict=True)
    ]


@np.errstate(divide="ignore", invalid="ignore")
def best_cut(cells: Tally, side: Side) -> list[Cut]:
    """Return the cut between two values of each column that has the largest absolute Matthews correlation coefficient.

    At fixed sizes of both parts the coefficient is in proportion to the difference of the shares of both sides that lie
    below the cut, so its lower bound is that of this difference.
    """
    present = _present(cells)
    one, other = _weights(present, side)
    column = present.column_of_value
    ones, others = (present.up_to(present.of_value(rows)) for rows in (one, other))
    n_one, n_other = (present.of_column(rows)[column] for rows in (one, other))
    below = ones + others
    spread = np.sqrt(n_one * n_other / np.maximum(below * (n_one + n_other - below), 1))
    coefficient = np.abs(ones / n_one - others / n_other) * spread
    best = _first_largest(present, coefficient)
    found = share(present, side, present.value <= best[present.column])
    return [
        Cut(float(coefficient[cut]), float((2 * one.area.low - 1) * spread[cut])) if cut >= 0 else Cut(0.0, 0.0)
        for cut, one in zip(best.tolist(), found, strict=True)
    ]


def most_discriminative_value(cells: Tally, side: Side) -> Whole:
    """Return for each column the number of the value whose share differs most between the sides; -1 if all are missing."""
    column = cells.column_of_value
    present = _present(cells)
    of_one, of_other = (
        present.of_value(rows) / np.maximum(present.of_column(rows), 1)[column] for rows in _weights(present, side)
    )
    return _first_largest(cells, np.abs(of_one - of_other))


def _first_largest(cells: Tally, of_value: Real) -> Whole:
    """Return for each column the number of its first value where something is largest; -1 where it is nowhere a number."""
    found = np.full(cells.n_columns, -1)
    has_values = np.diff(cells.first) > 0
    largest = np.full(cells.n_columns, np.nan)
    if has_values.any():
        largest[has_values] = np.maximum.reduceat(of_value, cells.first[:-1][has_values])
    column = cells.column_of_value
    hits = np.flatnonzero(of_value == largest[column])
    numbers, at = np.unique(column[hits], return_index=True)
    found[numbers] = hits[at]
    return found


def mutual_information(cells: Tally, side: Side, bins: int = BINS) -> list[float]:
    """Return the mutual information, in bits, of the side of a row and the quantile bin of its value, for each column.

    Equal values are in one bin, that of the middle of their ranks; missing values have a bin of their own.
    """
    present = _present(cells)
    rows = present.count.astype(np.float64)
    counts, n_present = present.of_value(rows), present.of_column(rows)
    middle = (cells.up_to(counts) - counts / 2) / np.maximum(n_present, 1)[cells.column_of_value]
    bin_of_value = np.append(np.minimum((middle * bins).astype(np.int64), bins - 1), bins)  # the last is value -1
    of_cell = cells.column * (bins + 1) + bin_of_value[cells.value]
    n_bins = cells.n_columns * (bins + 1)
    table = np.stack([_sums(of_cell, rows, n_bins) for rows in _weights(cells, side)], axis=-1)
    table = table.reshape(cells.n_columns, bins + 1, 2)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a column without rows on either side: not a number
        joint = table / table.sum(axis=(1, 2), keepdims=True)
        expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=2, keepdims=True)
        bits = np.where(joint == 0, 0.0, joint * np.log2(joint / expected))
    return list(bits.sum(axis=(1, 2)).tolist())


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return Spearman's coefficient of two columns, shape (n_rows,), over the rows where neither is NaN; 0 if one is constant."""
    is_present = ~(np.isnan(one) | np.isnan(other))
    first, second = (average_ranks(values[is_present]) for values in (one, other))
    if (first == first[:1]).all() or (second == second[:1]).all():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _standard_error(cells: Tally, column: Whole, stratum: Whole, influence: Real, rows: Real) -> Real:
    """Return for each column the standard error of a ratio of sums over fold groups; NaN where one group has all rows.

    ``influence`` is what each part, of a column and a stratum, adds to it, ``rows`` what it rests on; shape (n_parts,).
    """
    n_groups = int(cells.group.max(initial=0)) + 1
    group = column * n_groups + cells.group[stratum]
    size, shape = cells.n_columns * n_groups, (cells.n_columns, n_groups)
    of_group, rows_of_group = (_sums(group, one, size).reshape(shape) for one in (influence, rows))
    n_with_rows = (rows_of_group > 0).sum(axis=1)
    error: Real = np.sqrt(n_with_rows / (n_with_rows - 1) * (of_group**2).sum(axis=1))
    return np.where(n_with_rows > 1, error, np.nan)


def _oriented(values: Real, errors: Real) -> list[Area]:
    values = np.maximum(values, 1 - values)
    low, high = np.maximum(values - 1.96 * errors, 0.0), np.minimum(values + 1.96 * errors, 1.0)
    return [Area(*one) for one in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)]


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


def promising_digits(columns: Sequence[Column], label: Whole, sides: Sequence[Side], least: float) -> list[list[str]]:
    """Return for each column the names of its `last_digits` whose area for one side is so large in a few rows of each class."""
    few = _few_of_each_class(label)
    digits = [{} if _is_count(values) else last_digits(values[few]) for values in columns]
    several = [one for of_column in digits for one in of_column.values()]
    if not several:
        return [[] for _ in columns]
    cells = tally(several, label[few], np.zeros(len(few), dtype=np.int64), np.zeros(1, dtype=np.int64))
    largest = np.nanmax([[one.value for one in area(cells, side)] for side in sides], axis=0, initial=0.0)
    is_large = iter((largest >= least).tolist())
    return [[name for name in of_column if next(is_large)] for of_column in digits]


def _few_of_each_class(label: Whole) -> Whole:
    """Return the numbers of a few rows of every class, spread evenly."""
    of_class = [np.flatnonzero(label == number) for number in range(int(label.max()) + 1)]
    return np.concatenate([rows[:: max(len(rows) // ROWS_OF_CLASS, 1)][:ROWS_OF_CLASS] for rows in of_class])


def gene_values(cells: Tally) -> list[NDArray[np.float32] | None]:
    """Return for each column its one value in each stratum, NaN where it is missing; None where a stratum has several."""
    present = _present(cells)
    is_other_value = (np.diff(present.stratum) == 0) & (np.diff(present.column) == 0) & (np.diff(present.value) != 0)
    has_several = np.zeros(cells.n_columns, dtype=bool)
    has_several[present.column[1:][is_other_value]] = True  # cells are in order
    found: list[NDArray[np.float32] | None] = [None] * cells.n_columns
    for number in np.flatnonzero(~has_several).tolist():
        own = slice(*np.searchsorted(present.column, [number, number + 1]).tolist())
        found[number] = values = np.full(len(cells.group), np.nan, dtype=np.float32)
        values[present.stratum[own]] = cells.values[present.value[own]]
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
                cells = tally([is_equal], label, gene, group)
                holds = cells.values[cells.value] == 1  # values are 0 and 1, or one of these alone
                measured[pair] = [share(cells, side, holds)[0] for side in sides]
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

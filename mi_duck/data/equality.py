"""Finds columns that equal another column in rows of one class more often than in those of another.

Counts equal each other by chance all the time, so only columns with values that are no whole numbers of one byte are
compared. All pairs are looked at in a few rows of each class; those whose shares differ, in all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.data.separation import Share, Side, Whole, share, tally

ROWS_OF_CLASS = 400
WORTH_A_LOOK = 0.15  # difference of shares in these rows
MOST_PARTNERS = 3  # of one column that are looked at in all rows


@dataclass(frozen=True, slots=True)
class Copy:
    """The column that a feature equals, and how that statement separates two sides."""

    equal_to: str
    share: Share


def copies(
    columns: Mapping[str, NDArray[np.uint8] | NDArray[np.float32]],
    label: Whole,
    gene: Whole,
    group: Whole,
    sides: Sequence[Side],
) -> dict[tuple[str, int], Copy]:
    """Return for (feature, number of the comparison) the column whose equality separates the sides best.

    Parameters
    ----------
    columns
        Values of each feature, shape (n_rows,).
    label, gene
        Of each row, shape (n_rows,).
    group
        Fold group of each gene, shape (n_genes,).
    sides
        The comparisons.
    """
    names = [name for name, values in columns.items() if not _is_count(values)]
    if len(names) < 2:
        return {}
    of_class = [np.flatnonzero(label == number) for number in range(int(label.max()) + 1)]
    picked = np.concatenate([rows[:: max(len(rows) // ROWS_OF_CLASS, 1)][:ROWS_OF_CLASS] for rows in of_class])
    few = np.stack([columns[name][picked] for name in names])
    is_of = np.stack([label[picked] == number for number in range(len(of_class))]).astype(np.float32)
    is_of /= np.maximum(is_of.sum(axis=1, keepdims=True), 1)
    found: dict[tuple[str, int], Copy] = {}
    measured: dict[tuple[int, int], list[Share]] = {}
    for number, name in enumerate(names):
        shares = (few == few[number]).astype(np.float32) @ is_of.T
        shares[number] = 0
        difference = np.ptp(shares, axis=1)
        for partner in np.argsort(-difference, kind="stable")[:MOST_PARTNERS].tolist():
            if difference[partner] < WORTH_A_LOOK:
                break
            pair = (min(number, partner), max(number, partner))
            if pair not in measured:
                cells = tally(columns[name] == columns[names[partner]], label, gene, group)
                # of the statement "they are equal" the values are 0 and 1, or one of these alone
                holds = cells.values[cells.rank] == 1
                measured[pair] = [share(cells, side, holds) for side in sides]
            for place, one in enumerate(measured[pair]):
                best = found.get((name, place))
                if not np.isnan(one.area.value) and (best is None or one.area.value > best.share.area.value):
                    found[name, place] = Copy(names[partner], one)
    return found


def _is_count(values: NDArray[np.uint8] | NDArray[np.float32]) -> bool:
    """Return whether all values are whole numbers of one byte."""
    if values.dtype == np.uint8:
        return True
    there = values[~np.isnan(values)]
    return bool(((there >= 0) & (there <= 255) & (there == np.floor(there))).all())

"""How rows become what a classifier sees: imputed with indicators, standardised, rare levels left out; fitted without a fold.

One pass over the rows counts, by fold, what means and variances are made of; what a fold is scored with is the sum over the
other folds, so no row of the fold has a part in it. Rows that training leaves out are not counted, those that stand for
several count as many. Base scores become their log-odds, in which evidence adds up. A missing value becomes the mean, and a
column of 0 and 1 says where that was done. Features that do not vary, and levels of text columns with fewer than `RARE` rows, are
zero. Values further than `FARTHEST` standard deviations from the mean are cut off there, since a single one could decide a linear
model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.classifiers.arrays import array_bytes, read_array
from mi_duck.metrics.calibrate import log_odds
from mi_duck.metrics.ranking import Floats32, Floats64

RARE = 10
FARTHEST = 10.0


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to the columns of a row.

    Parameters
    ----------
    mean, scale
        Of each feature, shape (n_features,): a value becomes (value - mean) x scale; the scale is 0 where it is left out.
    incomplete
        Indices of features with missing values in training; each gets an indicator, in this order after all features.
    scores
        Indices of base scores, whose log-odds take their place before all else.
    """

    mean: Floats32
    scale: Floats32
    incomplete: NDArray[np.int64]
    scores: NDArray[np.int64]

    @property
    def n_columns(self) -> int:
        """Columns of a prepared row."""
        return len(self.mean) + len(self.incomplete)

    def apply(self, matrix: Floats32, out: Floats32 | None = None) -> Floats32:
        """Return prepared rows, shape (n_rows, n_columns), from rows with NaN for missing values."""
        n_features = len(self.mean)
        found = np.empty((len(matrix), self.n_columns), dtype=np.float32) if out is None else out
        own = found[:, :n_features]
        np.subtract(matrix, self.mean, out=own)
        own[:, self.scores] = log_odds(matrix[:, self.scores]) - self.mean[self.scores]
        own *= self.scale
        np.nan_to_num(own, copy=False, nan=0.0)
        np.clip(own, -FARTHEST, FARTHEST, out=own)
        found[:, n_features:] = np.isnan(matrix[:, self.incomplete])
        return found

    def parts(self) -> dict[str, bytes]:
        """Return the arrays as bytes by their names in a model's file."""
        names = ("mean", "scale", "incomplete", "scores")
        return {f"{name}.npy": array_bytes(getattr(self, name)) for name in names}

    @classmethod
    def of_parts(cls, parts: Mapping[str, bytes], n_features: int) -> "Preparation":
        """Read what `parts` gave; a `ValueError` or `KeyError` where it is not of so many features."""
        mean, scale = (read_array(parts[f"{name}.npy"], np.float32, (n_features,)) for name in ("mean", "scale"))
        incomplete, scores = (read_array(parts[f"{name}.npy"], np.int64, (None,)) for name in ("incomplete", "scores"))
        for indices in (incomplete, scores):
            if len(indices) and not (indices.min() >= 0 and indices.max() < n_features):
                raise ValueError("indicators or log-odds of features that are not there")
        return cls(mean, scale, incomplete, scores)


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the training rows of each fold, from which a preparation is made.

    Parameters
    ----------
    shift
        Number that was subtracted from each feature before it was squared, shape (n_features,).
    weight, total, square, n_missing, n_other
        Of each fold and feature, shape (n_folds, n_features): weight of the rows with a value, weighted sum and sum of squares
        of value minus shift, rows without a value, and rows that are neither missing nor 0.
    """

    shift: Floats64
    weight: Floats64
    total: Floats64
    square: Floats64
    n_missing: NDArray[np.int64]
    n_other: NDArray[np.int64]
    scores: NDArray[np.int64]

    def without(self, fold: int | None, levels: NDArray[np.int64]) -> Preparation:
        """Return the preparation by all folds but one, or by all.

        Parameters
        ----------
        levels
            Indices of the features that are levels of text columns.
        """
        kept = np.arange(len(self.weight)) != (-1 if fold is None else fold)
        weight = np.maximum(self.weight[kept].sum(axis=0), 1e-300)
        mean = self.total[kept].sum(axis=0) / weight
        variance = np.maximum(self.square[kept].sum(axis=0) / weight - mean**2, 0)
        largest = np.maximum(np.abs(self.shift), 1.0)
        varies = variance > (1e-6 * largest) ** 2
        varies[levels] &= self.n_other[kept].sum(axis=0)[levels] >= RARE
        scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
        incomplete = np.flatnonzero(self.n_missing[kept].sum(axis=0) > 0)
        return Preparation((mean + self.shift).astype(np.float32), scale.astype(np.float32), incomplete, self.scores)


def moments_of(
    batches: Iterable[tuple[Floats32, NDArray[np.int8], Floats32]],
    *,
    n_folds: int,
    n_features: int,
    scores: NDArray[np.int64],
) -> Moments:
    """Return the sums over batches of rows, each with the fold and the weight of its rows; the same batches, the same bytes.

    ``scores`` are the indices of base scores, of which the log-odds are summed.
    """
    shape = (n_folds, n_features)
    weight, total, square = (np.zeros(shape) for _ in range(3))
    n_missing, n_other = (np.zeros(shape, dtype=np.int64) for _ in range(2))
    shift: Floats64 | None = None
    for matrix, fold, weights in batches:
        matrix = matrix.copy()
        matrix[:, scores] = log_odds(matrix[:, scores])
        is_missing = np.isnan(matrix)
        if shift is None:
            n_there = np.maximum((~is_missing).sum(axis=0), 1)
            shift = np.where(is_missing, 0, matrix).sum(axis=0, dtype=np.float64) / n_there
        values = np.where(is_missing, 0.0, matrix - shift)
        for number in np.unique(fold):
            rows = fold == number
            of_rows = weights[rows].astype(np.float64)
            weight[number] += of_rows @ ~is_missing[rows]
            total[number] += of_rows @ values[rows]
            square[number] += of_rows @ values[rows] ** 2
            n_missing[number] += is_missing[rows].sum(axis=0)
            n_other[number] += (~is_missing[rows] & (matrix[rows] != 0)).sum(axis=0)
    return Moments(np.zeros(n_features) if shift is None else shift, weight, total, square, n_missing, n_other, scores)


def columns_of(features: Sequence[str], some: Iterable[str]) -> NDArray[np.int64]:
    """Return the indices of some features, such as base scores or the levels of text columns."""
    names = set(some)
    return np.array([index for index, name in enumerate(features) if name in names], dtype=np.int64)

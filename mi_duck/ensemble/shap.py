"""From the boosters of an ensemble and a sample of rows to SHAP values, importances and their standard errors.

Path-dependent values are XGBoost's own (``pred_contribs``), values against a background those of the shap package. Both are
checked: on every row the values and the base value add up to the margin. Rows come in batches, so memory is bounded; XGBoost
spreads the rows of a batch over its threads.

Why XGBoost's own values: they are exact for every kind of tree. A table per leaf of what each combination of conditions
contributes was three times as fast per core (280,000 rows x trees per second instead of 95,000), but 300 lines more; 21
boosters of 250 rounds on 1,000 rows take about a minute of CPU time (`benchmarks/bench_shap.py`).

References
----------
Lundberg et al., From local explanations to global understanding with explainable AI for trees (2020), algorithm 2.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mi_duck.boosting.forest import complement
from mi_duck.errors import DataError
from mi_duck.metrics.ranking import Floats32, Floats64
from mi_duck.resources import usable_cores
from mi_duck.run.encoding import Encoding
from mi_duck.run.feature_names import Group
from mi_duck.run.folder import check_background

Keep = Callable[[int, Floats32], None]

TOLERANCE = 1e-4
"""Largest accepted gap between the sum of the values and the margin, as a share of the margin where that is above 1."""
BATCH_BYTES = 16 << 20  # of one booster's values in a batch; some twenty arrays of this size exist at once


# ---- values of one booster --------------------------------------------------------------------------------------------


def contributions(
    booster: xgb.Booster, matrix: Floats32, background: Floats32 | None = None, *, rows: xgb.DMatrix | None = None
) -> tuple[Floats64, float]:
    """Return the SHAP values of a booster's margin, in log-odds, and the largest gap between their sum and the margin.

    Parameters
    ----------
    matrix
        Rows, shape (n_rows, n_features); NaN is missing.
    background
        Rows of the same form; with them the values are interventional, without them path-dependent.
    rows
        The same matrix as XGBoost holds it, for callers who explain several boosters on it.

    Returns
    -------
    tuple
        Values, shape (n_features, n_rows), and the largest gap as a share of max(1, abs(margin)).

    Raises
    ------
    DataError
        The gap is above `TOLERANCE`, or a background is given and the shap package is absent.
    """
    if len(matrix) == 0:
        return np.zeros(matrix.shape[::-1]), 0.0
    rows = xgb.DMatrix(matrix) if rows is None else rows
    margin = booster.predict(rows, output_margin=True).astype(np.float64)
    if background is None:
        found = booster.predict(rows, pred_contribs=True)
        values, base = np.ascontiguousarray(found[:, :-1].T, dtype=np.float64), found[:, -1]
    else:
        check_background()
        import shap

        explainer = shap.TreeExplainer(booster, data=background, feature_perturbation="interventional")
        values = np.ascontiguousarray(np.asarray(explainer.shap_values(matrix), dtype=np.float64).T)
        base = np.ravel(explainer.expected_value)[0]
    gap = float((np.abs(values.sum(axis=0) + base - margin) / np.maximum(1, np.abs(margin))).max())
    if not gap <= TOLERANCE:  # also where it is NaN
        raise DataError(f"SHAP values miss the margin by {gap:.1e}; they would mislead, so none are given")
    return values, gap


# ---- means over rows --------------------------------------------------------------------------------------------------


class ClusteredMean:
    """Means over rows, whose values have any shape, and their standard errors; rows come in batches, ordered by cluster.

    Notes
    -----
    Rows of a cluster (overlapping genes) resemble each other, so the cluster is the unit: with S_g the sum and n_g the
    number of rows of cluster g, and m the mean over all n rows, the squared standard error is
    G / (G - 1) sum_g (S_g - n_g m)^2 / n^2. Only S_g^2, n_g S_g and n_g^2 are summed up, so memory does not depend on the
    number of rows. That the sample is spread evenly over classes makes it slightly more precise than this says.

    References
    ----------
    Cochran, Sampling Techniques (1977), section 9A: the ratio estimator over clusters of unequal size.
    """

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        self._n_rows = 0
        self._n_clusters = 0
        self._total = np.zeros(shape)
        self._squares = np.zeros(shape)
        self._by_size = np.zeros(shape)
        self._sizes_squared = 0.0
        # cluster, rows and sums of the last cluster, which may continue in the next batch
        self._open: tuple[int, int, Floats64] | None = None

    def add(self, values: Floats64, clusters: NDArray[np.int64]) -> None:
        """Add a batch of values, shape (*shape, n_rows); rows of one cluster follow each other, over batches too."""
        if len(clusters) == 0:
            return
        starts = np.flatnonzero(np.diff(clusters, prepend=clusters[0] - 1))
        sums = np.add.reduceat(values, starts, axis=-1)
        sizes = np.diff(starts, append=len(clusters)).astype(np.int64)
        if self._open is not None:
            number, size, begun = self._open
            if number == clusters[0]:
                sizes[0] += size
                sums[..., 0] += begun
            else:
                self._close(np.array([size]), begun[..., None])
        self._close(sizes[:-1], sums[..., :-1])
        self._open = int(clusters[-1]), int(sizes[-1]), sums[..., -1].copy()

    @property
    def n_clusters(self) -> int:
        """Clusters so far."""
        return self._n_clusters + (self._open is not None)

    def _close(self, sizes: NDArray[np.int64], sums: Floats64) -> None:
        self._n_rows += int(sizes.sum())
        self._n_clusters += len(sizes)
        self._total += sums.sum(axis=-1)
        self._squares += (sums**2).sum(axis=-1)
        self._by_size += (sums * sizes).sum(axis=-1)
        self._sizes_squared += float((sizes.astype(np.float64) ** 2).sum())

    def estimate(self) -> tuple[Floats64, Floats64]:
        """Return means and standard errors of all rows so far, both of the given shape; the errors of one cluster are NaN."""
        _, size, sums = self._open if self._open is not None else (0, 0, np.zeros_like(self._total))
        n_rows = self._n_rows + size
        mean = (self._total + sums) / max(n_rows, 1)
        if self.n_clusters < 2:
            return mean, np.full_like(mean, np.nan)
        squares, by_size = self._squares + sums**2, self._by_size + size * sums
        spread = squares - 2 * mean * by_size + mean**2 * (self._sizes_squared + size**2)
        variance = np.maximum(spread, 0) * self.n_clusters / (self.n_clusters - 1) / n_rows**2
        return mean, np.sqrt(variance)


class Correlation:
    """Correlations of pairs of values over rows that come in batches; rows where the first is NaN are left out."""

    def __init__(self, n_values: int) -> None:
        self._sums = np.zeros((6, n_values))
        self._shift: Floats64 | None = None

    def add(self, first: Floats64, second: Floats64) -> None:
        """Add a batch of two arrays of shape (n_values, n_rows)."""
        known = ~np.isnan(first)
        if self._shift is None:  # a value near the mean keeps the differences of large numbers exact
            counts = np.maximum(known.sum(axis=1, keepdims=True), 1)
            self._shift = np.where(known, first, 0.0).sum(axis=1, keepdims=True) / counts
        x, y = np.where(known, first - self._shift, 0.0), np.where(known, second, 0.0)
        self._sums += [known.sum(axis=1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)]

    def values(self) -> Floats64:
        """Return the correlations, shape (n_values,); NaN where one of the two does not vary."""
        n, x, y, xx, yy, xy = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            spread_x, spread_y = xx - x * x / n, yy - y * y / n
            varies = (spread_x > 1e-9 * xx) & (spread_y > 1e-9 * yy)
            found = (xy - x * y / n) / np.sqrt(spread_x * spread_y)
        return np.where(varies, np.clip(found, -1, 1), np.nan)


# ---- the ensemble -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Importance:
    """Mean absolute SHAP values in log-odds and their standard errors, shape (n_features,) or (n_groups,) each."""

    value: Floats64
    error: Floats64


@dataclass(frozen=True, slots=True)
class Contributions:
    """What the features of an ensemble contribute.

    Parameters
    ----------
    largest_gap
        Largest gap between value sum plus base value and the margin, as a share of max(1, abs(margin)).
    overall
        Mean over classes of the classes' importances.
    by_class
        For each class, the mean over rows of the weighted mean over members of the absolute value.
    by_instance
        For each member, the mean over classes.
    by_booster
        For each member and each class.
    mean_value
        Mean over rows of the weighted mean over members of the signed value, shape (n_classes, n_features).
    direction
        Correlation of a feature and that value, same shape; NaN where one does not vary.
    groups_overall, groups_by_class
        Importances of the sums of the values of a group's members.
    """

    n_rows: int
    n_clusters: int
    n_row_trees: int
    largest_gap: float
    overall: Importance
    by_class: tuple[Importance, ...]
    by_instance: tuple[Importance, ...]
    by_booster: tuple[tuple[Importance, ...], ...]
    mean_value: Floats64
    direction: Floats64
    groups_overall: Importance
    groups_by_class: tuple[Importance, ...]


def explain(
    boosters: Sequence[Sequence[xgb.Booster]],
    weights: Sequence[float],
    *,
    encoding: Encoding,
    features: Sequence[str],
    matrix: Floats32,
    clusters: NDArray[np.int64] | None = None,
    groups: Sequence[Group] = (),
    background: Floats32 | None = None,
    threads: int | None = None,
    keep: Keep | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Contributions:
    """Explain rows by every booster of an ensemble and average the values.

    Parameters
    ----------
    boosters
        For each member one booster per class. Their number of threads is set.
    matrix
        Rows, shape (n_rows, n_features); NaN is missing.
    clusters
        Number of each row's cluster, rows of one cluster together; None where every row is its own.
    groups
        Groups of features whose values are summed before the absolute value is taken.
    background
        Rows that make the values interventional; None for path-dependent ones.
    threads
        Threads of XGBoost, by default all usable cores; the result does not depend on it.
    keep
        Called with (class, values of shape (n_features, n_rows of the batch)) for every batch: the weighted mean over
        members of the signed values.

    Raises
    ------
    DataError
        Values do not add up to the margins, or a background is given and the shap package is absent.
    """
    n_boosters, n_features = sum(len(row) for row in boosters), len(features)
    threads = threads or usable_cores()
    clusters = np.arange(len(matrix), dtype=np.int64) if clusters is None else clusters
    background = None if background is None else encoding.apply(background, features)
    totals = _Totals(weights, len(boosters[0]), n_features, groups)
    for row in boosters:
        for booster in row:
            booster.set_param({"nthread": threads})
    batch_rows = max(256, BATCH_BYTES // (8 * n_features))
    is_pair = [len(row) == 2 and _is_complement(*row) for row in boosters]

    def found_in(part: Floats32, first: int) -> Iterator[tuple[int, int, Floats64, float]]:
        """Yield member, class, values and gap of every booster on a batch."""
        encoded = encoding.apply(part, features)
        rows = xgb.DMatrix(encoded, nthread=threads)
        for member, row in enumerate(boosters):
            values, gap = np.empty(0), 0.0
            for index, booster in enumerate(row):
                if index == 1 and is_pair[member]:
                    values = -values
                else:
                    values, gap = contributions(booster, encoded, background, rows=rows)
                yield member, index, values, gap
                if report is not None:
                    done = first * n_boosters + len(part) * (member * len(row) + index + 1)
                    report("explaining rows x boosters", done, len(matrix) * n_boosters)

    for first in range(0, len(matrix), batch_rows):
        part = matrix[first : first + batch_rows]
        signed = totals.add(found_in(part, first), part, clusters[first : first + batch_rows])
        if keep is not None:
            for index, values in enumerate(signed):
                keep(index, values.astype(np.float32))
    return totals.result(len(matrix), sum(booster.num_boosted_rounds() for row in boosters for booster in row))


def _is_complement(first: xgb.Booster, second: xgb.Booster) -> bool:
    """Return whether the margins of two boosters differ in their sign alone, and so do their SHAP values."""
    return bytes(first.save_raw("ubj")) == complement(bytes(second.save_raw("ubj")))


class _Totals:
    """Running means over the rows of all batches."""

    def __init__(self, weights: Sequence[float], n_classes: int, n_features: int, groups: Sequence[Group]) -> None:
        self._weights = weights
        self._groups = _membership(groups, n_features)
        self._by_booster = [[ClusteredMean(n_features) for _ in range(n_classes)] for _ in weights]
        self._by_instance = [ClusteredMean(n_features) for _ in weights]
        self._by_class = ClusteredMean((n_classes, n_features))
        self._overall = ClusteredMean(n_features)
        self._groups_by_class = ClusteredMean((n_classes, len(groups)))
        self._groups_overall = ClusteredMean(len(groups))
        self._directions = [Correlation(n_features) for _ in range(n_classes)]
        self._signed = np.zeros((n_classes, n_features))
        self._largest_gap = 0.0

    def add(
        self, found: Iterable[tuple[int, int, Floats64, float]], matrix: Floats32, cluster: NDArray[np.int64]
    ) -> Floats64:
        """Add a batch and return the weighted mean over members of its values, shape (n_classes, n_features, n_rows).

        What is found is member, class, values and gap of every booster, the classes of a member together.
        """
        n_classes, n_features = self._signed.shape
        signed = np.zeros((n_classes, n_features, len(matrix)))
        absolute, grouped = np.zeros_like(signed), np.zeros((n_classes, self._groups.shape[0], len(matrix)))
        of_member = np.zeros((n_features, len(matrix)))
        for member, index, values, gap in found:
            size, weight = np.abs(values), self._weights[member]
            self._largest_gap = max(self._largest_gap, gap)
            self._by_booster[member][index].add(size, cluster)
            absolute[index] += weight * size
            signed[index] += weight * values
            grouped[index] += weight * np.abs(self._groups @ values)
            of_member += size
            if index == n_classes - 1:
                self._by_instance[member].add(of_member / n_classes, cluster)
                of_member[:] = 0
        self._by_class.add(absolute, cluster)
        self._overall.add(absolute.mean(axis=0), cluster)
        self._groups_by_class.add(grouped, cluster)
        self._groups_overall.add(grouped.mean(axis=0), cluster)
        columns = matrix.T.astype(np.float64)
        for direction, values in zip(self._directions, signed, strict=True):
            direction.add(columns, values)
        self._signed += signed.sum(axis=2)
        return signed

    def result(self, n_rows: int, n_trees: int) -> Contributions:
        """Return the estimates over all rows."""
        return Contributions(
            n_rows=n_rows,
            n_clusters=self._overall.n_clusters,
            n_row_trees=n_rows * n_trees,
            largest_gap=self._largest_gap,
            overall=_importance(self._overall),
            by_class=_by_class(self._by_class),
            by_instance=tuple(map(_importance, self._by_instance)),
            by_booster=tuple(tuple(map(_importance, row)) for row in self._by_booster),
            mean_value=self._signed / max(n_rows, 1),
            direction=np.stack([one.values() for one in self._directions]),
            groups_overall=_importance(self._groups_overall),
            groups_by_class=_by_class(self._groups_by_class),
        )


def _membership(groups: Sequence[Group], n_features: int) -> Any:
    """Return which features are in which group: a sparse matrix of ones, shape (n_groups, n_features)."""
    members = [member for group in groups for member in group.members]
    starts = np.cumsum([0, *(len(group.members) for group in groups)])
    return csr_array((np.ones(len(members)), members, starts), shape=(len(groups), n_features))


def _importance(mean: ClusteredMean) -> Importance:
    return Importance(*mean.estimate())


def _by_class(mean: ClusteredMean) -> tuple[Importance, ...]:
    return tuple(Importance(value, error) for value, error in zip(*mean.estimate(), strict=True))

"""From values row by row to means with standard errors that know which rows belong together.

From all boosters of an ensemble and a sample of rows to importances, batch by batch in bounded memory.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.ensemble.tree_shap import Explained, contributions, read_trees
from mi_duck.run.encoding import Encoding
from mi_duck.run.feature_names import Group, group_sums

Numbers = NDArray[np.float64]


class ClusteredMean:
    """Means over rows and their standard errors, from rows that come in batches, ordered by cluster.

    Parameters
    ----------
    n_values
        Values of each row.

    Notes
    -----
    Rows of a cluster (overlapping genes) resemble each other, so the cluster is the unit: with S_g the sum and n_g the
    number of rows of cluster g, and m the mean over all n rows, the squared standard error is
    G / (G - 1) sum_g (S_g - n_g m)^2 / n^2. Only S_g^2, n_g S_g and n_g^2 are summed up, so memory does not depend on the rows.
    That the sample is spread evenly over classes makes it a little better than this says.

    References
    ----------
    Cochran, Sampling Techniques (1977), section 9A: the ratio estimator over clusters of unequal size.
    """

    def __init__(self, n_values: int) -> None:
        self._n_rows = 0
        self._n_clusters = 0
        self._total = np.zeros(n_values)
        self._squares = np.zeros(n_values)
        self._by_size = np.zeros(n_values)
        self._sizes_squared = 0.0
        self._open: tuple[int, int, Numbers] | None = None  # cluster, rows, sums of the cluster that may go on

    def add(self, values: Numbers, clusters: NDArray[np.int64]) -> None:
        """Take a batch.

        Parameters
        ----------
        values
            Shape (n_values, n_rows).
        clusters
            Number of each row's cluster, shape (n_rows,); rows of one cluster follow each other, over batches too.
        """
        if len(clusters) == 0:
            return
        starts = np.flatnonzero(np.diff(clusters, prepend=clusters[0] - 1))
        sums = np.add.reduceat(values, starts, axis=1)
        sizes = np.diff(starts, append=len(clusters)).astype(np.int64)
        if self._open is not None:
            number, size, begun = self._open
            if number == clusters[0]:
                sizes[0] += size
                sums[:, 0] += begun
            else:
                self._close(np.array([size]), begun[:, None])
        self._close(sizes[:-1], sums[:, :-1])
        self._open = int(clusters[-1]), int(sizes[-1]), sums[:, -1].copy()

    @property
    def n_clusters(self) -> int:
        """Clusters so far."""
        return self._n_clusters + (self._open is not None)

    def _close(self, sizes: NDArray[np.int64], sums: Numbers) -> None:
        self._n_rows += int(sizes.sum())
        self._n_clusters += len(sizes)
        self._total += sums.sum(axis=1)
        self._squares += (sums**2).sum(axis=1)
        self._by_size += (sums * sizes).sum(axis=1)
        self._sizes_squared += float((sizes.astype(np.float64) ** 2).sum())

    def estimate(self) -> tuple[Numbers, Numbers]:
        """Return means and standard errors of all rows so far, shape (n_values,) each; NaN errors for one cluster."""
        _, size, sums = self._open if self._open is not None else (0, 0, np.zeros(len(self._total)))
        n_rows = self._n_rows + size
        mean = (self._total + sums) / max(n_rows, 1)
        if self.n_clusters < 2:
            return mean, np.full(len(mean), np.nan)
        squares, by_size = self._squares + sums**2, self._by_size + size * sums
        spread = squares - 2 * mean * by_size + mean**2 * (self._sizes_squared + size**2)
        variance = np.maximum(spread, 0) * self.n_clusters / (self.n_clusters - 1) / n_rows**2
        return mean, np.sqrt(variance)


class Correlation:
    """Correlations of pairs of values over rows that come in batches; rows where the first is NaN are left out."""

    def __init__(self, n_values: int) -> None:
        self._sums = np.zeros((6, n_values))
        self._shift: Numbers | None = None

    def add(self, first: Numbers, second: Numbers) -> None:
        """Take a batch of two arrays of shape (n_values, n_rows)."""
        known = ~np.isnan(first)
        if self._shift is None:  # a value near the mean keeps the differences of large numbers exact
            counts = np.maximum(known.sum(axis=1, keepdims=True), 1)
            self._shift = np.where(known, first, 0.0).sum(axis=1, keepdims=True) / counts
        x, y = np.where(known, first - self._shift, 0.0), np.where(known, second, 0.0)
        self._sums += [known.sum(axis=1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)]

    def values(self) -> Numbers:
        """Return the correlations, shape (n_values,); NaN where one of the two does not vary."""
        n, x, y, xx, yy, xy = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            spread_x, spread_y = xx - x * x / n, yy - y * y / n
            varies = (spread_x > 1e-9 * xx) & (spread_y > 1e-9 * yy)
            found = (xy - x * y / n) / np.sqrt(spread_x * spread_y)
        return np.where(varies, np.clip(found, -1, 1), np.nan)


def ranks(values: Numbers) -> Numbers:
    """Return ranks from 1, equal values sharing the mean of theirs, shape as given.

    Examples
    --------
    >>> ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: Numbers = (last - (counts - 1) / 2)[place]
    return mean_rank


def rank_correlation(first: Numbers, second: Numbers) -> float:
    """Return Spearman's rank correlation of two arrays of equal length; NaN where one does not vary."""
    x, y = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else float("nan")


BATCH_BYTES = 16 << 20  # of one booster's values; some twelve such arrays exist at once with two threads
Keep = Callable[[int, NDArray[np.float32]], None]


@dataclass(frozen=True, slots=True)
class Importance:
    """Mean absolute SHAP values in log-odds and their standard errors, shape (n_features,) or (n_groups,) each."""

    value: Numbers
    error: Numbers


@dataclass(frozen=True, slots=True)
class Contributions:
    """What the features of an ensemble contribute.

    Parameters
    ----------
    n_rows, n_clusters
        Rows explained, and the independent clusters they come from.
    n_row_trees
        Rows times trees.
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
        As above for groups: importances of the sums of their members' values.
    """

    n_rows: int
    n_clusters: int
    n_row_trees: int
    largest_gap: float
    overall: Importance
    by_class: tuple[Importance, ...]
    by_instance: tuple[Importance, ...]
    by_booster: tuple[tuple[Importance, ...], ...]
    mean_value: Numbers
    direction: Numbers
    groups_overall: Importance
    groups_by_class: tuple[Importance, ...]


def explain(
    boosters: Sequence[Sequence[xgb.Booster]],
    weights: Sequence[float],
    *,
    encoding: Encoding,
    features: Sequence[str],
    matrix: NDArray[np.float32],
    clusters: NDArray[np.int64] | None = None,
    groups: Sequence[Group] = (),
    background: NDArray[np.float32] | None = None,
    threads: int = 1,
    keep: Keep | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Contributions:
    """Explain rows by every booster of an ensemble and join what they say.

    Parameters
    ----------
    boosters
        For each member one booster a class.
    weights
        Weight of each member; they sum to 1.
    encoding, features
        What the members take for missing, and the names of the columns.
    matrix
        Rows, shape (n_rows, n_features); NaN is missing.
    clusters
        Number of each row's cluster, rows of one cluster together; None where every row is its own.
    groups
        Groups of features to be looked at together.
    background
        Rows that make the values interventional; None for path-dependent ones.
    threads
        Boosters explained at once; the result does not depend on it.
    keep
        Takes (class, values of shape (n_features, n_rows of the batch)) for every batch: the weighted mean over members
        of the signed values.
    report
        Progress callback, called with (stage, done, total).

    Raises
    ------
    DataError
        Values do not add up to the margins, or a background is given without the shap package.
    """
    n_members, n_classes, n_features = len(boosters), len(boosters[0]), len(features)
    if clusters is None:
        clusters = np.arange(len(matrix), dtype=np.int64)
    explained = [[read_trees(booster) for booster in row] for row in boosters]
    by_booster = [[ClusteredMean(n_features) for _ in range(n_classes)] for _ in range(n_members)]
    by_instance = [ClusteredMean(n_features) for _ in range(n_members)]
    by_class = [ClusteredMean(n_features) for _ in range(n_classes)]
    groups_by_class = [ClusteredMean(len(groups)) for _ in range(n_classes)]
    overall, groups_overall = ClusteredMean(n_features), ClusteredMean(len(groups))
    correlations = [Correlation(n_features) for _ in range(n_classes)]
    signed_sums = np.zeros((n_classes, n_features))
    largest = 0.0
    encoded_background = None if background is None else encoding.apply(background, features)
    batch_rows = max(256, BATCH_BYTES // (8 * n_features))
    for first in range(0, len(matrix), batch_rows):
        rows = slice(first, first + batch_rows)
        part, cluster = matrix[rows], clusters[rows]
        encoded = encoding.apply(part, features)
        shape, group_shape = (n_features, len(part)), (len(groups), len(part))
        absolute, signed = np.zeros((n_classes, *shape)), np.zeros((n_classes, *shape))
        grouped = np.zeros((n_classes, *group_shape))
        of_member = np.zeros(shape)
        for (member, index), (values, gap) in _all_values(explained, encoded, encoded_background, threads):
            largest = max(largest, gap)
            size = np.abs(values)
            by_booster[member][index].add(size, cluster)
            absolute[index] += weights[member] * size
            signed[index] += weights[member] * values
            of_member += size
            if index == n_classes - 1:
                by_instance[member].add(of_member / n_classes, cluster)
                of_member[:] = 0
            if groups:
                grouped[index] += weights[member] * np.abs(group_sums(values, groups))
            if report is not None:
                done = first * n_members * n_classes + len(part) * (member * n_classes + index + 1)
                report("explaining rows x boosters", done, len(matrix) * n_members * n_classes)
        columns = part.T.astype(np.float64)
        for index in range(n_classes):
            by_class[index].add(absolute[index], cluster)
            groups_by_class[index].add(grouped[index], cluster)
            correlations[index].add(columns, signed[index])
            signed_sums[index] += signed[index].sum(axis=1)
            if keep is not None:
                keep(index, signed[index].astype(np.float32))
        overall.add(absolute.mean(axis=0), cluster)
        groups_overall.add(grouped.mean(axis=0), cluster)
    joined = Importance(*overall.estimate())
    return Contributions(
        n_rows=len(matrix),
        n_clusters=overall.n_clusters,
        n_row_trees=len(matrix) * sum(one.n_trees for row in explained for one in row),
        largest_gap=largest,
        overall=joined,
        by_class=tuple(Importance(*one.estimate()) for one in by_class),
        by_instance=tuple(Importance(*one.estimate()) for one in by_instance),
        by_booster=tuple(tuple(Importance(*one.estimate()) for one in row) for row in by_booster),
        mean_value=signed_sums / max(len(matrix), 1),
        direction=np.stack([one.values() for one in correlations]),
        groups_overall=Importance(*groups_overall.estimate()),
        groups_by_class=tuple(Importance(*one.estimate()) for one in groups_by_class),
    )


def _all_values(
    explained: Sequence[Sequence[Explained]],
    matrix: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    threads: int,
) -> Iterator[tuple[tuple[int, int], tuple[Numbers, float]]]:
    """Yield the values of every booster in order, a few at a time so that no more are held."""
    places = [(member, index) for member, row in enumerate(explained) for index in range(len(row))]
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(places), threads):
            some = places[first : first + threads]
            found = pool.map(lambda place: contributions(explained[place[0]][place[1]], matrix, background), some)
            yield from zip(some, found, strict=True)

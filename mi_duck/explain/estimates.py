"""From values row by row to means with standard errors that know which rows belong together."""

import numpy as np
from numpy.typing import NDArray

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

"""Points of the ROC and precision-recall curves, thinned for drawing; areas come from all rows, never from these points."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.train.ranking import ranking

MOST_POINTS = 500


def curve_points(
    chance: NDArray[np.floating[Any]], truth: NDArray[np.bool_], *, most: int = MOST_POINTS
) -> list[dict[str, Any]]:
    """Return the points of both curves of one class.

    Parameters
    ----------
    chance, truth
        Probability of the class, and whether each row is one, shape (n_rows,).
    most
        Most points of a curve.

    Returns
    -------
    list
        ``kind`` (``roc``: x false positive rate, y true positive rate; ``pr``: x recall, y precision), ``x``, ``y`` and
        ``threshold``, the probability from which rows are called; infinite where none is. Empty without both sides.

    Notes
    -----
    Points are even along the curve, so that corners are kept; its ends, its highest and its lowest point are always there.
    """
    n_true = int(truth.sum())
    if not n_true or n_true == len(truth):
        return []
    ranks = ranking(chance)
    hits = np.cumsum(truth[ranks.order])[ranks.stops - 1]
    thresholds = chance[ranks.order[ranks.stops - 1]].astype(np.float64)
    recall, precision = hits / n_true, hits / ranks.stops
    false_rate = (ranks.stops - hits) / (len(truth) - n_true)
    roc = np.append(0.0, false_rate), np.append(0.0, recall), np.append(np.inf, thresholds)
    return [
        {"kind": kind, "x": float(x[place]), "y": float(y[place]), "threshold": float(edge[place])}
        for kind, (x, y, edge) in (("roc", roc), ("pr", (recall, precision, thresholds)))
        for place in kept_places(x, y, most)
    ]


def kept_places(x: NDArray[np.float64], y: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Return the places of at most so many points, rising, even along the line through all of them."""
    if len(x) <= most:
        return np.arange(len(x))
    way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    even = np.searchsorted(way, np.linspace(0, way[-1], most - 4))
    extremes = [0, len(x) - 1, int(y.argmax()), int(y.argmin())]
    return np.unique(np.append(np.minimum(even, len(x) - 1), extremes))

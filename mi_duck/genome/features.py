"""From the scores of a base model at a position and its four neighbours to the derived score features.

All functions are pure: a feature depends on the scores of one row and on nothing else, in particular not on
its label. The genome builder and the synthetic dataset both compute their columns here, so they agree.
"""

import numpy as np
from numpy.typing import NDArray

from mi_duck.run.feature_names import SCORE_FEATURES

# Keeps ratios and logarithms of zero scores finite; part of the published formulas, so it must not change.
_EPSILON = 1e-10
# Below this score a point that exceeds both neighbours is numerical noise, not a peak.
_LOWEST_PEAK = 0.001

Float64s = NDArray[np.float64]


def score_features(
    donor: NDArray[np.floating],
    acceptor: NDArray[np.floating],
    neither: NDArray[np.floating],
    context: NDArray[np.floating],
) -> dict[str, np.ndarray]:
    """Compute all score features of a set of rows.

    Parameters
    ----------
    donor, acceptor, neither : array of shape (n,)
        Scores of the base model at the row's position, usually probabilities; NaN where it has none.
    context : array of shape (n, 4)
        Scores at the four neighbours, columns in the order two before (m2), one before (m1), one after (p1),
        two after (p2), along the strand.

    Returns
    -------
    dict of str to array of shape (n,)
        One column per name of `SCORE_FEATURES`, in that order; float32, or int8 (0 or 1) for the two
        ``*_is_local_peak``.

    Raises
    ------
    ValueError
        The shapes do not belong together.

    Notes
    -----
    Computed in float64 and rounded once at the end. A missing input makes every value that depends on it NaN.
    A value without a finite result (a zero denominator, the logarithm of a negative score) is NaN too, as the
    dataset contract refuses infinities. Where a score is missing there is no peak: the integer columns hold 0.

    Which track the context is taken from is the caller's choice, but it must not depend on the label.
    """
    n_rows = len(donor)
    if not donor.shape == acceptor.shape == neither.shape == (n_rows,) or context.shape != (n_rows, 4):
        raise ValueError(
            f"scores of shape (n,) and a context of shape (n, 4) are needed; got donor {donor.shape}, "
            f"acceptor {acceptor.shape}, neither {neither.shape}, context {context.shape}"
        )
    d, a, n = (np.asarray(values, dtype=np.float64) for values in (donor, acceptor, neither))
    neighbours = np.asarray(context, dtype=np.float64)
    # Missing, infinite and negative scores are expected input; what they lead to is set to NaN below.
    with np.errstate(all="ignore"):
        m2, m1, p1, p2 = neighbours.T
        values = {
            "donor_score": d,
            "acceptor_score": a,
            "neither_score": n,
            **_probability_features(d, a, n),
            "context_score_m2": m2,
            "context_score_m1": m1,
            "context_score_p1": p1,
            "context_score_p2": p2,
            "context_neighbor_mean": (m2 + m1 + p1 + p2) / 4,
            "context_asymmetry": (m1 + m2) - (p1 + p2),
            "context_max": neighbours.max(axis=1),
            **{f"donor_{suffix}": column for suffix, column in _site_features(d, neighbours).items()},
            **{f"acceptor_{suffix}": column for suffix, column in _site_features(a, neighbours).items()},
        }
        values["donor_acceptor_peak_ratio"] = values["donor_peak_height_ratio"] / (
            values["acceptor_peak_height_ratio"] + _EPSILON
        )
        values["type_signal_difference"] = values["donor_signal_strength"] - values["acceptor_signal_strength"]
        values["score_difference_ratio"] = (d - a) / (d + a + _EPSILON)
        values["signal_strength_ratio"] = values["donor_signal_strength"] / (
            values["acceptor_signal_strength"] + _EPSILON
        )
        return {name: _stored(values[name]) for name in SCORE_FEATURES}


def _probability_features(d: Float64s, a: Float64s, n: Float64s) -> dict[str, np.ndarray]:
    """Compare the three scores of one position with each other."""
    site = np.maximum(d, a)
    return {
        "relative_donor_probability": d / (d + a + _EPSILON),
        "splice_probability": (d + a) / (d + a + n + _EPSILON),
        "donor_acceptor_diff": (d - a) / (site + _EPSILON),
        "splice_neither_diff": (site - n) / (np.maximum(site, n) + _EPSILON),
        "donor_acceptor_logodds": np.log(d + _EPSILON) - np.log(a + _EPSILON),
        "splice_neither_logodds": np.log(d + a + _EPSILON) - np.log(n + _EPSILON),
        "probability_entropy": -(d * np.log(d + _EPSILON) + a * np.log(a + _EPSILON) + n * np.log(n + _EPSILON)),
    }


def _site_features(s: Float64s, neighbours: Float64s) -> dict[str, np.ndarray]:
    """Compare one score with the four neighbours; keys without the name of the site."""
    m2, m1, p1, p2 = neighbours.T
    mean = (m2 + m1 + p1 + p2) / 4
    return {
        "diff_m1": s - m1,
        "diff_m2": s - m2,
        "diff_p1": s - p1,
        "diff_p2": s - p2,
        "surge_ratio": s / (m1 + p1 + _EPSILON),
        "is_local_peak": (s > m1) & (s > p1) & (s > _LOWEST_PEAK),
        "weighted_context": 0.1 * m2 + 0.2 * m1 + 0.4 * s + 0.2 * p1 + 0.1 * p2,
        "peak_height_ratio": s / (mean + _EPSILON),
        "second_derivative": (s - m1) - (p1 - s),
        "signal_strength": s - mean,
        "context_diff_ratio": s / (neighbours.max(axis=1) + _EPSILON),
    }


def _stored(values: np.ndarray) -> np.ndarray:
    """Round to the type that is written, infinities to NaN."""
    if values.dtype == np.bool_:
        return values.astype(np.int8)
    stored = values.astype(np.float32)
    stored[~np.isfinite(stored)] = np.nan
    return stored

"""Scores of probabilities against labels, with intervals by bootstrap over fold groups.

The fold group is what may be exchanged between data sets, so it is what is drawn: rows of a group stay together.

References
----------
Average precision: sum over thresholds of (R_n - R_{n-1}) P_n, as in scikit-learn's ``average_precision_score``. Bootstrap:
Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 200


@dataclass(frozen=True, slots=True)
class Metric:
    """One score.

    Parameters
    ----------
    metric
        ``average_precision``, ``f1`` or ``log_loss`` (nats a row).
    class_name
        A class, ``macro`` (average precision: mean over all classes but the first; F1: over all) or ``all``.
    value
        On the rows as they are.
    low, high
        95 % interval.
    """

    metric: str
    class_name: str
    value: float
    low: float
    high: float


def score(
    chances: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    seed: int,
    draws: int = DRAWS,
) -> list[Metric]:
    """Score probabilities, with 95 % intervals over fold groups.

    Parameters
    ----------
    chances
        Probabilities, shape (n_rows, n_classes).
    labels
        Class of each row, shape (n_rows,).
    groups
        Fold group of each row as a number from 0, shape (n_rows,).
    classes
        Names of the classes; the first is the background.
    seed, draws
        Of the bootstrap.
    """
    n_groups = int(groups.max()) + 1
    weights = _draw(n_groups, seed, draws)
    precision = np.column_stack(
        [average_precisions(chances[:, index], labels == index, groups, weights) for index in range(len(classes))]
    )
    confusion = _confusion(chances, labels, groups, n_groups, len(classes))
    f1 = _f1(np.einsum("dg,gij->dij", weights, confusion))
    loss = _group_sums(-np.log(np.clip(_of_label(chances, labels), 1e-15, 1)), groups, n_groups)
    rows = np.bincount(groups, minlength=n_groups).astype(np.float64)
    log_loss = (weights @ loss) / (weights @ rows)
    found = [_metric("average_precision", name, precision[:, index]) for index, name in enumerate(classes)]
    found.append(_metric("average_precision", "macro", precision[:, 1:].mean(axis=1)))
    found += [_metric("f1", name, f1[:, index]) for index, name in enumerate(classes)]
    found.append(_metric("f1", "macro", f1.mean(axis=1)))
    found.append(_metric("log_loss", "all", log_loss))
    return found


def point_scores(
    chances: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> dict[str, float]:
    """Return the same scores without intervals: ``<class>_ap``, ``<class>_f1``, ``macro_ap``, ``macro_f1``, ``log_loss``."""
    found = score(chances, labels, np.zeros(len(labels), dtype=np.int64), classes, seed=0, draws=0)
    short = {"average_precision": "ap", "f1": "f1"}
    return {
        "log_loss" if one.metric == "log_loss" else f"{one.class_name}_{short[one.metric]}": one.value for one in found
    }


def _draw(n_groups: int, seed: int, draws: int) -> NDArray[np.float64]:
    """Return how often each group is drawn, shape (1 + draws, n_groups); the first line is the data as they are."""
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + draws, n_groups))
    for draw in range(draws):
        weights[1 + draw] = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)
    return weights


def average_precisions(
    scores: NDArray[np.floating[Any]],
    truth: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the average precision under each line of group weights; NaN where no positive has weight.

    Parameters
    ----------
    scores, truth, groups
        Shape (n_rows,).
    weights
        Shape (n_draws, n_groups).

    Notes
    -----
    Rows are sorted once for all draws. Equal scores share one threshold: the last row of each tie block.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    positive, group = truth[order], groups[order]
    found = np.full(len(weights), np.nan)
    for draw, line in enumerate(weights):
        weight = line[group]
        seen = np.cumsum(weight)[ends]
        hits = np.cumsum(weight * positive)[ends]
        if hits[-1] > 0:
            precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
            found[draw] = float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])
    return found


def _confusion(
    chances: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    n_groups: int,
    n_classes: int,
) -> NDArray[np.float64]:
    """Return counts by group, true class and predicted class."""
    cell = (groups.astype(np.int64) * n_classes + labels) * n_classes + chances.argmax(axis=1)
    counts = np.bincount(cell, minlength=n_groups * n_classes**2)
    return counts.reshape(n_groups, n_classes, n_classes).astype(np.float64)


def _f1(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return F1 of each class, shape (n_draws, n_classes): 2 TP / (2 TP + FP + FN), 0 where nothing is there."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    size = confusion.sum(axis=1) + confusion.sum(axis=2)
    f1: NDArray[np.float64] = np.divide(2 * hits, size, out=np.zeros_like(size), where=size > 0)
    return f1


def _of_label(chances: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    return np.take_along_axis(chances, labels[:, None].astype(np.int64), axis=1)[:, 0].astype(np.float64)


def _group_sums(values: NDArray[np.float64], groups: NDArray[np.integer[Any]], n_groups: int) -> NDArray[np.float64]:
    return np.bincount(groups, weights=values, minlength=n_groups).astype(np.float64)


def _metric(metric: str, class_name: str, values: NDArray[np.float64]) -> Metric:
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return Metric(metric, class_name, float(values[0]), float(low), float(high))

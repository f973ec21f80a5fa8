"""How well probabilities are calibrated: log loss, Brier score and calibration error before and after, reliability table.

*Before* is the logistic function of the margins (of the base model: its scores as they are), *after* is cross-fitted, so
neither is scored with labels that it was fitted on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.metrics import BINS, differences, drawn_scores, equal_mass_bins, summary
from mi_duck.metrics.ranking import ranking

KINDS = ("log_loss", "brier", "ece")
INTERVALS = "95 %, bootstrap over fold groups; a bin whose rows are all true or all others has no width"


def calibration_facts(
    before: NDArray[np.floating[Any]],
    after: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    methods: Sequence[Any],
    weights: NDArray[np.integer[Any]],
) -> dict[str, Any]:
    """Return for each class the method, and its measures before, after and their difference with intervals.

    Parameters
    ----------
    before, after
        Probabilities of the class against the rest, and normalised ones, shape (n_rows, n_classes).
    labels, groups
        Class and fold group of each row, shape (n_rows,).
    classes
        Names.
    methods
        What was chosen for each class.
    weights
        Draws of the groups.
    """
    drawn = [
        drawn_scores(probabilities, labels, groups, classes, weights=weights, metrics=KINDS)
        for probabilities in (before, after)
    ]
    tables = {
        "before": summary(drawn[0]),
        "after": summary(drawn[1]),
        "difference": summary(differences(drawn[1], drawn[0])),
    }
    return {
        name: {"method": methods[index]}
        | {
            when: {one.metric: one.values() for one in table if one.class_name == name}
            for when, table in tables.items()
        }
        for index, name in enumerate(classes)
    }


def reliability(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    weights: NDArray[np.integer[Any]],
) -> list[dict[str, Any]]:
    """Return one line per class and bin of equal mass: rows, mean probability, share of true rows with its interval.

    Parameters are those of `calibration_facts`; bins are those of `mi_duck.metrics.metrics.equal_mass_bins`.
    """
    lines = []
    n_groups = weights.shape[1]
    for index, name in enumerate(classes):
        probability, truth = probabilities[:, index].astype(np.float64), labels == index
        ranks = ranking(probabilities[:, index])
        bins = equal_mass_bins(ranks.order, ranks.stops)
        sums = [
            np.bincount(groups * np.int64(BINS) + bins, weights=values, minlength=n_groups * BINS).reshape(
                n_groups, BINS
            )
            for values in (np.ones(len(probability)), truth, probability)
        ]
        drawn_rows, drawn_true = (weights @ table for table in sums[:2])
        share = np.divide(drawn_true, drawn_rows, out=np.full(drawn_rows.shape, np.nan), where=drawn_rows > 0)
        for number in range(BINS):
            n_rows = int(drawn_rows[0, number])
            if not n_rows:
                continue
            drawn = share[1:, number][~np.isnan(share[1:, number])]
            low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (None, None)
            lines.append(
                {
                    "class": name,
                    "bin": number,
                    "n_rows": n_rows,
                    "mean_probability": float(sums[2][:, number].sum() / n_rows),
                    "observed_fraction": float(share[0, number]),
                    "low": low,
                    "high": high,
                }
            )
    return lines

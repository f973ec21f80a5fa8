"""The probability from which a class is called: for the best F1, for a precision, for a recall; from out-of-fold scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.train.ranking import ranking

PRECISION = 0.9
RECALL = 0.9
KINDS = ("best_f1", "precision_0.9", "recall_0.9")

Thresholds = Mapping[str, Mapping[str, float | None]]
"""For each class, for each of `KINDS`, the probability from which it is called; None where the goal is out of reach."""


def find_thresholds(
    chances: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> dict[str, dict[str, dict[str, float] | None]]:
    """Return the thresholds of each class, with the precision, recall and F1 that calling from there has.

    Parameters
    ----------
    chances
        Probabilities, shape (n_rows, n_classes).
    labels
        Class of each row, shape (n_rows,).
    classes
        Names of the classes.

    Returns
    -------
    dict
        For each class: ``best_f1``; ``precision_0.9``, the lowest threshold with that precision, so the one of most recall;
        ``recall_0.9``, the highest with that recall. None where no threshold does it.

    Notes
    -----
    Every distinct probability is tried. F1 = 2 TP / (called + true); of equal ones the highest threshold is taken.
    """
    return {name: _of_class(chances[:, index], labels == index) for index, name in enumerate(classes)}


def values_of(found: Mapping[str, Mapping[str, Mapping[str, float] | None]]) -> dict[str, dict[str, float | None]]:
    """Return the thresholds alone, as a model keeps them."""
    return {
        name: {kind: None if facts is None else facts["threshold"] for kind, facts in kinds.items()}
        for name, kinds in found.items()
    }


def _of_class(chance: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> dict[str, dict[str, float] | None]:
    n_true = int(truth.sum())
    if not n_true:
        return dict.fromkeys(KINDS)
    ranks = ranking(chance)
    called = ranks.stops
    hits = np.cumsum(truth[ranks.order])[called - 1]
    precision, recall, f1 = hits / called, hits / n_true, 2 * hits / (called + n_true)

    def at(place: int) -> dict[str, float]:
        return {
            "threshold": float(chance[ranks.order[called[place] - 1]]),
            "precision": float(precision[place]),
            "recall": float(recall[place]),
            "f1": float(f1[place]),
        }

    precise, complete = np.flatnonzero(precision >= PRECISION), np.flatnonzero(recall >= RECALL)
    return {
        KINDS[0]: at(int(f1.argmax())),
        KINDS[1]: at(int(precise[-1])) if len(precise) else None,
        KINDS[2]: at(int(complete[0])),
    }

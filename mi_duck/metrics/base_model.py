"""The base model: its scores taken for probabilities, and calibrated by the same rule as the members.

There is one rule for all comparisons with the base model: on all rows of a run, on those of one instance, on held-out genes.
Where calibration is switched off for the members it is off for the base model too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.calibrate import Calibration, allowed_methods, calibrate, calibrated, cross_fitted

NO_BASE = "the dataset has no base score for every class, so there is no base model to compare with"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base model on some rows.

    Parameters
    ----------
    before, probabilities
        Probabilities before and after cross-fitted calibration, shape (n_rows, n_classes).
    calibration
        What was chosen and fitted.
    """

    before: NDArray[np.floating[Any]]
    probabilities: NDArray[np.floating[Any]]
    calibration: Calibration

    def on_other_rows(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the probabilities of rows that no calibrator was fitted on, shape (n_rows, n_classes)."""
        return calibrated(_margins(_off_the_ends(scores)), self.calibration.final)


def base_model(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    folds: NDArray[np.integer[Any]],
    *,
    n_folds: int,
    is_calibrated: bool,
    dtype: type[np.floating[Any]] = np.float32,
) -> BaseModel:
    """Calibrate base scores, the rows of each fold by calibrators fitted without it.

    Parameters
    ----------
    scores
        Base scores, taken for probabilities, shape (n_rows, n_classes). A missing one is a half: its margin of 0 is no
        evidence, and a calibrator maps it near the prior.
    labels, folds
        Class and fold of each row, shape (n_rows,).
    n_folds
        Number of folds.
    is_calibrated
        Whether the run calibrates per class; without it the scores are only normalised.
    dtype
        Of the probabilities that are returned.
    """
    before = _off_the_ends(scores)
    margins = _margins(before)
    fitted = calibrate(margins, labels, folds, n_folds=n_folds, methods=allowed_methods(is_calibrated))
    return BaseModel(before.astype(dtype), cross_fitted(margins, fitted, folds, dtype=dtype), fitted)


def _off_the_ends(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    given: NDArray[np.float64] = np.nan_to_num(scores.astype(np.float64), nan=0.5)
    return np.clip(given, 1e-7, 1 - 1e-7)


def _margins(probabilities: NDArray[np.float64]) -> NDArray[np.float32]:
    margins: NDArray[np.float32] = np.log(probabilities / (1 - probabilities)).astype(np.float32)
    return margins

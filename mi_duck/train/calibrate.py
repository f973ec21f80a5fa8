"""Per-class calibration fitted on out-of-fold margins only, chosen by cross-fitted log loss.

A calibrator turns the margin (log-odds) of one one-vs-rest booster into a probability. Three are tried: ``none`` (the
logistic function itself), ``platt`` (a logistic regression on the margin, without class weights, so the prior stays the
true one) and ``isotonic`` (a monotone step function, clipped off 0 and 1). Each is judged on folds that it was not
fitted on, and the one with the lowest log loss is fitted on all.

References
----------
Platt, Probabilistic outputs for support vector machines (1999). Zadrozny and Elkan, Transforming classifier scores
into accurate multiclass probability estimates (KDD 2002): one-vs-rest calibration, then normalisation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

METHODS = ("none", "platt", "isotonic")
LEAST = 1e-6  # probabilities stay off 0 and 1 by this much, so one surprise costs 13.8 nats at most


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Margin to probability for one class.

    Parameters
    ----------
    method
        One of `METHODS`.
    slope, intercept
        Of ``platt``: probability = logistic(slope x margin + intercept); 1 and 0 for ``none``.
    margins, probabilities
        Of ``isotonic``: the steps; between them linear, outside them constant.
    """

    method: str
    slope: float = 1.0
    intercept: float = 0.0
    margins: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    def apply(self, margin: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return probabilities in [1e-6, 1 - 1e-6], same shape as ``margin``."""
        values = np.asarray(margin, dtype=np.float64)
        if self.method == "isotonic":
            raw = np.interp(values, self.margins, self.probabilities)
        else:
            raw = logistic(self.slope * values + self.intercept)
        return np.clip(raw, LEAST, 1 - LEAST)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibrator":
        """Read the fields from JSON."""
        return cls(
            values["method"],
            values["slope"],
            values["intercept"],
            tuple(values["margins"]),
            tuple(values["probabilities"]),
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was chosen for each class, and its evidence.

    Parameters
    ----------
    final
        For each class the calibrator fitted on all out-of-fold margins.
    by_fold
        For each fold, for each class: fitted without that fold; what honest scores of the fold use.
    log_loss
        For each class, for each of `METHODS`: cross-fitted log loss in nats.
    """

    final: tuple[Calibrator, ...]
    by_fold: tuple[tuple[Calibrator, ...], ...]
    log_loss: tuple[dict[str, float], ...]


def calibrate(
    margins: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    folds: NDArray[np.integer[Any]],
    *,
    n_folds: int,
    methods: Sequence[str] = METHODS,
) -> Calibration:
    """Choose and fit one calibrator a class.

    Parameters
    ----------
    margins
        Out-of-fold margins, shape (n_rows, n_classes).
    labels, folds
        Class and fold of each row, shape (n_rows,).
    n_folds
        Number of folds.
    methods
        Those to choose from; ``("none",)`` switches calibration off.
    """
    final: list[Calibrator] = []
    by_fold: list[list[Calibrator]] = [[] for _ in range(n_folds)]
    losses: list[dict[str, float]] = []
    for index in range(margins.shape[1]):
        margin, truth = margins[:, index].astype(np.float64), labels == index
        fitted = {
            method: [_fit(method, margin[folds != fold], truth[folds != fold]) for fold in range(n_folds)]
            for method in methods
        }
        loss = {method: _cross_fitted_loss(fitted[method], margin, truth, folds) for method in methods}
        best = min(methods, key=lambda method: (loss[method], METHODS.index(method)))
        final.append(_fit(best, margin, truth))
        for fold in range(n_folds):
            by_fold[fold].append(fitted[best][fold])
        losses.append(loss)
    return Calibration(tuple(final), tuple(tuple(row) for row in by_fold), tuple(losses))


def probabilities(margins: NDArray[np.floating[Any]], calibrators: Sequence[Calibrator]) -> NDArray[np.float64]:
    """Return calibrated probabilities whose rows sum to 1, shape (n_rows, n_classes)."""
    scores = np.column_stack([calibrator.apply(margins[:, index]) for index, calibrator in enumerate(calibrators)])
    result: NDArray[np.float64] = scores / scores.sum(axis=1, keepdims=True)
    return result


def logistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    result: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * values))
    return result


def _fit(method: str, margin: NDArray[np.float64], truth: NDArray[np.bool_]) -> Calibrator:
    """Fit one calibrator; a set of rows with one class alone, or none, leaves the margin as it is."""
    if method == "none" or truth.all() or not truth.any():
        return Calibrator("none")
    if method == "platt":
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=200).fit(margin[:, None], truth)
        return Calibrator("platt", float(model.coef_[0, 0]), float(model.intercept_[0]))
    from sklearn.isotonic import IsotonicRegression

    steps = IsotonicRegression(y_min=LEAST, y_max=1 - LEAST, out_of_bounds="clip").fit(margin, truth)
    return Calibrator(
        "isotonic",
        margins=tuple(float(x) for x in steps.X_thresholds_),
        probabilities=tuple(float(y) for y in steps.y_thresholds_),
    )


def _cross_fitted_loss(
    fitted: Sequence[Calibrator],
    margin: NDArray[np.float64],
    truth: NDArray[np.bool_],
    folds: NDArray[np.integer[Any]],
) -> float:
    total = 0.0
    for fold, calibrator in enumerate(fitted):
        rows = folds == fold
        chance = calibrator.apply(margin[rows])
        total -= float(np.log(np.where(truth[rows], chance, 1 - chance)).sum())
    return total / max(len(margin), 1)

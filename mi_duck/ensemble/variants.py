"""The ways to join members, each scored out of fold: two votings by three weights; the chosen one is what the model does.

``probability``: the weighted mean of the members' calibrated probabilities. ``margin``: the weighted mean of their log-odds for
each class, calibrated once on top and then normalised. For a row of fold k everything is from other folds: the boosters, the
members' calibrators, the weights, and the calibrators on top, which are fitted on margins joined by these same weights. Only
which method of calibration a class takes is decided by all folds together, one of three.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.ensemble.member_scores import MemberScores
from mi_duck.ensemble.weights import (
    METHODS,
    MemberWeights,
    f1_weights,
    fitted_weights,
    sampled_rows,
    uniform_weights,
)
from mi_duck.train.calibrate import Calibration, calibrate_joined, cross_fitted

VOTINGS = ("probability", "margin")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to join members: a voting and a method of weights."""

    voting: str
    method: str

    @property
    def name(self) -> str:
        """Name in ``metrics.csv``."""
        return f"{self.voting}/{self.method}"


@dataclass(frozen=True, slots=True)
class Voted:
    """What a variant gives out of fold.

    Parameters
    ----------
    chances
        Probabilities of every row, shape (n_rows, n_classes).
    margins, calibration
        Of margin voting: the mean log-odds of every row by the weights of its fold, and what was fitted on top; else None.
    """

    chances: NDArray[np.float32]
    margins: NDArray[np.float32] | None
    calibration: Calibration | None


def variants(voting: str = "auto", method: str = "auto") -> list[Variant]:
    """Return the variants that a choice leaves open, the default first; ``auto`` leaves all."""
    return [
        Variant(one, other)
        for one in VOTINGS
        if voting in (one, "auto")
        for other in METHODS
        if method in (other, "auto")
    ]


def all_weights(scores: MemberScores, first_row: int) -> dict[str, MemberWeights]:
    """Return the weights of every variant by its name.

    Parameters
    ----------
    scores
        Out-of-fold scores of the members.
    first_row
        Rows before it are not looked at.
    """
    n_members, n_classes = len(scores.instance_ids), len(scores.classes)
    label, fold = scores.label[first_row:].astype(np.int64), scores.fold[first_row:].astype(np.int64)
    some = sampled_rows(len(label))
    confusion = np.zeros((n_members, scores.n_folds, n_classes, n_classes), dtype=np.int64)
    n_some = len(range(*some.indices(len(label))))
    margins = np.empty((n_members, n_some, n_classes), dtype=np.float32)
    chances = np.empty_like(margins)
    for place, instance_id in enumerate(scores.instance_ids):
        chance = scores.chances(instance_id)[first_row:]
        cells = (fold * n_classes + label) * n_classes + chance.argmax(axis=1)
        confusion[place] = np.bincount(cells, minlength=confusion[place].size).reshape(confusion[place].shape)
        chances[place] = chance[some]
        margins[place] = scores.margins(instance_id)[first_row:][some]
    by_f1 = f1_weights(confusion)
    found = {}
    for voting, values in zip(VOTINGS, (chances, margins), strict=True):
        found[Variant(voting, "uniform").name] = uniform_weights(n_members, scores.n_folds)
        found[Variant(voting, "f1").name] = by_f1
        found[Variant(voting, "fitted").name] = fitted_weights(
            values, label[some], fold[some], n_folds=scores.n_folds, voting=voting
        )
    return found


def vote_out_of_fold(
    scores: MemberScores, voting: str, weights: MemberWeights, *, first_row: int, methods: Sequence[str]
) -> Voted:
    """Join the members for every row by what was fitted without its fold.

    Parameters
    ----------
    scores
        Out-of-fold scores of the members.
    voting, weights
        How.
    first_row
        Rows before it fit no calibrator.
    methods
        Calibrations on top to choose from, for margin voting.
    """
    if voting == "probability":
        return Voted(_joined(scores, scores.chances, weights.by_fold), None, None)
    equal = len({weights.final, *weights.by_fold}) == 1
    every = _joined(scores, scores.margins, weights.final) if equal else None
    margins = np.empty((scores.n_rows, len(scores.classes)), dtype=np.float32) if every is None else every

    def margins_without(fold: int | None) -> NDArray[np.float32]:
        if every is not None:
            return every[first_row:]
        joined = _joined(scores, scores.margins, weights.final if fold is None else weights.by_fold[fold])
        if fold is not None:
            margins[scores.fold == fold] = joined[scores.fold == fold]
        return joined[first_row:]

    fitted = calibrate_joined(
        margins_without,
        scores.label[first_row:],
        scores.fold[first_row:],
        n_folds=scores.n_folds,
        methods=methods,
    )
    return Voted(cross_fitted(margins, fitted, scores.fold, dtype=np.float32), margins, fitted)


def _joined(
    scores: MemberScores,
    values_of: Callable[[int], NDArray[np.float32]],
    weights: Sequence[float] | Sequence[Sequence[float]],
) -> NDArray[np.float32]:
    """Return the mean over members by weights, one a member, or one a fold and member."""
    mean = np.zeros((scores.n_rows, len(scores.classes)))
    table = np.asarray(weights)
    for place, instance_id in enumerate(scores.instance_ids):
        if not table[..., place].any():
            continue
        weight = table[place] if table.ndim == 1 else table[scores.fold, place]
        values = values_of(instance_id)
        for index in range(mean.shape[1]):
            mean[:, index] += weight * values[:, index]
    return mean.astype(np.float32)


def log_loss(chances: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
    """Return the mean of -log of the label's probability, nats."""
    of_label = np.take_along_axis(chances, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    return float(-np.log(np.clip(of_label.astype(np.float64), 1e-15, 1)).mean())

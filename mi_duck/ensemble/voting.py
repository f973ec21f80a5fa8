"""The ways to join members, each scored out of fold: two kinds of voting, each with three methods of weights, and a refit.

Voting ``probability`` is the weighted mean of the members' calibrated probabilities, ``margin`` the weighted mean of their
log-odds for each class. Either is calibrated once on top, by its log-odds, and then normalised: a mean of probabilities that
are calibrated each is not extreme enough (Ranjan and Gneiting, Combining probability forecasts, JRSS B 72, 2010). For
``probability`` that is kept only if the log loss falls. Weights are equal (``uniform``), by macro F1 (``f1``) or of
least log loss (``fitted``). A ``refit`` is the mean of margins of members whose leaves were fitted anew, all together, on all
rows (`mi_duck.ensemble.refit`); its weights are equal.

For a row of fold k everything is from other folds: the boosters, the members' calibrators, the weights, and the calibrators on
top, which are fitted on margins joined by these same weights. Only which method of calibration a class takes is decided by all
folds together, one of three, and whether means of probabilities are
calibrated at all. The final model takes weights and calibrators from all folds.

References
----------
Weights on the simplex of least log loss: Wolpert, Stacked generalization (Neural Networks 5, 1992), with the constraint of
Breiman, Stacked regressions (Machine Learning 24, 1996). Fitted by Newton's method: each step solves the quadratic model on the
simplex by active sets (Nocedal and Wright, Numerical Optimization, 2006, chapter 16).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mi_duck.ensemble.member_scores import MemberScores
from mi_duck.metrics.calibrate import Calibration, calibrate_joined, cross_fitted, log_odds
from mi_duck.metrics.metrics import log_loss_of_rows
from mi_duck.metrics.ranking import Booleans, Floats32, Floats64, Integers, Thresholds

VOTINGS = ("probability", "margin")  # of members as they were trained
METHODS = ("uniform", "f1", "fitted")
MOST_ROWS = 500_000  # rows that a fit uses: enough for one weight per member
BLOCK_ROWS = 1 << 15
GAP = 1e-9  # a fit ends this close to the least log loss, nats per row

Weights = Sequence[float] | Sequence[Sequence[float]]
"""One per member, or one per fold and member."""
Objective = Callable[[Floats64], tuple[float, Floats64, Floats64]]
"""From weights to value, gradient and hessian."""


@dataclass(frozen=True, slots=True)
class MemberWeights:
    """Weights of the members, not negative and with sum 1.

    Parameters
    ----------
    final
        From all folds, for the consolidated model.
    by_fold
        For each fold, from the others, for scores of the fold.
    """

    final: tuple[float, ...]
    by_fold: tuple[tuple[float, ...], ...]

    def without(self, index: int) -> "MemberWeights":
        """Return the weights of the others when one member is left out; where these are all 0 they become equal."""
        return MemberWeights(_rest(self.final, index), tuple(_rest(line, index) for line in self.by_fold))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"final": list(self.final), "by_fold": [list(line) for line in self.by_fold]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MemberWeights":
        """Read the fields from JSON."""
        return cls(tuple(values["final"]), tuple(tuple(line) for line in values["by_fold"]))


def uniform_weights(n_members: int, n_folds: int) -> MemberWeights:
    """Return equal weights."""
    equal = (1 / n_members,) * n_members
    return MemberWeights(equal, (equal,) * n_folds)


def f1_weights(confusion: Integers) -> MemberWeights:
    """Return weights proportional to macro F1, from rows by member, fold, true class and called class."""
    total = confusion.sum(axis=1)

    def share(counts: Integers) -> tuple[float, ...]:
        hits = np.diagonal(counts, axis1=1, axis2=2).astype(np.float64)
        size = counts.sum(axis=1) + counts.sum(axis=2)
        f1 = np.divide(2 * hits, size, out=np.zeros_like(hits), where=size > 0).mean(axis=1)
        even = np.full(len(f1), 1 / len(f1))
        return tuple(float(value) for value in (f1 / f1.sum() if f1.sum() > 0 else even))

    return MemberWeights(share(total), tuple(share(total - confusion[:, fold]) for fold in range(confusion.shape[1])))


def fitted_weights(values: Floats32, labels: Integers, folds: Integers, *, n_folds: int, voting: str) -> MemberWeights:
    """Return the weights of least log loss.

    Parameters
    ----------
    values
        Probabilities or margins of the members, shape (n_members, n_rows, n_classes).
    voting
        ``probability``: of the weighted mean of probabilities. ``margin``: of the weighted mean of log-odds, the sum over
        classes of the log loss against the rest, before it is calibrated.
    """
    objective = _mixture if voting == "probability" else _margins

    def fit(rows: Booleans) -> tuple[float, ...]:
        where = np.flatnonzero(rows)
        if not len(where):
            return uniform_weights(len(values), 0).final
        return minimise_on_simplex(objective(values[:, where], labels[where]), len(values))

    return MemberWeights(
        fit(np.ones(len(labels), dtype=np.bool_)), tuple(fit(folds != fold) for fold in range(n_folds))
    )


def _mixture(probabilities: Floats32, labels: Integers) -> Objective:
    """Return the mean over rows of -log of the weighted mean of the members' probability of the label."""
    of_label = np.take_along_axis(probabilities, labels.astype(np.int64)[None, :, None], axis=2)[:, :, 0]

    def objective(weights: Floats64) -> tuple[float, Floats64, Floats64]:
        n = len(weights)
        value, gradient, hessian = 0.0, np.zeros(n), np.zeros((n, n))
        for begin in range(0, of_label.shape[1], BLOCK_ROWS):
            block = of_label[:, begin : begin + BLOCK_ROWS].astype(np.float64)
            mean = weights @ block
            value -= float(np.log(mean).sum())
            ratio = block / mean
            gradient -= ratio.sum(axis=1)
            hessian += ratio @ ratio.T
        return value / len(labels), gradient / len(labels), hessian / len(labels)

    return objective


def _margins(margins: Floats32, labels: Integers) -> Objective:
    """Return the mean over rows of the log losses of all classes against the rest, by the weighted mean of the margins."""

    def objective(weights: Floats64) -> tuple[float, Floats64, Floats64]:
        n = len(weights)
        value, gradient, hessian = 0.0, np.zeros(n), np.zeros((n, n))
        for begin in range(0, len(labels), BLOCK_ROWS):
            label = labels[begin : begin + BLOCK_ROWS]
            for index in range(margins.shape[2]):
                block = margins[:, begin : begin + BLOCK_ROWS, index].astype(np.float64)
                sign = np.where(label == index, 1.0, -1.0)
                right = sign * (weights @ block)  # log-odds of what is true
                p_wrong = 0.5 * (1 - np.tanh(0.5 * right))
                value += float(np.logaddexp(0, -right).sum())
                gradient -= block @ (sign * p_wrong)
                hessian += (block * (p_wrong * (1 - p_wrong))) @ block.T
        return value / len(labels), gradient / len(labels), hessian / len(labels)

    return objective


def minimise_on_simplex(objective: Objective, n: int) -> tuple[float, ...]:
    """Return the n weights, not negative with sum 1, where a convex function is least.

    Notes
    -----
    For a convex function the gap gradient x weights - min(gradient) bounds the distance to the least value, so the result is
    within `GAP` of it whatever the steps.

    **Why** own code: for 500,000 rows, 3 classes and 8 members it takes 0.07 s (probabilities) and 0.5 s (margins), SciPy's SLSQP
    0.26 s and 1.7 s, its L-BFGS-B on a softmax 0.33 s and 3.2 s. Their weights differ by up to 1.5e-6 of a weight.
    """
    weights = np.full(n, 1 / n)
    value, gradient, hessian = objective(weights)
    for _ in range(100):
        if gradient @ weights - gradient.min() < GAP:
            break
        target = least_quadratic(hessian, gradient - hessian @ weights, weights)
        descent = float(gradient @ (target - weights))
        size = 1.0
        while size > 1e-10:
            tried = weights + size * (target - weights)
            found = objective(tried)
            if found[0] <= value + 1e-4 * size * descent:
                break
            size /= 2
        else:
            break
        weights = tried
        value, gradient, hessian = found
    weights = np.maximum(weights, 0)
    return tuple(float(weight) for weight in weights / weights.sum())


def least_quadratic(hessian: Floats64, slope: Floats64, start: Floats64) -> Floats64:
    """Return where slope x v + v' hessian v / 2 is least on the simplex, by active sets from a point of it."""
    n = len(slope)
    # members are similar, so the hessian is nearly singular; this ridge is too small to change the loss
    hessian = hessian + 1e-12 * np.trace(hessian) / n * np.eye(n)
    point, free = start.copy(), start > 0
    for _ in range(20 * n):
        active = np.flatnonzero(free)
        size = len(active)
        system = np.ones((size + 1, size + 1))
        system[:size, :size] = hessian[np.ix_(active, active)]
        system[size, size] = 0
        solved = np.linalg.lstsq(system, np.append(-slope[active], 1.0), rcond=None)[0]
        aim = np.zeros(n)
        aim[active] = solved[:size]
        if aim[active].min() < 0:
            # go as far as the first weight that becomes 0, which then stays 0
            falling = active[aim[active] < 0]
            reach = point[falling] / (point[falling] - aim[falling])
            stop = int(np.argmin(reach))
            point = point + reach[stop] * (aim - point)
            point[falling[stop]] = 0
            free[falling[stop]] = False
            continue
        point = aim
        gradient = slope + hessian @ point
        level = float(gradient[active].mean())
        closed = np.flatnonzero(~free)
        if not len(closed) or gradient[closed].min() >= level - 1e-12 * max(1.0, abs(level)):
            break
        free[closed[int(np.argmin(gradient[closed]))]] = True
    return point


def sampled_rows(n_rows: int) -> slice:
    """Return a slice of every row, or of every second, third ... so that it has at most `MOST_ROWS`."""
    return slice(0, n_rows, max(1, -(-n_rows // MOST_ROWS)))


def _rest(weights: Sequence[float], index: int) -> tuple[float, ...]:
    left = [0.0 if number == index else weight for number, weight in enumerate(weights)]
    total = sum(left)
    if total <= 0:
        return tuple(0.0 if number == index else 1 / (len(left) - 1) for number in range(len(left)))
    return tuple(weight / total for weight in left)


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
    """What a variant gives out of fold, for every row.

    Parameters
    ----------
    margins
        Log-odds of what the weights of the row's fold join, before calibration on top; None where that was not kept.
    calibration
        What was fitted on top; None where it was not kept.
    """

    probabilities: Floats32
    margins: Floats32 | None
    calibration: Calibration | None


@dataclass(frozen=True, slots=True)
class Joined:
    """How the scores of all members became those of the ensemble.

    Parameters
    ----------
    variant
        The one of lowest cross-fitted log loss among those that were tried.
    calibration
        What was fitted on top; None where nothing was.
    thresholds
        As `mi_duck.metrics.ranking.find_thresholds` returns them.
    all_weights
        Of the members, by the name of each variant, tried or not.
    log_loss
        Cross-fitted, in nats, by the name of each variant that was tried.
    """

    variant: Variant
    calibration: Calibration | None
    thresholds: Thresholds
    all_weights: dict[str, MemberWeights]
    log_loss: dict[str, float]

    @property
    def weights(self) -> MemberWeights:
        """Weights of the members."""
        return self.all_weights[self.variant.name]


REFIT = Variant("refit", "uniform")


def variants(consolidation: str, voting: str = "auto", method: str = "auto") -> list[Variant]:
    """Return the variants that a choice leaves open, votes first; ``auto`` leaves all.

    >>> [one.name for one in variants("auto", "margin", "uniform")]
    ['margin/uniform', 'refit/uniform']
    """
    every = [Variant(one, other) for one in VOTINGS for other in METHODS]
    votes = [one for one in every if voting in (one.voting, "auto") and method in (one.method, "auto")]
    return {"voting": votes, "refit": [REFIT], "auto": [*votes, REFIT]}[consolidation]


def all_weights(scores: MemberScores, first_scored: int) -> dict[str, MemberWeights]:
    """Return the weights of every variant by its name; rows before the first row are not used."""
    n_members, n_classes = len(scores.instance_ids), len(scores.classes)
    label, fold = scores.label[first_scored:].astype(np.int64), scores.fold[first_scored:].astype(np.int64)
    some = sampled_rows(len(label))
    confusion = np.zeros((n_members, scores.n_folds, n_classes, n_classes), dtype=np.int64)
    margins = np.empty((n_members, len(label[some]), n_classes), dtype=np.float32)
    probabilities = np.empty_like(margins)
    for member, instance_id in enumerate(scores.instance_ids):
        probability = scores.probabilities(instance_id)[first_scored:]
        cells = (fold * n_classes + label) * n_classes + probability.argmax(axis=1)
        confusion[member] = np.bincount(cells, minlength=confusion[member].size).reshape(confusion[member].shape)
        probabilities[member] = probability[some]
        margins[member] = scores.margins(instance_id)[first_scored:][some]
    by_f1 = f1_weights(confusion)
    found = {}
    for voting, values in zip(VOTINGS, (probabilities, margins), strict=True):
        fitted = fitted_weights(values, label[some], fold[some], n_folds=scores.n_folds, voting=voting)
        for method, weights in zip(METHODS, (uniform_weights(n_members, scores.n_folds), by_f1, fitted), strict=True):
            found[Variant(voting, method).name] = weights
    if scores.has_refit:
        found[REFIT.name] = uniform_weights(n_members, scores.n_folds)
    return found


def vote_out_of_fold(
    scores: MemberScores, voting: str, weights: MemberWeights, *, first_scored: int, methods: Sequence[str]
) -> Voted:
    """Join the members for every row by what was fitted without its fold.

    Parameters
    ----------
    first_scored
        Calibrators are fitted without the rows before it.
    methods
        Calibrations on top to choose from.
    """
    if voting != "probability":
        margins = scores.refitted if voting == "refit" else scores.margins
        return _calibrated_on_top(scores, lambda one: _joined(scores, margins, one), weights, first_scored, methods)
    mean = _joined(scores, scores.probabilities, weights.by_fold)
    if len(scores.instance_ids) == 1 or set(methods) == {"none"}:  # one member is calibrated itself
        return Voted(mean, None, None)

    def margins_by(weights: Weights) -> Floats32:
        return log_odds(_joined(scores, scores.probabilities, weights)).astype(np.float32)

    voted = _calibrated_on_top(scores, margins_by, weights, first_scored, methods)
    losses = [mean_log_loss(scores, one, first_scored) for one in (voted.probabilities, mean)]
    return voted if losses[0] < losses[1] or "none" not in methods else Voted(mean, None, None)


def mean_log_loss(scores: MemberScores, probabilities: Floats32, first_scored: int) -> float:
    """Return the mean log loss of rows from a first one on, weighted where the data have weights."""
    losses = log_loss_of_rows(probabilities[first_scored:], scores.label[first_scored:])
    return float(losses.mean() if scores.weight is None else np.average(losses, weights=scores.weight[first_scored:]))


def _calibrated_on_top(
    scores: MemberScores,
    margins_by: Callable[[Weights], Floats32],
    weights: MemberWeights,
    first_scored: int,
    methods: Sequence[str],
) -> Voted:
    """Calibrate joined margins, those of every fold by what was fitted without it."""
    equal = len({weights.final, *weights.by_fold}) == 1
    every = margins_by(weights.final) if equal else None
    margins = np.empty((scores.n_rows, len(scores.classes)), dtype=np.float32) if every is None else every

    def margins_without(fold: int | None) -> Floats32:
        if every is not None:
            return every[first_scored:]
        joined = margins_by(weights.final if fold is None else weights.by_fold[fold])
        if fold is not None:
            margins[scores.fold == fold] = joined[scores.fold == fold]
        return joined[first_scored:]

    fitted = calibrate_joined(
        margins_without,
        scores.label[first_scored:],
        scores.fold[first_scored:],
        n_folds=scores.n_folds,
        methods=methods,
        weights=None if scores.weight is None else scores.weight[first_scored:],
    )
    return Voted(cross_fitted(margins, fitted, scores.fold, dtype=np.float32), margins, fitted)


def _joined(
    scores: MemberScores,
    values_of_member: Callable[[int], Floats32],
    weights: Weights,
) -> Floats32:
    """Return the mean over members by weights, one per member, or one per fold and member."""
    mean = np.zeros((scores.n_rows, len(scores.classes)))
    table = np.asarray(weights)
    for member, instance_id in enumerate(scores.instance_ids):
        if not table[..., member].any():
            continue
        weight = table[member] if table.ndim == 1 else table[scores.fold, member]
        values = values_of_member(instance_id)
        for index in range(mean.shape[1]):
            mean[:, index] += weight * values[:, index]
    return mean.astype(np.float32)

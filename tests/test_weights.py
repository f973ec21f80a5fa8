"""Weights are those of least log loss, by F1 or equal, and those of a fold never saw the fold."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.metrics import f1_score

from mi_duck.ensemble.voting import (
    MemberWeights,
    f1_weights,
    fitted_weights,
    least_quadratic,
    minimise_on_simplex,
    sampled_rows,
    uniform_weights,
)
from mi_duck.metrics.calibrate import logistic


def drawn(n: int = 4_000, noise: tuple[float, ...] = (0.3, 0.6, 3.0), seed: int = 0) -> tuple[NDArray, ...]:
    """Return (margins of members, probabilities of members, labels, folds); members see the truth with noise."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, 3))
    labels = np.argmax(true + rng.gumbel(size=(n, 3)), axis=1)
    margins = np.stack([true + level * rng.normal(size=(n, 3)) for level in noise]).astype(np.float32)
    probabilities = np.exp(margins)
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    return margins, probabilities, labels, rng.integers(0, 3, n)


def reference(loss: object, n: int) -> NDArray:
    """Return the least by a solver for anything."""
    found = minimize(
        loss,  # type: ignore[call-overload]
        np.full(n, 1 / n),
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return np.asarray(found.x)


def test_fitted_weights__of_probabilities_have_the_least_log_loss() -> None:
    _, probabilities, labels, folds = drawn()
    found = fitted_weights(probabilities, labels, folds, n_folds=3, voting="probability")

    def loss(weights: NDArray) -> float:
        mean = np.einsum("m,mrc->rc", weights, probabilities.astype(float))
        return float(-np.log(mean[np.arange(len(labels)), labels]).mean())

    assert found.final == pytest.approx(reference(loss, 3), abs=1e-3)
    assert loss(np.array(found.final)) <= loss(reference(loss, 3)) + 1e-9
    assert found.final[0] > found.final[1] > found.final[2]
    assert sum(found.final) == pytest.approx(1)


def test_fitted_weights__of_margins_have_the_least_loss_against_the_rest() -> None:
    margins, _, labels, folds = drawn()
    found = fitted_weights(margins, labels, folds, n_folds=3, voting="margin")

    def loss(weights: NDArray) -> float:
        mean = np.einsum("m,mrc->rc", weights, margins.astype(float))
        right = np.where(labels[:, None] == np.arange(3), logistic(mean), logistic(-mean))
        return float(-np.log(right).sum(axis=1).mean())

    assert found.final == pytest.approx(reference(loss, 3), abs=1e-3)
    assert loss(np.array(found.final)) <= loss(reference(loss, 3)) + 1e-9


@pytest.mark.parametrize("voting", ["probability", "margin"])
def test_fitted_weights__of_a_fold_do_not_depend_on_its_labels(voting: str) -> None:
    margins, probabilities, labels, folds = drawn(n=900)
    values = probabilities if voting == "probability" else margins
    other = np.where(folds == 1, (labels + 1) % 3, labels)
    one, two = (fitted_weights(values, given, folds, n_folds=3, voting=voting) for given in (labels, other))
    assert one.by_fold[1] == two.by_fold[1]
    assert one.by_fold[0] != two.by_fold[0]


def test_fitted_weights__leave_out_a_member_that_only_harms() -> None:
    """Two equal members share what is left, whatever the share."""
    _, probabilities, labels, folds = drawn(noise=(0.3, 0.3))
    wrong = probabilities[0].copy()
    wrong[np.arange(len(labels)), labels] /= 10
    same = np.stack([probabilities[0], probabilities[0], wrong])
    found = fitted_weights(same, labels, folds, n_folds=3, voting="probability")
    assert found.final[2] == 0
    assert sum(found.final) == pytest.approx(1)


def test_f1_weights__are_in_proportion_to_macro_f1_of_the_other_folds() -> None:
    _, probabilities, labels, folds = drawn(n=600)
    confusion = np.zeros((3, 3, 3, 3), dtype=np.int64)
    for member, probability in enumerate(probabilities):
        np.add.at(confusion[member], (folds, labels, probability.argmax(axis=1)), 1)
    found = f1_weights(confusion)
    for rows, weights in (
        (folds >= 0, found.final),
        *((folds != fold, found.by_fold[fold]) for fold in range(3)),
    ):
        f1 = np.array(
            [f1_score(labels[rows], probability[rows].argmax(axis=1), average="macro") for probability in probabilities]
        )
        assert weights == pytest.approx(f1 / f1.sum())
    assert f1_weights(np.zeros((2, 3, 3, 3), dtype=np.int64)).final == (0.5, 0.5)


def test_least_quadratic__equals_a_grid_also_at_edges_and_corners() -> None:
    grid = np.array([(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)])
    rng = np.random.default_rng(3)
    at_the_edge = 0
    for _ in range(40):
        root = rng.normal(size=(3, 3))
        hessian, slope = root @ root.T, 3 * rng.normal(size=3)

        values = grid @ slope + np.einsum("pi,ij,pj->p", grid, hessian, grid) / 2
        for start in (np.full(3, 1 / 3), np.array([1.0, 0, 0])):
            found = least_quadratic(hessian, slope, start)
            assert found.min() >= -1e-12
            assert found.sum() == pytest.approx(1)
            assert slope @ found + found @ hessian @ found / 2 <= values.min() + 1e-9
        at_the_edge += int(found.min() < 1e-9)
    assert 5 < at_the_edge < 40


def test_minimise_on_simplex__of_one_weight_is_one() -> None:
    assert minimise_on_simplex(lambda weights: (float(weights[0]), np.ones(1), np.zeros((1, 1))), 1) == (1.0,)


def test_member_weights__without_one_the_others_keep_their_proportion() -> None:
    weights = MemberWeights((0.5, 0.3, 0.2), ((1.0, 0.0, 0.0), (0.2, 0.2, 0.6)))
    left = weights.without(0)
    assert left.final == pytest.approx((0, 0.6, 0.4))
    # the member had all the weight of fold 0, so the others become equal there
    assert left.by_fold == (pytest.approx((0, 0.5, 0.5)), pytest.approx((0, 0.25, 0.75)))
    assert MemberWeights.from_dict(weights.to_dict()) == weights
    assert uniform_weights(4, 2).by_fold == ((0.25,) * 4,) * 2


def test_sampled_rows__are_all_or_every_nth() -> None:
    assert sampled_rows(500_000) == slice(0, 500_000, 1)
    assert len(range(*sampled_rows(1_000_001).indices(1_000_001))) == 333_334

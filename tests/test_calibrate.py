"""Calibration is chosen by what it does to rows it was not fitted on, and probabilities stay probabilities."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from mi_duck.metrics.calibrate import LEAST, METHODS, Calibrator, _fit, allowed_methods, calibrate, calibrated, logistic

N = 6_000


def drawn(distort: float = 1.0, shift: float = 0.0, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Return (margins, labels, folds) of two classes; the true log-odds are ``margin / distort - shift``."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1, 2, N)
    labels = (rng.random(N) < logistic(true)).astype(np.uint8)
    margin = ((true + shift) * distort).astype(np.float32)
    return np.column_stack([-margin, margin]), labels, rng.integers(0, 3, N).astype(np.int8)


def test_calibrate__none_wins_on_calibrated_scores() -> None:
    margins, labels, folds = drawn()
    found = calibrate(margins, labels, folds, n_folds=3)
    assert [one.method for one in found.final] == ["none", "none"]
    assert found.log_loss[1]["none"] <= min(found.log_loss[1].values())


def test_calibrate__platt_repairs_a_slope_and_a_shift() -> None:
    """Margin = 3 (x + 1) of true log-odds x, so logistic regression must find slope 1/3 and intercept -1."""
    found = calibrate(*drawn(distort=3, shift=1), n_folds=3)
    assert found.final[1].method == "platt"
    assert found.final[1].slope == pytest.approx(1 / 3, abs=0.02)
    assert found.final[1].intercept == pytest.approx(-1, abs=0.1)
    assert found.log_loss[1]["platt"] < 0.8 * found.log_loss[1]["none"]


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_platt__equals_scikit_learn(scale: float) -> None:
    """Newton's own steps and a solver for many features find the same line, from a good start and from bad ones."""
    margins, labels, _ = drawn(shift=-1)
    margin = margins[:, 1].astype(np.float64) * scale
    for truth in (labels == 1, labels == 0):
        fitted = _fit("platt", margin, truth)
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000).fit(margin[:, None] / scale, truth)
        assert fitted.slope * scale == pytest.approx(model.coef_[0, 0], rel=1e-4)
        assert fitted.intercept == pytest.approx(model.intercept_[0], rel=1e-3)


def test_platt__of_many_rows_is_the_same_line() -> None:
    """Rows repeated twenty times, so that some of them are looked at first."""
    margins, labels, _ = drawn(shift=-1)
    one = _fit("platt", margins[:, 1].astype(np.float64), labels == 1)
    many = _fit("platt", np.tile(margins[:, 1], 20).astype(np.float64), np.tile(labels == 1, 20))
    assert (many.slope, many.intercept) == pytest.approx((one.slope, one.intercept), rel=1e-7)


@pytest.mark.parametrize("decimals", [1, 12])
def test_isotonic__equals_scikit_learn(decimals: int) -> None:
    """With many equal margins, and with none."""
    rng = np.random.default_rng(3)
    margin = np.round(rng.normal(size=3_000), decimals)
    truth = rng.random(3_000) < 1 / (1 + np.exp(-(margin**3)))
    ours = _fit("isotonic", margin, truth)
    theirs = IsotonicRegression(y_min=LEAST, y_max=1 - LEAST, out_of_bounds="clip").fit(margin, truth)
    assert ours.margins == pytest.approx(theirs.X_thresholds_, abs=1e-12)
    assert ours.probabilities == pytest.approx(theirs.y_thresholds_, abs=1e-12)
    grid = np.linspace(-5, 5, 1_001)
    assert ours.apply(grid) == pytest.approx(theirs.predict(grid), abs=1e-12)


def test_calibrate__isotonic_repairs_what_no_slope_can() -> None:
    margins, labels, folds = drawn()
    cubed = np.sign(margins) * np.abs(margins) ** 3
    found = calibrate(cubed, labels, folds, n_folds=3)
    assert found.final[1].method == "isotonic"
    assert found.log_loss[1]["isotonic"] < found.log_loss[1]["platt"] < found.log_loss[1]["none"]


def test_calibrate__the_loss_is_cross_fitted_by_hand() -> None:
    """Each fold's rows are scored with the calibrator fitted without them."""
    margins, labels, folds = drawn(distort=2)
    found = calibrate(margins, labels, folds, n_folds=3)
    assert found.final[1].method == "platt"
    total = 0.0
    for fold in range(3):
        alone = calibrate(margins[folds != fold], labels[folds != fold], folds[folds != fold], n_folds=3)
        assert found.by_fold[fold][1] == alone.final[1]
        probability = found.by_fold[fold][1].apply(margins[folds == fold, 1])
        total -= np.log(np.where(labels[folds == fold] == 1, probability, 1 - probability)).sum()
    assert found.log_loss[1]["platt"] == pytest.approx(total / N, abs=1e-12)


def test_calibrate__switched_off_leaves_the_margin() -> None:
    assert allowed_methods(True) == METHODS
    found = calibrate(*drawn(distort=3), n_folds=3, methods=allowed_methods(False))
    assert {one.method for row in (found.final, *found.by_fold) for one in row} == {"none"}
    assert list(found.log_loss[0]) == ["none"]


def test_probabilities__rows_sum_to_one_and_stay_off_the_ends() -> None:
    margins = np.array([[50.0, -50.0, -50.0], [0.0, 0.0, 0.0], [-1e30, -1e30, -1e30], [1e30, 1e30, 1e30]], np.float32)
    probabilities = calibrated(margins, [Calibrator("none")] * 3)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert probabilities.min() >= LEAST / 3
    assert probabilities[1] == pytest.approx([1 / 3] * 3)


def test_apply__is_clipped_and_monotone_for_every_method() -> None:
    steps = Calibrator("isotonic", margins=(-1.0, 0.0, 2.0), probabilities=(0.0, 0.25, 1.0))
    for one in (Calibrator("none"), Calibrator("platt", 2.0, 1.0), steps):
        probability = one.apply(np.array([-1e9, -1.0, -0.5, 0.0, 1.0, 2.0, 1e9]))
        assert probability[0] == LEAST
        assert probability[-1] == 1 - LEAST
        assert (np.diff(probability) >= 0).all()
    assert steps.apply(np.array([-0.5, 1.0])) == pytest.approx([0.125, 0.625])


@pytest.mark.parametrize("label", [0, 1])
def test_calibrate__folds_and_data_with_one_class_alone_leave_the_margin(label: int) -> None:
    margins, labels, folds = drawn(distort=3)
    only = np.full_like(labels, label)
    assert {one.method for one in calibrate(margins, only, folds, n_folds=3).final} == {"none"}
    # in fold 0 no row of class 1, and outside it nothing else
    folds = np.where(labels == 1, 1, 0).astype(np.int8)
    found = calibrate(margins, labels, folds, n_folds=2)
    assert {one.method for row in found.by_fold for one in row} == {"none"}


def test_calibrate__separable_scores_and_empty_folds_give_finite_numbers() -> None:
    margins, labels, folds = drawn()
    perfect = np.where(labels == 1, 4.0, -4.0).astype(np.float32) + margins[:, 1] / 100
    found = calibrate(np.column_stack([-perfect, perfect]), labels, folds, n_folds=5)
    for loss in found.log_loss:
        assert all(np.isfinite(value) for value in loss.values())
    probabilities = calibrated(np.column_stack([-perfect, perfect]), found.final)
    assert np.isfinite(probabilities).all()
    assert ((probabilities[:, 1] > 0.5) == (labels == 1)).all()


def test_calibrate__equal_margins_give_the_prior() -> None:
    _, labels, folds = drawn()
    found = calibrate(np.full((N, 2), 0.7, np.float32), labels, folds, n_folds=3)
    probability = found.final[1].apply(np.array([-3.0, 0.7, 5.0]))
    assert probability[1] == pytest.approx(labels.mean(), abs=1e-3)


def test_calibrator__survives_json() -> None:
    for one in calibrate(*drawn(distort=3), n_folds=3).final:
        assert Calibrator.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert METHODS[0] == "none"

"""Thinned curves keep their ends and corners, and lie on the curves of all rows."""

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from mi_duck.metrics.ranking import MOST_POINTS, curve_points, kept_points


def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(n) < 0.1
    return (0.7 * rng.random(n) + 0.3 * truth).astype(np.float32), truth


def test_curve_points__of_few_rows_are_those_of_scikit_learn() -> None:
    probability, truth = drawn(200)
    points = curve_points(probability, truth)
    found = [(one["x"], one["y"]) for one in points if one["kind"] == "roc"]
    x, y, _ = roc_curve(truth, probability, drop_intermediate=False)
    assert np.allclose(found, np.column_stack([x, y]))
    found = [(one["x"], one["y"]) for one in points if one["kind"] == "pr"]
    precision, recall, _ = precision_recall_curve(truth, probability)
    # scikit-learn ends with a point of its own at recall 0
    assert np.allclose(found, np.column_stack([recall[-2::-1], precision[-2::-1]]))


def test_curve_points__by_hand() -> None:
    """Thresholds .9, .8, .1: recall 1/2, 1, 1 and precision 1, 2/3, 2/4; false positive rate 0, 1/2, 1."""
    score, truth = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])
    points = [(one["kind"], one["x"], one["y"], one["threshold"]) for one in curve_points(score, truth)]
    assert points == [
        *(("roc", 0, 0, np.inf), ("roc", 0, 0.5, 0.9), ("roc", 0.5, 1, 0.8), ("roc", 1, 1, 0.1)),
        *(("pr", 0.5, 1, 0.9), ("pr", 1, pytest.approx(2 / 3), 0.8), ("pr", 1, 0.5, 0.1)),
    ]


def test_curve_points__are_among_those_of_scikit_learn_also_with_ties() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(20_000) < 0.1
    score = np.round(rng.normal(size=20_000) + 1.5 * truth, 4)
    found = [(one["x"], one["y"]) for one in curve_points(score, truth) if one["kind"] == "roc"]
    assert 100 < len(found) <= MOST_POINTS
    x, y, _ = roc_curve(truth, score, drop_intermediate=False)
    every = {(round(a, 12), round(b, 12)) for a, b in zip(x, y, strict=True)}
    assert {(round(a, 12), round(b, 12)) for a, b in found} <= every
    assert np.trapezoid(*reversed(np.transpose(found))) == pytest.approx(roc_auc_score(truth, score), abs=1e-3)


def test_curve_points__of_many_rows_are_few_and_on_the_curve() -> None:
    probability, truth = drawn(50_000)
    points = curve_points(probability, truth)
    for kind in ("roc", "pr"):
        of_kind = [one for one in points if one["kind"] == kind]
        assert 300 < len(of_kind) <= 500
        assert (np.diff([one["x"] for one in of_kind]) >= 0).all()
        for one in of_kind[1:]:
            called = probability >= one["threshold"]
            recall = (called & truth).sum() / truth.sum()
            assert one["y" if kind == "roc" else "x"] == pytest.approx(recall)
            if kind == "pr":
                assert one["y"] == pytest.approx(truth[called].mean())
    roc = [one for one in points if one["kind"] == "roc"]
    assert (roc[0]["x"], roc[0]["y"], roc[0]["threshold"]) == (0, 0, np.inf)
    assert (roc[-1]["x"], roc[-1]["y"]) == (1, 1)
    x, y, _ = roc_curve(truth, probability)
    assert auc([one["x"] for one in roc], [one["y"] for one in roc]) == pytest.approx(auc(x, y), abs=1e-3)


def test_curve_points__without_both_sides_are_none() -> None:
    assert curve_points(np.array([0.1, 0.2]), np.array([True, True])) == []
    assert curve_points(np.array([0.1, 0.2]), np.array([False, False])) == []


def test_kept_points__have_ends_and_extremes() -> None:
    x = np.linspace(0, 1, 10_000)
    y = np.where(np.arange(10_000) == 5_003, 2.0, 0.5)
    y[7_777] = -1.0
    kept = kept_points(x, y, 50)
    assert {0, 5_003, 7_777, 9_999} <= set(kept)
    assert len(kept) <= 50
    assert (np.diff(kept) > 0).all()

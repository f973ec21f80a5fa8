"""The report on calibration says what scikit-learn says, and its table is the data in bins."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss

from mi_duck.metrics.calibrate import calibration_facts, reliability
from mi_duck.metrics.metrics import draw_weights

CLASSES = ("neither", "donor")


def drawn(n: int = 3_000) -> tuple[NDArray, NDArray, NDArray]:
    """Return (true probabilities, labels, groups)."""
    rng = np.random.default_rng(0)
    probability = rng.random(n) ** 3
    return (
        np.column_stack([1 - probability, probability]),
        (rng.random(n) < probability).astype(int),
        rng.integers(0, 30, n),
    )


def test_calibration_facts__before_and_after_equal_scikit_learn() -> None:
    after, labels, groups = drawn()
    before = np.sqrt(after)
    found = calibration_facts(
        before, after, labels, groups, CLASSES, methods=["platt", "none"], weights=draw_weights(30, seed=0, draws=50)
    )
    donor = found["donor"]
    assert (found["neither"]["method"], donor["method"]) == ("platt", "none")
    for when, probabilities in (("before", before), ("after", after)):
        assert donor[when]["log_loss"]["value"] == pytest.approx(log_loss(labels, probabilities[:, 1]))
        assert donor[when]["brier"]["value"] == pytest.approx(brier_score_loss(labels, probabilities[:, 1]))
    for kind in ("log_loss", "brier", "ece"):
        difference = donor["difference"][kind]
        assert difference["value"] == pytest.approx(donor["after"][kind]["value"] - donor["before"][kind]["value"])
        assert difference["low"] <= difference["high"] < 0


def test_reliability__bins_hold_all_rows_and_their_means() -> None:
    probabilities, labels, groups = drawn()
    lines = reliability(probabilities, labels, groups, CLASSES, weights=draw_weights(30, seed=0, draws=50))
    for index, name in enumerate(CLASSES):
        of_class = [line for line in lines if line["class"] == name]
        assert [line["bin"] for line in of_class] == list(range(15))
        assert [line["n_rows"] for line in of_class] == [200] * 15
        parts = np.array_split(np.argsort(probabilities[:, index]), 15)
        for line, part in zip(of_class, parts, strict=True):
            assert line["mean_probability"] == pytest.approx(probabilities[part, index].mean())
            assert line["observed_fraction"] == pytest.approx((labels[part] == index).mean())
            assert line["low"] <= line["observed_fraction"] <= line["high"]
    plain = reliability(probabilities, labels, groups, CLASSES, weights=draw_weights(30, seed=0, draws=0))
    assert {(line["low"], line["high"]) for line in plain} == {(None, None)}

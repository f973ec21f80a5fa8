"""The report on calibration says what scikit-learn says, and its table is the data in bins."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss

from mi_duck.metrics.calibrate import EDGES, calibration_facts, gaps_above, reliability
from mi_duck.metrics.metrics import draw_groups, interval, summary

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
        before,
        after,
        labels,
        groups,
        CLASSES,
        methods=["platt", "none"],
        group_draws=draw_groups(np.arange(30), seed=0, draws=50),
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
    lines = reliability(
        probabilities, labels, groups, CLASSES, group_draws=draw_groups(np.arange(30), seed=0, draws=50)
    )
    for index, name in enumerate(CLASSES):
        of_class = [line for line in lines if line["class"] == name]
        assert sum(line["n_rows"] for line in of_class) == len(labels)
        assert {line["bin"] for line in of_class} >= set(range(4, 13))  # .1 to .9 is seen whatever the class is
        for line in of_class:
            low, high = EDGES[line["bin"]], [*EDGES, 2][line["bin"] + 1]
            part = np.flatnonzero((probabilities[:, index] >= low) & (probabilities[:, index] < high))
            assert line["n_rows"] == len(part)
            assert line["mean_probability"] == pytest.approx(probabilities[part, index].mean())
            assert line["observed_fraction"] == pytest.approx((labels[part] == index).mean())
            assert line["low"] <= line["observed_fraction"] <= line["high"]
    plain = reliability(probabilities, labels, groups, CLASSES, group_draws=draw_groups(np.arange(30), seed=0, draws=0))
    assert {(line["low"], line["high"]) for line in plain} == {(None, None)}


def test_gaps_above__are_observed_minus_predicted_of_the_rows_above() -> None:
    probabilities, labels, groups = drawn()
    group_draws = draw_groups(np.arange(30), seed=0, draws=200)
    gaps = summary(gaps_above(probabilities, labels, groups, CLASSES, group_draws=group_draws))
    found = {(one.metric, one.class_name): one for one in gaps}
    assert len(found) == 4
    for (metric, name), one in found.items():
        index = CLASSES.index(name)
        rows = probabilities[:, index] > float(metric.rpartition("_")[2])
        assert one.value == pytest.approx((labels == index)[rows].mean() - probabilities[rows, index].mean())
        assert one.low is not None
        assert one.low < 0 < one.high  # the labels were drawn from these probabilities
    timid = 0.5 + 0.6 * (probabilities - 0.5)
    of_timid = gaps_above(timid, labels, groups, CLASSES, group_draws=group_draws)
    assert interval("gap", "donor", of_timid["calibration_gap_above_0.5", "donor"]).low > 0.05
    nothing = gaps_above(np.zeros_like(probabilities), labels, groups, CLASSES, group_draws=group_draws)
    assert all(np.isnan(one.value) for one in summary(nothing))

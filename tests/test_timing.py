"""Predicted time: rates come back from exact measurements, and more rows or rounds never take less."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import DENSE, SETTINGS

from mi_duck.plan.probes import TimePoint, fit_rates
from mi_duck.plan.times import USUAL_PATH, training_seconds, usual_rounds, usual_trees
from mi_duck.run.costs import Rates
from mi_duck.run.plan import Settings

WEIGHTS = replace(SETTINGS, n_estimators=800, early_stopping_patience=30, cv_used="weights")
MATRICES = replace(WEIGHTS, cv_used="matrices")
# 63 nodes above the last level of trees of six
LAYOUT = replace(DENSE, n_features=100, bins=1_000, leaf_rows=0.0)
RATES = Rates(start_seconds=2.0, per_cell_built=30e-9, per_cell_begun=5e-9, per_cell_and_round=1e-9)


def test_training_seconds__by_hand() -> None:
    """A million cells, 3 classes, 3 folds; of each of their boosters 10 rounds are kept and 30 more tried.

    Final boosters have sqrt(3 / 2 / .9) = 1.291 times the rounds, for they have so many more rows, and never more than all.
    """
    final, of_bins = (1 / 0.6) ** 0.5 * 10, 1.75 * 1_000 * 63
    # by weights each of the 4 fits of a class passes over all rows of one matrix
    expected = 2 + 0.03 + 3 * (4 * 0.005 + (3 * 40 + final) * (1e6 + of_bins) * 1e-9)
    assert training_seconds(RATES, 10_000, WEIGHTS, LAYOUT, 10) == pytest.approx(expected)
    # by matrices 3 fits see two thirds and one all rows, in four matrices of 3 times all rows
    of_folds, of_final = 3 * 40 * (2e6 / 3 + of_bins), final * (1e6 + of_bins)
    expected = 2 + 0.09 + 3 * (3 * 0.005 + (of_folds + of_final) * 1e-9)
    assert training_seconds(RATES, 10_000, MATRICES, LAYOUT, 10) == pytest.approx(expected)
    # nothing is tried that is not kept where nothing stops early, or nothing can be tried
    expected = 2 + 0.03 + 3 * (4 * 0.005 + 40 * (1e6 + of_bins) * 1e-9)
    for settings in (replace(WEIGHTS, early_stopping_patience=0), replace(WEIGHTS, n_estimators=10)):
        assert training_seconds(RATES, 10_000, settings, LAYOUT, 10) == pytest.approx(expected)
    # cells that are missing are not looked at
    holes = replace(LAYOUT, missing_share=0.5)
    assert training_seconds(RATES, 20_000, MATRICES, holes, 10) == training_seconds(RATES, 10_000, MATRICES, LAYOUT, 10)


def point(rates: Rates, settings: Settings, n_rows: int, rounds: int) -> TimePoint:
    """Return what a probe would measure if these were the rates."""
    none, settings = replace(rates, start_seconds=0.0), replace(settings, early_stopping_patience=0)
    build = training_seconds(replace(none, per_cell_begun=0.0), n_rows, settings, LAYOUT, 0)
    seconds = [training_seconds(none, n_rows, settings, LAYOUT, n) for n in (1, rounds)]
    return TimePoint(n_rows, 63, build, seconds[1] - build, seconds[1] - seconds[0], rates.start_seconds, rounds)


@pytest.mark.parametrize("cv", ["weights", "matrices"])
@pytest.mark.parametrize("n_folds", [2, 3, 7])
@pytest.mark.parametrize("rounds", [2, 5])
def test_fit_rates__finds_the_rates_of_exact_measurements(cv: str, n_folds: int, rounds: int) -> None:
    settings = replace(WEIGHTS, cv_used=cv, n_folds=n_folds)
    found = fit_rates([point(RATES, settings, n_rows, rounds) for n_rows in (20_000, 60_000)], settings, LAYOUT)
    for name in Rates.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(RATES, name), rel=1e-9)


def test_fit_rates__are_never_negative_and_begin_as_the_quickest_did() -> None:
    """By noise the first rounds of the larger probe were quicker than the others."""
    points = [TimePoint(20_000, 63, 0.1, 3.0, 1.4, 1.0, 2), TimePoint(60_000, 63, 0.3, 2.4, 1.3, 1.5, 2)]
    found = fit_rates(points, WEIGHTS, LAYOUT)
    assert found.per_cell_begun == 0
    # 1.3 s for a round of 12 boosters on 6 million cells and the bins of 63 nodes
    assert found.per_cell_and_round == pytest.approx(1.3 / (12 * (6e6 + 1.75 * 1_000 * 63)))
    assert found.start_seconds == 1.0


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.integers(0, 800),
    st.integers(0, 10_000),
    st.sampled_from([0, 5, 30]),
)
def test_training_seconds__never_fall_with_rows_or_rounds(
    n_rows: int, more: int, rounds: int, further: int, folds: int
) -> None:
    for settings in (WEIGHTS, MATRICES):
        settings = replace(settings, n_folds=folds + 2)
        least = training_seconds(RATES, n_rows, settings, LAYOUT, rounds)
        assert least <= training_seconds(RATES, n_rows + more, settings, LAYOUT, rounds)
        assert least <= training_seconds(RATES, n_rows, settings, LAYOUT, rounds + further)


def test_usual_rounds__are_those_of_early_stopping_or_all() -> None:
    assert usual_rounds(WEIGHTS) == round(USUAL_PATH / WEIGHTS.learning_rate)
    assert usual_rounds(replace(WEIGHTS, n_estimators=7)) == 7
    assert usual_rounds(replace(WEIGHTS, early_stopping_patience=0)) == 800


def test_usual_trees__are_of_all_folds_and_finals_and_six_of_one_that_grows() -> None:
    exact = replace(WEIGHTS, n_estimators=10, early_stopping_patience=0)
    n_fits = exact.n_folds + 1
    assert usual_trees(exact, 3) == 10 * (3 * n_fits + 5)
    assert usual_trees(exact, 2) == 10 * (n_fits + 5)  # of two classes one is fitted

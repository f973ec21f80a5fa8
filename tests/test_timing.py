"""Predicted time: rates come back from exact measurements, and more rows or rounds never take less."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import SETTINGS

from mi_duck.plan.probes import TimePoint, fit_rates
from mi_duck.plan.strategies import USUAL_PATH, training_seconds, usual_rounds, usual_trees
from mi_duck.run.costs import Rates
from mi_duck.run.plan import Settings

WEIGHTS = replace(SETTINGS, n_estimators=800, early_stopping_patience=30, cv_used="weights")
MATRICES = replace(WEIGHTS, cv_used="matrices")
RATES = Rates(start_seconds=2.0, per_cell_built=30e-9, per_round=0.01, per_cell_and_round=1e-9)


def test_training_seconds__by_hand() -> None:
    """A million cells, 3 classes, 3 folds, 10 rounds: 12 boosters; a round of one on all cells takes .01 + .001 s.

    Final boosters have sqrt(3 / 2 / .9) = 1.291 times the rounds, for they have so many more rows, and never more than all.
    """
    final = (1 / 0.6) ** 0.5 * 10
    # by weights each of the 4 fits of a class passes over all rows of one matrix: 2 + .03 + 3 x (30 + 12.91) x .011
    assert training_seconds(RATES, 1e6, WEIGHTS, 3, 10) == pytest.approx(2.03 + 3 * (30 + final) * 0.011)
    # by matrices 3 fits see two thirds and one all rows, in four matrices of 3 times all rows:
    # 2 + .09 + 3 x ((30 + 12.91) x .01 + (20 + 12.91) x .001)
    assert training_seconds(RATES, 1e6, MATRICES, 3, 10) == pytest.approx(
        2.09 + 3 * ((30 + final) * 0.01 + (20 + final) * 0.001)
    )
    for settings in (replace(WEIGHTS, early_stopping_patience=0), replace(WEIGHTS, n_estimators=10)):
        assert training_seconds(RATES, 1e6, settings, 3, 10) == pytest.approx(3.35)


def point(rates: Rates, settings: Settings, n_rows: int, rounds: int) -> TimePoint:
    """Return what a probe of 100 columns would measure if these were the rates."""
    none, settings = replace(rates, start_seconds=0.0), replace(settings, early_stopping_patience=0)
    build = training_seconds(none, n_rows * 100, settings, 3, 0)
    boost = training_seconds(none, n_rows * 100, settings, 3, rounds) - build
    return TimePoint(n_rows, n_rows * 100, build, boost, rates.start_seconds, rounds)


@pytest.mark.parametrize("cv", ["weights", "matrices"])
@pytest.mark.parametrize("n_folds", [2, 3, 7])
def test_fit_rates__finds_the_rates_of_exact_measurements(cv: str, n_folds: int) -> None:
    settings = replace(WEIGHTS, cv_used=cv, n_folds=n_folds)
    found = fit_rates([point(RATES, settings, n_rows, 2) for n_rows in (20_000, 60_000)], settings, 3)
    for name in Rates.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(RATES, name), rel=1e-9)


def test_fit_rates__of_a_line_that_noise_tilts_go_through_the_origin() -> None:
    """The larger probe was faster: what is left is its time over its cells."""
    points = [TimePoint(20_000, 2_000_000, 0.1, 3.0, 1.0, 2), TimePoint(60_000, 6_000_000, 0.3, 2.4, 1.5, 2)]
    found = fit_rates(points, WEIGHTS, 3)
    assert found.per_round == 0
    # 2.4 s for 2 rounds of 12 boosters on 6 million cells
    assert found.per_cell_and_round == pytest.approx(2.4 / (2 * 12 * 6e6))
    assert found.start_seconds == 1.0
    # one measurement twice has no slope either
    assert fit_rates(points[1:] * 2, WEIGHTS, 3).per_round == 0


@given(
    st.floats(0, 1e12), st.floats(0, 1e12), st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from([0, 5, 30])
)
def test_training_seconds__never_fall_with_rows_or_rounds(
    cells: float, more: float, rounds: int, further: int, folds: int
) -> None:
    for settings in (WEIGHTS, MATRICES):
        settings = replace(settings, n_folds=folds + 2)
        least = training_seconds(RATES, cells, settings, 3, rounds)
        assert least <= training_seconds(RATES, cells + more, settings, 3, rounds)
        assert least <= training_seconds(RATES, cells, settings, 3, rounds + further)


def test_usual_rounds__are_those_of_early_stopping_or_all() -> None:
    assert usual_rounds(WEIGHTS) == round(USUAL_PATH / WEIGHTS.learning_rate)
    assert usual_rounds(replace(WEIGHTS, n_estimators=7)) == 7
    assert usual_rounds(replace(WEIGHTS, early_stopping_patience=0)) == 800


def test_usual_trees__are_of_all_folds_and_finals_and_six_of_one_that_grows() -> None:
    exact = replace(WEIGHTS, n_estimators=10, early_stopping_patience=0)
    n_fits = exact.n_folds + 1
    assert usual_trees(exact, 3) == 10 * (3 * n_fits + 5)
    assert usual_trees(exact, 2) == 10 * (n_fits + 5)  # of two classes one is fitted

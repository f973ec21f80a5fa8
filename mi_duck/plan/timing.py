"""How long training takes, from rates that the probes measure: building, rounds, the rest.

The time of a round is a constant (nodes, histograms) plus a part that grows with the rows. Early stopping decides how
many rounds there are, so what is predicted is the most: every fit runs to ``n_estimators``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mi_duck.run.costs import Rates
from mi_duck.run.plan import Settings

EXTERNAL_FACTOR = 1.3  # a round on a matrix on disk over one in memory, while the pages stay in the system's cache
SPARSE_FACTOR = 1.25  # a stored cell of a matrix with missing values over a cell of one without
USUAL_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class TimePoint:
    """One measurement: rows, cells that are not missing, seconds of building all matrices and of all rounds.

    Parameters
    ----------
    n_rows, n_cells
        Rows of the instance, and its cells that are not missing.
    build_seconds, boost_seconds
        Seconds of all matrices and of all rounds.
    start_seconds
        The rest: starting, calibrating, writing.
    rounds
        Rounds of every booster.
    """

    n_rows: int
    n_cells: int
    build_seconds: float
    boost_seconds: float
    start_seconds: float
    rounds: int


def fit_rates(points: Sequence[TimePoint], settings: Settings, n_classes: int, *, is_external: bool = False) -> Rates:
    """Return the rates that the probes measured.

    Parameters
    ----------
    points
        One a probe, at least two of different size.
    settings
        Of the training.
    n_classes
        Boosters of one fit.
    is_external
        Whether the matrix lay on disk.

    Notes
    -----
    A line through the smallest and the largest probe; where noise tilts it below zero, one through the origin.
    """
    first, last = min(points, key=lambda point: point.n_rows), max(points, key=lambda point: point.n_rows)
    small, large = (
        point.boost_seconds / (point.rounds * n_classes * (settings.n_folds + 1)) for point in (first, last)
    )
    effective = _fits_of_all_rows(settings) / (settings.n_folds + 1)
    cells = effective * (last.n_cells - first.n_cells)
    slope = (large - small) / cells if cells else 0.0
    constant = large - slope * effective * last.n_cells
    if slope <= 0 or constant < 0:
        slope, constant = large / (effective * last.n_cells), 0.0
    return Rates(
        start_seconds=min(point.start_seconds for point in points),
        per_cell_built=last.build_seconds / (last.n_cells * _builds_of_all_rows(settings)),
        per_round=constant,
        per_cell_and_round=slope,
        is_external=is_external,
    )


def cell_factor(missing_share: float) -> float:
    """Return what a stored cell of a matrix costs a round, over one of a matrix without a missing value."""
    return SPARSE_FACTOR if missing_share else 1.0


def usual_rounds(settings: Settings) -> int:
    """Return roughly how many rounds early stopping leaves; all of them without it."""
    return min(settings.n_estimators, USUAL_ROUNDS) if settings.early_stopping_patience else settings.n_estimators


def training_seconds(rates: Rates, n_cells: float, settings: Settings, n_classes: int, rounds: int) -> float:
    """Return the seconds of training one instance whose fits take ``rounds`` rounds.

    Parameters
    ----------
    rates
        See `Rates`.
    n_cells
        Cells of the instance that are not missing.
    settings
        Of the training.
    n_classes
        Boosters of one fit.
    rounds
        Rounds of every booster.
    """
    boosters = n_classes * (settings.n_folds + 1)
    return (
        rates.start_seconds
        + rates.per_cell_built * n_cells * _builds_of_all_rows(settings)
        + rounds
        * (boosters * rates.per_round + rates.per_cell_and_round * n_cells * n_classes * _fits_of_all_rows(settings))
    )


def _fits_of_all_rows(settings: Settings) -> float:
    """Return the fits of one class, counted in passes over all rows: every fold and the last one."""
    share = (settings.n_folds - 1) / settings.n_folds if settings.cv_used == "matrices" else 1.0
    return settings.n_folds * share + 1


def _builds_of_all_rows(settings: Settings) -> float:
    """Return the matrices built, counted in those of all rows."""
    return _fits_of_all_rows(settings) if settings.cv_used == "matrices" else 1.0

"""How long training takes, before any of it: from rates that were measured or are usual.

The time of a round is that of the cells and that of the nodes, whose histograms are compared bin by bin. Early stopping decides
how many rounds there are, so times are predicted for those that it usually leaves (`usual_rounds`).
"""

from math import sqrt

from mi_duck.run.costs import COPIES_WHILE_SAVED, Layout, Rates, expected_nodes
from mi_duck.run.genes import STOPPING_SHARE
from mi_duck.run.plan import Settings, fitted_classes

EXTERNAL_FACTOR = 1.3  # a round on a matrix on disk over one in memory, while the pages stay in the system's cache
BIN_CELLS = (
    1.75  # a bin of a node of the largest tree over a cell: what 30,000 rows of 300 features and 56 bins each took
)
USUAL_PATH = (
    12  # rounds times step, where early stopping ends: 9 to 17 on two plants and synthetic genes, more of more rows
)
REFIT_SECONDS = 31e-9  # of a core, for a tree and a training row: its leaf number, and five or six passes


def usual_rounds(settings: Settings) -> int:
    """Return roughly how many rounds early stopping leaves; all of them without it."""
    if not settings.early_stopping_patience:
        return settings.n_estimators
    return min(settings.n_estimators, round(USUAL_PATH / settings.learning_rate))


def usual_trees(settings: Settings, n_classes: int) -> int:
    """Return roughly how many trees a training holds at most: of all its boosters, and of the copies of the one that grows."""
    rounds = usual_rounds(settings)
    of_final = rounds_of_final_boosters(rounds, settings)
    return round(
        len(fitted_classes(n_classes)) * (settings.n_folds * rounds + of_final) + (COPIES_WHILE_SAVED - 1) * of_final
    )


def training_seconds(rates: Rates, n_rows: int, settings: Settings, layout: Layout, rounds: int) -> float:
    """Return the seconds of training one instance of ``n_rows`` training rows; ``rounds`` of every fold are kept."""
    cells = stored_cells(n_rows, layout)
    n_nodes = expected_nodes(n_rows, layout)
    tried = min(rounds + settings.early_stopping_patience, settings.n_estimators)
    of_class = rates.per_cell_begun * cells * (fold_fits_of_all_rows(settings) + 1)
    of_class += settings.n_folds * tried * round_seconds(rates, share_of_fold(settings) * cells, n_nodes, layout)
    of_class += rounds_of_final_boosters(rounds, settings) * round_seconds(rates, cells, n_nodes, layout)
    built = rates.per_cell_built * cells * builds_of_all_rows(settings)
    return rates.start_seconds + built + len(fitted_classes(layout.n_classes)) * of_class


def stored_cells(n_rows: int, layout: Layout) -> float:
    """Return the cells of so many rows that are not missing."""
    return n_rows * layout.n_features * (1 - layout.missing_share)


def round_seconds(rates: Rates, n_cells: float, n_nodes: float, layout: Layout) -> float:
    """Return the seconds of one round of one booster: it looks at every cell, and at every bin of every node."""
    return rates.per_cell_and_round * (n_cells + BIN_CELLS * layout.bins * n_nodes)


def rounds_of_final_boosters(rounds: float, settings: Settings) -> float:
    """Return the rounds that final boosters have where those of folds have so many; see `mi_duck.boosting.train.final_rounds`."""
    if not settings.early_stopping_patience:
        return rounds
    more_rows = settings.n_folds / (settings.n_folds - 1) / (1 - STOPPING_SHARE)
    return min(settings.n_estimators, rounds * sqrt(more_rows))


def fold_fits_of_all_rows(settings: Settings) -> float:
    """Return the fits of one class in all folds, counted in passes over all rows."""
    return settings.n_folds * share_of_fold(settings)


def share_of_fold(settings: Settings) -> float:
    """Return the share of all rows in the matrix of a fold."""
    return (settings.n_folds - 1) / settings.n_folds if settings.cv_used == "matrices" else 1.0


def builds_of_all_rows(settings: Settings) -> float:
    """Return the matrices built, counted in those of all rows."""
    return fold_fits_of_all_rows(settings) + 1 if settings.cv_used == "matrices" else 1.0


def instance_seconds(
    strategy: str, n_rows: int, settings: Settings, layout: Layout, rates: Rates, rounds: int
) -> float:
    """Return the predicted time of one instance of so many training rows, with so many rounds in every fold."""
    return external_factor(strategy, rates) * training_seconds(rates, n_rows, settings, layout, rounds)


def external_factor(strategy: str, rates: Rates) -> float:
    """Return how many times as long a round takes by a strategy as by that whose rates were measured."""
    return float(EXTERNAL_FACTOR ** ((strategy == "external") - rates.is_external))


def refit_seconds(n_boosters: int, n_training_rows: int, settings: Settings, rounds: int) -> float:
    """Return the predicted CPU seconds of fitting the leaves of boosters of so many rounds together, by rule of thumb."""
    trees = n_boosters * rounds * (settings.n_folds + 1)
    return REFIT_SECONDS * trees * n_training_rows


def leaves_bytes(n_instances: int, n_rows: int, settings: Settings, rounds: int) -> int:
    """Return the disk that refitting one class takes: leaf numbers of all training rows, and margins after two passes."""
    per_row = 1 if settings.max_depth <= 8 else 2  # 256 leaves have numbers of a byte
    return int(n_rows * (n_instances * rounds_of_final_boosters(rounds, settings) * per_row + 2 * 8))

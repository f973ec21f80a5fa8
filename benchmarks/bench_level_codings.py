"""What codings of text columns and shallow trees are worth on the tables and folds of `bench_any_table.py`, in plain XGBoost.

    python benchmarks/bench_any_table.py --keep tables
    python benchmarks/bench_level_codings.py tables/*.parquet
    python benchmarks/bench_level_codings.py --rows ROWS      # one small table with folds of its own

Columns of 0 and 1 for every level are what mi_duck makes, but for its limit of levels. XGBoost's own categories split a set of
levels from the others. Target means are the share of the label by level among the rows trained on, each row's own fifth of the
patients left out, beside the columns of 0 and 1; they differ by fold. Each fold stops on a tenth of its training patients.
"""

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb
from bench_any_table import SEEDS, TEXTS, visits
from harness import print_machine
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss

PRIOR_ROWS, PARTS = 20, 5
DEPTH_2: dict[str, Any] = {"max_depth": 2, "rounds": 3000}
DEPTH_3: dict[str, Any] = {"max_depth": 3, "rounds": 1600}
TRIED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("own categories", {}),
    ("own categories", DEPTH_3),
    ("own categories", DEPTH_2),
    ("target means", DEPTH_2),
    ("target means", DEPTH_3),
    ("columns of 0 and 1", {}),
    ("columns of 0 and 1", DEPTH_3),
    ("columns of 0 and 1", DEPTH_2),
)


def target_means(texts: pd.Series, truth: NDArray[Any], patient: pd.Series, is_training: NDArray[Any]) -> Any:
    """Return the share of the label by level, of each training row among the patients of the other parts."""
    others = patient[is_training].unique()
    part = dict(zip(others, np.random.default_rng(0).permutation(len(others)) % PARTS, strict=True))
    number = patient.map(part).fillna(-1).to_numpy()
    base, found = truth[is_training].mean(), np.empty(len(texts))
    for index in (*range(PARTS), -1):
        used = is_training & (number != index)
        of_level = pd.Series(truth[used]).groupby(texts[used].to_numpy()).agg(["sum", "count"])
        share = (of_level["sum"] + base * PRIOR_ROWS) / (of_level["count"] + PRIOR_ROWS)
        rows = number == index
        found[rows] = texts[rows].map(share).fillna(base)
    return found


def columns_of(table: pd.DataFrame, coding: str, truth: NDArray[Any], is_training: NDArray[Any]) -> pd.DataFrame:
    """Return the features of a table, its text columns under a coding."""
    numbers = table[["age", "lab", "smoker"]].astype(float)
    if coding == "own categories":
        return pd.concat([numbers, table[list(TEXTS)].astype("category")], axis=1)
    parts = [numbers, pd.get_dummies(table[list(TEXTS)], prefix_sep=":").astype(float)]
    if coding == "target means":
        parts.append(
            pd.DataFrame(
                {f"{name}:mean": target_means(table[name], truth, table["patient"], is_training) for name in TEXTS}
            )
        )
    return pd.concat(parts, axis=1)


def out_of_fold(table: pd.DataFrame, coding: str, max_depth: int = 6, rounds: int = 800) -> Any:
    """Return the probabilities of plain XGBoost out of fold."""
    truth, fold, patient = (table["died"] == "yes").to_numpy(), table["fold"].to_numpy(), table["patient"]
    rng, found = np.random.default_rng(0), np.zeros(len(table))
    parameters = {"objective": "binary:logistic", "max_depth": max_depth, "eta": 0.1, "nthread": 1}
    for number in np.unique(fold):
        is_training = fold != number
        others = patient[is_training].unique()
        is_stopping = is_training & patient.isin(rng.choice(others, len(others) // 10, replace=False)).to_numpy()
        used = is_training & ~is_stopping
        columns = columns_of(table, coding, truth, used)
        training = xgb.QuantileDMatrix(columns[used], truth[used], enable_categorical=True)
        stopping = xgb.QuantileDMatrix(columns[is_stopping], truth[is_stopping], ref=training, enable_categorical=True)
        booster = xgb.train(
            parameters, training, rounds, evals=[(stopping, "x")], early_stopping_rounds=30, verbose_eval=False
        )
        rest = xgb.DMatrix(columns[~is_training], enable_categorical=True)
        found[~is_training] = booster.predict(rest, iteration_range=(0, booster.best_iteration + 1))
    return found


def main() -> None:
    """Print a line for each coding and depth: AP and log loss of each table, and CPU seconds of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int)
    asked = parser.parse_args()
    tables = [pd.read_parquet(file) for file in asked.files]
    if asked.rows:
        small = visits(asked.rows, SEEDS[0])
        tables = [small.assign(fold=small["patient"].str[1:].astype(int) % 3)]
    print_machine()
    for coding, options in TRIED[:: 3 if asked.rows else 1]:
        begun = time.process_time()
        scores = []
        for table in tables:
            truth, found = (table["died"] == "yes").to_numpy(), out_of_fold(table, coding, **options)
            scores.append(f"{average_precision_score(truth, found):.4f} {log_loss(truth, found):.4f}")
        depth = options.get("max_depth", 6)
        print(f"{coding}, depth {depth}: {' / '.join(scores)}; {time.process_time() - begun:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()

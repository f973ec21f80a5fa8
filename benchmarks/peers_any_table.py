"""Scores YDF and AutoGluon on the tables and folds of `bench_any_table.py`, in an environment of their own.

    python benchmarks/bench_any_table.py --keep tables
    python -m venv peers
    peers/bin/pip install ydf autogluon.tabular lightgbm scikit-learn pandas pyarrow
    peers/bin/python benchmarks/peers_any_table.py tables/*.parquet

Each file has the columns of the table and ``fold``. A tenth of the training patients, the same ones for all, is what a model
stops on or chooses by. One thread.
"""

import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, log_loss

LABEL, GROUP = "died", "patient"


def of_ydf(training: pd.DataFrame, stopping: pd.DataFrame, rest: pd.DataFrame) -> Any:
    """Return the probabilities of YDF's gradient boosted trees, its defaults."""
    import ydf

    ydf.verbose(0)
    learner = ydf.GradientBoostedTreesLearner(label=LABEL, num_threads=1)
    return learner.train(training, valid=stopping).predict(rest)


def of_autogluon(training: pd.DataFrame, stopping: pd.DataFrame, rest: pd.DataFrame) -> Any:
    """Return the probabilities of AutoGluon's weighted ensemble of LightGBM and forests, its defaults of medium quality."""
    from autogluon.tabular import TabularPredictor

    with tempfile.TemporaryDirectory() as folder:
        found = TabularPredictor(LABEL, path=folder, eval_metric="log_loss", verbosity=0)
        found.fit(training, tuning_data=stopping, num_cpus=1, hyperparameters={"GBM": {}, "RF": {}, "XT": {}})
        return found.predict_proba(rest)[1].to_numpy()


def main() -> None:
    """Print a line for each peer and table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(
        f"cores {os.cpu_count()}, load {os.getloadavg()[0]:.0f}\n{'table':<10} {'model':<10} {'AP':>6} {'loss':>6} {'CPU s':>6}"
    )
    for name in sys.argv[1:]:
        table = pd.read_parquet(name)
        fold, patient = table.pop("fold").to_numpy(), table.pop(GROUP)
        table[LABEL] = (table[LABEL] == "yes").astype(int)
        for title, peer in (("YDF", of_ydf), ("AutoGluon", of_autogluon)):
            begun, rng, probability = time.process_time(), np.random.default_rng(0), np.zeros(len(table))
            for number in np.unique(fold):
                is_training = fold != number
                others = patient[is_training].unique()
                is_stopping = (
                    is_training & patient.isin(rng.choice(others, len(others) // 10, replace=False)).to_numpy()
                )
                parts = (table[is_training & ~is_stopping], table[is_stopping], table[~is_training].drop(columns=LABEL))
                probability[~is_training] = peer(*parts)
            area, loss = average_precision_score(table[LABEL], probability), log_loss(table[LABEL], probability)
            print(
                f"{Path(name).stem:<10} {title:<10} {area:.4f} {loss:.4f} {time.process_time() - begun:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
